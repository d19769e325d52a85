//! The OCI runtime specification of a container, from the request, the image's defaults and the pod.

mod apparmor;
pub(crate) mod build;
mod host;
pub(crate) mod mounts;
pub(crate) mod resources;
pub(crate) mod seccomp;
pub(crate) mod security;

use std::path::{Path, PathBuf};

use windlass_cri_api::v1;
use windlass_model::Id;
use windlass_sys::idmap::IdMap;

pub(crate) use host::{Host, device};
pub(crate) use mounts::make_sources;

/// What a container needs to know of its pod.
#[derive(Clone, Debug)]
pub(crate) struct PodFacts {
    /// The pod's id.
    pub(crate) id: Id,
    /// What the kubelet asked for.
    pub(crate) config: v1::PodSandboxConfig,
    /// The host name that programs see.
    pub(crate) hostname: String,
    /// The pinned network namespace; `None`: the host's.
    pub(crate) netns: Option<PathBuf>,
    /// The pod's user namespace: its ids and where it is pinned; `None`: the host's.
    pub(crate) users: Option<(IdMap, PathBuf)>,
    /// The process that has the pod's namespaces.
    pub(crate) pid: u32,
    /// What containers share as `/dev/shm`; `None`: each has its own.
    pub(crate) shm: Option<PathBuf>,
    /// The label of the pod's own files; `None`: that which they have.
    pub(crate) label: Option<String>,
    /// Files of the pod to show in `/etc` where the kubelet brings none of its own: target, source.
    pub(crate) files: Vec<(&'static str, PathBuf)>,
}

impl PodFacts {
    /// The pod's choice of namespaces.
    pub(crate) fn namespaces(&self) -> v1::NamespaceOption {
        let context = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
    }

    /// A namespace of the pod, as a path.
    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join("ns").join(kind)
    }
}
