//! `containerd.services.leases.v1.Leases`: what keeps things from the garbage collector.

use std::borrow::Cow;

use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest, Lease as Word,
    ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse, Resource as ResourceWord,
};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::leases::{Lease, Resource};
use windlass_model::LeaseId;
use windlass_model::filter::label;

use crate::codes::status;
use crate::served::leases_server::{Leases, LeasesServer};
use crate::{tenant, words};

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> LeasesServer<impl Leases> {
    LeasesServer::new(Service { core })
}

#[tonic::async_trait]
impl Leases for Service {
    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateResponse>, Status> {
        let leases = tenant::of(&self.core, &request)?.leases();
        let CreateRequest { id, labels } = request.into_inner();
        let id = if id.is_empty() { uuid::Uuid::new_v4().to_string() } else { id };
        let made = leases.create(&lease(&id)?, labels.into_iter().collect()).await.map_err(status)?;
        Ok(Response::new(CreateResponse { lease: Some(word(made)) }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<()>, Status> {
        let leases = tenant::of(&self.core, &request)?.leases();
        leases.delete(&lease(&request.get_ref().id)?).await.map_err(status)?;
        if request.get_ref().sync {
            self.core.collect().await.map_err(status)?;
        }
        Ok(Response::new(()))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = tenant::of(&self.core, &request)?.leases().list().await.map_err(status)?;
        found.retain(|lease| filter.matches(|path| field(lease, path)));
        Ok(Response::new(ListResponse { leases: found.into_iter().map(word).collect() }))
    }

    async fn add_resource(&self, request: Request<AddResourceRequest>) -> Result<Response<()>, Status> {
        let leases = tenant::of(&self.core, &request)?.leases();
        let AddResourceRequest { id, resource: held } = request.into_inner();
        leases.add_resource(&lease(&id)?, resource(held)?).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn delete_resource(&self, request: Request<DeleteResourceRequest>) -> Result<Response<()>, Status> {
        let leases = tenant::of(&self.core, &request)?.leases();
        let DeleteResourceRequest { id, resource: held } = request.into_inner();
        leases.remove_resource(&lease(&id)?, resource(held)?).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<ListResourcesRequest>,
    ) -> Result<Response<ListResourcesResponse>, Status> {
        let leases = tenant::of(&self.core, &request)?.leases();
        let found = leases.resources(&lease(&request.get_ref().id)?).await.map_err(status)?;
        let word = |Resource { kind, id }| ResourceWord { id, r#type: shown(kind) };
        Ok(Response::new(ListResourcesResponse { resources: found.into_iter().map(word).collect() }))
    }
}

/// A lease that a client names.
fn lease(id: &str) -> Result<LeaseId, Status> {
    id.parse().map_err(status)
}

/// A resource that a client names.
fn resource(word: Option<ResourceWord>) -> Result<Resource, Status> {
    let word = words::required(word, "a resource")?;
    Ok(Resource { kind: word.r#type, id: word.id })
}

/// A kind of resource by the names that clients use.
fn shown(kind: String) -> String {
    match kind.strip_prefix("snapshots/") {
        Some(driver) => format!("snapshots/{}", words::snapshotter(driver)),
        None => kind,
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
