//! `windlass containers`: the kubelet's containers with their states, and other tenants' by record.

mod records;

use std::collections::HashMap;

use anyhow::Result;
use clap::Subcommand;
use k8s_cri::v1::{Container as Word, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandbox};
use serde::Serialize;

use crate::client::{Daemon, answered};
use crate::create;
use crate::human;
use crate::labels;
use crate::output::{Output, Row};

pub(crate) use records::find;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List containers
    #[command(visible_alias = "list")]
    Ls {
        /// Also those of the kubelet's that do not run
        #[arg(short, long)]
        all: bool,
        /// Only those that match one of these (containerd's filter language; not of the kubelet's containers)
        filters: Vec<String>,
    },
    /// All that is known of a container
    #[command(visible_alias = "inspect")]
    Info {
        /// Its id
        id: String,
        /// Only its OCI specification
        #[arg(long)]
        spec: bool,
    },
    /// Make a container and start nothing
    Create(Box<create::Arguments>),
    /// Change labels of a container
    Label {
        /// Its id
        id: String,
        #[command(flatten)]
        changes: labels::Changes,
    },
    /// Remove containers that do not run, with their snapshots
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
        /// Let the snapshots stay
        #[arg(long)]
        keep_snapshot: bool,
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

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    match command {
        Command::Ls { all, .. } if daemon.is_kubernetes() => list(all, daemon, output).await,
        Command::Ls { filters, .. } => records::list(filters, daemon, output).await,
        Command::Info { id, spec } => records::info(&id, spec, daemon, output).await,
        Command::Create(arguments) => records::create(*arguments, daemon, output).await,
        Command::Label { id, changes } => records::label(id, changes, daemon).await,
        Command::Rm { ids, keep_snapshot } => records::remove(ids, keep_snapshot, daemon).await,
    }
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
