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

#[test]
fn a_kill_is_told_though_the_cgroup_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let pod = root.path().join("pod");
    fs::create_dir_all(pod.join("c")).unwrap();
    let (own, above) = (pod.join("c/memory.events"), pod.join("memory.events"));
    for file in [&own, &above] {
        fs::write(file, "max 0\noom_kill 3\n").unwrap();
    }
    let mut watch = OomWatch::new(&Layout::V2(root.path().into()), "/pod/c").unwrap();
    assert!(!watch.take());
    fs::write(&own, "max 9\noom_kill 3\n").unwrap();
    assert!(!watch.take(), "a limit that was met is no kill");
    fs::write(&own, "max 9\noom_kill 4\n").unwrap();
    fs::write(&above, "max 9\noom_kill 4\n").unwrap();
    assert!(watch.take() && !watch.take());
    fs::write(&above, "max 9\noom_kill 5\n").unwrap();
    fs::remove_file(&own).unwrap();
    assert!(watch.take() && !watch.take(), "told by the cgroup above, once");
}

#[test]
fn a_kill_elsewhere_is_not_told() {
    let root = tempfile::tempdir().unwrap();
    let pod = root.path().join("pod");
    fs::create_dir_all(pod.join("c")).unwrap();
    let (own, above) = (pod.join("c/memory.events"), pod.join("memory.events"));
    for file in [&own, &above] {
        fs::write(file, "oom_kill 0\n").unwrap();
    }
    let mut watch = OomWatch::new(&Layout::V2(root.path().into()), "/pod/c").unwrap();
    // A sibling is killed, then this one ends in peace and its folder goes.
    fs::write(&above, "oom_kill 1\n").unwrap();
    fs::remove_file(&own).unwrap();
    assert!(!watch.take());
}

#[test]
fn only_scopes_of_version_2_are_left_to_systemd() {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::V2(root.path().into());
    let folder = root.path().join("a.slice/p-c.scope");
    fs::create_dir_all(&folder).unwrap();
    assert!(layout.is_left_to_systemd("a.slice:p:c").unwrap());
    assert!(!layout.is_left_to_systemd("/a.slice/p-c.scope").unwrap());
    assert!(!Layout::V1(vec![root.path().into()]).is_left_to_systemd("a.slice:p:c").unwrap());
    fs::remove_dir(&folder).unwrap();
    assert!(!layout.is_left_to_systemd("a.slice:p:c").unwrap());
}
