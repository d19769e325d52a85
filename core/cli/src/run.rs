//! `windlass run`: a container made, started and watched, as `ctr run` does it; its exit status is ours.

use anyhow::Result;
use clap::Args;
use containerd_client::services::v1::tasks_client::TasksClient;

use crate::client::{Daemon, api};
use crate::create::{self, Made};
use crate::output::Output;
use crate::program::Program;
use crate::signals::Signals;
use crate::tasks::{self, Outlet};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    create: create::Arguments,
    /// Remove it when its program has ended
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    #[command(flatten)]
    outlet: Outlet,
}

pub(crate) async fn run(arguments: Arguments, daemon: &Daemon, output: &Output) -> Result<u32> {
    let channel = daemon.connect().await?;
    // From here on a signal ends nothing half-way: it waits for the program that it is meant for.
    let signals = Signals::listen()?;
    let made = Made::new(&arguments.create, daemon, &channel).await?;
    let client = api!(TasksClient<_>, channel.clone());
    let mut program = Program { daemon, client, container: made.id.clone(), exec: String::new() };
    let terminal = arguments.create.wishes.process.tty;
    let ended = async {
        let mounts = made.mounts(daemon, &channel).await?;
        tasks::launch(&mut program, mounts, made.options.clone(), terminal, &arguments.outlet, signals, output).await
    };
    match ended.await {
        Ok(status) => {
            if arguments.rm {
                tasks::delete(&program).await?;
                made.remove(daemon, &channel).await?;
            }
            Ok(status)
        }
        Err(error) => {
            // A task that runs cannot be removed, and its container stays with it.
            if tasks::delete(&program).await.is_ok() {
                made.remove(daemon, &channel).await.ok();
            }
            Err(error)
        }
    }
}
