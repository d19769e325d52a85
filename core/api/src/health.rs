//! `grpc.health.v1.Health`: whether the daemon serves; its messages are written here, being smaller than a schema.
//!
//! As with containerd, the only thing that is watched is the whole server, by an empty name.

use std::collections::HashMap;
use std::pin::Pin;

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use windlass_engine::Core;

use crate::served::health_server::{Health, HealthServer};

/// Asks for one service, or for the whole server by an empty name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// Asks for everything.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HealthListRequest {}

/// The answers, by name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HealthListResponse {
    #[prost(map = "string, message", tag = "1")]
    pub statuses: HashMap<String, HealthCheckResponse>,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> HealthServer<impl Health> {
    HealthServer::new(Service { core })
}

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !service.is_empty() {
            return Err(Status::not_found(format!("service {service:?} is not watched by itself")));
        }
        Ok(Response::new(is(ServingStatus::Serving)))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let statuses = HashMap::from([(String::new(), is(ServingStatus::Serving))]);
        Ok(Response::new(HealthListResponse { statuses }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.into_inner().service.is_empty();
        let now = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let ended = self.core.events().closing();
        let last = futures::stream::once(ended)
            .filter_map(move |()| futures::future::ready(known.then(|| Ok(is(ServingStatus::NotServing)))));
        Ok(Response::new(Box::pin(futures::stream::once(async move { Ok(is(now)) }).chain(last))))
    }
}

fn is(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
