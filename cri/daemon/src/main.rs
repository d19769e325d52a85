//! `windlassd`: reads flags and configuration, then runs the daemon.

mod config;
mod daemon;
mod logs;
mod metrics;
mod process;
mod serve;
mod socket;
mod systemd;
mod tenants;
mod tend;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use config::Overrides;
use serve::Homes;
use tend::Source;

/// How long work that blocks has for its end when the daemon stops.
const PARTING: Duration = Duration::from_secs(5);

/// The daemon of Windlass, a Kubernetes container runtime.
#[derive(Debug, Parser)]
#[command(name = "windlassd", version)]
struct Cli {
    /// The configuration file [default: /etc/windlass/config.toml, which may be missing]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// What survives a reboot: images, snapshots, records
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    /// What does not: sockets, bundles, pinned namespaces
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    /// The gRPC socket
    #[arg(long, value_name = "SOCKET", global = true)]
    address: Option<PathBuf>,
    /// error, warn, info, debug or trace; or directives like info,windlass_engine=debug
    #[arg(long, value_name = "LEVEL", global = true, default_value = "info")]
    log_level: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its default
    Default,
    /// Print the configuration that the file and the flags give
    Dump,
    /// Say whether the configuration is valid
    Check,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windlassd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let flags = Overrides { root: cli.root, state: cli.state, address: cli.address };
    let source = Source { file: cli.config, flags };
    let load = || source.read();
    match cli.command {
        Some(Command::Config(ConfigCommand::Default)) => print(config::DEFAULT_TEXT),
        Some(Command::Config(ConfigCommand::Dump)) => print(&load()?.dump()?),
        Some(Command::Config(ConfigCommand::Check)) => {
            load()?.check().and_then(|_| print("the configuration is valid\n"))
        }
        None => {
            let raw = load()?;
            let config = raw.clone().check()?;
            logs::init(&cli.log_level)?;
            process::prepare();
            let runtime = process::runtime()?;
            let tenants = process::tenants_runtime()?;
            let homes = Homes { cri: runtime.handle().clone(), tenants: tenants.handle().clone() };
            let outcome = runtime.block_on(daemon::run(config, source, raw, homes));
            // Whoever waits for a disk or a file system that does not answer must not keep the daemon from its end.
            tenants.shutdown_timeout(PARTING);
            runtime.shutdown_timeout(PARTING);
            outcome
        }
    }
}

fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
