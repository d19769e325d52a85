//! `containerd.services.leases.v1.Leases`: what keeps things from the garbage collector.

use containerd_client::services::v1::{Lease as Word, ListRequest, ListResponse};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::leases::Lease;

use crate::codes::status;
use crate::served::leases_server::{Leases, LeasesServer};
use crate::tenant::{self, refuse_filters};
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
        refuse_filters(&request.get_ref().filters)?;
        let found = tenant::of(&self.core, &request)?.leases().list().await.map_err(status)?;
        Ok(Response::new(ListResponse { leases: found.into_iter().map(word).collect() }))
    }
}

fn word(lease: Lease) -> Word {
    Word {
        id: lease.id.into(),
        created_at: words::moment(lease.created_at),
        labels: lease.labels.into_iter().collect(),
    }
}
