//! The command line: a client of the daemon's containerd API and of its CRI, and nothing else.

mod client;
mod containers;
mod content;
mod human;
mod images;
mod namespaces;
mod output;
mod pods;
mod snapshots;
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
    /// The namespace (tenant) to work in; the kubelet's is k8s.io
    #[arg(short, long, global = true, env = "CONTAINERD_NAMESPACE", default_value = client::KUBERNETES)]
    namespace: String,
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
    /// Containers
    #[command(subcommand, visible_alias = "container")]
    Containers(containers::Command),
    /// Namespaces: the tenants of the daemon
    #[command(subcommand, visible_alias = "namespace")]
    Namespaces(namespaces::Command),
    /// Blobs: manifests, configurations and layers
    #[command(subcommand)]
    Content(content::Command),
    /// File systems of images and containers
    #[command(subcommand, visible_alias = "snapshot")]
    Snapshots(snapshots::Command),
    /// Versions of this program and of the daemon
    Version,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be said where even this fails.
            let _ = writeln!(std::io::stderr(), "windlass: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let output = Output::new(arguments.json);
    let daemon = Daemon::new(&arguments.address, &arguments.namespace)?;
    match arguments.command {
        Command::Images(command) => images::run(command, &daemon, &output).await,
        Command::Pods(command) => pods::run(command, &daemon, &output).await,
        Command::Containers(command) => containers::run(command, &daemon, &output).await,
        Command::Namespaces(command) => namespaces::run(command, &daemon, &output).await,
        Command::Content(command) => content::run(command, &daemon, &output).await,
        Command::Snapshots(command) => snapshots::run(command, &daemon, &output).await,
        Command::Version => version::run(&daemon, &output).await,
    }
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
        assert_eq!(parsed.namespace, "moby");
        assert!(Arguments::try_parse_from(["windlass", "images", "frobnicate"]).is_err());
    }
}
