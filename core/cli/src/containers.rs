//! `windlass containers`: the kubelet's containers with their states, and other tenants' by record.

use std::collections::HashMap;

use anyhow::Result;
use clap::Subcommand;
use containerd_client::services::v1::ListContainersRequest as ListRecordsRequest;
use containerd_client::services::v1::containers_client::ContainersClient;
use k8s_cri::v1::{Container as Word, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandbox};
use serde::Serialize;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::output::{Output, Row};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List containers
    #[command(visible_alias = "list")]
    Ls {
        /// Also those that do not run
        #[arg(short, long)]
        all: bool,
    },
}

#[derive(Debug, Serialize)]
struct Container {
    id: String,
    name: String,
    attempt: u32,
    state: &'static str,
    image: String,
    pod_id: String,
    pod: String,
    created_at: i64,
}

impl Row for Container {
    const HEADS: &'static [&'static str] =
        &["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD"];

    fn cells(&self) -> Vec<String> {
        vec![
            human::short(&self.id).into(),
            human::short(&self.image).into(),
            human::age(self.created_at),
            self.state.into(),
            self.name.clone(),
            self.attempt.to_string(),
            human::short(&self.pod_id).into(),
            self.pod.clone(),
        ]
    }
}

/// A container's record in a namespace of another tenant.
#[derive(Debug, Serialize)]
struct Record {
    id: String,
    image: String,
    runtime: String,
    created_at: i64,
}

impl Row for Record {
    const HEADS: &'static [&'static str] = &["CONTAINER", "IMAGE", "RUNTIME", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), self.image.clone(), self.runtime.clone(), human::age(self.created_at)]
    }
}

pub(crate) async fn run(Command::Ls { all }: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    if daemon.is_kubernetes() { list(all, daemon, output).await } else { list_records(daemon, output).await }
}

async fn list(all: bool, daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = daemon.runtime().await?;
    let answer = client.list_containers(ListContainersRequest { filter: None }).await.map_err(answered)?;
    let sandboxes = client.list_pod_sandbox(ListPodSandboxRequest { filter: None }).await.map_err(answered)?;
    let sandboxes = sandboxes.into_inner().items.into_iter();
    let pods: HashMap<String, PodSandbox> = sandboxes.map(|sandbox| (sandbox.id.clone(), sandbox)).collect();
    let found = answer.into_inner().containers.into_iter();
    let found = found.filter(|container| all || container.state() == ContainerState::ContainerRunning);
    let mut containers: Vec<Container> = found.map(|word| container(word, &pods)).collect();
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    output.rows(&containers)
}

fn container(word: Word, pods: &HashMap<String, PodSandbox>) -> Container {
    let state = match word.state() {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    };
    let pod = pods.get(&word.pod_sandbox_id).and_then(|sandbox| sandbox.metadata.as_ref());
    let metadata = word.metadata.unwrap_or_default();
    Container {
        id: word.id,
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        image: word.image.map(|image| image.image).unwrap_or(word.image_ref),
        pod: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default(),
        pod_id: word.pod_sandbox_id,
        created_at: word.created_at,
    }
}

async fn list_records(daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(ContainersClient<_>, daemon.connect().await?);
    let answer = client.list(daemon.request(ListRecordsRequest::default())).await.map_err(answered)?;
    let records = answer.into_inner().containers.into_iter().map(|container| Record {
        id: container.id,
        image: container.image,
        runtime: container.runtime.map(|runtime| runtime.name).unwrap_or_default(),
        created_at: human::nanos(container.created_at.as_ref()),
    });
    output.rows(&records.collect::<Vec<_>>())
}
