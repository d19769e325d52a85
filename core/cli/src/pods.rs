//! `windlass pods`: the kubelet's pods, as the CRI tells of them.

use anyhow::Result;
use clap::Subcommand;
use k8s_cri::v1::{ListPodSandboxRequest, PodSandbox, PodSandboxState};
use serde::Serialize;

use crate::client::{Daemon, answered};
use crate::human;
use crate::output::{Output, Row};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List pods, ready or not
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Debug, Serialize)]
struct Pod {
    id: String,
    name: String,
    namespace: String,
    uid: String,
    attempt: u32,
    state: &'static str,
    created_at: i64,
    runtime_handler: String,
}

impl Row for Pod {
    const HEADS: &'static [&'static str] = &["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"];

    fn cells(&self) -> Vec<String> {
        let runtime = if self.runtime_handler.is_empty() { "(default)" } else { &self.runtime_handler };
        vec![
            human::short(&self.id).into(),
            human::age(self.created_at),
            self.state.into(),
            self.name.clone(),
            self.namespace.clone(),
            self.attempt.to_string(),
            runtime.into(),
        ]
    }
}

pub(crate) async fn run(Command::Ls: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    daemon.require_kubernetes()?;
    let mut client = daemon.runtime().await?;
    let answer = client.list_pod_sandbox(ListPodSandboxRequest { filter: None }).await.map_err(answered)?;
    let mut pods: Vec<Pod> = answer.into_inner().items.into_iter().map(pod).collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    output.rows(&pods)
}

fn pod(sandbox: PodSandbox) -> Pod {
    let state = match sandbox.state() {
        PodSandboxState::SandboxReady => "ready",
        PodSandboxState::SandboxNotready => "not ready",
    };
    let metadata = sandbox.metadata.unwrap_or_default();
    Pod {
        id: sandbox.id,
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        attempt: metadata.attempt,
        state,
        created_at: sandbox.created_at,
        runtime_handler: sandbox.runtime_handler,
    }
}
