//! The way of a program from its task's making to its end, in sight or in the background.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::DeleteTaskRequest;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::types::Mount;
use prost_types::Any;
use serde::Serialize;
use tonic::Code;
use tonic::transport::Channel;

use super::create;
use crate::client::{Daemon, answered, api};
use crate::containers;
use crate::create::mounts;
use crate::output::Output;
use crate::program::Program;
use crate::signals::Signals;
use crate::spec;
use crate::stdio::{Names, Pipes};

/// Where a program's streams go.
#[derive(Debug, Default, Args)]
pub(crate) struct Outlet {
    /// Connect its standard input with ours; a terminal is connected in any case
    #[arg(short, long, conflicts_with_all = ["detach", "log_uri", "null_io"])]
    interactive: bool,
    /// Let it run in the background, and tell its process id
    #[arg(short, long)]
    detach: bool,
    /// Where its output goes: file:///path, binary:///path?name=value
    #[arg(long, value_name = "URI", conflicts_with = "null_io")]
    log_uri: Option<String>,
    /// Its output goes nowhere
    #[arg(long)]
    null_io: bool,
    /// Write its process id into a file
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The container
    id: String,
    #[command(flatten)]
    outlet: Outlet,
}

/// What runs in the background.
#[derive(Debug, Serialize)]
struct Started<'a> {
    id: &'a str,
    pid: u32,
}

impl Outlet {
    /// The streams: pipes of ours, unless they go elsewhere.
    pub fn pipes(&self, terminal: bool) -> Result<Pipes> {
        if self.detach || self.null_io || self.log_uri.is_some() {
            return Ok(Pipes::none(Names::elsewhere(self.log_uri.as_deref().unwrap_or_default(), terminal)));
        }
        Pipes::make(self.interactive || terminal, terminal)
    }

    /// True for a program that is left alone.
    pub fn is_detached(&self) -> bool {
        self.detach
    }

    /// Starts a program that was made with `pipes`, and stays until its end unless it is to be left alone.
    pub async fn start(
        &self,
        program: &mut Program<'_>,
        pipes: Pipes,
        signals: Signals,
        output: &Output,
    ) -> Result<u32> {
        if !self.detach {
            return program.start_and_watch(pipes, signals, self.pid_file.as_deref()).await;
        }
        let pid = program.start().await?;
        note(self.pid_file.as_deref(), pid)?;
        let id = if program.exec.is_empty() { &program.container } else { &program.exec };
        output.one(&Started { id, pid }, &pid.to_string())?;
        Ok(0)
    }
}

/// Writes down a process id where that is asked for.
pub(crate) fn note(file: Option<&std::path::Path>, pid: u32) -> Result<()> {
    match file {
        Some(path) => std::fs::write(path, pid.to_string()).with_context(|| format!("write {}", path.display())),
        None => Ok(()),
    }
}

/// Makes and starts the task of a container; what cannot be started is taken away again.
pub(crate) async fn launch(
    program: &mut Program<'_>,
    rootfs: Vec<Mount>,
    options: Option<Any>,
    terminal: bool,
    outlet: &Outlet,
    signals: Signals,
    output: &Output,
) -> Result<u32> {
    let pipes = outlet.pipes(terminal)?;
    create(program, rootfs, pipes.names().clone(), options).await?;
    let ended = outlet.start(program, pipes, signals, output).await;
    if ended.is_err() {
        // One that runs is not removed by this.
        delete(program).await.ok();
    }
    ended
}

/// Removes a task whose program does not run; one that is gone already is no error.
pub(crate) async fn delete(program: &Program<'_>) -> Result<()> {
    let request = DeleteTaskRequest { container_id: program.container.clone() };
    match program.client.clone().delete(program.daemon.request(request)).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(answered(status)).with_context(|| format!("remove the task {}", program.container)),
    }
}

pub(super) async fn start(arguments: Start, daemon: &Daemon, channel: &Channel, output: &Output) -> Result<u32> {
    let Start { id, outlet } = arguments;
    let signals = Signals::listen()?;
    let found = containers::find(&id, daemon, channel).await?;
    let terminal = spec::of(found.spec.as_ref()).is_some_and(|spec| spec["process"]["terminal"] == true);
    let rootfs = mounts(&found.snapshotter, &found.snapshot_key, daemon, channel).await?;
    let options = found.runtime.and_then(|runtime| runtime.options);
    let client = api!(TasksClient<_>, channel.clone());
    let mut program = Program { daemon, client, container: id, exec: String::new() };
    launch(&mut program, rootfs, options, terminal, &outlet, signals, output).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_is_written_where_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pid");
        note(Some(&path), 42).expect("writes");
        assert_eq!(std::fs::read_to_string(path).expect("reads"), "42");
        note(None, 42).expect("nothing to do");
    }

    #[tokio::test]
    async fn streams_go_where_they_are_sent() {
        let outlet = Outlet { log_uri: Some("file:///log".into()), ..Default::default() };
        assert_eq!(outlet.pipes(false).expect("names").names(), &Names::elsewhere("file:///log", false));
        let outlet = Outlet { detach: true, ..Default::default() };
        assert_eq!(outlet.pipes(true).expect("names").names(), &Names { terminal: true, ..Default::default() });
        assert!(Outlet::default().pipes(true).expect("pipes").stdin.is_some());
        assert!(Outlet::default().pipes(false).expect("pipes").stdin.is_none());
    }
}
