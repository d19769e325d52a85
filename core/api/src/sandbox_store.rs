//! `containerd.services.sandbox.v1.Store`: what sandboxes are, whether or not they run.

use std::borrow::Cow;

use containerd_client::services::v1::sandbox::{
    StoreCreateRequest, StoreCreateResponse, StoreDeleteRequest, StoreDeleteResponse, StoreGetRequest,
    StoreGetResponse, StoreListRequest, StoreListResponse, StoreUpdateRequest, StoreUpdateResponse,
};
use containerd_client::types::Sandbox;
use containerd_client::types::sandbox::Runtime;
use tonic::{Request, Response, Status};
use windlass_engine::{Core, Durability, RuntimeRef, SandboxRecord};
use windlass_model::Error;
use windlass_model::filter::label;

use crate::codes::status;
use crate::served::store_server::{Store, StoreServer};
use crate::{mask, tenant, words};

/// What an update sets as a whole, and the maps of which it may name one entry.
const FIELDS: [&str; 2] = ["runtime", "spec"];
const MAPS: [&str; 2] = ["labels", "extensions"];

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> StoreServer<impl Store> {
    StoreServer::new(Service { core })
}

#[tonic::async_trait]
impl Store for Service {
    async fn create(&self, request: Request<StoreCreateRequest>) -> Result<Response<StoreCreateResponse>, Status> {
        let sandboxes = tenant::of(&self.core, &request)?.sandboxes();
        let record = record(words::required(request.into_inner().sandbox, "a sandbox")?)?;
        check(&record).map_err(status)?;
        let made = sandboxes.create(record, Durability::Power).await.map_err(status)?;
        Ok(Response::new(StoreCreateResponse { sandbox: Some(word(made)) }))
    }

    async fn update(&self, request: Request<StoreUpdateRequest>) -> Result<Response<StoreUpdateResponse>, Status> {
        let sandboxes = tenant::of(&self.core, &request)?.sandboxes();
        let StoreUpdateRequest { sandbox, fields } = request.into_inner();
        mask::check(&fields, "a sandbox", &FIELDS, &MAPS)?;
        let wanted = record(words::required(sandbox, "a sandbox")?)?;
        let id = wanted.id.clone();
        let change = move |record: &mut SandboxRecord| change(record, wanted, &fields);
        let changed = sandboxes.update(&id, Durability::Power, change).await.map_err(status)?;
        Ok(Response::new(StoreUpdateResponse { sandbox: Some(word(changed)) }))
    }

    async fn delete(&self, request: Request<StoreDeleteRequest>) -> Result<Response<StoreDeleteResponse>, Status> {
        let sandboxes = tenant::of(&self.core, &request)?.sandboxes();
        let id = words::id(&request.get_ref().sandbox_id)?;
        sandboxes.delete(&id, Durability::Power).await.map_err(status)?;
        Ok(Response::new(StoreDeleteResponse {}))
    }

    async fn list(&self, request: Request<StoreListRequest>) -> Result<Response<StoreListResponse>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = tenant::of(&self.core, &request)?.sandboxes().list().await.map_err(status)?;
        found.retain(|record| filter.matches(|path| field(record, path)));
        Ok(Response::new(StoreListResponse { list: found.into_iter().map(word).collect() }))
    }

    async fn get(&self, request: Request<StoreGetRequest>) -> Result<Response<StoreGetResponse>, Status> {
        let id = words::id(&request.get_ref().sandbox_id)?;
        let found = tenant::of(&self.core, &request)?.sandboxes().get(&id).await.map_err(status)?;
        Ok(Response::new(StoreGetResponse { sandbox: Some(word(found)) }))
    }
}

/// The record that a client wrote.
fn record(sandbox: Sandbox) -> Result<SandboxRecord, Status> {
    let mut record = SandboxRecord::new(words::id(&sandbox.sandbox_id)?);
    mask::merge_texts(&mut record.labels, sandbox.labels, &[], "labels");
    let runtime = sandbox.runtime.unwrap_or_default();
    record.runtime = RuntimeRef { name: runtime.name, options: runtime.options.map(words::typed) };
    record.spec = sandbox.spec.map(words::typed);
    record.extensions = sandbox.extensions.into_iter().map(|(name, any)| (name, words::typed(any))).collect();
    record.sandboxer = sandbox.sandboxer;
    Ok(record)
}

/// What a sandbox must have.
fn check(record: &SandboxRecord) -> windlass_model::Result<()> {
    if record.extensions.contains_key("") { Err(Error::invalid("an extension needs a name")) } else { Ok(()) }
}

/// Changes what `paths` name. Without any, all that can be changed, and the runtime must not differ.
fn change(record: &mut SandboxRecord, wanted: SandboxRecord, paths: &[String]) -> windlass_model::Result<()> {
    if paths.is_empty() && record.runtime.name != wanted.runtime.name {
        return Err(Error::invalid("the runtime of a sandbox cannot change"));
    }
    mask::merge_texts(&mut record.labels, wanted.labels, paths, "labels");
    mask::merge(&mut record.extensions, wanted.extensions, paths, "extensions");
    if mask::sets(paths, "runtime") {
        record.runtime = wanted.runtime;
    }
    if mask::sets(paths, "spec") {
        record.spec = wanted.spec;
    }
    check(record)
}

/// What a filter sees of a sandbox.
fn field<'a>(record: &'a SandboxRecord, path: &[String]) -> Option<Cow<'a, str>> {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["id", ..] => words::field(record.id.as_str()),
        ["runtime", "name", ..] => words::field(&record.runtime.name),
        ["labels", ..] => label(&record.labels, &path[1..]),
        _ => None,
    }
}

fn word(record: SandboxRecord) -> Sandbox {
    Sandbox {
        sandbox_id: record.id.into(),
        runtime: Some(Runtime { name: record.runtime.name, options: record.runtime.options.map(words::any) }),
        spec: record.spec.map(words::any),
        labels: record.labels.into_iter().collect(),
        created_at: words::moment(record.created_at),
        updated_at: words::moment(record.updated_at),
        extensions: record.extensions.into_iter().map(|(name, bytes)| (name, words::any(bytes))).collect(),
        sandboxer: record.sandboxer,
    }
}
