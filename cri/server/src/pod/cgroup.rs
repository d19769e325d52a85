//! Where a pod's processes are accounted: the cgroup above its containers, and the one that its shim joins.
//!
//! The kubelet makes a cgroup for each pod and removes it. Without one (`crictl`) the pod gets `/windlass/<id>`, which
//! goes when the pod goes. The shim works for the pod and is charged to it: it joins the pod's cgroup, with version 2 in
//! a leaf of its own.

use windlass_engine::tasks::PodOptions;
use windlass_model::{Id, Result};
use windlass_sys::cgroup::Layout;

use super::plan::PodPlan;
use super::record::Pod;
use crate::CgroupDriver;

/// What holds the cgroups of pods that the kubelet has made none for. It stays, so that no pod makes or removes it while
/// another one does the opposite.
const HOME: &str = "/windlass";

/// The cgroup under which the containers are made, and whether it is ours to remove.
pub(super) fn parent(plan: &PodPlan, driver: CgroupDriver, id: &Id) -> (String, bool) {
    match (&plan.cgroup_parent, driver) {
        (Some(parent), _) => (parent.clone(), false),
        // systemd removes a scope when its last process ends.
        (None, CgroupDriver::Systemd) => ("system.slice".into(), false),
        (None, CgroupDriver::Cgroupfs) => (format!("{HOME}/{id}"), true),
    }
}

/// Completes the shim's options with the cgroup that it joins.
pub(super) fn place(options: PodOptions, pod: &Pod) -> PodOptions {
    let cgroup = match options.systemd_cgroup {
        true => format!("{}:windlass:{}", pod.cgroup_parent, pod.id),
        false => pod.cgroup_parent.clone(),
    };
    PodOptions { cgroup, ..options }
}

/// True where the pod's cgroup holds all of the pod. Where systemd makes the cgroups and the kubelet names none, the
/// containers lie beside those of other pods.
pub(super) fn holds_containers(pod: &Pod) -> bool {
    pod.owns_cgroup || pod.config.linux.as_ref().is_some_and(|linux| !linux.cgroup_parent.is_empty())
}

/// The pod's cgroup; the shim's alone where none [holds all](holds_containers).
pub(super) fn whole(pod: &Pod, driver: CgroupDriver) -> String {
    match driver {
        CgroupDriver::Systemd if !holds_containers(pod) => format!("{}:windlass:{}", pod.cgroup_parent, pod.id),
        CgroupDriver::Systemd => {
            // The kubelet sends the whole path of the slice; its last name says where it is.
            let slice = pod.cgroup_parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            format!("{slice}::")
        }
        CgroupDriver::Cgroupfs => pod.cgroup_parent.clone(),
    }
}

/// Makes what the pod's own cgroup lies in. Blocks.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn prepare(pod: &Pod, layout: &Layout) -> Result<()> {
    if pod.owns_cgroup { layout.create(HOME) } else { Ok(()) }
}

/// Removes what was made for the pod alone, and kills what may still be in it. Blocks.
///
/// # Errors
/// Where a process cannot be killed or the kernel refuses.
pub(super) fn remove(pod: &Pod, layout: &Layout) -> Result<()> {
    if !pod.owns_cgroup || layout.try_remove(&pod.cgroup_parent)? {
        return Ok(());
    }
    layout.kill(&pod.cgroup_parent)?;
    layout.remove(&pod.cgroup_parent)
}

#[cfg(test)]
mod tests {
    use windlass_cri_api::v1;

    use super::*;
    use crate::pod::Rung;
    use crate::pod::record::tests::pod;

    #[test]
    fn the_shim_joins_the_pods_cgroup() {
        let pod = pod(Rung::Ready);
        assert_eq!(place(PodOptions::default(), &pod).cgroup, "/windlass/p1");
        let pod = Pod { cgroup_parent: "kubepods-pod1.slice".into(), owns_cgroup: false, ..pod };
        let systemd = PodOptions { systemd_cgroup: true, ..PodOptions::default() };
        assert_eq!(place(systemd, &pod).cgroup, "kubepods-pod1.slice:windlass:p1");
    }

    #[test]
    fn the_pods_cgroup_is_found_in_the_drivers_words() {
        let ours = pod(Rung::Ready);
        assert_eq!(whole(&ours, CgroupDriver::Cgroupfs), "/windlass/p1");
        let mut kubelets =
            Pod { cgroup_parent: "/kubepods.slice/kubepods-pod1.slice".into(), owns_cgroup: false, ..ours };
        kubelets.config.linux =
            Some(v1::LinuxPodSandboxConfig { cgroup_parent: kubelets.cgroup_parent.clone(), ..Default::default() });
        let name = whole(&kubelets, CgroupDriver::Systemd);
        let folders = Layout::V2("/r".into()).folders(&name).unwrap();
        assert_eq!(folders, [std::path::Path::new("/r/kubepods.slice/kubepods-pod1.slice")]);
        let nobodys = Pod { cgroup_parent: "system.slice".into(), owns_cgroup: false, ..pod(Rung::Ready) };
        assert!(!holds_containers(&nobodys) && holds_containers(&kubelets));
        assert_eq!(whole(&nobodys, CgroupDriver::Systemd), "system.slice:windlass:p1");
    }

    #[test]
    fn only_what_is_the_pods_own_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::V1(vec![root.path().join("memory")]);
        let ours = root.path().join("memory/windlass/p1");
        let kubelets = root.path().join("memory/kubepods/p1");
        for folder in [&ours, &kubelets] {
            std::fs::create_dir_all(folder).unwrap();
        }
        remove(&pod(Rung::Down), &layout).unwrap();
        remove(&pod(Rung::Down), &layout).unwrap();
        let other = Pod { cgroup_parent: "/kubepods/p1".into(), owns_cgroup: false, ..pod(Rung::Down) };
        remove(&other, &layout).unwrap();
        assert!(!ours.exists() && kubelets.exists());
        assert!(root.path().join("memory/windlass").exists(), "the next pod may be moving in");
    }
}
