//! What is remembered of a pod: the record, its rungs, and the one table of what may happen when.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use windlass_cri_api::v1;
use windlass_engine::{SandboxRecord, TypedBytes};
use windlass_model::{Context as _, Error, Id, Result, Timestamp};
use windlass_sys::idmap::IdMap;

use crate::network::Attachment;
use crate::selinux::Labels;

/// The extension of a sandbox record that holds a [`Pod`].
pub(crate) const EXTENSION: &str = "windlass.cri.pod";
/// The type URL of that extension: JSON of ours.
const TYPE_URL: &str = "windlass.cri/pod";

/// How far up its ladder a pod is, or how far down again. Each rung is recorded before it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rung {
    /// The name is taken; nothing is on the machine yet.
    Reserved,
    /// The network namespace and the pod's files are being made.
    Networked,
    /// The plugins attach the pod to its network while its shim starts.
    Booted,
    /// RunPodSandbox has answered; the pod is ready as long as its shim lives.
    Ready,
    /// It is being taken down; anything may be left of it.
    Down,
    /// Nothing of it is left but this record and its containers' records.
    Stopped,
}

/// What happens to a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Make the namespace and the files; a pod with a network of its own names the attachment that is to be.
    Network(Option<Box<Attachment>>),
    /// Attach and start the shim.
    Boot,
    /// The plugins answered.
    Attach(Value),
    /// Everything is there.
    Ready,
    /// Take it down.
    Down,
    /// Everything is gone.
    Stop,
}

/// A pod, as its record has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pod {
    /// Its id.
    pub(crate) id: Id,
    /// Its unique name, which a retry repeats: [`crate::names::pod_name`].
    pub(crate) name: String,
    /// Grows with each change, so that the memory index never goes back in time.
    pub(crate) revision: u64,
    /// How far it is.
    pub(crate) rung: Rung,
    /// What the kubelet asked for.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(crate) config: v1::PodSandboxConfig,
    /// The runtime handler in force, a key of the configuration.
    pub(crate) handler: String,
    /// The handler as the kubelet named it; empty for the default one.
    #[serde(default)]
    pub(crate) asked_handler: String,
    /// The cgroup under which the pod's containers are made: a path, or with systemd's driver a slice.
    pub(crate) cgroup_parent: String,
    /// Nobody else uses that cgroup: it goes when the pod goes.
    #[serde(default)]
    pub(crate) owns_cgroup: bool,
    /// How the pod is attached to its network, from before it is tried until it is undone; `None` with the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attachment: Option<Attachment>,
    /// SELinux's labels of the pod, whose level its containers share; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selinux: Option<Labels>,
    /// When it was asked for.
    pub(crate) created_at: Timestamp,
}

/// Files that the pod's containers are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFiles {
    /// The folder that holds them, the pod's own.
    pub(crate) folder: PathBuf,
    /// For `/etc/resolv.conf`.
    pub(crate) resolv_conf: PathBuf,
    /// For `/etc/hostname`.
    pub(crate) hostname: PathBuf,
    /// For `/etc/hosts` where the kubelet mounts none.
    pub(crate) hosts: PathBuf,
}

fn to_base64<S: Serializer>(config: &v1::PodSandboxConfig, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(config.encode_to_vec()))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<v1::PodSandboxConfig, D::Error> {
    use serde::de::Error as _;
    let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
    v1::PodSandboxConfig::decode(bytes.as_slice()).map_err(D::Error::custom)
}

impl Pod {
    /// Does one step, or refuses it and changes nothing.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] naming the step and the rung.
    pub(crate) fn advance(&mut self, step: Step) -> Result<()> {
        self.rung = match (self.rung, &step) {
            (Rung::Reserved, Step::Network(_)) => Rung::Networked,
            (Rung::Networked, Step::Boot) => Rung::Booted,
            // The answer is kept also where the shim did not start: DEL needs it.
            (Rung::Booted, Step::Attach(_)) => Rung::Booted,
            (Rung::Booted, Step::Ready) => Rung::Ready,
            (Rung::Stopped, Step::Down) => Rung::Stopped,
            (_, Step::Down) => Rung::Down,
            (Rung::Down | Rung::Stopped, Step::Stop) => Rung::Stopped,
            (rung, step) => {
                let doing = match step {
                    Step::Network(_) => "network",
                    Step::Boot => "boot",
                    Step::Attach(_) => "attach",
                    Step::Ready => "finish",
                    Step::Down => "take down",
                    Step::Stop => "stop",
                };
                let state = format!("{rung:?}").to_lowercase();
                return Err(Error::precondition(format!("cannot {doing} pod {} that is {state}", self.id)));
            }
        };
        match step {
            Step::Network(attachment) => self.attachment = attachment.map(|attachment| *attachment),
            Step::Attach(result) => {
                self.attachment.iter_mut().for_each(|attachment| attachment.result = Some(result.clone()));
            }
            Step::Stop => self.attachment = None,
            Step::Boot | Step::Ready | Step::Down => {}
        }
        Ok(())
    }

    /// True for a pod that RunPodSandbox has answered for, or that could not be taken down completely.
    pub(crate) fn is_visible(&self) -> bool {
        matches!(self.rung, Rung::Ready | Rung::Down | Rung::Stopped)
    }

    /// True where the pod uses the host's network.
    pub(crate) fn on_host_network(&self) -> bool {
        self.namespaces().network() == v1::NamespaceMode::Node
    }

    /// How the pod shares namespaces with the host and among its containers, as the kubelet said it.
    pub(crate) fn namespaces(&self) -> v1::NamespaceOption {
        let context = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
    }

    /// The ids of the pod's user namespace; `None`: the host's own.
    pub(crate) fn users(&self) -> Option<IdMap> {
        // It was checked before the pod was recorded.
        super::users::map(self.namespaces().userns_options.as_ref(), "userns_options").ok().flatten()
    }

    /// The pod's addresses, the primary one first; none with the host's network and none after it was stopped.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.attachment.as_ref().map(Attachment::addresses).unwrap_or_default()
    }

    /// The name, namespace, uid and attempt; planned pods always have them.
    pub(crate) fn metadata(&self) -> v1::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// What the pod costs beside its containers, and what those may use, as it was said at the start and changed since.
    pub(crate) fn limits(&self) -> (v1::LinuxContainerResources, v1::LinuxContainerResources) {
        let linux = self.config.linux.clone().unwrap_or_default();
        (linux.overhead.unwrap_or_default(), linux.resources.unwrap_or_default())
    }

    /// Changes both.
    pub(crate) fn set_limits(&mut self, overhead: v1::LinuxContainerResources, resources: v1::LinuxContainerResources) {
        let linux = self.config.linux.get_or_insert_default();
        (linux.overhead, linux.resources) = (Some(overhead), Some(resources));
    }

    /// The record to keep.
    pub(crate) fn to_record(&self) -> Result<SandboxRecord> {
        let mut record = SandboxRecord::new(self.id.clone());
        record.labels.insert("io.cri-containerd.kind".into(), "sandbox".into());
        record.runtime.name.clone_from(&self.handler);
        self.write_into(&mut record)?;
        Ok(record)
    }

    /// Replaces the extension of `record`.
    pub(crate) fn write_into(&self, record: &mut SandboxRecord) -> Result<()> {
        let value = serde_json::to_vec(self)
            .map_err(|error| Error::internal(format!("write the record of pod {}: {error}", self.id)))?;
        record.extensions.insert(EXTENSION.into(), TypedBytes { type_url: TYPE_URL.into(), value });
        Ok(())
    }

    /// The pod in a record.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] for a record that another client made.
    pub(crate) fn of_record(record: &SandboxRecord) -> Result<Self> {
        let missing = || Error::not_found(format!("pod {} is not one of the CRI's", record.id));
        let extension = record.extensions.get(EXTENSION).ok_or_else(missing)?;
        serde_json::from_slice(&extension.value)
            .map_err(|error| Error::data_loss(error.to_string()))
            .context(|| format!("read the record of pod {}", record.id))
    }
}

impl PodFiles {
    /// Where a pod's files are below `state`.
    pub(crate) fn of(state: &Path, pod: &Id) -> Self {
        let folder = state.join("pods").join(pod);
        Self {
            resolv_conf: folder.join("resolv.conf"),
            hostname: folder.join("hostname"),
            hosts: folder.join("hosts"),
            folder,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pod(rung: Rung) -> Pod {
        let metadata = v1::PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 };
        Pod {
            id: "p1".parse().unwrap(),
            name: crate::names::pod_name(&metadata),
            revision: 0,
            rung,
            config: v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() },
            handler: "windlass".into(),
            asked_handler: String::new(),
            cgroup_parent: "/windlass/p1".into(),
            owns_cgroup: true,
            attachment: None,
            selinux: None,
            created_at: Timestamp(1),
        }
    }

    #[test]
    fn a_pod_climbs_in_order_and_comes_down_from_everywhere() {
        let mut climbing = pod(Rung::Reserved);
        assert!(climbing.advance(Step::Boot).is_err() && climbing.advance(Step::Ready).is_err());
        for step in [Step::Network(None), Step::Boot, Step::Ready] {
            assert!(climbing.advance(Step::Stop).is_err());
            climbing.advance(step).unwrap();
        }
        let refused = climbing.advance(Step::Boot).unwrap_err().to_string();
        assert_eq!(refused, "cannot boot pod p1 that is ready");
        for rung in [Rung::Reserved, Rung::Networked, Rung::Booted, Rung::Ready, Rung::Down] {
            let mut falling = pod(rung);
            falling.advance(Step::Down).unwrap();
            assert_eq!(falling.rung, Rung::Down);
            falling.advance(Step::Stop).unwrap();
            falling.advance(Step::Down).unwrap();
            assert_eq!(falling.rung, Rung::Stopped, "what is gone stays gone");
        }
    }

    #[test]
    fn a_record_round_trips() {
        let pod = pod(Rung::Ready);
        assert_eq!(Pod::of_record(&pod.to_record().unwrap()).unwrap(), pod);
        let foreign = SandboxRecord::new(pod.id.clone());
        assert!(Pod::of_record(&foreign).unwrap_err().is_not_found());
    }
}
