//! What is done for the tasks of a shim that is no more: their last events, their processes, their mounts.

use std::sync::Arc;

use windlass_model::process::Exit;
use windlass_model::{Result, Timestamp};
use windlass_sys::mount::unmount;
use windlass_wire::outbox;

use super::bundle::Bundle;
use super::launch::Launcher;
use super::roster::Inner;
use super::table::{Entry, Key};
use crate::blocking;

/// The status of a task or a sandbox that was killed with its shim: 128 and SIGKILL.
pub(super) const KILLED: u32 = 137;

/// Takes the events that the shim could not deliver.
pub(super) async fn take_outbox(roster: &Inner, bundle: &Bundle) -> Result<()> {
    let folder = bundle.path().to_owned();
    for entry in blocking(move || outbox::read(&folder)).await? {
        roster.take(&entry.namespace, entry.event, entry.timestamp);
    }
    Ok(())
}

/// Kills what still runs of a shim's tasks, reports their ends, and takes their mounts away. Where the shim did not end
/// in order, its executable (`launcher`) cleans up as well.
///
/// # Errors
/// Where a mount cannot be taken away; everything else was tried.
pub(super) async fn end_tasks(roster: &Inner, key: &Key, launcher: Option<Launcher>) -> Result<()> {
    let entries = roster.tasks.of_shim(&key.0, &key.1);
    if let Some(launcher) = launcher {
        let doomed = entries.clone();
        blocking(move || {
            doomed.iter().for_each(kill);
            Ok(())
        })
        .await?;
        if let Err(error) = launcher.delete().await {
            tracing::warn!(%error, "the shim's own clean-up failed");
        }
    }
    let mut result = Ok(());
    for entry in entries {
        roster.take_exit(&entry, Exit { status: KILLED, at: Timestamp::now() });
        let released = blocking(move || release(&entry)).await;
        result = result.and(released);
    }
    result
}

/// Kills everything in the container's cgroup and removes that.
fn kill(entry: &Arc<Entry>) {
    let Some(cgroup) = entry.bundle.cgroup() else { return };
    let ended = windlass_sys::cgroup::Layout::detect().and_then(|layout| {
        layout.kill(&cgroup)?;
        layout.remove(&cgroup)
    });
    if let Err(error) = ended {
        tracing::warn!(container = %entry.id, cgroup, %error, "a container's cgroup cannot be emptied");
    }
}

/// Takes a container's root file system away and writes down how its task ended, for nobody else knows any more.
fn release(entry: &Arc<Entry>) -> Result<()> {
    let kept = entry.keep_exit();
    unmount(&entry.bundle.rootfs()).and(kept)
}
