//! The daemon's own log: lines on stderr, which the journal or a file takes.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// What libraries may say at most: their news are ours only when something is wrong.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,rustls=warn,reqwest=warn,tower=warn,tonic=warn,ttrpc=off";

/// Begins logging at `level`, or by `tracing`'s directives.
///
/// # Errors
/// Where `level` is neither.
pub fn init(level: &str) -> Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{level}")).with_context(|| format!("--log-level {level:?}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // The journal puts its own time on each line.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().init()
    } else {
        lines.init()
    }
    Ok(())
}
