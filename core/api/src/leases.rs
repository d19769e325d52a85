//! `containerd.services.leases.v1.Leases`: what keeps things from the garbage collector.

use std::borrow::Cow;

use containerd_client::services::v1::{Lease as Word, ListRequest, ListResponse};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::leases::Lease;
use windlass_model::filter::label;

use crate::codes::status;
use crate::served::leases_server::{Leases, LeasesServer};
use crate::tenant;
use crate::words;

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> LeasesServer<impl Leases> {
    LeasesServer::new(Service { core })
}

#[tonic::async_trait]
impl Leases for Service {
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = tenant::of(&self.core, &request)?.leases().list().await.map_err(status)?;
        found.retain(|lease| filter.matches(|path| field(lease, path)));
        Ok(Response::new(ListResponse { leases: found.into_iter().map(word).collect() }))
    }
}

/// What a filter sees of a lease.
fn field<'a>(lease: &'a Lease, path: &[String]) -> Option<Cow<'a, str>> {
    match path.first()?.as_str() {
        "id" => words::field(lease.id.as_str()),
        "labels" => label(&lease.labels, &path[1..]),
        _ => None,
    }
}

fn word(lease: Lease) -> Word {
    Word {
        id: lease.id.into(),
        created_at: words::moment(lease.created_at),
        labels: lease.labels.into_iter().collect(),
    }
}
