//! SELinux: the labels that containers run under and that their files have.
//!
//! A label is `user:role:type:level`. The policy says which one containers get; what pods and containers ask for replaces
//! parts of it. Two containers are kept apart by the categories in the level (`s0:c3,c17`): each pod gets two that no
//! other has, its containers share them, and they are free again when the pod is removed. The records hold the labels, so
//! after a restart the same categories are taken.
//!
//! Who is privileged has no label of its own, which the policy turns into the type of unconfined containers; nor has who
//! shares the host's processes or ipc and asks for none, since a label would keep it from what it is there for.

mod context;
mod levels;
mod policy;
mod relabel;

use serde::{Deserialize, Serialize};
use windlass_cri_api::v1;
use windlass_model::{Error, Result};

pub(crate) use context::check;
pub(crate) use relabel::{relabel, relabel_shared};

use context::Context;
use levels::Levels;
use policy::Policy;

/// The type whose files are nobody else's business, so nothing is relabelled for it.
const UNCONFINED: &str = "spc_t";

/// What a pod or a container is labelled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// The label of its processes; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) process: String,
    /// The label of its files; empty: that which they have.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mount: String,
    /// The level that it holds; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) level: String,
}

/// Who asks for labels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asker<'a> {
    /// What is asked for.
    pub(crate) options: Option<&'a v1::SeLinuxOption>,
    /// It is privileged.
    pub(crate) privileged: bool,
    /// It shares the host's processes or ipc.
    pub(crate) host: bool,
}

/// What this machine makes of labels.
#[derive(Debug)]
enum State {
    /// The kernel has no SELinux: what is asked for means nothing, as with every runtime.
    Absent,
    /// The kernel has it and the configuration says no.
    Off,
    /// Containers are labelled.
    On(Box<Policy>),
}

/// SELinux on this machine.
#[derive(Debug)]
pub(crate) struct Selinux {
    state: State,
    levels: Levels,
}

impl Selinux {
    /// Looks at the machine; `wanted` is what the configuration says.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] where it is wanted and there, and the policy says nothing of
    /// containers.
    pub(crate) fn detect(wanted: bool) -> Result<Self> {
        let state = match (policy::is_on(), wanted) {
            (false, true) => {
                tracing::warn!("SELinux is wanted, and this kernel has none or it is off");
                State::Absent
            }
            (false, false) => State::Absent,
            (true, false) => State::Off,
            (true, true) => State::On(Box::new(Policy::load()?)),
        };
        Ok(Self { state, levels: Levels::default() })
    }

    /// Refuses what this machine will not do, before anything is made.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] where a label is asked for, the kernel knows labels, and the
    /// configuration says that none are given.
    pub(crate) fn check(&self, options: Option<&v1::SeLinuxOption>) -> Result<()> {
        let Some(asked) = options.filter(|asked| **asked != v1::SeLinuxOption::default()) else { return Ok(()) };
        match self.state {
            State::On(_) => Ok(()),
            State::Off => Err(Error::precondition(
                "linux.security_context.selinux_options are given, and [cri] selinux = false on a kernel with SELinux",
            )),
            State::Absent => {
                tracing::debug!(?asked, "SELinux is off on this machine: its options are left aside");
                Ok(())
            }
        }
    }

    /// The labels of a pod, whose level is held from now on; `None`: there are none on this machine.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a label that the policy does not know.
    pub(crate) fn of_pod(&self, asker: Asker<'_>) -> Result<Option<Labels>> {
        let State::On(policy) = &self.state else { return Ok(None) };
        let mut process = policy.process.clone().with(asker.options);
        if !process.level.is_empty() && asker.options.is_none_or(|asked| asked.level.is_empty()) {
            process.level = self.levels.fresh();
        } else {
            self.levels.hold(&process.level);
        }
        self.labels(policy, process).map(Some)
    }

    /// The labels of a container of a pod that has `pod`, whose level is held from now on.
    ///
    /// # Errors
    /// As [`Selinux::of_pod`].
    pub(crate) fn of_container(&self, asker: Asker<'_>, pod: Option<&Labels>) -> Result<Option<Labels>> {
        let State::On(policy) = &self.state else { return Ok(None) };
        // A pod of a time when labels were off has none: its containers get those of the policy, without categories.
        let shared = pod.and_then(|pod| Context::parse(&pod.process)).unwrap_or_else(|| policy.process.clone());
        let asked = asker.options.is_some_and(|asked| *asked != v1::SeLinuxOption::default());
        let process = shared.with(asker.options);
        self.levels.hold(&process.level);
        let labels = self.labels(policy, process)?;
        Ok(Some(match (asker.privileged, asker.host && !asked) {
            (_, true) => Labels { process: String::new(), mount: String::new(), ..labels },
            (true, _) => Labels { process: String::new(), ..labels },
            _ => labels,
        }))
    }

    /// Takes the levels of a record that was read at the start.
    pub(crate) fn hold(&self, labels: Option<&Labels>) {
        labels.iter().for_each(|labels| self.levels.hold(&labels.level));
    }

    /// Gives back what [`Selinux::of_pod`], [`Selinux::of_container`] or [`Selinux::hold`] took.
    pub(crate) fn free(&self, labels: Option<&Labels>) {
        labels.iter().for_each(|labels| self.levels.free(&labels.level));
    }

    /// The labels that go with a process's; gives the level back where the policy does not know them.
    fn labels(&self, policy: &Policy, process: Context) -> Result<Labels> {
        let mount = Context { user: process.user.clone(), level: process.level.clone(), ..policy.file.clone() };
        let labels = Labels { process: process.to_string(), mount: mount.to_string(), level: process.level };
        let known = policy.check(&labels.process).and_then(|()| policy.check(&labels.mount));
        known.inspect_err(|_| self.levels.free(&labels.level)).map(|()| labels)
    }
}

impl Labels {
    /// True where files of the host are relabelled for it.
    pub(crate) fn relabels(&self) -> bool {
        !self.mount.is_empty() && Context::parse(&self.process).is_none_or(|process| process.kind != UNCONFINED)
    }

    /// The mount option that shows a file system's files under the label; `None`: they keep theirs.
    pub(crate) fn mount_option(&self) -> Option<String> {
        // In quotes, because a level has commas.
        (!self.mount.is_empty()).then(|| format!("context=\"{}\"", self.mount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on() -> Selinux {
        let process = Context::parse("system_u:system_r:container_t:s0").unwrap();
        let file = Context::parse("system_u:object_r:container_file_t:s0").unwrap();
        Selinux { state: State::On(Box::new(Policy::for_test(process, file))), levels: Levels::default() }
    }

    fn option(kind: &str, level: &str) -> v1::SeLinuxOption {
        v1::SeLinuxOption { r#type: kind.into(), level: level.into(), ..Default::default() }
    }

    #[test]
    fn a_pod_has_categories_of_its_own_and_its_containers_share_them() {
        let on = on();
        let pod = on.of_pod(Asker::default()).unwrap().unwrap();
        let other = on.of_pod(Asker::default()).unwrap().unwrap();
        assert_ne!(pod.level, other.level);
        assert_eq!(pod.process, format!("system_u:system_r:container_t:{}", pod.level));
        assert_eq!(pod.mount, format!("system_u:object_r:container_file_t:{}", pod.level));
        let plain = on.of_container(Asker::default(), Some(&pod)).unwrap().unwrap();
        assert_eq!(plain, pod);
        let own = option("my_t", "");
        let own = on.of_container(Asker { options: Some(&own), ..Asker::default() }, Some(&pod)).unwrap().unwrap();
        assert_eq!(own.process, format!("system_u:system_r:my_t:{}", pod.level));
        assert_eq!(own.mount, pod.mount);
        let level = option("", "s0:c1,c2");
        let level = on.of_container(Asker { options: Some(&level), ..Asker::default() }, Some(&pod)).unwrap().unwrap();
        assert_eq!(level.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(pod.mount_option().unwrap(), format!("context=\"{}\"", pod.mount));
    }

    #[test]
    fn who_is_privileged_or_shares_the_hosts_processes_is_not_confined() {
        let on = on();
        let pod = on.of_pod(Asker::default()).unwrap().unwrap();
        let privileged = Asker { privileged: true, ..Asker::default() };
        let privileged = on.of_container(privileged, Some(&pod)).unwrap().unwrap();
        assert_eq!((privileged.process.as_str(), &privileged.mount), ("", &pod.mount));
        let host = Asker { host: true, ..Asker::default() };
        let host = on.of_container(host, Some(&pod)).unwrap().unwrap();
        assert_eq!((host.process.as_str(), host.mount.as_str(), &host.level), ("", "", &pod.level));
        let asked = option("my_t", "");
        let asked = Asker { options: Some(&asked), host: true, privileged: false };
        let asked = on.of_container(asked, Some(&pod)).unwrap().unwrap();
        assert!(asked.process.contains(":my_t:"), "what is asked for holds");
        let spc = option("spc_t", "");
        let spc = on.of_container(Asker { options: Some(&spc), ..Asker::default() }, Some(&pod)).unwrap().unwrap();
        assert!(pod.relabels() && privileged.relabels() && !host.relabels() && !spc.relabels());
    }

    #[test]
    fn levels_are_free_when_the_last_holder_is_gone() {
        let on = on();
        let pod = on.of_pod(Asker::default()).unwrap().unwrap();
        let container = on.of_container(Asker::default(), Some(&pod)).unwrap().unwrap();
        let after_restart = self::on();
        after_restart.hold(Some(&pod));
        after_restart.hold(Some(&container));
        assert!(after_restart.levels.is_held(&pod.level));
        after_restart.free(Some(&container));
        assert!(after_restart.levels.is_held(&pod.level));
        after_restart.free(Some(&pod));
        assert!(!after_restart.levels.is_held(&pod.level));
    }

    #[test]
    fn a_label_that_is_asked_for_is_refused_only_where_it_could_be_given() {
        let asked = option("my_t", "");
        let state = |state| Selinux { state, levels: Levels::default() };
        assert!(state(State::Absent).check(Some(&asked)).is_ok());
        let refused = state(State::Off).check(Some(&asked)).unwrap_err();
        assert_eq!(refused.kind(), windlass_model::Kind::FailedPrecondition);
        assert!(state(State::Off).check(Some(&v1::SeLinuxOption::default())).is_ok());
        assert!(on().check(Some(&asked)).is_ok());
        assert_eq!(state(State::Off).of_pod(Asker::default()).unwrap(), None);
    }
}
