//! Specifications from wishes, read back by the crate that knows the standard.

use clap::Parser;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    wishes: Wishes,
}

fn wishes(words: &[&str]) -> Wishes {
    let words = ["x", "image", "id"].iter().chain(words.iter());
    // The command stands last, after image and id.
    Line::try_parse_from(words).expect("a good line").wishes
}

fn spec(wishes: &Wishes, image: &Defaults) -> Result<Spec> {
    let user = User { uid: 5, gid: 6, groups: vec![6, 7] };
    let own_capabilities = u64::MAX;
    let parts = Parts {
        namespace: "tenant",
        image,
        user: &user,
        rootfs: None,
        cgroup_v2: true,
        console: Some((80, 24)),
        own_capabilities,
    };
    Ok(serde_json::from_value(build("id", wishes, &parts)?)?)
}

fn with_flags(flags: &[&str]) -> Wishes {
    let words = ["x"].iter().chain(flags).chain(&["image", "id", "sh"]);
    Line::try_parse_from(words).expect("a good line").wishes
}

fn image() -> Defaults {
    Defaults {
        env: Some(vec!["PATH=/bin".into(), "A=1".into(), "=broken".into()]),
        entrypoint: Some(vec!["/entry".into()]),
        cmd: Some(vec!["arg".into()]),
        working_dir: Some("work".into()),
        ..Default::default()
    }
}

#[test]
fn the_image_says_what_runs() {
    let spec = spec(&wishes(&[]), &image()).expect("good");
    let process = spec.process().as_ref().expect("a process");
    assert_eq!(process.args().as_deref(), Some(&["/entry".to_owned(), "arg".into()][..]));
    assert_eq!(process.env().as_deref(), Some(&["PATH=/bin".to_owned(), "A=1".into()][..]));
    assert_eq!(process.cwd().to_str(), Some("/work"));
    assert_eq!((process.user().uid(), process.user().gid()), (5, 6));
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.console_size().map(|size| (size.width(), size.height())), Some((80, 24)));
    let linux = spec.linux().as_ref().expect("linux");
    assert_eq!(linux.cgroups_path().as_deref(), Some(std::path::Path::new("/tenant/id")));
    assert!(linux.masked_paths().as_ref().is_some_and(|paths| paths.contains(&"/proc/kcore".to_owned())));
    let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|namespace| namespace.typ()).collect();
    assert!(kinds.contains(&LinuxNamespaceType::Network) && kinds.contains(&LinuxNamespaceType::Cgroup));
    assert!(!linux.resources().as_ref().and_then(|all| all.devices().clone()).expect("rules")[0].allow());
}

#[test]
fn a_command_replaces_all_of_the_images() {
    let spec = spec(&wishes(&["ls", "-l", "--color"]), &image()).expect("good");
    let process = spec.process().as_ref().expect("a process");
    assert_eq!(process.args().as_deref(), Some(&["ls".to_owned(), "-l".into(), "--color".into()][..]));
}

#[test]
fn an_image_without_a_program_needs_a_command() {
    assert!(spec(&wishes(&[]), &Defaults::default()).is_err());
    assert!(spec(&wishes(&["sh"]), &Defaults::default()).is_ok());
}

#[test]
fn flags_are_heeded() {
    let flags = [
        "-t",
        "--env",
        "A=2",
        "--env",
        "B=3",
        "--cwd",
        "/",
        "--net-host",
        "--read-only",
        "--hostname",
        "h",
        "--memory-limit",
        "64Mi",
        "--cpus",
        "1.5",
        "--pids-limit",
        "9",
        "--cgroup",
        "/elsewhere",
        "--mount",
        "type=tmpfs,dst=/dev/shm",
        "--with-ns",
        "ipc:/proc/1/ns/ipc",
        "--annotation",
        "k=v",
        "--allow-new-privs",
    ];
    let spec = spec(&with_flags(&flags), &image()).expect("good");
    let process = spec.process().as_ref().expect("a process");
    assert_eq!(process.terminal(), Some(true));
    let env = process.env().clone().expect("variables");
    assert_eq!(env, ["PATH=/bin", "A=2", "TERM=xterm", "B=3"]);
    assert_eq!(process.no_new_privileges(), None);
    assert_eq!(spec.hostname().as_deref(), Some("h"));
    assert_eq!(spec.root().as_ref().and_then(|root| root.readonly()), Some(true));
    let linux = spec.linux().as_ref().expect("linux");
    let resources = linux.resources().as_ref().expect("resources");
    assert_eq!(resources.memory().as_ref().and_then(|memory| memory.limit()), Some(64 << 20));
    assert_eq!(resources.cpu().as_ref().and_then(|cpu| cpu.quota()), Some(150_000));
    assert_eq!(linux.cgroups_path().as_deref(), Some(std::path::Path::new("/elsewhere")));
    let namespaces = linux.namespaces().as_ref().expect("namespaces");
    assert!(namespaces.iter().all(|namespace| namespace.typ() != LinuxNamespaceType::Network));
    let ipc = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Ipc).expect("ipc");
    assert!(ipc.path().is_some());
    let mounts = spec.mounts().as_ref().expect("mounts");
    let shm = mounts.iter().filter(|mount| mount.destination().to_str() == Some("/dev/shm"));
    assert_eq!(shm.count(), 1, "ours gives way");
    assert!(mounts.iter().any(|mount| mount.destination().to_str() == Some("/etc/resolv.conf")));
}

#[test]
fn who_is_privileged_sees_everything() {
    let spec = spec(&with_flags(&["--privileged"]), &image()).expect("good");
    let linux = spec.linux().as_ref().expect("linux");
    assert!(linux.masked_paths().as_ref().is_none_or(Vec::is_empty));
    assert!(linux.resources().as_ref().and_then(|all| all.devices().clone()).expect("rules")[0].allow());
    let sys = spec.mounts().iter().flatten().find(|mount| mount.destination().to_str() == Some("/sys")).expect("/sys");
    assert!(sys.options().iter().flatten().any(|option| option == "rw"));
}

#[test]
fn namespaces_that_nobody_knows_are_refused() {
    assert!(spec(&with_flags(&["--with-ns", "mount:/proc/1/ns/mnt"]), &image()).is_err());
}

#[test]
fn an_exec_is_the_containers_process_with_other_words() {
    let container = json!({ "process": {
        "args": ["sleep"], "cwd": "/work", "env": ["A=1"], "user": { "uid": 5, "gid": 6 }, "unknown": [1], "terminal": true,
    }});
    let asked = ProcessWishes { env: vec!["B=2".into()], ..Default::default() };
    let process = exec(&container, &["ls".into()], &asked, None).expect("good");
    assert_eq!(process["args"], json!(["ls"]));
    assert_eq!(process["env"], json!([PATH, "A=1", "B=2"]));
    assert_eq!(
        (&process["terminal"], &process["unknown"], &process["cwd"]),
        (&json!(false), &json!([1]), &json!("/work"))
    );
    let user = User { uid: 9, gid: 0, groups: Vec::new() };
    let process = exec(&container, &["ls".into()], &asked, Some(&user)).expect("good");
    assert_eq!(process["user"]["uid"], 9);
    assert!(exec(&json!({}), &["ls".into()], &asked, None).is_err());
}
