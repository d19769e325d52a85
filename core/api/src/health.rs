//! `grpc.health.v1.Health`: whether the daemon serves; its two messages are written here, being smaller than a schema.

use tonic::{Request, Response, Status};

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

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
}

struct Service;

pub(crate) fn service() -> HealthServer<impl Health> {
    HealthServer::new(Service)
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !service.is_empty() {
            return Err(Status::not_found(format!("service {service:?} is not watched by itself")));
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }
}
