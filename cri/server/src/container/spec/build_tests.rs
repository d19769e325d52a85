//! Requests on one side, the JSON that the OCI runtime reads on the other.

use serde_json::{Value, json};

use super::super::security::tests::host;
use super::*;
use crate::container::record::{Rung, User, tests::container};

pub(in super::super) fn pod() -> PodFacts {
    PodFacts {
        id: "p1".parse().unwrap(),
        config: v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                namespace: "default".into(),
                uid: "u1".into(),
                attempt: 0,
            }),
            ..Default::default()
        },
        hostname: "web-0".into(),
        users: None,
        netns: Some("/run/windlass/netns/p1".into()),
        pid: 42,
        label: None,
        shm: Some("/run/windlass/shm".into()),
        files: vec![("/etc/resolv.conf", "/run/windlass/resolv.conf".into())],
    }
}

fn written(container: &Container, pod: &PodFacts, host: &Host) -> Value {
    let parts = Parts {
        pod,
        host,
        driver: CgroupDriver::Cgroupfs,
        cgroup_parent: "/kubepods/pod1",
        target: Some(99),
        volumes: &[],
    };
    serde_json::to_value(spec(container, &parts).unwrap()).unwrap()
}

fn asked(change: impl FnOnce(&mut Container)) -> Container {
    let mut one = container(Rung::Created);
    one.config.envs.clear();
    one.config.command = vec!["sh".into()];
    change(&mut one);
    one
}

fn with_context(context: v1::LinuxContainerSecurityContext) -> Container {
    asked(|one| {
        let linux = v1::LinuxContainerConfig { security_context: Some(context), ..Default::default() };
        one.config.linux = Some(linux);
    })
}

#[test]
fn command_and_arguments_follow_kubernetes_table() {
    let image = ImageDefaults { entrypoint: vec!["/ep".into()], cmd: vec!["cmd".into()], ..Default::default() };
    let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (command, arguments, expected) in [
        (&[][..], &[][..], &["/ep", "cmd"][..]),
        (&["c"], &[], &["c"]),
        (&[], &["a"], &["/ep", "a"]),
        (&["c"], &["a"], &["c", "a"]),
    ] {
        let config = v1::ContainerConfig { command: strings(command), args: strings(arguments), ..Default::default() };
        assert_eq!(args(&config, &image).unwrap(), strings(expected));
    }
    assert!(args(&v1::ContainerConfig::default(), &ImageDefaults::default()).is_err());
}

#[test]
fn the_environment_is_layered() {
    let one = asked(|one| {
        one.config.tty = true;
        one.config.envs = vec![v1::KeyValue { key: "A".into(), value: "request=1".into() }];
        one.defaults.env = vec!["A=image".into(), "PATH=/image".into(), "broken".into()];
        one.defaults.working_dir = "app".into();
    });
    let process = &written(&one, &pod(), &host())["process"];
    assert_eq!(process["env"], json!(["PATH=/image", "HOSTNAME=web-0", "TERM=xterm", "A=request=1"]));
    assert_eq!((&process["cwd"], &process["terminal"]), (&json!("/app"), &json!(true)));
}

#[test]
fn a_plain_container_is_confined() {
    let one = asked(|one| one.user = User { uid: 1000, gid: 1001, groups: vec![1001, 10] });
    let spec = written(&one, &pod(), &host());
    assert_eq!(spec["process"]["user"], json!({"uid": 1000, "gid": 1001, "additionalGids": [1001, 10]}));
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": false}));
    assert_eq!(spec["linux"]["cgroupsPath"], json!("/kubepods/pod1/c1"));
    assert_eq!(spec["linux"]["resources"]["devices"][0], json!({"allow": false, "access": "rwm"}));
    assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-name"], json!("web"));
    assert_eq!(spec["annotations"]["io.kubernetes.cri.container-type"], json!("container"));
    let namespaces = json!([
        {"type": "mount"},
        {"type": "network", "path": "/run/windlass/netns/p1"},
        {"type": "uts", "path": "/proc/42/ns/uts"},
        {"type": "ipc", "path": "/proc/42/ns/ipc"},
        {"type": "pid", "path": "/proc/42/ns/pid"},
    ]);
    assert_eq!(spec["linux"]["namespaces"], namespaces);
}

#[test]
fn namespaces_follow_the_request() {
    let kinds = |context: Option<v1::NamespaceOption>, pod: &PodFacts, host: &Host| {
        let one = with_context(v1::LinuxContainerSecurityContext { namespace_options: context, ..Default::default() });
        let namespaces = written(&one, pod, host)["linux"]["namespaces"].clone();
        let all: Vec<Value> = serde_json::from_value(namespaces).unwrap();
        all.iter()
            .map(|one| format!("{}={}", one["type"].as_str().unwrap(), one["path"].as_str().unwrap_or("")))
            .collect::<Vec<_>>()
    };
    let pid = |mode: v1::NamespaceMode| Some(v1::NamespaceOption { pid: mode as i32, ..Default::default() });
    assert!(kinds(pid(v1::NamespaceMode::Container), &pod(), &host()).contains(&"pid=".into()));
    assert!(kinds(pid(v1::NamespaceMode::Target), &pod(), &host()).contains(&"pid=/proc/99/ns/pid".into()));
    let node = kinds(pid(v1::NamespaceMode::Node), &pod(), &host());
    assert!(!node.iter().any(|one| one.starts_with("pid")));
    for (mode, expected) in [(v1::NamespaceMode::Container, Some("pid=")), (v1::NamespaceMode::Node, None)] {
        let mut unshared = pod();
        let context = v1::LinuxSandboxSecurityContext { namespace_options: pid(mode), ..Default::default() };
        unshared.config.linux =
            Some(v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() });
        let all = kinds(pid(v1::NamespaceMode::Pod), &unshared, &host());
        assert_eq!(all.iter().map(String::as_str).find(|one| one.starts_with("pid")), expected, "never the shim's own");
    }
    let host_network = PodFacts { netns: None, ..pod() };
    let all = kinds(pid(v1::NamespaceMode::Container), &host_network, &Host { cgroup_v2: true, ..host() });
    assert_eq!(all, ["mount=", "ipc=/proc/42/ns/ipc", "pid=", "cgroup="]);
}

#[test]
fn a_privileged_container_sees_the_machine() {
    let spec = written(
        &with_context(v1::LinuxContainerSecurityContext {
            privileged: true,
            masked_paths: vec!["/proc/kcore".into()],
            seccomp: Some(v1::SecurityProfile::default()),
            ..Default::default()
        }),
        &pod(),
        &host(),
    );
    assert_eq!(spec["linux"]["resources"]["devices"][0], json!({"allow": true, "access": "rwm"}));
    let devices = spec["linux"]["devices"].as_array().unwrap();
    assert!(devices.iter().any(|device| device["path"] == "/dev/null" && device["major"] == 1));
    assert!(spec["linux"].get("seccomp").is_none());
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
}

#[test]
fn security_is_written_where_the_runtime_reads_it() {
    let spec = written(
        &with_context(v1::LinuxContainerSecurityContext {
            readonly_rootfs: true,
            no_new_privs: true,
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            seccomp: Some(v1::SecurityProfile::default()),
            ..Default::default()
        }),
        &pod(),
        &host(),
    );
    assert_eq!(spec["root"]["readonly"], json!(true));
    assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
    assert_eq!(spec["linux"]["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!(["/proc/sys"]));
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], json!("SCMP_ACT_ERRNO"));
}

#[test]
fn devices_are_made_and_allowed() {
    let one = asked(|one| {
        one.config.devices = vec![v1::Device {
            host_path: "/dev/full".into(),
            container_path: "/dev/mine".into(),
            permissions: "rw".into(),
        }];
    });
    let linux = &written(&one, &pod(), &host())["linux"];
    assert_eq!(linux["devices"][0]["path"], json!("/dev/mine"));
    let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rw"});
    assert_eq!(linux["resources"]["devices"][1], rule);
}
