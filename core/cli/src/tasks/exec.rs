//! `windlass tasks exec`: a further program in a container that runs.

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{DeleteProcessRequest, ExecProcessRequest};
use tonic::transport::Channel;

use super::{Outlet, find};
use crate::client::{Daemon, answered, api};
use crate::containers;
use crate::output::Output;
use crate::program::Program;
use crate::rootfs;
use crate::signals::Signals;
use crate::spec::{self, Part, ProcessWishes, User};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The container
    id: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    #[command(flatten)]
    process: ProcessWishes,
    /// A name for it; one is made up where none is given
    #[arg(long)]
    exec_id: Option<String>,
    #[command(flatten)]
    outlet: Outlet,
}

pub(super) async fn run(arguments: Arguments, daemon: &Daemon, channel: &Channel, output: &Output) -> Result<u32> {
    let Arguments { id, command, process, exec_id, outlet } = arguments;
    let signals = Signals::listen()?;
    let mut client = api!(TasksClient<_>, channel.clone());
    let found = containers::find(&id, daemon, channel).await?;
    let spec = spec::of(found.spec.as_ref()).with_context(|| format!("{id} has no OCI specification"))?;
    let user = match &process.user {
        Some(text) => Some(user(&id, text, daemon, &mut client).await?),
        None => None,
    };
    let exec = exec_id.unwrap_or_else(|| format!("exec-{}", uuid::Uuid::new_v4()));
    let process_spec = spec::exec(&spec, &command, &process, user.as_ref())?;
    let pipes = outlet.pipes(process.tty)?;
    let names = pipes.names().clone();
    let request = ExecProcessRequest {
        container_id: id.clone(),
        stdin: names.stdin,
        stdout: names.stdout,
        stderr: names.stderr,
        terminal: names.terminal,
        spec: Some(spec::any(&process_spec, Part::Process)),
        exec_id: exec.clone(),
    };
    client.exec(daemon.request(request)).await.map_err(answered).with_context(|| format!("exec in {id}"))?;
    let mut program = Program { daemon, client, container: id, exec };
    let ended = outlet.start(&mut program, pipes, signals, output).await;
    if !outlet.is_detached() || ended.is_err() {
        // One that did not start has to go too; one that cannot be removed goes with its container.
        let request = DeleteProcessRequest { container_id: program.container.clone(), exec_id: program.exec.clone() };
        drop(program.client.delete_process(daemon.request(request)).await);
    }
    ended
}

/// Whom `text` stands for in a container that runs.
async fn user(id: &str, text: &str, daemon: &Daemon, client: &mut TasksClient<Channel>) -> Result<User> {
    let databases = if rootfs::needs_databases(text) {
        let pid = find(id, daemon, client).await?.pid;
        rootfs::databases_in(format!("/proc/{pid}/root").as_ref())?
    } else {
        Default::default()
    };
    rootfs::user(text, &databases)
}
