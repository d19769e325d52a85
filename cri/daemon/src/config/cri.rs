//! `[cri]`: the server that the kubelet speaks with, its pod networks and its runtimes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use windlass_cri::{NriConfig, StreamingConfig};
use windlass_model::{Id, Namespace};

use super::{RawNri, RawStreaming, absolute, optional_path, path_is_empty};

/// The longest piece of a log's line that can be asked for, in bytes: the shim holds one in memory for each stream.
const MAX_LOG_LINE: usize = 1024 * 1024;

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

impl RawCri {
    pub(super) fn check(self) -> Result<Cri> {
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

impl RawRuntime {
    pub(super) fn check(self, name: &str) -> Result<Runtime> {
        name.parse::<Id>().with_context(|| format!("cri.runtimes.{name}"))?;
        ensure!(
            self.binary.is_none() || self.shim.is_none(),
            "cri.runtimes.{name}: binary is for our shim and shim names another one; write one of the two"
        );
        let binary = self.binary.map(|path| absolute(&format!("cri.runtimes.{name}.binary"), &path)).transpose()?;
        Ok(Runtime { binary, shim: self.shim })
    }
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

impl Default for RawCni {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            conf_template: PathBuf::new(),
        }
    }
}
