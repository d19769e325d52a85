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
