//! `[cri.streaming]`: the server of exec, attach and port-forward.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use windlass_cri::{StreamingConfig, Tls};

use super::{absolute, path_is_empty, socket_address};

/// `[cri.streaming]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawStreaming {
    /// `host:port`; port 0 takes a free one.
    pub address: String,
    /// Seconds after which a still connection is closed.
    pub idle_timeout: u64,
    /// `off`, `self-signed` or `files`.
    pub tls: TlsMode,
    /// The certificate chain in PEM, with `files`.
    #[serde(skip_serializing_if = "path_is_empty")]
    pub cert: PathBuf,
    /// Its private key in PEM, with `files`.
    #[serde(skip_serializing_if = "path_is_empty")]
    pub key: PathBuf,
}

/// How streaming connections are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Not at all.
    #[default]
    Off,
    /// With a certificate made at each start.
    SelfSigned,
    /// With one from files.
    Files,
}

impl Default for RawStreaming {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".into(),
            idle_timeout: 4 * 3600,
            tls: TlsMode::Off,
            cert: PathBuf::new(),
            key: PathBuf::new(),
        }
    }
}

impl RawStreaming {
    pub(super) fn check(self) -> Result<StreamingConfig> {
        let Self { address, idle_timeout, tls, cert, key } = self;
        ensure!(idle_timeout > 0, "cri.streaming.idle_timeout: 0 seconds would close every connection at once");
        let named = !path_is_empty(&cert) || !path_is_empty(&key);
        ensure!(!named || tls == TlsMode::Files, "cri.streaming.cert and key are for tls = \"files\"");
        Ok(StreamingConfig {
            address: socket_address("cri.streaming.address", &address)?,
            idle: Duration::from_secs(idle_timeout),
            tls: match tls {
                TlsMode::Off => Tls::Off,
                TlsMode::SelfSigned => Tls::SelfSigned,
                TlsMode::Files => Tls::Files {
                    cert: absolute("cri.streaming.cert", &cert)?,
                    key: absolute("cri.streaming.key", &key)?,
                },
            },
        })
    }
}
