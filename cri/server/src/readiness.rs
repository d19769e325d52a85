//! Whether this machine can run pods now, and if not, why: the conditions of Status.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use windlass_cri_api::v1;
use windlass_model::Error;
use windlass_sys::cgroup::Layout;

use crate::{Runtime, ServerConfig};

/// What a file system must have left for a pod's records and files, in bytes.
const LEAST_SPACE: u64 = 4 << 20;
/// The controllers without which a container has no limits.
const CONTROLLERS: [&str; 2] = ["cpu", "memory"];

/// What keeps pods from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// One word for programs.
    pub(crate) reason: &'static str,
    /// A sentence for a person.
    pub(crate) message: String,
}

impl Fault {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }

    /// The network's.
    pub(crate) fn of_network(error: &Error) -> Self {
        Self::new("NetworkPluginNotReady", error.to_string())
    }
}

/// The first thing that keeps the runtime from running pods; nothing where it can. Blocks.
pub(crate) fn fault(config: &ServerConfig) -> Option<Fault> {
    let folders = [("root", &config.root), ("state", &config.state)];
    let full = || folders.iter().find_map(|(name, folder)| folder_fault(name, folder));
    full().or_else(cgroup_fault).or_else(|| shim_fault(&config.shim)).or_else(|| {
        config.runtimes.get(&config.default_runtime).and_then(|runtime| handler_fault(&config.default_runtime, runtime))
    })
}

/// The condition of that name.
pub(crate) fn condition(kind: &str, fault: Option<Fault>) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: kind.into(),
        status: fault.is_none(),
        reason: fault.as_ref().map(|fault| fault.reason.into()).unwrap_or_default(),
        message: fault.map(|fault| fault.message).unwrap_or_default(),
    }
}

fn folder_fault(name: &str, folder: &Path) -> Option<Fault> {
    let place = format!("the {name} folder {}", folder.display());
    let found = match statvfs(folder) {
        Ok(found) => found,
        Err(error) => return Some(Fault::new("FolderUnusable", format!("{place}: {error}"))),
    };
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Some(Fault::new("FolderReadOnly", format!("{place} is on a file system that cannot be written")));
    }
    let left = found.f_bavail.saturating_mul(found.f_frsize);
    if left < LEAST_SPACE {
        return Some(Fault::new("DiskFull", format!("{place} has {left} bytes left: {LEAST_SPACE} are needed")));
    }
    // Some file systems do not count inodes.
    if found.f_files > 0 && found.f_favail == 0 {
        return Some(Fault::new("DiskFull", format!("{place} has no inodes left")));
    }
    None
}

fn cgroup_fault() -> Option<Fault> {
    let layout = match Layout::detect() {
        Ok(layout) => layout,
        Err(error) => return Some(Fault::new("CgroupsMissing", error.to_string())),
    };
    let missing = CONTROLLERS.into_iter().find(|controller| !has_controller(&layout, controller));
    missing.map(|name| Fault::new("CgroupControllerMissing", format!("the kernel offers no cgroup controller {name}")))
}

fn has_controller(layout: &Layout, name: &str) -> bool {
    match layout {
        Layout::V1(_) => layout.controller("/any", name).is_ok(),
        Layout::V2(root) => std::fs::read_to_string(root.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_whitespace().any(|one| one == name)),
    }
}

fn shim_fault(shim: &Path) -> Option<Fault> {
    let missing = || Fault::new("ShimMissing", format!("the shim {} is not there", shim.display()));
    (!shim.is_file()).then(missing)
}

fn handler_fault(name: &str, runtime: &Runtime) -> Option<Fault> {
    let binary = runtime.binary.as_ref().filter(|binary| !binary.is_file())?;
    let message = format!("the OCI runtime {} of the default handler {name:?} is not there", binary.display());
    Some(Fault::new("RuntimeMissing", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_machine_has_no_fault_and_each_fault_has_its_word() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(folder_fault("root", root.path()), None);
        assert_eq!(folder_fault("root", &root.path().join("gone")).unwrap().reason, "FolderUnusable");
        assert_eq!(shim_fault(Path::new("/bin/sh")), None);
        let fault = shim_fault(&root.path().join("shim")).unwrap();
        assert!(fault.reason == "ShimMissing" && fault.message.contains("/shim"));
        let runtime = Runtime { binary: Some(root.path().join("runc")), shim: None };
        assert_eq!(handler_fault("runc", &runtime).unwrap().reason, "RuntimeMissing");
        assert_eq!(handler_fault("windlass", &Runtime::default()), None);
    }

    #[test]
    fn a_missing_controller_is_seen() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("cgroup.controllers"), "cpu io\n").unwrap();
        let layout = Layout::V2(root.path().into());
        assert!(has_controller(&layout, "cpu") && !has_controller(&layout, "memory"));
        let layout = Layout::V1(vec!["/sys/fs/cgroup/cpu,cpuacct".into()]);
        assert!(has_controller(&layout, "cpu") && !has_controller(&layout, "memory"));
    }

    #[test]
    fn a_condition_says_why() {
        let ready = condition("RuntimeReady", None);
        assert!(ready.status && ready.reason.is_empty() && ready.message.is_empty());
        let fault = Fault::of_network(&Error::precondition("no network"));
        let not = condition("NetworkReady", Some(fault));
        assert_eq!(
            (not.status, not.reason.as_str(), not.message.as_str()),
            (false, "NetworkPluginNotReady", "no network")
        );
    }
}
