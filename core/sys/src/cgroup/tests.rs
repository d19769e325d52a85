//! Names are checked without a kernel; the rest runs in a cgroup of its own where this machine lets us make one.

use super::*;

#[test]
fn systemd_names_become_paths() {
    let path = |name: &str| relative(name).unwrap().display().to_string();
    assert_eq!(
        path("kubepods-besteffort-pod1.slice:cri-containerd:c1"),
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-c1.scope"
    );
    assert_eq!(path(":windlass:c"), "system.slice/windlass-c.scope");
    assert_eq!(path("a.slice::"), "a.slice");
    assert_eq!(path("/kubepods/pod1"), "kubepods/pod1");
}

#[test]
fn names_that_lead_out_are_refused() {
    for bad in ["", "/", "/a/../../b", "..", "../a"] {
        assert!(relative(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_cgroup_is_made_joined_killed_and_removed() {
    let Ok(layout) = Layout::detect() else { return };
    let name = format!("/windlass-test-sys-{}/inner", std::process::id());
    if layout.create(&name).is_err() {
        return;
    }
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    layout.join(&name, child.id()).unwrap();
    assert_eq!(layout.processes(&name).unwrap(), [child.id()]);
    assert!(!layout.try_remove(&name).unwrap());
    layout.freeze(&name).unwrap();
    assert!(Usage::read(&layout, &name).unwrap().memory_limit > 0);
    layout.kill(&name).unwrap();
    assert!(!child.wait().unwrap().success());
    layout.remove(&name).unwrap();
    layout.remove(&format!("/windlass-test-sys-{}", std::process::id())).unwrap();
    assert!(layout.processes(&name).unwrap().is_empty());
}
