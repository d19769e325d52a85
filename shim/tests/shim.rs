//! The real shim over its socket, with busybox in real containers.

#![allow(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

mod rig;

use std::fs;
use std::time::{Duration, Instant};

use rig::{Rig, is_running};
use serde_json::json;
use windlass_model::Kind;
use windlass_model::event::Event;
use windlass_sys::cgroup::Layout;
use windlass_sys::process;
use windlass_wire::extension::{PodOptions, ReopenLogRequest};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::task::ExecProcessRequest;
use windlass_wire::{convert, ttrpc, words};

fn kind(error: ttrpc::Error) -> Kind {
    convert::from_error(error).kind()
}

fn exited(container: &str, status: u32) -> impl Fn(&[Event]) -> bool {
    move |events| {
        events.iter().any(|event| {
            matches!(event, Event::TaskExit { container: c, process, status: s, .. }
                if c == container && process == container && *s == status)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_lives_logs_and_is_forgotten() {
    let rig = Rig::new("life").await;
    rig.boot(PodOptions { new_ipc: true, new_uts: true, hostname: "here".into(), ..Default::default() }).await;
    let pid = rig.create("c", "echo out; echo err >&2; hostname; exit 7").await.unwrap();
    assert_eq!(kind(rig.create("c", "true").await.unwrap_err()), Kind::AlreadyExists);
    assert_eq!(rig.start("c", "").await.unwrap(), pid);
    let exit = rig.wait("c", "").await.unwrap();
    assert_eq!(exit.exit_status, 7);
    let log = rig.log("c");
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    assert!(log.contains(" stdout F here\n"), "{log}");
    rig.until("exit", exited("c", 7)).await;
    assert_eq!(kind(rig.kill("c", 9).await.unwrap_err()), Kind::NotFound);
    assert_eq!(rig.delete("c", "").await.unwrap(), 7);
    assert_eq!(kind(rig.state("c").await.unwrap_err()), Kind::NotFound);
    rig.until("delete", |events| events.iter().any(|event| matches!(event, Event::TaskDelete { .. }))).await;
    assert!(fs::read_dir(rig.pod().join("outbox")).unwrap().next().is_none());
    rig.stop().await;
    rig.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execs_run_beside_the_program() {
    let rig = Rig::new("exec").await;
    rig.run("c", "sleep 1000").await;
    assert_eq!(rig.exec("c", "e1", "echo hello; exit 3", false).await.unwrap(), (3, "hello\n".into()));
    let (status, output) = rig.exec("c", "e2", "seq 1 20000", false).await.unwrap_or_default();
    // More than a pipe holds and nobody reads until the exit: what fits is there.
    assert!(status == 0 && output.starts_with("1\n2\n"));
    let (_, output) = rig.exec("c", "e3", "tty; stty size", true).await.unwrap();
    assert!(output.contains("/dev/pts/"), "{output}");
    let mut missing = rig::process_spec("true", false);
    missing["args"] = json!(["/no/such/program"]);
    assert!(rig.exec("c", "e4", "exec /no/such/program", false).await.unwrap().0 == 127);
    rig.kill("c", 15).await.unwrap();
    rig.kill("c", 9).await.unwrap();
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 137);
    assert_eq!(rig.delete("c", "").await.unwrap(), 137);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_answered_before_its_container_is_forgotten() {
    let rig = Rig::new("ender").await;
    for (script, status) in [("sleep 1000", 137), ("touch /tmp/stop; exit 5", 5)] {
        rig.run("c", "while [ ! -e /tmp/stop ]; do usleep 300000; done").await;
        let spec = Any {
            type_url: words::TYPE_PROCESS.into(),
            value: serde_json::to_vec(&rig::process_spec(script, false)).unwrap(),
            ..Default::default()
        };
        let spec = MessageField::some(spec);
        let request = ExecProcessRequest { id: "c".into(), exec_id: "e".into(), spec, ..Default::default() };
        rig.task.exec(rig::soon(), &request).await.unwrap();
        // Waits from before the start: nothing may end sooner than somebody waits.
        let (exec, ()) = tokio::join!(rig.wait("c", "e"), async {
            rig.start("c", "e").await.unwrap();
            if status == 137 {
                rig.kill("c", 9).await.unwrap();
            }
            rig.wait("c", "").await.unwrap();
            rig.delete("c", "").await.unwrap();
        });
        assert_eq!(exec.unwrap().exit_status, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_was_never_started_can_be_deleted() {
    let rig = Rig::new("unstarted").await;
    let pid = rig.create("c", "sleep 1000").await.unwrap();
    rig.delete("c", "").await.unwrap();
    assert!(!is_running(pid));
    let layout = Layout::detect().unwrap();
    assert!(layout.processes(&format!("{}/c", rig.cgroup)).unwrap().is_empty());
    assert!(!layout.controller(&format!("{}/c", rig.cgroup), "memory").unwrap().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_is_an_error_and_leaves_nothing() {
    let rig = Rig::new("missing").await;
    let bundle = rig.bundle("c", "true", false);
    let config = bundle.join("config.json");
    let spec = fs::read_to_string(&config).unwrap().replace("/bin/sh", "/no/such/thing");
    fs::write(&config, spec).unwrap();
    let error = rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/thing"), "{error}");
    assert_eq!(kind(rig.state("c").await.unwrap_err()), Kind::NotFound);
    assert!(!Layout::detect().unwrap().controller(&format!("{}/c", rig.cgroup), "memory").unwrap().exists());
    // The name is free again.
    rig.run("c", "exit 0").await;
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_pid_namespace_has_the_shim_as_its_init() {
    let mut rig = Rig::new("shared").await;
    let pid = rig.boot(PodOptions { shared_pid: true, ..Default::default() }).await;
    assert_ne!(pid, rig.shim_pid());
    rig.namespaces = vec![json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})];
    // The second process outlives the first, which is not process 1 of its namespace.
    rig.run("a", "sleep 1000 & sleep 1000").await;
    rig.run("b", "ps; exit 4").await;
    assert_eq!(rig.wait("b", "").await.unwrap().exit_status, 4);
    let log = rig.log("b");
    assert!(log.contains("windlass-oci"), "process 1 is seen by all: {log}");
    assert!(!fs::exists(format!("/proc/{pid}/root/etc")).unwrap(), "process 1 shows the host's files");
    rig.kill("a", 9).await.unwrap();
    rig.wait("a", "").await.unwrap();
    let layout = Layout::detect().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !layout.processes(&format!("{}/a", rig.cgroup)).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the rest of the container lives on");
    }
    rig.delete("a", "").await.unwrap();
    rig.delete("b", "").await.unwrap();
    rig.stop().await;
    rig.shutdown().await;
    // The kernel kills process 1 when the shim has ended; that takes it a moment.
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_running(pid) {
        assert!(Instant::now() < deadline, "process 1 outlives the shim");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_carried_to_the_log() {
    let rig = Rig::new("tty").await;
    rig.bundle("c", "tty; echo done; exit 5", true);
    rig.task.create(rig::soon(), &rig.request("c", true)).await.unwrap();
    rig.start("c", "").await.unwrap();
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 5);
    let log = rig.log("c");
    assert!(log.contains(" stdout F done\r\n") || log.contains(" stdout F done\n"), "{log}");
    assert!(log.contains("/dev/"), "{log}");
    rig.delete("c", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_is_cleaned_up_after() {
    let rig = Rig::new("killed").await;
    let cgroup = format!("{}-pod", rig.cgroup);
    rig.boot(PodOptions { shm_bytes: 1 << 20, cgroup: cgroup.clone(), ..Default::default() }).await;
    let pid = rig.run("c", "sleep 1000").await;
    process::signal(rig.shim_pid(), 9).unwrap();
    assert!(is_running(pid));
    rig.clean_up();
    assert!(!is_running(pid));
    let layout = Layout::detect().unwrap();
    assert!(!layout.controller(&cgroup, "memory").unwrap().exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&rig.id), "mounts are left");
    // Once more changes nothing.
    rig.clean_up();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exits_wait_for_a_daemon_that_is_away() {
    let mut rig = Rig::new("away").await;
    rig.run("c", "sleep 0.1; exit 9").await;
    rig.until("start", |events| events.iter().any(|event| matches!(event, Event::TaskStart { .. }))).await;
    rig.daemon_dies().await;
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 9);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let kept = windlass_wire::outbox::read(&rig.pod()).unwrap();
    assert!(matches!(&kept[..], [one] if matches!(one.event, Event::TaskExit { status: 9, .. })), "{kept:?}");
    rig.daemon_returns().await;
    rig.until("exit", exited("c", 9)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(windlass_wire::outbox::read(&rig.pod()).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_log_is_opened_anew_without_loss() {
    let rig = Rig::new("reopen").await;
    rig.run("c", "for i in $(seq 1 100); do echo $i; sleep 0.01; done").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    fs::rename(rig.dir.join("c.log"), rig.dir.join("c.log.1")).unwrap();
    let request = ReopenLogRequest { container_id: "c".into(), ..Default::default() };
    rig.extension.reopen_log(rig::soon(), &request).await.unwrap();
    rig.wait("c", "").await.unwrap();
    let text =
        rig.log("c.log.1").replace(".log", "") + &fs::read_to_string(rig.dir.join("c.log.1")).unwrap() + &rig.log("c");
    let numbers: Vec<u32> = text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    assert!(!rig.log("c").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtime_inside_cannot_be_opened_for_writing() {
    let rig = Rig::new("sealed").await;
    // Between create and start, the first process is the built-in runtime itself.
    let pid = rig.create("c", "true").await.unwrap();
    let exe = format!("/proc/{pid}/exe");
    let program = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    assert_eq!(program(&exe), program(&rig::program().display().to_string()));
    // As long as it runs, writing is refused because it runs; what holds afterwards too is the mount.
    assert!(fs::OpenOptions::new().write(true).open(&exe).is_err());
    assert!(rustix::fs::statvfs(&exe).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runc_by_path_does_the_same() {
    let mut rig = Rig::new("runc").await;
    rig.runtime = "/usr/sbin/runc".into();
    let pid = rig.create("c", "echo from runc; exec sleep 1000").await.unwrap();
    assert_eq!(rig.start("c", "").await.unwrap(), pid);
    assert_eq!(rig.exec("c", "e1", "echo in; exit 6", false).await.unwrap(), (6, "in\n".into()));
    rig.kill("c", 9).await.unwrap();
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 137);
    assert!(rig.log("c").contains(" stdout F from runc\n"));
    rig.delete("c", "").await.unwrap();
    rig.bundle("d", "true", false);
    let config = rig.dir.join("d/config.json");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("/bin/sh", "/no/such")).unwrap();
    let error = rig.task.create(rig::soon(), &rig.request("d", false)).await.unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_runtime_holds_up_only_its_own_container() {
    let mut rig = Rig::new("hang").await;
    rig.boot(PodOptions { runtime_timeout_seconds: 1, ..Default::default() }).await;
    let script = rig.dir.join("hang");
    fs::write(&script, "#!/bin/sh\nsleep 1000\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    rig.run("good", "sleep 1000").await;
    rig.runtime = script.display().to_string();
    rig.bundle("bad", "true", false);
    let request = rig.request("bad", false);
    let hanging = rig.task.create(rig::soon(), &request);
    let other = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = Instant::now();
        rig.state("good").await.unwrap();
        begun.elapsed()
    };
    let (hung, other) = tokio::join!(hanging, other);
    assert_eq!(kind(hung.unwrap_err()), Kind::DeadlineExceeded);
    assert!(other < Duration::from_millis(200), "{other:?}");
    let rubbish = rig.dir.join("rubbish");
    fs::write(&rubbish, "#!/bin/sh\nhead -c 100000 /dev/urandom\nexit 3\n").unwrap();
    fs::set_permissions(&rubbish, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    rig.runtime = rubbish.display().to_string();
    assert!(rig.create("worse", "true").await.is_err());
    rig.runtime = String::new();
    assert_eq!(rig.exec("good", "e", "echo fine", false).await.unwrap(), (0, "fine\n".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_for_memory_is_told_before_the_exit() {
    let rig = Rig::new("oom").await;
    rig.run("c", "exec dd if=/dev/zero of=/dev/null bs=200M count=1").await;
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 137);
    rig.until("exit", exited("c", 137)).await;
    let events = rig.events.lock().unwrap().clone();
    let oom = events.iter().position(|event| matches!(event, Event::TaskOom { .. })).unwrap();
    let exit = events.iter().position(|event| matches!(event, Event::TaskExit { .. })).unwrap();
    assert!(oom < exit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_the_hosts_pids_sees_them_and_its_cgroup() {
    let mut rig = Rig::new("hostpid").await;
    rig.namespaces.clear();
    rig.bundle(
        "c",
        "ls /cgroup; cat /cgroup/memory/memory.limit_in_bytes /cgroup/memory.max; ls /proc; sleep 1000",
        false,
    );
    rig.amend("c", |spec| {
        let cgroup =
            json!({"destination": "/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]});
        spec["mounts"].as_array_mut().unwrap().push(cgroup);
        spec["process"]["noNewPrivileges"] = json!(false);
    });
    rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap();
    let pid = rig.start("c", "").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !rig.log("c").contains(&format!(" F {pid}\n")) {
        assert!(Instant::now() < deadline, "{}", rig.log("c"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its own cgroup's limit, whatever version it is shown by.
    assert!(rig.log("c").contains(" F 67108864\n"), "{}", rig.log("c"));
    assert!(rig.log("c").contains(&format!(" F {}\n", rig.shim_pid())));
    let (status, said) = rig.exec("c", "e", "echo 1 > /cgroup/memory/memory.limit_in_bytes", false).await.unwrap();
    assert_ne!(status, 0, "its cgroups can be written: {said}");
    rig.kill("c", 9).await.unwrap();
    rig.wait("c", "").await.unwrap();
    rig.delete("c", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_set_and_hold_for_execs_too() {
    let rig = Rig::new("limits").await;
    rig.bundle("c", "sleep 1000", false);
    rig.amend("c", |spec| {
        spec["linux"]["resources"]["pids"] = json!({"limit": 17});
        spec["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000});
    });
    let pid = rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap().pid;
    let layout = Layout::detect().unwrap();
    let cgroup = format!("{}/c", rig.cgroup);
    let read = |controller: &str, v1: &str, v2: &str| {
        let file = if layout.is_v2() { v2 } else { v1 };
        fs::read_to_string(layout.controller(&cgroup, controller).unwrap().join(file)).unwrap().trim().to_owned()
    };
    // Before the program starts, and with nobody but its process inside.
    assert_eq!(layout.processes(&cgroup).unwrap(), [pid]);
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(read("pids", "pids.max", "pids.max"), "17");
    if !layout.is_v2() {
        assert_eq!(read("cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(read("cpu", "cpu.shares", ""), "512");
        let devices = read("devices", "devices.list", "");
        assert!(!devices.contains("a *:* rwm") && devices.contains("c 1:3 rwm"), "{devices}");
        for folder in layout.folders(&cgroup).unwrap() {
            assert_eq!(fs::read_to_string(folder.join("cgroup.procs")).unwrap(), format!("{pid}\n"), "{folder:?}");
        }
    }
    rig.start("c", "").await.unwrap();
    let (status, _) = rig.exec("c", "e", "exec dd if=/dev/zero of=/dev/null bs=200M count=1", false).await.unwrap();
    assert_eq!(status, 137, "an exec is not limited");
    rig.kill("c", 9).await.unwrap();
    rig.wait("c", "").await.unwrap();
    rig.delete("c", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_cannot_be_set_is_an_error_and_leaves_nothing() {
    let rig = Rig::new("limit").await;
    rig.bundle("c", "sleep 1000", false);
    rig.amend("c", |spec| spec["linux"]["resources"]["cpu"] = json!({"cpus": "100000"}));
    rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap_err();
    assert_eq!(kind(rig.state("c").await.unwrap_err()), Kind::NotFound);
    let layout = Layout::detect().unwrap();
    assert!(layout.folders(&format!("{}/c", rig.cgroup)).unwrap().iter().all(|folder| !folder.exists()));
    rig.run("c", "exit 0").await;
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_runtime_names_its_cause() {
    let rig = Rig::new("cause").await;
    rig.bundle("c", "true", false);
    rig.amend("c", |spec| {
        let mount = json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    let error = rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/source") && error.contains("No such file"), "{error}");
    assert!(error.len() < 2000, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_with_hooks_is_made_with_them() {
    let rig = Rig::new("hooks").await;
    let said = rig.dir.join("said");
    rig.bundle("c", "exit 3", false);
    rig.amend("c", |spec| {
        let hook = |word: &str| {
            let line = format!("cat > /dev/null; echo {word} >> {}", said.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", line]}])
        };
        spec["hooks"] = json!({"createRuntime": hook("made"), "poststart": hook("started"), "poststop": hook("gone")});
    });
    rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap();
    rig.start("c", "").await.unwrap();
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 3);
    rig.delete("c", "").await.unwrap();
    assert_eq!(fs::read_to_string(&said).unwrap(), "made\nstarted\ngone\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_of_the_host_come_into_a_container_that_asks() {
    let rig = Rig::new("propagation").await;
    let shared = rig.dir.join("shared");
    fs::create_dir_all(shared.join("later")).unwrap();
    let bind = windlass_model::Mount {
        kind: "bind".into(),
        source: shared.display().to_string(),
        options: vec!["bind".into()],
        ..Default::default()
    };
    windlass_sys::mount::mount_all(&[bind], &shared).unwrap();
    let change = rustix::mount::MountPropagationFlags::SHARED;
    rustix::mount::mount_change(&shared, change).unwrap();
    rig.bundle("c", "until ls /shared/later | cat; [ -e /shared/later/file ]; do sleep 0.01; done; exit 8", false);
    rig.amend("c", |spec| {
        let mount = json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind", "rslave"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap();
    rig.start("c", "").await.unwrap();
    let later = shared.join("later");
    let tmpfs = windlass_model::Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..Default::default() };
    windlass_sys::mount::mount_all(&[tmpfs], &later).unwrap();
    fs::write(later.join("file"), "").unwrap();
    let exit = rig.wait("c", "").await;
    windlass_sys::mount::unmount(&later).unwrap();
    windlass_sys::mount::unmount(&shared).unwrap();
    assert_eq!(exit.unwrap().exit_status, 8);
    rig.delete("c", "").await.unwrap();
}
