//! `[cri.nri]`: plugins of the Node Resource Interface.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use windlass_cri::NriConfig;

use super::absolute;

/// `[cri.nri]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawNri {
    /// Whether there are plugins at all.
    pub enable: bool,
    /// Where they connect.
    pub socket: PathBuf,
    /// Those that are started with the daemon: executables called `NN-name`.
    pub plugin_dir: PathBuf,
    /// Their configuration: `NN-name.conf` or `name.conf`.
    pub plugin_config_dir: PathBuf,
    /// Milliseconds from a plugin's connection to its registration.
    pub registration_timeout_ms: u64,
    /// Milliseconds that a plugin has for each answer.
    pub request_timeout_ms: u64,
}

impl Default for RawNri {
    fn default() -> Self {
        Self {
            enable: false,
            socket: "/var/run/nri/nri.sock".into(),
            plugin_dir: "/opt/nri/plugins".into(),
            plugin_config_dir: "/etc/nri/conf.d".into(),
            registration_timeout_ms: 5000,
            request_timeout_ms: 2000,
        }
    }
}

impl RawNri {
    pub(super) fn check(self) -> Result<Option<NriConfig>> {
        let Self { enable, socket, plugin_dir, plugin_config_dir, registration_timeout_ms, request_timeout_ms } = self;
        let config = NriConfig {
            socket: absolute("cri.nri.socket", &socket)?,
            plugin_dir: absolute("cri.nri.plugin_dir", &plugin_dir)?,
            plugin_config_dir: absolute("cri.nri.plugin_config_dir", &plugin_config_dir)?,
            registration_timeout: Duration::from_millis(registration_timeout_ms),
            request_timeout: Duration::from_millis(request_timeout_ms),
        };
        ensure!(registration_timeout_ms > 0, "cri.nri.registration_timeout_ms: no plugin registers in no time");
        ensure!(request_timeout_ms > 0, "cri.nri.request_timeout_ms: no plugin answers in no time");
        Ok(enable.then_some(config))
    }
}
