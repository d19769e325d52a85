//! The command line: a client of the daemon's containerd API and of its CRI, and nothing else.

mod bars;
mod client;
mod containers;
mod content;
mod create;
mod diff;
mod events;
mod human;
mod image;
mod images;
mod labels;
mod leases;
mod namespaces;
mod output;
mod plugins;
mod pods;
mod program;
mod rootfs;
mod run;
mod signals;
mod snapshots;
mod spec;
mod stdio;
mod streaming;
mod tasks;
mod terminal;
mod transfer;
mod version;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::Daemon;
use output::Output;

/// Looks at a Windlass daemon and works with it.
#[derive(Debug, Parser)]
#[command(name = "windlass", version, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    /// The daemon's socket
    #[arg(long, global = true, env = "WINDLASS_ADDRESS", default_value = "/run/windlass/windlass.sock")]
    address: String,
    /// The namespace (tenant) to work in; the kubelet's is k8s.io [default: default; for pods k8s.io]
    #[arg(short, long, global = true, env = "CONTAINERD_NAMESPACE")]
    namespace: Option<String>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Images by their names
    #[command(subcommand, visible_alias = "image")]
    Images(images::Command),
    /// Pods of the kubelet
    #[command(subcommand, visible_alias = "pod")]
    Pods(pods::Command),
    /// Make a container, start it and stay with it; its exit status is ours
    Run(Box<run::Arguments>),
    /// Containers
    #[command(subcommand, visible_alias = "container")]
    Containers(containers::Command),
    /// What runs, or has run, of containers
    #[command(subcommand, visible_alias = "task")]
    Tasks(tasks::Command),
    /// Namespaces: the tenants of the daemon
    #[command(subcommand, visible_alias = "namespace")]
    Namespaces(namespaces::Command),
    /// What keeps resources from being collected
    #[command(subcommand, visible_alias = "lease")]
    Leases(leases::Command),
    /// What has happened and what happens
    #[command(visible_alias = "event")]
    Events(events::Arguments),
    /// Blobs: manifests, configurations and layers
    #[command(subcommand)]
    Content(content::Command),
    /// File systems of images and containers
    #[command(subcommand, visible_alias = "snapshot")]
    Snapshots(snapshots::Command),
    /// Layers from snapshots, and into them
    #[command(subcommand)]
    Diff(diff::Command),
    /// What the daemon is made of
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(plugins::Command),
    /// Versions of this program and of the daemon
    Version,
}

/// What we end with where we fail before or beside a program whose status would be ours.
const NO_STATUS: u8 = 125;

impl Command {
    /// The namespace of who names none.
    fn namespace(&self) -> &'static str {
        if matches!(self, Self::Pods(_)) { client::KUBERNETES } else { client::DEFAULT }
    }

    /// True where our exit status is a program's.
    fn has_program(&self) -> bool {
        use tasks::Command::{Attach, Exec, Start, Wait};
        matches!(self, Self::Run(_) | Self::Tasks(Exec(_) | Attach { .. } | Start(_) | Wait { .. }))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failure = if arguments.command.has_program() { NO_STATUS } else { 1 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let result = runtime.block_on(run(arguments));
        // Somebody may still be waiting for standard input.
        runtime.shutdown_background();
        result
    });
    match result {
        // Larger statuses than the kernel knows are failures all the same.
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        // Whoever reads our output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be said where even this fails.
            let _ = writeln!(std::io::stderr(), "windlass: {error:#}");
            ExitCode::from(failure)
        }
    }
}

/// Does what is asked; gives the exit status.
async fn run(arguments: Arguments) -> anyhow::Result<u32> {
    let output = Output::new(arguments.json);
    let otherwise = arguments.command.namespace();
    let daemon = Daemon::new(&arguments.address, arguments.namespace.as_deref(), otherwise)?;
    match arguments.command {
        Command::Run(arguments) => return run::run(*arguments, &daemon, &output).await,
        Command::Tasks(command) => return tasks::run(command, &daemon, &output).await,
        Command::Images(command) => images::run(command, &daemon, &output).await,
        Command::Pods(command) => pods::run(command, &daemon, &output).await,
        Command::Containers(command) => containers::run(command, &daemon, &output).await,
        Command::Namespaces(command) => namespaces::run(command, &daemon, &output).await,
        Command::Leases(command) => leases::run(command, &daemon, &output).await,
        Command::Events(arguments) => events::run(arguments, &daemon, &output).await,
        Command::Content(command) => content::run(command, &daemon, &output).await,
        Command::Snapshots(command) => snapshots::run(command, &daemon, &output).await,
        Command::Diff(command) => diff::run(command, &daemon, &output).await,
        Command::Plugins(command) => plugins::run(command, &daemon, &output).await,
        Command::Version => version::run(&daemon, &output).await,
    }
    .map(|()| 0)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
        let parsed = Arguments::try_parse_from(["windlass", "images", "ls", "--json", "-n", "moby"]).expect("good");
        assert!(parsed.json);
        assert_eq!(parsed.namespace.as_deref(), Some("moby"));
        assert!(Arguments::try_parse_from(["windlass", "images", "frobnicate"]).is_err());
    }
}
