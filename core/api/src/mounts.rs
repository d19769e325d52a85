//! `containerd.services.mounts.v1.Mounts`: mounts that the daemon makes for clients.
//!
//! No crate has its messages, so they are written here. Source: containerd, `api/services/mounts/v1/mounts.proto`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;

use containerd_client::types::Mount as MountWord;
use futures::Stream;
use prost_types::{FieldMask, Timestamp as Moment};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::mounts::{Activation, Mounts as Store};
use windlass_model::filter::label;

use crate::codes::status;
use crate::finish::{Answer, finish};
use crate::served::mounts_server::{Mounts, MountsServer};
use crate::{mask, tenant, words};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ActivateRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<MountWord>,
    #[prost(map = "string, string", tag = "3")]
    pub labels: HashMap<String, String>,
    #[prost(bool, tag = "4")]
    pub temporary: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ActivateResponse {
    #[prost(message, optional, tag = "1")]
    pub info: Option<ActivationInfo>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct DeactivateRequest {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InfoRequest {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub info: Option<ActivationInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UpdateRequest {
    #[prost(message, optional, tag = "1")]
    pub info: Option<ActivationInfo>,
    #[prost(message, optional, tag = "2")]
    pub update_mask: Option<FieldMask>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UpdateResponse {
    #[prost(message, optional, tag = "1")]
    pub info: Option<ActivationInfo>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ListRequest {
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListMessage {
    #[prost(message, optional, tag = "1")]
    pub info: Option<ActivationInfo>,
}

/// An activation.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ActivationInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub active: Vec<ActiveMount>,
    #[prost(message, repeated, tag = "3")]
    pub system: Vec<MountWord>,
    #[prost(map = "string, string", tag = "4")]
    pub labels: HashMap<String, String>,
}

/// A mount that is there.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ActiveMount {
    #[prost(message, optional, tag = "1")]
    pub mount: Option<MountWord>,
    #[prost(message, optional, tag = "2")]
    pub mounted_at: Option<Moment>,
    #[prost(string, tag = "3")]
    pub mount_point: String,
    #[prost(map = "string, string", tag = "4")]
    pub data: HashMap<String, String>,
}

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> MountsServer<impl Mounts> {
    MountsServer::new(Service { core })
}

impl Service {
    fn store<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        Ok(tenant::of(&self.core, request)?.mounts().under(tenant::lease(request)?))
    }
}

#[tonic::async_trait]
impl Mounts for Service {
    type ListStream = Pin<Box<dyn Stream<Item = Result<ListMessage, Status>> + Send>>;

    async fn activate(&self, request: Request<ActivateRequest>) -> Answer<ActivateResponse> {
        let store = self.store(&request)?;
        let ActivateRequest { name, mounts, labels, temporary } = request.into_inner();
        let mounts = mounts.into_iter().map(words::mounted).collect();
        finish(async move {
            let made = store.activate(&name, mounts, temporary, labels.into_iter().collect()).await?;
            Ok(ActivateResponse { info: Some(word(name, made)) })
        })
        .await
    }

    async fn deactivate(&self, request: Request<DeactivateRequest>) -> Answer<()> {
        let store = self.store(&request)?;
        let name = request.into_inner().name;
        finish(async move { store.deactivate(&name).await }).await
    }

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let store = self.store(&request)?;
        let name = request.into_inner().name;
        let found = store.get(&name).await.map_err(status)?;
        Ok(Response::new(InfoResponse { info: Some(word(name, found)) }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        let store = self.store(&request)?;
        let UpdateRequest { info, update_mask } = request.into_inner();
        let (info, paths) = (words::required(info, "an info")?, mask::paths(update_mask));
        mask::check(&paths, "an activation", &[], &["labels"])?;
        let change = move |labels: &mut _| mask::merge_texts(labels, info.labels, &paths, "labels");
        let changed = store.update_labels(&info.name, change).await.map_err(status)?;
        Ok(Response::new(UpdateResponse { info: Some(word(info.name, changed)) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = self.store(&request)?.list().await.map_err(status)?;
        found.retain(|(name, record)| filter.matches(|path| field(name, record, path)));
        let messages = found.into_iter().map(|(name, record)| Ok(ListMessage { info: Some(word(name, record)) }));
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }
}

/// What a filter sees of an activation.
fn field<'a>(name: &'a str, record: &'a Activation, path: &[String]) -> Option<Cow<'a, str>> {
    match path.first()?.as_str() {
        "name" => words::field(name),
        "labels" => label(&record.labels, &path[1..]),
        _ => None,
    }
}

fn word(name: String, record: Activation) -> ActivationInfo {
    let active = record.active.into_iter().map(|mount| ActiveMount {
        mount: Some(words::mount(mount.mount)),
        mounted_at: words::moment(mount.mounted_at),
        mount_point: mount.point.display().to_string(),
        data: HashMap::new(),
    });
    ActivationInfo {
        name,
        active: active.collect(),
        system: record.system.into_iter().map(words::mount).collect(),
        labels: record.labels.into_iter().collect(),
    }
}
