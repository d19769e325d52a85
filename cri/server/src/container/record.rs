//! What is remembered of a container: the record, its rungs, and the one table of what may happen when.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use windlass_cri_api::nri::ContainerAdjustment;
use windlass_cri_api::v1;
use windlass_engine::{ContainerRecord, TypedBytes};
use windlass_model::{Context as _, Error, Id, Result, Timestamp};

use super::cdi::Beside;
use super::image_volume::{self, ImageVolume};
use super::spec::resources::merge;
use crate::selinux::Labels;

/// The extension of a container record that holds a [`Container`].
pub(crate) const EXTENSION: &str = "windlass.cri.container";
/// The type URL of that extension: JSON of ours.
const TYPE_URL: &str = "windlass.cri/container";

/// The exit code of a container whose program never ran, as containerd has it.
pub(crate) const EXIT_NOT_STARTED: i32 = 128;
/// The exit code of a container whose end nobody saw, as containerd has it.
pub(crate) const EXIT_UNSEEN: i32 = 255;

/// How far up its ladder a container is, or how far down again. Each rung is recorded before it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rung {
    /// Name and snapshot key are taken; the CreateContainer that took them has not answered.
    Reserved,
    /// The root file system is there; CreateContainer has answered.
    Created,
    /// A task is being made.
    Starting,
    /// The program runs.
    Running,
    /// The program ended, or could not be started.
    Exited,
    /// It is being taken down; only removal is left.
    Removing,
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// CreateContainer is through.
    Create,
    /// StartContainer begins.
    Start,
    /// The task runs.
    Run {
        /// Its process.
        pid: u32,
        /// A moment before the program ran.
        at: Timestamp,
    },
    /// The program ended.
    Exit(End),
    /// RemoveContainer begins.
    Remove,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Exit code, or 128 plus the signal.
    pub(crate) code: i32,
    /// When.
    pub(crate) at: Timestamp,
    /// A reason other than what follows from the code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// A sentence for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
}

/// The user that a container's first process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    /// The user id.
    pub(crate) uid: u32,
    /// The primary group.
    pub(crate) gid: u32,
    /// All further groups.
    #[serde(default)]
    pub(crate) groups: Vec<u32>,
}

/// What the image says about how to run it, kept so that a container outlives its image's record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageDefaults {
    /// `ENTRYPOINT`.
    #[serde(default)]
    pub(crate) entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default)]
    pub(crate) cmd: Vec<String>,
    /// `ENV`, each `NAME=value`.
    #[serde(default)]
    pub(crate) env: Vec<String>,
    /// `WORKDIR`.
    #[serde(default)]
    pub(crate) working_dir: String,
    /// `VOLUME`s.
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
}

/// A container, as its record has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: Id,
    /// The pod that it is part of.
    pub(crate) pod: Id,
    /// Grows with each change, so that the memory index never goes back in time.
    pub(crate) revision: u64,
    /// How far it is.
    pub(crate) rung: Rung,
    /// Its unique name: `container_pod_namespace_uid_attempt`.
    pub(crate) name: String,
    /// What the kubelet asked for.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(crate) config: v1::ContainerConfig,
    /// The image's id: the digest of its configuration.
    pub(crate) image_id: String,
    /// The image by its manifest's digest, where it was asked for by name; else its id.
    pub(crate) image_ref: String,
    /// What the image says about how to run it.
    pub(crate) defaults: ImageDefaults,
    /// The images that are mounted into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) image_volumes: Vec<ImageVolume>,
    /// What plugins want of it: a `ContainerAdjustment` of the Node Resource Interface, in base64; empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) adjustment: String,
    /// What its devices change of the processes beside its first one.
    #[serde(default, skip_serializing_if = "Beside::is_empty")]
    pub(crate) devices: Beside,
    /// SELinux's labels; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selinux: Option<Labels>,
    /// Whom it runs as.
    pub(crate) user: User,
    /// The signal that asks it to end.
    pub(crate) stop_signal: u32,
    /// The runtime handler of its pod.
    pub(crate) handler: String,
    /// The driver of its root file system.
    pub(crate) snapshotter: String,
    /// The log file; `None`: the output goes nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_path: Option<PathBuf>,
    /// When it was asked for.
    pub(crate) created_at: Timestamp,
    /// When its program was started; zero: not yet.
    #[serde(default)]
    pub(crate) started_at: Timestamp,
    /// Its process; 0: none.
    #[serde(default)]
    pub(crate) pid: u32,
    /// The kernel killed one of its processes for memory.
    #[serde(default)]
    pub(crate) oom: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<End>,
}

fn to_base64<S: Serializer>(config: &v1::ContainerConfig, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(config.encode_to_vec()))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<v1::ContainerConfig, D::Error> {
    use serde::de::Error as _;
    let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
    v1::ContainerConfig::decode(bytes.as_slice()).map_err(D::Error::custom)
}

impl Container {
    /// Does one step, or refuses it and changes nothing.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] naming the step and the rung.
    pub(crate) fn advance(&mut self, step: Step) -> Result<()> {
        self.rung = match (self.rung, &step) {
            (Rung::Reserved, Step::Create) => Rung::Created,
            (Rung::Created, Step::Start) => Rung::Starting,
            (Rung::Starting, Step::Run { .. }) => Rung::Running,
            // A program may end before its start is recorded, and then both are true.
            (Rung::Exited, Step::Run { .. }) if !self.started_at.happened() => Rung::Exited,
            (Rung::Starting | Rung::Running, Step::Exit(_)) => Rung::Exited,
            (_, Step::Remove) => Rung::Removing,
            (rung, step) => {
                let doing = match step {
                    Step::Create => "create",
                    Step::Start => "start",
                    Step::Run { .. } => "run",
                    Step::Exit(_) => "end",
                    Step::Remove => "remove",
                };
                let state = format!("{rung:?}").to_lowercase();
                return Err(Error::precondition(format!("cannot {doing} container {} that is {state}", self.id)));
            }
        };
        match step {
            Step::Run { pid, at } => {
                self.started_at = at;
                self.pid = pid;
            }
            Step::Exit(end) => {
                self.end = Some(end);
                self.pid = 0;
            }
            Step::Create | Step::Start | Step::Remove => {}
        }
        if self.rung != Rung::Running {
            self.pid = 0;
        }
        Ok(())
    }

    /// Its limits, as they were asked for at its creation and changed since.
    pub(crate) fn limits(&self) -> v1::LinuxContainerResources {
        self.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default()
    }

    /// Changes its limits.
    pub(crate) fn set_limits(&mut self, limits: v1::LinuxContainerResources) {
        self.config.linux.get_or_insert_default().resources = Some(limits);
    }

    /// Keeps what plugins want of the container; its limits become what they are then.
    pub(crate) fn adjust(&mut self, wanted: Option<&ContainerAdjustment>) {
        let Some(wanted) = wanted else { return };
        self.adjustment = STANDARD.encode(wanted.encode_to_vec());
        if let Some(resources) = wanted.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
            self.set_limits(merge(&self.limits(), &crate::nri::cri_resources(resources)));
        }
    }

    /// What plugins want of the container.
    ///
    /// # Errors
    /// [`windlass_model::Kind::DataLoss`] where the record holds something else.
    pub(crate) fn adjustment(&self) -> Result<Option<ContainerAdjustment>> {
        if self.adjustment.is_empty() {
            return Ok(None);
        }
        let broken = |error: String| Error::data_loss(format!("the record of container {}: {error}", self.id));
        let bytes = STANDARD.decode(&self.adjustment).map_err(|error| broken(error.to_string()))?;
        ContainerAdjustment::decode(bytes.as_slice()).map(Some).map_err(|error| broken(error.to_string()))
    }

    /// What the CRI calls the state.
    pub(crate) fn state(&self) -> v1::ContainerState {
        match self.rung {
            Rung::Reserved | Rung::Created | Rung::Starting => v1::ContainerState::ContainerCreated,
            Rung::Running => v1::ContainerState::ContainerRunning,
            Rung::Exited | Rung::Removing => v1::ContainerState::ContainerExited,
        }
    }

    /// The one word for how it ended: `OOMKilled`, `Completed`, `Error` or a word of ours.
    pub(crate) fn reason(&self) -> &str {
        match &self.end {
            None => "",
            Some(end) if !end.reason.is_empty() => &end.reason,
            Some(_) if self.oom => "OOMKilled",
            Some(end) if end.code == 0 => "Completed",
            Some(_) => "Error",
        }
    }

    /// True for a container that lists and status show.
    pub(crate) fn is_visible(&self) -> bool {
        self.rung != Rung::Reserved
    }

    /// True while there may be a task.
    pub(crate) fn may_run(&self) -> bool {
        matches!(self.rung, Rung::Starting | Rung::Running)
    }

    /// The record to keep.
    pub(crate) fn to_record(&self) -> Result<ContainerRecord> {
        let mut record = ContainerRecord::new(self.id.clone());
        record.labels.insert("io.cri-containerd.kind".into(), "container".into());
        record.labels.extend(image_volume::labels(self));
        record.image.clone_from(&self.image_id);
        record.runtime.name.clone_from(&self.handler);
        record.snapshotter.clone_from(&self.snapshotter);
        record.snapshot_key = self.id.to_string();
        record.sandbox = Some(self.pod.clone());
        self.write_into(&mut record)?;
        Ok(record)
    }

    /// Replaces the extension of `record`.
    pub(crate) fn write_into(&self, record: &mut ContainerRecord) -> Result<()> {
        let value = serde_json::to_vec(self)
            .map_err(|error| Error::internal(format!("write the record of container {}: {error}", self.id)))?;
        record.extensions.insert(EXTENSION.into(), TypedBytes { type_url: TYPE_URL.into(), value });
        Ok(())
    }

    /// The container in a record.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] for a record that another client made.
    pub(crate) fn of_record(record: &ContainerRecord) -> Result<Self> {
        let missing = || Error::not_found(format!("container {} is not one of the CRI's", record.id));
        let extension = record.extensions.get(EXTENSION).ok_or_else(missing)?;
        serde_json::from_slice(&extension.value)
            .map_err(|error| Error::data_loss(error.to_string()))
            .context(|| format!("read the record of container {}", record.id))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn container(rung: Rung) -> Container {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 1 }),
            envs: vec![v1::KeyValue { key: "K".into(), value: vec![0xff] }],
            ..Default::default()
        };
        Container {
            id: "c1".parse().unwrap(),
            pod: "p1".parse().unwrap(),
            revision: 0,
            rung,
            name: "c_p_ns_u_1".into(),
            config,
            image_id: "sha256:00".into(),
            image_ref: "sha256:00".into(),
            defaults: ImageDefaults::default(),
            image_volumes: Vec::new(),
            adjustment: String::new(),
            devices: Beside::default(),
            selinux: None,
            user: User::default(),
            stop_signal: 15,
            handler: "windlass".into(),
            snapshotter: "overlay".into(),
            log_path: None,
            created_at: Timestamp(1),
            started_at: Timestamp(0),
            pid: 0,
            oom: false,
            end: None,
        }
    }

    fn end(code: i32) -> End {
        End { code, at: Timestamp(9), reason: String::new(), message: String::new() }
    }

    #[test]
    fn a_record_round_trips_with_any_bytes() {
        let container = container(Rung::Created);
        assert_eq!(Container::of_record(&container.to_record().unwrap()).unwrap(), container);
    }

    #[test]
    fn a_life_goes_up_and_ends() {
        let mut one = container(Rung::Reserved);
        for step in [Step::Create, Step::Start, Step::Run { pid: 7, at: Timestamp(5) }] {
            one.advance(step).unwrap();
        }
        assert_eq!((one.pid, one.state()), (7, v1::ContainerState::ContainerRunning));
        one.advance(Step::Exit(end(3))).unwrap();
        assert_eq!((one.pid, one.reason()), (0, "Error"));
        let refused = one.advance(Step::Start).unwrap_err();
        assert_eq!(refused.to_string(), "cannot start container c1 that is exited");
        one.advance(Step::Remove).unwrap();
    }

    #[test]
    fn an_exit_may_overtake_the_start() {
        let mut one = container(Rung::Starting);
        one.advance(Step::Exit(end(0))).unwrap();
        one.advance(Step::Run { pid: 7, at: Timestamp(5) }).unwrap();
        assert_eq!((one.rung, one.started_at, one.pid), (Rung::Exited, Timestamp(5), 0));
        assert!(one.advance(Step::Run { pid: 7, at: Timestamp(5) }).is_err());
        assert!(one.advance(Step::Exit(end(0))).is_err());
    }

    #[test]
    fn the_reason_follows_from_how_it_ended() {
        for (code, oom, reason, expected) in [
            (0, false, "", "Completed"),
            (1, false, "", "Error"),
            (137, true, "", "OOMKilled"),
            (128, false, "StartError", "StartError"),
        ] {
            let mut one = container(Rung::Starting);
            one.oom = oom;
            one.advance(Step::Exit(End { reason: reason.into(), ..end(code) })).unwrap();
            assert_eq!(one.reason(), expected);
        }
    }
}
