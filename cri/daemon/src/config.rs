//! The configuration: what a person wrote (`Raw`, unknown keys refused with their line) and what was checked (`Config`).
//!
//! Flags win over the file, the file wins over the defaults. The rest of the daemon only meets [`Config`]. Each section has a file of
//! its own with both forms and the step between them.

mod cri;
mod images;
mod nri;
mod streaming;
mod tenant;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use windlass_engine::images::VerifierConfig;

pub use cri::{Cri, MainSocket, RawCri, Runtime};
pub use images::{RawRegistry, RawVerifier};
pub use nri::RawNri;
pub use streaming::RawStreaming;
pub use tenant::{RawTenant, Tenant};

/// Where the file lies unless `--config` says otherwise; it need not exist.
pub const DEFAULT_PATH: &str = "/etc/windlass/config.toml";

/// What `windlassd config default` prints: every key with the value it has when nobody sets it.
pub const DEFAULT_TEXT: &str = include_str!("default.toml");

/// The longest path a Unix socket can have, in bytes, with room for `.ttrpc` behind it.
const MAX_SOCKET: usize = 107 - EVENTS_SUFFIX.len();
const EVENTS_SUFFIX: &str = ".ttrpc";

/// The file as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// The format; only 1 is known.
    pub version: u32,
    /// What survives a reboot.
    pub root: PathBuf,
    /// What does not.
    pub state: PathBuf,
    /// The gRPC socket; `<state>/windlass.sock` where it is not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<PathBuf>,
    /// The CRI server.
    pub cri: RawCri,
    /// Registries.
    pub registry: RawRegistry,
    /// Who is asked whether an image may be used.
    pub image_verifier: RawVerifier,
    /// Metrics.
    pub metrics: RawMetrics,
    /// Sockets of other tenants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenant: Vec<RawTenant>,
}

fn path_is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// `[metrics]` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawMetrics {
    /// `host:port`; empty: no metrics are served.
    pub address: String,
}

/// What flags say over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--address`.
    pub address: Option<PathBuf>,
}

/// A checked configuration: paths are absolute, names are names, addresses are addresses.
#[derive(Clone, Debug)]
pub struct Config {
    /// What survives a reboot.
    pub root: PathBuf,
    /// What does not.
    pub state: PathBuf,
    /// The gRPC socket.
    pub address: PathBuf,
    /// The ttrpc socket that shims send their events to.
    pub events_address: PathBuf,
    /// The CRI server.
    pub cri: Cri,
    /// The folder of `hosts.toml` folders.
    pub registry_config: Option<PathBuf>,
    /// Who is asked whether an image may be used; `None`: nobody.
    pub verifier: Option<VerifierConfig>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Sockets of single tenants.
    pub tenants: Vec<Tenant>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            version: 1,
            root: "/var/lib/windlass".into(),
            state: "/run/windlass".into(),
            address: None,
            cri: RawCri::default(),
            registry: RawRegistry::default(),
            image_verifier: RawVerifier::default(),
            metrics: RawMetrics::default(),
            tenant: Vec::new(),
        }
    }
}

impl Raw {
    /// Reads a file; the error of a wrong or unknown key says its line.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Reads `file`, or the default place where a missing file means the defaults; then applies the flags.
    pub fn load(file: Option<&Path>, flags: Overrides) -> Result<Self> {
        let path = file.unwrap_or(Path::new(DEFAULT_PATH));
        let mut raw = match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("configuration {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("read configuration {}", path.display())),
        };
        raw.root = flags.root.unwrap_or(raw.root);
        raw.state = flags.state.unwrap_or(raw.state);
        raw.address = flags.address.or(raw.address);
        // A dump says where the socket is even when nobody wrote it.
        raw.address.get_or_insert_with(|| raw.state.join("windlass.sock"));
        Ok(raw)
    }

    /// The file's text for these values.
    pub fn dump(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Checks every value; nothing is opened or made.
    pub fn check(self) -> Result<Config> {
        ensure!(self.version == 1, "version {} is not known: this windlassd reads version 1", self.version);
        let root = absolute("root", &self.root)?;
        let state = absolute("state", &self.state)?;
        let address = match &self.address {
            Some(address) => absolute("address", address)?,
            None => state.join("windlass.sock"),
        };
        let length = address.as_os_str().len();
        ensure!(
            length <= MAX_SOCKET,
            "address: {} is {length} bytes long, a socket's path holds {MAX_SOCKET}",
            address.display()
        );
        ensure!(root != state, "root and state are the same folder");
        let mut events_address = address.clone().into_os_string();
        events_address.push(EVENTS_SUFFIX);
        let tenants = tenant::check(self.tenant, &self.cri.namespace, &address)?;
        Ok(Config {
            tenants,
            root,
            state,
            address,
            events_address: events_address.into(),
            cri: self.cri.check()?,
            registry_config: optional_path("registry.config_path", &self.registry.config_path)?,
            verifier: self.image_verifier.check()?,
            metrics: match self.metrics.address.as_str() {
                "" => None,
                text => Some(socket_address("metrics.address", text)?),
            },
        })
    }
}

fn absolute(key: &str, path: &Path) -> Result<PathBuf> {
    ensure!(path.is_absolute(), "{key}: {:?} is not an absolute path", path.display().to_string());
    Ok(path.to_owned())
}

fn optional_path(key: &str, path: &Path) -> Result<Option<PathBuf>> {
    if path.as_os_str().is_empty() { Ok(None) } else { absolute(key, path).map(Some) }
}

fn socket_address(key: &str, text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("{key}: {text:?} is not an IP address and a port"))
}

#[cfg(test)]
mod tests;
