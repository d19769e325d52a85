//! `containerd.services.containers.v1.Containers`: what containers are, whether or not they run.

use std::borrow::Cow;
use std::pin::Pin;

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::{
    Container, GetContainerRequest, GetContainerResponse, ListContainerMessage, ListContainersRequest,
    ListContainersResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status};
use windlass_engine::{ContainerRecord, Core};
use windlass_model::filter::label;

use crate::codes::status;
use crate::served::containers_server::{Containers, ContainersServer};
use crate::tenant;
use crate::words;

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> ContainersServer<impl Containers> {
    ContainersServer::new(Service { core })
}

impl Service {
    async fn all(&self, request: &Request<ListContainersRequest>) -> Result<Vec<ContainerRecord>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = tenant::of(&self.core, request)?.containers().list().await.map_err(status)?;
        found.retain(|record| filter.matches(|path| field(record, path)));
        Ok(found)
    }
}

#[tonic::async_trait]
impl Containers for Service {
    type ListStreamStream = Pin<Box<dyn Stream<Item = Result<ListContainerMessage, Status>> + Send>>;

    async fn get(&self, request: Request<GetContainerRequest>) -> Result<Response<GetContainerResponse>, Status> {
        let id = words::id(&request.get_ref().id)?;
        let found = tenant::of(&self.core, &request)?.containers().get(&id).await.map_err(status)?;
        Ok(Response::new(GetContainerResponse { container: Some(word(found)) }))
    }

    async fn list(&self, request: Request<ListContainersRequest>) -> Result<Response<ListContainersResponse>, Status> {
        let containers = self.all(&request).await?.into_iter().map(word).collect();
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn list_stream(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let found = self.all(&request).await?.into_iter();
        let messages = found.map(|record| Ok(ListContainerMessage { container: Some(word(record)) }));
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }
}

/// What a filter sees of a container.
fn field<'a>(record: &'a ContainerRecord, path: &[String]) -> Option<Cow<'a, str>> {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["id", ..] => words::field(record.id.as_str()),
        ["runtime", "name", ..] => words::field(&record.runtime.name),
        ["image", ..] => words::field(&record.image),
        ["labels", ..] => label(&record.labels, &path[1..]),
        _ => None,
    }
}

fn word(record: ContainerRecord) -> Container {
    Container {
        id: record.id.into(),
        labels: record.labels.into_iter().collect(),
        image: record.image,
        runtime: Some(Runtime { name: record.runtime.name, options: record.runtime.options.map(words::any) }),
        spec: record.spec.map(words::any),
        snapshotter: record.snapshotter,
        snapshot_key: record.snapshot_key,
        created_at: words::moment(record.created_at),
        updated_at: words::moment(record.updated_at),
        extensions: record.extensions.into_iter().map(|(name, bytes)| (name, words::any(bytes))).collect(),
        sandbox: record.sandbox.map(String::from).unwrap_or_default(),
    }
}
