//! What the daemon does beside its calls until it stops: it gives back the memory of its start, tells systemd's watchdog
//! that it is well, and reads its configuration again on `SIGHUP`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use windlass_cri::{Reload, Server, look_at_yourself};

use crate::config::{Overrides, Raw};
use crate::systemd::{Notice, Notifier};

/// In how many parts the watchdog's time is cut: a look may fail twice before systemd acts.
const PARTS: u32 = 4;

/// How long the start goes on in the background after the first call can be answered: shims are reconnected to.
const SETTLED: Duration = Duration::from_secs(1);

/// Gives back what only the start needed, once that is over.
pub async fn settle() {
    tokio::time::sleep(SETTLED).await;
    match tokio::task::spawn_blocking(windlass_sys::memory::forget_start).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the daemon keeps more memory than it needs"),
        Err(error) => tracing::warn!(%error, "the daemon keeps more memory than it needs"),
    }
}

/// Looks at the CRI's socket again and again, and tells systemd after each whole answer. Without one systemd ends the
/// daemon and starts it anew; pods stay.
pub async fn watch(every: Duration, address: PathBuf, systemd: Arc<Notifier>) {
    let part = every / PARTS;
    loop {
        match look_at_yourself(&address, part).await {
            Ok(()) => systemd.send(Notice::Alive),
            Err(error) => tracing::error!(%error, "the watchdog is not told that all is well"),
        }
        tokio::time::sleep(part).await;
    }
}

/// The configuration as it was read, to be read again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file; `None`: the default one.
    pub file: Option<PathBuf>,
    /// The flags.
    pub flags: Overrides,
}

/// Listens for `SIGHUP` from now on, which would end the process otherwise.
///
/// # Errors
/// Where the kernel refuses.
pub fn hangups() -> Result<Signal> {
    signal(SignalKind::hangup()).context("listen for SIGHUP")
}

/// Reads the configuration again after each `SIGHUP` and takes over what can be changed while the daemon runs.
pub async fn reload(mut hangups: Signal, source: Source, mut before: Raw, server: Arc<Server>) {
    while hangups.recv().await.is_some() {
        let (source, server, known) = (source.clone(), server.clone(), before.clone());
        let read = tokio::task::spawn_blocking(move || again(&source, &known, &server)).await;
        match read.context("read the configuration").and_then(|read| read) {
            Ok(raw) => before = raw,
            Err(error) => tracing::error!(error = format!("{error:#}"), "the configuration stays as it was"),
        }
    }
}

fn again(source: &Source, before: &Raw, server: &Server) -> Result<Raw> {
    let raw = source.read()?;
    let config = raw.clone().check()?;
    server.reload(&Reload { pinned_images: config.cri.pinned_images, max_log_line: config.cri.max_log_line })?;
    if needs_restart(before, &raw) {
        tracing::warn!("the configuration was read again; some of what is new needs a restart of the daemon");
    } else {
        tracing::info!("the configuration was read again");
    }
    // What needs a restart is still not in force.
    let mut now = before.clone();
    (now.cri.pinned_images, now.cri.max_container_log_line_size) =
        (raw.cri.pinned_images, raw.cri.max_container_log_line_size);
    Ok(now)
}

/// True where the two differ in more than what is taken over.
fn needs_restart(before: &Raw, now: &Raw) -> bool {
    let mut now = now.clone();
    now.cri.pinned_images.clone_from(&before.cri.pinned_images);
    now.cri.max_container_log_line_size = before.cri.max_container_log_line_size;
    now != *before
}

impl Source {
    /// The configuration that the file and the flags give now.
    ///
    /// # Errors
    /// As [`Raw::load`].
    pub fn read(&self) -> Result<Raw> {
        Raw::load(self.file.as_deref(), self.flags.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_values_are_taken_over() {
        let before = Raw::default();
        let mut now = before.clone();
        assert!(!needs_restart(&before, &now));
        now.cri.pinned_images = vec!["quay.io/*".into()];
        now.cri.max_container_log_line_size = 1;
        assert!(!needs_restart(&before, &now));
        now.cri.snapshotter = "native".into();
        assert!(needs_restart(&before, &now));
    }
}
