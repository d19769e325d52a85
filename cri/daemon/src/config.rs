//! The configuration: what a person wrote (`Raw`, unknown keys refused with their line) and what was checked (`Config`).
//!
//! Flags win over the file, the file wins over the defaults. The rest of the daemon only meets [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use windlass_cri::{NriConfig, StreamingConfig, Tls};
use windlass_engine::images::VerifierConfig;
use windlass_model::{Id, Namespace};

/// Where the file lies unless `--config` says otherwise; it need not exist.
pub const DEFAULT_PATH: &str = "/etc/windlass/config.toml";

/// What `windlassd config default` prints: every key with the value it has when nobody sets it.
pub const DEFAULT_TEXT: &str = include_str!("default.toml");

/// The longest path a Unix socket can have, in bytes, with room for `.ttrpc` behind it.
const MAX_SOCKET: usize = 107 - EVENTS_SUFFIX.len();
const EVENTS_SUFFIX: &str = ".ttrpc";
/// The longest piece of a log's line that can be asked for, in bytes: the shim holds one in memory for each stream.
const MAX_LOG_LINE: usize = 1024 * 1024;

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

/// `[cri]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawCri {
    /// The tenant that the kubelet is.
    pub namespace: String,
    /// The driver that holds its images.
    pub snapshotter: String,
    /// `cgroupfs`, `systemd` or `auto`.
    pub cgroup_driver: CgroupDriver,
    /// The handler of a pod that names none.
    pub default_runtime: String,
    /// The images that are never to be removed by the kubelet.
    pub pinned_images: Vec<String>,
    /// Whether containers get SELinux's labels where the kernel has it.
    pub selinux: bool,
    /// The longest piece of a container's line in one entry of its log, in bytes.
    pub max_container_log_line_size: usize,
    /// How far the main socket's containerd API reaches into the CRI's namespace.
    pub main_socket: MainSocket,
    /// The namespaces whose images the CRI may use.
    pub share_images: Vec<String>,
    /// Pod networks.
    pub cni: RawCni,
    /// Plugins of the Node Resource Interface.
    pub nri: RawNri,
    /// Handlers by name.
    pub runtimes: BTreeMap<String, RawRuntime>,
    /// The exec, attach and port-forward server.
    pub streaming: RawStreaming,
}

/// `[cri.cni]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawCni {
    /// Where the conflists are; the first by name is used.
    pub conf_dir: PathBuf,
    /// Where the plugins are, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// What a conflist is made from when the kubelet tells the node's address ranges; empty: none is made.
    #[serde(skip_serializing_if = "path_is_empty")]
    pub conf_template: PathBuf,
}

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

/// `[cri.runtimes.<name>]` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRuntime {
    /// An OCI runtime's executable; the one built into the shim where it is not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
    /// Another shim v2: its runtime name or its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shim: Option<String>,
}

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

fn path_is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
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

/// `[registry]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRegistry {
    /// The folder of `hosts.toml` folders; empty: none.
    pub config_path: PathBuf,
}

/// `[image_verifier]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawVerifier {
    /// The folder with the executables that are asked; empty: nobody is.
    pub bin_dir: PathBuf,
    /// How many of them, the first by name; negative: all.
    pub max_verifiers: i64,
    /// Seconds that each may take.
    pub per_verifier_timeout: u64,
}

/// `[metrics]` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawMetrics {
    /// `host:port`; empty: no metrics are served.
    pub address: String,
}

/// `[[tenant]]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTenant {
    /// The namespace that the socket is fixed to.
    pub namespace: String,
    /// More namespaces that it is open for; a request that names none means the one above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The socket.
    pub socket: PathBuf,
    /// The users that may connect; root where neither users nor groups are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
    /// The groups whose members may connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gids: Vec<u32>,
}

/// How far the main socket's containerd API reaches into the CRI's namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MainSocket {
    /// As into every other.
    #[default]
    Full,
    /// It can be looked at.
    ReadOnly,
    /// It is not there.
    Hidden,
}

/// How cgroups are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// `systemd` where it is pid 1, else `cgroupfs`.
    #[default]
    Auto,
    /// We make them.
    Cgroupfs,
    /// systemd makes them.
    Systemd,
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

/// A checked `[[tenant]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The namespace that a request there means.
    pub namespace: Namespace,
    /// The others that it may name.
    pub also: Vec<Namespace>,
    /// The socket.
    pub socket: PathBuf,
    /// The users that may connect; never empty where there are no groups.
    pub uids: Vec<u32>,
    /// The groups whose members may connect.
    pub gids: Vec<u32>,
}

/// The CRI server's part of [`Config`].
#[derive(Clone, Debug)]
pub struct Cri {
    /// The tenant that the kubelet is.
    pub namespace: Namespace,
    /// The driver that holds its images.
    pub snapshotter: String,
    /// True: systemd makes cgroups.
    pub systemd_cgroup: bool,
    /// The handler of a pod that names none; a key of `runtimes`.
    pub default_runtime: String,
    /// Handlers by name.
    pub runtimes: BTreeMap<String, Runtime>,
    /// References, `beginning*` or `*part*`; the server checks them.
    pub pinned_images: Vec<String>,
    /// Whether containers get SELinux's labels where the kernel has it.
    pub selinux: bool,
    /// The longest piece of a line in one entry of a container's log, in bytes.
    pub max_log_line: usize,
    /// How far the main socket's containerd API reaches into its namespace.
    pub main_socket: MainSocket,
    /// The namespaces whose images it may use.
    pub share_images: Vec<Namespace>,
    /// Plugins of the Node Resource Interface; `None`: none.
    pub nri: Option<NriConfig>,
    /// What a conflist is made from when the kubelet tells the node's address ranges.
    pub cni_conf_template: Option<PathBuf>,
    /// Where the conflists are.
    pub cni_conf_dir: PathBuf,
    /// Where the plugins are.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Where exec, attach and port-forward are served.
    pub streaming: StreamingConfig,
}

/// A checked handler.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// An OCI runtime's executable; `None`: built into the shim.
    pub binary: Option<PathBuf>,
    /// Another shim; `None`: ours.
    pub shim: Option<String>,
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

impl Default for RawCri {
    fn default() -> Self {
        let runc = RawRuntime { binary: Some("/usr/sbin/runc".into()), shim: None };
        Self {
            namespace: "k8s.io".into(),
            snapshotter: "overlay".into(),
            cgroup_driver: CgroupDriver::Auto,
            default_runtime: "windlass".into(),
            pinned_images: Vec::new(),
            selinux: false,
            max_container_log_line_size: 16 * 1024,
            main_socket: MainSocket::Full,
            share_images: Vec::new(),
            cni: RawCni::default(),
            nri: RawNri::default(),
            runtimes: BTreeMap::from([("windlass".into(), RawRuntime::default()), ("runc".into(), runc)]),
            streaming: RawStreaming::default(),
        }
    }
}

impl Default for RawCni {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            conf_template: PathBuf::new(),
        }
    }
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

impl Default for RawVerifier {
    fn default() -> Self {
        Self { bin_dir: PathBuf::new(), max_verifiers: 10, per_verifier_timeout: 10 }
    }
}

impl RawVerifier {
    fn check(&self) -> Result<Option<VerifierConfig>> {
        let bin_dir = optional_path("image_verifier.bin_dir", &self.bin_dir)?;
        ensure!(self.max_verifiers != 0, "image_verifier.max_verifiers is 0: leave bin_dir empty to ask nobody");
        ensure!(self.per_verifier_timeout > 0, "image_verifier.per_verifier_timeout is 0 seconds");
        let per_verifier_timeout = Duration::from_secs(self.per_verifier_timeout);
        let max_verifiers = usize::try_from(self.max_verifiers).ok();
        Ok(bin_dir.map(|bin_dir| VerifierConfig { bin_dir, max_verifiers, per_verifier_timeout }))
    }
}

impl Default for RawRegistry {
    fn default() -> Self {
        Self { config_path: "/etc/windlass/certs.d".into() }
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
        let tenants = check_tenants(self.tenant, &self.cri.namespace, &address)?;
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

/// Checks each tenant's socket, and that no two are the same.
fn check_tenants(raw: Vec<RawTenant>, cri: &str, main: &Path) -> Result<Vec<Tenant>> {
    let mut sockets = BTreeSet::from([main.to_owned()]);
    let mut tenants = Vec::new();
    for tenant in raw {
        let key = format!("[[tenant]] {}", tenant.namespace);
        let tenant = tenant.check(cri).with_context(|| key.clone())?;
        let twice = !sockets.insert(tenant.socket.clone());
        ensure!(!twice, "{key}: socket {} is another one's, too", tenant.socket.display());
        tenants.push(tenant);
    }
    Ok(tenants)
}

impl RawTenant {
    fn check(self, cri: &str) -> Result<Tenant> {
        let Self { namespace, also, socket, mut uids, gids } = self;
        for name in also.iter().chain([&namespace]) {
            ensure!(name != cri, "namespace {name} is the CRI's, which has no socket of its own");
        }
        let socket = absolute("socket", &socket)?;
        let length = socket.as_os_str().len();
        ensure!(length <= 107, "socket: {} is {length} bytes long, a socket's path holds 107", socket.display());
        if uids.is_empty() && gids.is_empty() {
            uids.push(0);
        }
        let also = also.iter().map(|name| name.parse().context("also")).collect::<Result<_>>()?;
        Ok(Tenant { namespace: namespace.parse().context("namespace")?, also, socket, uids, gids })
    }
}

impl RawCri {
    fn check(self) -> Result<Cri> {
        let Self {
            namespace,
            snapshotter,
            cgroup_driver,
            default_runtime,
            pinned_images,
            selinux,
            cni,
            nri,
            runtimes,
            streaming,
            main_socket,
            share_images,
            ..
        } = self;
        for name in &share_images {
            ensure!(*name != namespace, "cri.share_images: {name} is the CRI's own namespace");
        }
        let max_log_line = self.max_container_log_line_size;
        ensure!(
            (1..=MAX_LOG_LINE).contains(&max_log_line),
            "cri.max_container_log_line_size: {max_log_line} is not in 1..={MAX_LOG_LINE}"
        );
        ensure!(
            matches!(snapshotter.as_str(), "overlay" | "native"),
            "cri.snapshotter: {snapshotter:?} is not a driver: overlay or native"
        );
        let runtimes = runtimes
            .into_iter()
            .map(|(name, raw)| Ok((name.clone(), raw.check(&name)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        ensure!(
            runtimes.contains_key(&default_runtime),
            "cri.default_runtime: there is no [cri.runtimes.{default_runtime}]"
        );
        Ok(Cri {
            namespace: namespace.parse().context("cri.namespace")?,
            snapshotter,
            systemd_cgroup: match cgroup_driver {
                CgroupDriver::Auto => Path::new("/run/systemd/system").is_dir(),
                CgroupDriver::Cgroupfs => false,
                CgroupDriver::Systemd => true,
            },
            default_runtime,
            runtimes,
            pinned_images,
            selinux,
            max_log_line,
            main_socket,
            share_images: share_images
                .iter()
                .map(|name| name.parse().context("cri.share_images"))
                .collect::<Result<_>>()?,
            nri: nri.check()?,
            cni_conf_template: optional_path("cri.cni.conf_template", &cni.conf_template)?,
            cni_conf_dir: absolute("cri.cni.conf_dir", &cni.conf_dir)?,
            cni_bin_dirs: cni.bin_dirs.iter().map(|dir| absolute("cri.cni.bin_dirs", dir)).collect::<Result<_>>()?,
            streaming: streaming.check()?,
        })
    }
}

impl RawNri {
    fn check(self) -> Result<Option<NriConfig>> {
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

impl RawStreaming {
    fn check(self) -> Result<StreamingConfig> {
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

impl RawRuntime {
    fn check(self, name: &str) -> Result<Runtime> {
        name.parse::<Id>().with_context(|| format!("cri.runtimes.{name}"))?;
        ensure!(
            self.binary.is_none() || self.shim.is_none(),
            "cri.runtimes.{name}: binary is for our shim and shim names another one; write one of the two"
        );
        let binary = self.binary.map(|path| absolute(&format!("cri.runtimes.{name}.binary"), &path)).transpose()?;
        Ok(Runtime { binary, shim: self.shim })
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
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match Raw::parse(text).and_then(Raw::check) {
            Ok(config) => panic!("accepted: {config:?}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn the_printed_default_is_the_default() {
        let default = Raw { address: Some("/run/windlass/windlass.sock".into()), ..Raw::default() };
        assert_eq!(Raw::parse(DEFAULT_TEXT).unwrap(), default);
        default.check().unwrap();
    }

    #[test]
    fn a_dump_is_read_back() {
        let raw =
            Raw::load(Some(Path::new("/dev/null")), Overrides { state: Some("/x".into()), ..Overrides::default() })
                .unwrap();
        assert_eq!(Raw::parse(&raw.dump().unwrap()).unwrap(), raw);
        assert_eq!(raw.check().unwrap().events_address, Path::new("/x/windlass.sock.ttrpc"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = refused("version = 1\n\n[cri.cni]\nconf_dirs = \"/x\"\n");
        assert!(error.contains("line 4"), "{error}");
        assert!(error.contains("conf_dirs"), "{error}");
        assert!(refused("[cri.runtimes.x]\nbin = \"/x\"").contains("line 2"));
        assert!(refused("rooot = \"/x\"").contains("line 1"));
    }

    #[test]
    fn a_tenant_without_users_is_for_root() {
        let text = "[[tenant]]\nnamespace = \"moby\"\nalso = [\"plugins.moby\"]\nsocket = \"/run/moby.sock\"";
        let config = Raw::parse(text).unwrap().check().unwrap();
        let tenant = Tenant {
            namespace: "moby".parse().unwrap(),
            also: vec!["plugins.moby".parse().unwrap()],
            socket: "/run/moby.sock".into(),
            uids: vec![0],
            gids: Vec::new(),
        };
        assert_eq!(config.tenants, [tenant]);
        let config = Raw::parse(&format!("{text}\ngids = [7]")).unwrap().check().unwrap();
        assert_eq!((config.tenants[0].uids.len(), config.tenants[0].gids.len()), (0, 1));
    }

    #[test]
    fn wrong_values_are_refused_by_their_key() {
        for (text, key) in [
            ("version = 2", "version"),
            ("root = \"relative\"", "root"),
            ("root = \"/a\"\nstate = \"/a\"", "root"),
            ("[cri]\nsnapshotter = \"zfs\"", "cri.snapshotter"),
            ("[cri]\ncgroup_driver = \"both\"", "line 2"),
            ("[cri]\nnamespace = \"a/b\"", "cri.namespace"),
            ("[cri]\ndefault_runtime = \"kata\"", "cri.runtimes.kata"),
            ("[cri.runtimes.windlass]\nbinary = \"/a\"\nshim = \"b\"", "cri.runtimes.windlass"),
            ("[cri]\nmax_container_log_line_size = 0", "cri.max_container_log_line_size"),
            ("[cri]\nmax_container_log_line_size = -1", "line 2"),
            ("[cri.cni]\nconf_template = \"here\"", "cri.cni.conf_template"),
            ("[cri.streaming]\naddress = \"here\"", "cri.streaming.address"),
            ("[cri.streaming]\nidle_timeout = 0", "cri.streaming.idle_timeout"),
            ("[cri.streaming]\ntls = \"on\"", "line 2"),
            ("[cri.streaming]\ntls = \"files\"\ncert = \"/a\"", "cri.streaming.key"),
            ("[cri.streaming]\ncert = \"/a\"", "cri.streaming.cert"),
            ("[cri.nri]\nsocket = \"nri.sock\"", "cri.nri.socket"),
            ("[cri.nri]\nrequest_timeout_ms = 0", "cri.nri.request_timeout_ms"),
            ("[metrics]\naddress = \":1338\"", "metrics.address"),
            ("[[tenant]]\nnamespace = \"moby\"\nsocket = \"a\"", "[[tenant]] moby: socket"),
            ("[[tenant]]\nnamespace = \"a b\"\nsocket = \"/a\"", "[[tenant]] a b: namespace"),
            ("[[tenant]]\nnamespace = \"k8s.io\"\nsocket = \"/a\"", "the CRI's"),
            ("[[tenant]]\nnamespace = \"moby\"\nalso = [\"k8s.io\"]\nsocket = \"/a\"", "the CRI's"),
            ("[[tenant]]\nnamespace = \"moby\"", "line 1"),
            (
                "[[tenant]]\nnamespace = \"a\"\nsocket = \"/a\"\n[[tenant]]\nnamespace = \"b\"\nsocket = \"/a\"",
                "[[tenant]] b: socket",
            ),
            ("[cri]\nmain_socket = \"open\"", "line 2"),
            ("[cri]\nshare_images = [\"k8s.io\"]", "cri.share_images"),
            ("[cri]\nshare_images = [\"a b\"]", "cri.share_images"),
            ("[image_verifier]\nmax_verifiers = 0", "max_verifiers"),
            ("[image_verifier]\nbin_dir = \"relative\"", "image_verifier.bin_dir"),
        ] {
            let error = refused(text);
            assert!(error.contains(key), "{text:?}: {error}");
        }
        assert!(refused(&format!("address = \"/{}\"", "x".repeat(101))).contains("address"));
    }
}
