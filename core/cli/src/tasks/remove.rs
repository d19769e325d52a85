//! `windlass tasks rm`: tasks that have ended, or that are made to end.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{DeleteProcessRequest, DeleteTaskRequest, KillRequest};
use serde::Serialize;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Daemon, answered};
use crate::human;
use crate::output::{Output, Row};
use crate::program::Program;

/// How long a killed program may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// SIGKILL.
const KILL: u32 = 9;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Kill what runs
    #[arg(short, long)]
    force: bool,
    /// Remove an exec instead
    #[arg(long)]
    exec_id: Option<String>,
    /// The containers
    #[arg(required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Removed {
    id: String,
    pid: u32,
    exit_status: u32,
    exited_at: i64,
}

impl Row for Removed {
    const HEADS: &'static [&'static str] = &["TASK", "PID", "EXIT STATUS"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), self.pid.to_string(), self.exit_status.to_string()]
    }
}

pub(super) async fn run(
    arguments: Arguments,
    daemon: &Daemon,
    mut client: TasksClient<Channel>,
    output: &Output,
) -> Result<()> {
    let mut rows = Vec::with_capacity(arguments.ids.len());
    for id in arguments.ids {
        let exec = arguments.exec_id.clone().unwrap_or_default();
        if arguments.force {
            kill(&id, &exec, daemon, &client).await.with_context(|| format!("kill {id}"))?;
        }
        let answer = if exec.is_empty() {
            client.delete(daemon.request(DeleteTaskRequest { container_id: id.clone() })).await
        } else {
            let request = DeleteProcessRequest { container_id: id.clone(), exec_id: exec.clone() };
            client.delete_process(daemon.request(request)).await
        };
        let gone = answer.map_err(answered).with_context(|| format!("remove {id}"))?.into_inner();
        let exited_at = human::nanos(gone.exited_at.as_ref());
        let id = if exec.is_empty() { id } else { exec };
        rows.push(Removed { id, pid: gone.pid, exit_status: gone.exit_status, exited_at });
    }
    output.rows(&rows)
}

/// Kills a program and waits for its end.
async fn kill(id: &str, exec: &str, daemon: &Daemon, client: &TasksClient<Channel>) -> Result<()> {
    let program = Program { daemon, client: client.clone(), container: id.to_owned(), exec: exec.to_owned() };
    let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
    let request = KillRequest { container_id, exec_id, signal: KILL, all: exec.is_empty() };
    match client.clone().kill(daemon.request(request)).await {
        Ok(_) => {}
        // It has ended, or was never started: then it can be removed as it is.
        Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => return Ok(()),
        Err(status) => return Err(answered(status)),
    }
    match tokio::time::timeout(PATIENCE, program.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => bail!("it has not ended in {} s after SIGKILL", PATIENCE.as_secs()),
    }
}
