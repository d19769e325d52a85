//! What the environment asks of every node, so that the same stories run on machines of other kinds.
//!
//! - `WINDLASS_E2E_PATIENCE`: a factor for every limit of time, for machines that are slow (emulated ones).
//! - `WINDLASS_E2E_CGROUP_DRIVER`: `cgroupfs` (the default) or `systemd`.
//! - `WINDLASS_E2E_HANDLER`: the default handler; `runc` and `crun` are found in `PATH`, otherwise the one built in.

use std::path::PathBuf;
use std::time::Duration;

use crate::number;

/// Who makes the cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The daemon, by folders.
    Cgroupfs,
    /// systemd, as slices and scopes.
    Systemd,
}

impl CgroupDriver {
    /// What `WINDLASS_E2E_CGROUP_DRIVER` asks for.
    pub fn of_environment() -> Self {
        match std::env::var("WINDLASS_E2E_CGROUP_DRIVER").as_deref() {
            Ok("systemd") => Self::Systemd,
            _ => Self::Cgroupfs,
        }
    }

    /// As the configuration has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// A limit of time, made longer as `WINDLASS_E2E_PATIENCE` asks.
pub fn patient(limit: Duration) -> Duration {
    limit * u32::try_from(number("WINDLASS_E2E_PATIENCE", 1)).unwrap_or(1).max(1)
}

/// The handler that `WINDLASS_E2E_HANDLER` names, and its program.
pub fn handler() -> Option<(String, PathBuf)> {
    let name = std::env::var("WINDLASS_E2E_HANDLER").ok().filter(|name| name == "runc" || name == "crun")?;
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(&name)).find(|program| program.is_file());
    let program = found.unwrap_or_else(|| PathBuf::from("/usr/sbin").join(&name));
    Some((name, program))
}
