//! `containerd.services.containers.v1.Containers`: what containers are, whether or not they run.

use std::borrow::Cow;
use std::pin::Pin;

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest, GetContainerRequest,
    GetContainerResponse, ListContainerMessage, ListContainersRequest, ListContainersResponse, UpdateContainerRequest,
    UpdateContainerResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status};
use windlass_engine::{ContainerRecord, Core, Durability, RuntimeRef};
use windlass_model::filter::label;
use windlass_model::{Error, Id};

use crate::codes::status;
use crate::served::containers_server::{Containers, ContainersServer};
use crate::{mask, tenant, words};

/// What an update without a mask sets, and the maps of which a mask may name one entry.
const FIELDS: [&str; 3] = ["spec", "image", "snapshotkey"];
const MAPS: [&str; 2] = ["labels", "extensions"];

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

    async fn create(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let containers = tenant::of(&self.core, &request)?.containers();
        let record = record(words::required(request.into_inner().container, "a container")?)?;
        check(&record).map_err(status)?;
        let made = containers.create(record, Durability::Power).await.map_err(status)?;
        Ok(Response::new(CreateContainerResponse { container: Some(word(made)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<UpdateContainerResponse>, Status> {
        let containers = tenant::of(&self.core, &request)?.containers();
        let UpdateContainerRequest { container, update_mask } = request.into_inner();
        let (container, paths) = (words::required(container, "a container")?, mask::paths(update_mask));
        mask::check(&paths, "a container", &FIELDS, &MAPS)?;
        let wanted = record(container)?;
        let id: Id = wanted.id.clone();
        let change = move |record: &mut ContainerRecord| change(record, wanted, &paths);
        let changed = containers.update(&id, Durability::Power, change).await.map_err(status)?;
        Ok(Response::new(UpdateContainerResponse { container: Some(word(changed)) }))
    }

    async fn delete(&self, request: Request<DeleteContainerRequest>) -> Result<Response<()>, Status> {
        let containers = tenant::of(&self.core, &request)?.containers();
        let id = words::id(&request.get_ref().id)?;
        containers.delete(&id, Durability::Power).await.map_err(status)?;
        Ok(Response::new(()))
    }

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

/// The record that a client wrote.
fn record(container: Container) -> Result<ContainerRecord, Status> {
    let mut record = ContainerRecord::new(words::id(&container.id)?);
    mask::merge_texts(&mut record.labels, container.labels, &[], "labels");
    let runtime = container.runtime.unwrap_or_default();
    record.runtime = RuntimeRef { name: runtime.name, options: runtime.options.map(words::typed) };
    record.image = container.image;
    record.spec = container.spec.map(words::typed);
    record.snapshotter = container.snapshotter;
    record.snapshot_key = container.snapshot_key;
    record.extensions = container.extensions.into_iter().map(|(name, any)| (name, words::typed(any))).collect();
    record.sandbox = (!container.sandbox.is_empty()).then(|| words::id(&container.sandbox)).transpose()?;
    Ok(record)
}

/// What a container must have.
fn check(record: &ContainerRecord) -> windlass_model::Result<()> {
    let wrong = if record.extensions.contains_key("") {
        "an extension needs a name"
    } else if record.runtime.name.is_empty() {
        "a container needs the name of a runtime"
    } else if record.spec.is_none() {
        "a container needs a spec"
    } else if !record.snapshot_key.is_empty() && record.snapshotter.is_empty() {
        "a container with a snapshot key needs a snapshotter"
    } else {
        return Ok(());
    };
    Err(Error::invalid(wrong))
}

/// Changes what `paths` name. Without any, all that can be changed, and the rest must not differ.
fn change(record: &mut ContainerRecord, wanted: ContainerRecord, paths: &[String]) -> windlass_model::Result<()> {
    if paths.is_empty() && (record.snapshotter != wanted.snapshotter || record.runtime.name != wanted.runtime.name) {
        return Err(Error::invalid("snapshotter and runtime of a container cannot change"));
    }
    mask::merge_texts(&mut record.labels, wanted.labels, paths, "labels");
    mask::merge(&mut record.extensions, wanted.extensions, paths, "extensions");
    if mask::sets(paths, "spec") {
        record.spec = wanted.spec;
    }
    if mask::sets(paths, "image") {
        record.image = wanted.image;
    }
    if mask::sets(paths, "snapshotkey") {
        record.snapshot_key = wanted.snapshot_key;
    }
    check(record)
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
