//! The shim's place in its pod's cgroup, so that its work is charged to the pod.
//!
//! With version 2 only leaves hold processes: there the shim lives in a leaf of its own. Folders that the shim had to make
//! are noted in the bundle and taken away at the end; those that somebody else made are that one's. Where systemd has the
//! cgroups, the leaf is a scope that systemd makes, and removes when the shim has ended.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use windlass_model::Result;
use windlass_sys::cgroup::Layout;

use crate::oci::Caller;

/// The file in the pod's bundle.
const NOTE: &str = "cgroup";
/// How often the removal is tried, each time for two seconds.
const ATTEMPTS: u32 = 10;
/// How the name of version 2's leaf begins; the pod's follows.
const LEAF: &str = "windlass-shim";

/// Where the shim moved in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The cgroup that holds the shim.
    cgroup: String,
    /// The topmost folder that the shim made, as a cgroup; nothing where all were there.
    made: Option<String>,
}

/// Moves this process into `pod`'s cgroup.
///
/// # Errors
/// Where the kernel refuses.
pub fn move_in(layout: &Layout, pod: &str, bundle: &Path) -> Result<Home> {
    let path = format!("/{}", windlass_sys::cgroup::relative(pod)?.display());
    // Pods may share a cgroup, but not the leaf: each takes its own away.
    let pod = bundle.file_name().unwrap_or_default().to_string_lossy();
    let cgroup = if layout.is_v2() { format!("{path}/{LEAF}-{pod}") } else { path };
    let home = Home { made: first_missing(layout, &cgroup)?, cgroup };
    home.note(bundle)?;
    layout.create(&home.cgroup)?;
    layout.enter(&home.cgroup)?;
    Ok(home)
}

/// Has systemd move this process into the scope `pod` (`slice:prefix:name`).
///
/// # Errors
/// Where systemd refuses.
pub fn move_into_scope(caller: &Caller, id: &str, pod: &str) -> Result<Home> {
    let cgroup = format!("/{}", windlass_sys::cgroup::relative(pod)?.display());
    caller.scope(id, pod)?;
    Ok(Home { cgroup, made: None })
}

/// Takes away the cgroup of a shim that was killed.
pub fn clear(layout: &Layout, bundle: &Path) {
    let note = fs::read(bundle.join(NOTE)).ok().and_then(|bytes| serde_json::from_slice::<Home>(&bytes).ok());
    if let Some(made) = note.and_then(|home| home.made) {
        layout.remove(&made).ok();
    }
}

impl Home {
    fn note(&self, bundle: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        windlass_sys::fs::write_atomic(&bundle.join(NOTE), &bytes)
    }

    /// Leaves the cgroup and takes away what this process made; what is refused is left for `delete`.
    pub fn move_out(&self, layout: &Layout, bundle: &Path) {
        let Some(made) = &self.made else { return };
        // On a busy machine what was killed takes its time to go; nobody waits for this process any more.
        let mut removed = layout.leave().and_then(|()| layout.remove(made));
        for _ in 1..ATTEMPTS {
            if removed.is_ok() {
                break;
            }
            removed = layout.remove(made);
        }
        match removed {
            Ok(()) => drop(fs::remove_file(bundle.join(NOTE))),
            Err(error) => eprintln!("the shim's cgroup stays: {error}"),
        }
    }
}

/// The topmost part of a cgroup's path that is not there.
fn first_missing(layout: &Layout, cgroup: &str) -> Result<Option<String>> {
    let mut part = String::new();
    for name in cgroup.trim_matches('/').split('/') {
        part = format!("{part}/{name}");
        if layout.folders(&part)?.iter().all(|folder| !folder.exists()) {
            return Ok(Some(part));
        }
    }
    Ok(None)
}
