//! Containers of any tenant, by their records.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container, DeleteContainerRequest, DeleteTaskRequest, GetContainerRequest, ListContainersRequest,
    UpdateContainerRequest,
};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::create::{self, remove_snapshot};
use crate::human;
use crate::labels::Changes;
use crate::output::{Output, Row};
use crate::spec;

#[derive(Debug, Serialize)]
struct Record {
    id: String,
    image: String,
    runtime: String,
    snapshotter: String,
    snapshot_key: String,
    created_at: i64,
    updated_at: i64,
    labels: BTreeMap<String, String>,
}

impl Row for Record {
    const HEADS: &'static [&'static str] = &["CONTAINER", "IMAGE", "RUNTIME", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), self.image.clone(), self.runtime.clone(), human::age(self.created_at)]
    }
}

pub(super) async fn list(filters: Vec<String>, daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(ContainersClient<_>, daemon.connect().await?);
    let answer = client.list_stream(daemon.request(ListContainersRequest { filters })).await.map_err(answered)?;
    let mut stream = answer.into_inner();
    let mut records = Vec::new();
    while let Some(message) = stream.message().await.map_err(answered)? {
        records.extend(message.container.map(record));
    }
    output.rows(&records)
}

fn record(container: Container) -> Record {
    Record {
        id: container.id,
        image: container.image,
        runtime: container.runtime.map(|runtime| runtime.name).unwrap_or_default(),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: human::nanos(container.created_at.as_ref()),
        updated_at: human::nanos(container.updated_at.as_ref()),
        labels: container.labels.into_iter().collect(),
    }
}

/// The record of a container.
pub(crate) async fn find(id: &str, daemon: &Daemon, channel: &Channel) -> Result<Container> {
    let mut client = api!(ContainersClient<_>, channel.clone());
    let answer = client.get(daemon.request(GetContainerRequest { id: id.to_owned() })).await;
    let found = answer.map_err(answered).with_context(|| format!("look for {id}"))?.into_inner().container;
    found.context("the daemon answers without a container")
}

pub(super) async fn info(id: &str, with_spec: bool, daemon: &Daemon, output: &Output) -> Result<()> {
    let found = find(id, daemon, &daemon.connect().await?).await?;
    let specification = spec::of(found.spec.as_ref()).unwrap_or(Value::Null);
    if with_spec {
        return output.json(&specification);
    }
    let sandbox = found.sandbox.clone();
    let extensions: BTreeMap<String, String> =
        found.extensions.iter().map(|(name, any)| (name.clone(), any.type_url.clone())).collect();
    let options = found.runtime.as_ref().and_then(|runtime| runtime.options.as_ref()).map(|any| any.type_url.clone());
    let mut told = json!(record(found));
    told["sandbox"] = sandbox.into();
    told["extensions"] = json!(extensions);
    told["runtime_options"] = json!(options);
    told["spec"] = specification;
    output.json(&told)
}

pub(super) async fn create(arguments: create::Arguments, daemon: &Daemon, output: &Output) -> Result<()> {
    let made = create::Made::new(&arguments, daemon, &daemon.connect().await?).await?;
    output.one(&json!({ "id": made.id }), &made.id)
}

pub(super) async fn label(id: String, changes: Changes, daemon: &Daemon) -> Result<()> {
    let (labels, update_mask) = changes.masked();
    let container = Some(Container { id: id.clone(), labels, ..Default::default() });
    let mut client = api!(ContainersClient<_>, daemon.connect().await?);
    let changed = client.update(daemon.request(UpdateContainerRequest { container, update_mask })).await;
    changed.map_err(answered).with_context(|| format!("label {id}"))?;
    Ok(())
}

/// Removes containers that do not run, with the tasks that have ended, and their snapshots unless those are to stay.
pub(super) async fn remove(ids: Vec<String>, keep_snapshot: bool, daemon: &Daemon) -> Result<()> {
    let channel = daemon.connect().await?;
    for id in ids {
        let found = find(&id, daemon, &channel).await?;
        let request = DeleteTaskRequest { container_id: id.clone() };
        match api!(TasksClient<_>, channel.clone()).delete(daemon.request(request)).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(answered(status)).with_context(|| format!("remove the task {id}")),
        }
        let request = DeleteContainerRequest { id: id.clone() };
        let removed = api!(ContainersClient<_>, channel.clone()).delete(daemon.request(request)).await;
        removed.map_err(answered).with_context(|| format!("remove {id}"))?;
        if !keep_snapshot {
            remove_snapshot(&found.snapshotter, &found.snapshot_key, daemon, &channel).await?;
        }
    }
    Ok(())
}
