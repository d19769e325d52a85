//! `windlass tasks`: what runs, or has run, of containers.

mod exec;
mod launch;
mod metrics;
mod remove;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    GetRequest, KillRequest, ListPidsRequest, ListTasksRequest, PauseTaskRequest, ResumeTaskRequest, UpdateTaskRequest,
};
use containerd_client::types::v1::{Process, Status};
use prost::Message;
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::containers;
use crate::create::STOP_SIGNAL;
use crate::human;
use crate::output::{Output, Row};
use crate::program::Program;
use crate::signals::{self, Signals};
use crate::spec::{self, Limits, Part};
use crate::stdio::{Names, Pipes};

pub(crate) use launch::{Outlet, delete, launch, note};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List tasks
    #[command(visible_alias = "list")]
    Ls,
    /// The processes of a task
    Ps {
        /// The container
        id: String,
    },
    /// Start the program of a container that was created
    Start(launch::Start),
    /// Run a further program in a container; its exit status is ours
    Exec(exec::Arguments),
    /// Connect with a program whose pipes nobody reads any more; its exit status is ours
    Attach {
        /// The container
        id: String,
    },
    /// Wait for a program's end; its exit status is ours
    Wait {
        /// The container
        id: String,
        /// The exec, where it is not the container's first process
        #[arg(long, default_value = "")]
        exec_id: String,
    },
    /// Send a signal
    Kill {
        /// The signal; the image's stop signal where none is given, else SIGTERM
        #[arg(short, long, value_parser = signals::number)]
        signal: Option<u32>,
        /// To all processes of the container
        #[arg(short, long)]
        all: bool,
        /// To an exec
        #[arg(long, default_value = "", conflicts_with = "all")]
        exec_id: String,
        /// The containers
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Freeze all processes of a container
    Pause {
        /// The containers
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Let frozen processes go on
    Resume {
        /// The containers
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Change a container's limits while it runs
    Update {
        /// The container
        id: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// What containers take of the machine
    #[command(visible_alias = "metric")]
    Metrics {
        /// The containers; all where none is given
        ids: Vec<String>,
    },
    /// Remove tasks that have ended
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(remove::Arguments),
}

#[derive(Debug, Serialize)]
struct Task {
    id: String,
    pid: u32,
    status: &'static str,
    exit_status: Option<u32>,
    exited_at: i64,
    stdin: String,
    stdout: String,
    stderr: String,
    terminal: bool,
}

impl Row for Task {
    const HEADS: &'static [&'static str] = &["TASK", "PID", "STATUS", "EXIT STATUS"];

    fn cells(&self) -> Vec<String> {
        let exit = self.exit_status.map_or_else(|| "-".into(), |status| status.to_string());
        vec![self.id.clone(), self.pid.to_string(), self.status.into(), exit]
    }
}

#[derive(Debug, Serialize)]
struct Pid {
    pid: u32,
    exec_id: String,
}

impl Row for Pid {
    const HEADS: &'static [&'static str] = &["PID", "EXEC ID"];

    fn cells(&self) -> Vec<String> {
        vec![self.pid.to_string(), self.exec_id.clone()]
    }
}

/// What a shim tells of a process (`containerd.runc.v1.ProcessDetails`).
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(string, tag = "1")]
    exec_id: String,
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<u32> {
    let channel = daemon.connect().await?;
    let mut client = api!(TasksClient<_>, channel.clone());
    match command {
        Command::Ls => {
            let answer = client.list(daemon.request(ListTasksRequest::default())).await.map_err(answered)?;
            let mut rows: Vec<Task> = answer.into_inner().tasks.into_iter().map(task).collect();
            rows.sort_by(|one, other| one.id.cmp(&other.id));
            output.rows(&rows)?;
        }
        Command::Ps { id } => {
            let answer = client.list_pids(daemon.request(ListPidsRequest { container_id: id })).await;
            let processes = answer.map_err(answered)?.into_inner().processes.into_iter();
            let exec = |bytes: &[u8]| Details::decode(bytes).map(|details| details.exec_id).unwrap_or_default();
            let row = |(pid, info): (u32, Option<prost_types::Any>)| Pid {
                pid,
                exec_id: info.map(|info| exec(&info.value)).unwrap_or_default(),
            };
            output.rows(&processes.map(|process| row((process.pid, process.info))).collect::<Vec<_>>())?;
        }
        Command::Start(arguments) => return launch::start(arguments, daemon, &channel, output).await,
        Command::Exec(arguments) => return exec::run(arguments, daemon, &channel, output).await,
        Command::Attach { id } => return attach(id, daemon, client).await,
        Command::Wait { id, exec_id } => {
            return Program { daemon, client, container: id, exec: exec_id }.wait().await;
        }
        Command::Kill { signal, all, exec_id, ids } => {
            for id in ids {
                kill(&id, &exec_id, signal, all, daemon, &channel).await.with_context(|| format!("kill {id}"))?;
            }
        }
        Command::Pause { ids } => {
            for id in ids {
                let paused = client.pause(daemon.request(PauseTaskRequest { container_id: id.clone() })).await;
                paused.map_err(answered).with_context(|| format!("pause {id}"))?;
            }
        }
        Command::Resume { ids } => {
            for id in ids {
                let resumed = client.resume(daemon.request(ResumeTaskRequest { container_id: id.clone() })).await;
                resumed.map_err(answered).with_context(|| format!("resume {id}"))?;
            }
        }
        Command::Update { id, limits } => {
            let resources = Some(spec::any(&limits.resources(), Part::Resources));
            let request = UpdateTaskRequest { container_id: id.clone(), resources, annotations: Default::default() };
            client.update(daemon.request(request)).await.map_err(answered).with_context(|| format!("update {id}"))?;
        }
        Command::Metrics { ids } => metrics::run(ids, daemon, client, output).await?,
        Command::Rm(arguments) => remove::run(arguments, daemon, client, output).await?,
    }
    Ok(0)
}

/// Makes the task of a container: its shim runs, its program does not yet.
pub(crate) async fn create(
    program: &mut Program<'_>,
    rootfs: Vec<containerd_client::types::Mount>,
    names: Names,
    options: Option<prost_types::Any>,
) -> Result<()> {
    let request = containerd_client::services::v1::CreateTaskRequest {
        container_id: program.container.clone(),
        rootfs,
        stdin: names.stdin,
        stdout: names.stdout,
        stderr: names.stderr,
        terminal: names.terminal,
        options,
        ..Default::default()
    };
    let created = program.client.create(program.daemon.request(request)).await;
    created.map_err(answered).with_context(|| format!("create the task {}", program.container))?;
    Ok(())
}

/// A process of a task.
async fn find(id: &str, daemon: &Daemon, client: &mut TasksClient<Channel>) -> Result<Process> {
    let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let answer = client.get(daemon.request(request)).await.map_err(answered);
    let found = answer.with_context(|| format!("look for the task {id}"))?.into_inner().process;
    found.context("the daemon answers without a process")
}

async fn attach(id: String, daemon: &Daemon, mut client: TasksClient<Channel>) -> Result<u32> {
    let found = find(&id, daemon, &mut client).await?;
    if found.status() == Status::Stopped {
        bail!("the program of {id} has ended");
    }
    let names = Names { stdin: found.stdin, stdout: found.stdout, stderr: found.stderr, terminal: found.terminal };
    let pipes = Pipes::of(names).with_context(|| format!("attach to {id}"))?;
    let signals = Signals::listen()?;
    Program { daemon, client, container: id, exec: String::new() }.attach(pipes, signals).await
}

async fn kill(
    id: &str,
    exec_id: &str,
    signal: Option<u32>,
    all: bool,
    daemon: &Daemon,
    channel: &Channel,
) -> Result<()> {
    let signal = match signal {
        Some(signal) => signal,
        None => {
            let found = containers::find(id, daemon, channel).await?;
            let named = found.labels.get(STOP_SIGNAL).map_or("SIGTERM", String::as_str);
            signals::number(named).map_err(|why| anyhow::anyhow!("{why}: name one with --signal"))?
        }
    };
    let request = KillRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned(), signal, all };
    api!(TasksClient<_>, channel.clone()).kill(daemon.request(request)).await.map_err(answered)?;
    Ok(())
}

fn task(process: Process) -> Task {
    let status = match process.status() {
        Status::Unknown => "unknown",
        Status::Created => "created",
        Status::Running => "running",
        Status::Stopped => "stopped",
        Status::Paused => "paused",
        Status::Pausing => "pausing",
    };
    let ended = process.status() == Status::Stopped;
    Task {
        // A list names the container in the one field or the other.
        id: if process.container_id.is_empty() { process.id } else { process.container_id },
        pid: process.pid,
        status,
        exit_status: ended.then_some(process.exit_status),
        exited_at: human::nanos(process.exited_at.as_ref()),
        stdin: process.stdin,
        stdout: process.stdout,
        stderr: process.stderr,
        terminal: process.terminal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_ended_has_a_status() {
        let running = Process { id: "a".into(), status: Status::Running.into(), ..Default::default() };
        assert_eq!(task(running).cells(), ["a", "0", "running", "-"]);
        let stopped = Process {
            container_id: "a".into(),
            status: Status::Stopped.into(),
            exit_status: 137,
            ..Default::default()
        };
        assert_eq!(task(stopped).cells(), ["a", "0", "stopped", "137"]);
    }
}
