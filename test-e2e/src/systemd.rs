//! systemd's units as a kubelet with its cgroup driver uses them: a slice for each pod, and what is left in it.

use std::process::Command;
use std::time::{Duration, Instant};

/// The slice of pod `name` on the node `tag` (`w-…`), as the kubelet passes it: the whole path below the root.
pub fn slice(tag: &str, name: &str) -> String {
    // A hyphen in a unit's name is a step down.
    let name = name.replace('-', "_");
    let node = tag.split_once('-').map_or_else(|| tag.to_owned(), |(first, _)| format!("{first}.slice/{tag}"));
    format!("/{node}.slice/{tag}-pod_{name}.slice")
}

/// Has systemd make a slice, with all controllers, and waits for its folder.
pub fn make_slice(path: &str) {
    let unit = path.rsplit('/').next().unwrap_or_default();
    let mut command = Command::new("busctl");
    command.args(["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]);
    command.args(["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", "5", "DefaultDependencies", "b", "false"]);
    for property in ["CPUAccounting", "MemoryAccounting", "TasksAccounting", "IOAccounting"] {
        command.args([property, "b", "true"]);
    }
    let said = command.arg("0").output();
    let folder = format!("/sys/fs/cgroup{path}");
    let deadline = Instant::now() + crate::patient(Duration::from_secs(5));
    while !std::path::Path::new(&folder).exists() {
        assert!(Instant::now() < deadline, "systemd does not make {unit}: {said:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Has systemd take away the slice of the node `tag` with all that is in it.
pub fn remove_slices(tag: &str) {
    Command::new("systemctl").args(["stop", &format!("{tag}.slice")]).output().ok();
}

/// The scopes and services in slices of the node `tag`, also those that failed and stay for somebody to look at.
pub fn units(tag: &str) -> Vec<String> {
    let output = Command::new("systemctl").args(["show", "--property=Id,Slice,ActiveState", "*.scope"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mine = format!("Slice={tag}-");
    text.split("\n\n").filter(|unit| unit.contains(&mine)).map(|unit| unit.trim().replace('\n', " ")).collect()
}
