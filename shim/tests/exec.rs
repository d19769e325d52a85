//! Execs of the built-in runtime: they are under all that their container is under, and get what their OCI process says.

#![allow(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

mod rig;

use std::os::fd::AsRawFd;

use rig::Rig;
use serde_json::{Value, json};
use windlass_model::Kind;
use windlass_wire::{convert, ttrpc};

/// Prints what the kernel says about the shell itself.
const STATUS: &str = "while read name value; do echo $name $value; done < /proc/self/status";
/// Bits that make new namespaces, in the flags of `clone`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

fn refused(error: ttrpc::Error) -> (Kind, String) {
    let error = convert::from_error(error);
    (error.kind(), error.to_string())
}

/// The values of `names` in a `/proc/<pid>/status`.
fn values<'a>(status: &'a str, names: &[&str]) -> Vec<&'a str> {
    let value = |name: &&str| status.lines().find_map(|line| line.trim_end().strip_prefix(*name)).unwrap_or("?").trim();
    names.iter().map(value).collect()
}

/// A process that runs `script` and differs from the rig's in the fields of `changes`.
fn process(script: &str, changes: Value) -> Value {
    let mut process = rig::process_spec(script, false);
    for (name, value) in changes.as_object().unwrap() {
        process[name] = value.clone();
    }
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seccomp_profile_holds_for_all_processes() {
    let rig = Rig::new("seccomp").await;
    rig.bundle("c", &format!("{STATUS}; busybox mkdir /tmp/a; sleep 1000"), false);
    rig.amend("c", |spec| {
        spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    });
    rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap();
    rig.start("c", "").await.unwrap();
    let mut count = 0;
    for (none, uid) in [(true, 0), (false, 0), (true, 1000), (false, 1000)] {
        count += 1;
        let script = format!("{STATUS}; busybox mkdir /tmp/b 2>&1");
        let wish = process(&script, json!({"noNewPrivileges": none, "user": {"uid": uid, "gid": uid}}));
        let (_, output) = rig.execute("c", &format!("e{count}"), &wish).await.unwrap();
        let user = format!("{uid} {uid} {uid} {uid}");
        let expected = [if none { "1" } else { "0" }, "2", &user];
        assert_eq!(values(&output, &["NoNewPrivs:", "Seccomp:", "Uid:"]), expected, "{none} {uid}: {output}");
        assert!(output.contains("Function not implemented"), "{none} {uid}: {output}");
    }
    let log = rig.log("c");
    assert!(log.contains("Seccomp: 2") && log.contains("Function not implemented"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masked_comparisons_mean_what_the_specification_says() {
    let rig = Rig::new("masked").await;
    // Whoever asks for no namespace gets no process, so nothing can be forked.
    let rules = json!([{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]);
    let script = "echo begun; (true) && echo forked";
    for (id, hooked) in [("a", false), ("b", true)] {
        rig.bundle(id, script, false);
        rig.amend(id, |spec| {
            spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
            if hooked {
                spec["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
            }
        });
        rig.task.create(rig::soon(), &rig.request(id, false)).await.unwrap();
        rig.start(id, "").await.unwrap();
        rig.wait(id, "").await.unwrap();
        let log = rig.log(id);
        assert!(log.contains("begun") && !log.contains("forked"), "{id}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_who_it_is_to_be_and_holds_what_it_is_given() {
    let rig = Rig::new("who").await;
    rig.run("c", "echo 'a:x:1000:7::/home/a:/bin/sh' > /tmp/passwd; sleep 1000").await;
    std::fs::create_dir_all(rig.dir.join("c/rootfs/etc")).unwrap();
    std::fs::write(rig.dir.join("c/rootfs/etc/passwd"), "a:x:1000:7::/home/a:/bin/sh\n").unwrap();
    let own = ["CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let wish = process(
        &format!("{STATUS}; echo home $HOME; umask; ulimit -n; cat /proc/self/oom_score_adj; ls /proc/self/fd"),
        json!({"user": {"uid": 1000, "gid": 7, "additionalGids": [8, 9], "umask": 0o027}, "oomScoreAdj": 700,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 78}],
            "capabilities": {"bounding": ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_CHOWN"], "effective": own,
                "permitted": own, "inheritable": ["CAP_NET_BIND_SERVICE"], "ambient": ["CAP_NET_BIND_SERVICE"]}}),
    );
    let (status, output) = rig.execute("c", "e1", &wish).await.unwrap();
    assert_eq!(status, 0, "{output}");
    let names = ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
    let (one, all) = ("0000000000000400", "0000000000000421");
    let expected = ["1000 1000 1000 1000", "7 7 7 7", "8 9", one, one, one, all, one];
    assert_eq!(values(&output, &names), expected, "{output}");
    // Descriptor 3 is the folder that is listed.
    assert!(output.ends_with("home /home/a\n0027\n77\n700\n0\n1\n2\n3\n"), "{output}");
    let plain = process(&format!("{STATUS}; echo home $HOME"), json!({"user": {"uid": 5, "gid": 5}}));
    let (_, output) = rig.execute("c", "e2", &plain).await.unwrap();
    assert_eq!(values(&output, &["Groups:", "CapEff:", "CapAmb:"]), ["", "0000000000000000", "0000000000000000"]);
    assert!(output.ends_with("home /\n"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_executed_is_told_with_its_cause() {
    let rig = Rig::new("cause").await;
    rig.run("c", "sleep 1000").await;
    let cases = [
        (json!({"args": ["nothing"]}), Kind::NotFound, "exec: \"nothing\": executable file not found in $PATH"),
        (json!({"args": ["/no/such"]}), Kind::NotFound, "exec: \"/no/such\": no such file or directory"),
        (json!({"args": ["/proc/version"]}), Kind::PermissionDenied, "exec: \"/proc/version\": permission denied"),
        (json!({"cwd": "/gone"}), Kind::NotFound, "go to the working directory \"/gone\""),
        (json!({"cwd": "relative"}), Kind::InvalidArgument, "cwd is not an absolute path"),
        (json!({"rlimits": [{"type": "RLIMIT_JOY", "soft": 1, "hard": 1}]}), Kind::InvalidArgument, "RLIMIT_JOY"),
        (json!({"capabilities": {"bounding": ["CAP_FLY"]}}), Kind::InvalidArgument, "CAP_FLY"),
        (
            json!({"apparmorProfile": "no-such-profile"}),
            Kind::FailedPrecondition,
            "AppArmor profile \"no-such-profile\"",
        ),
    ];
    for (number, (changes, kind, text)) in cases.into_iter().enumerate() {
        let wish = process("true", changes);
        let (told, message) = refused(rig.execute("c", &format!("e{number}"), &wish).await.unwrap_err());
        assert!(told == kind && message.contains(text), "{wish}: {told:?} {message}");
    }
    // Nothing of all that is left: the container's first process is alone.
    let (_, output) = rig.exec("c", "last", "ps", false).await.unwrap();
    assert_eq!(output.lines().count(), 3, "a header, sleep, ps: {output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_the_users_own_and_as_large_as_asked() {
    let rig = Rig::new("own-tty").await;
    rig.run("c", "sleep 1000").await;
    let mut wish = process(
        "stty size; echo talks > /dev/tty; ls -ln $(tty); id -u",
        json!({"user": {"uid": 1000, "gid": 1000}, "consoleSize": {"height": 33, "width": 101}}),
    );
    wish["terminal"] = json!(true);
    let (status, output) = rig.execute("c", "e1", &wish).await.unwrap();
    assert_eq!(status, 0, "{output}");
    assert!(output.starts_with("33 101\r\ntalks\r\n") && output.contains(" 1000 "), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_may_hold_any_bytes() {
    let rig = Rig::new("bytes").await;
    let odd = windlass_model::environment::encode("ODD", b"\xff=\x80");
    let script = "echo -n \"$ODD\" | busybox hexdump -v -e '/1 \"%02x \"'; echo; sleep 1000";
    rig.bundle("c", script, false);
    rig.amend("c", |spec| spec["process"]["env"] = json!(["PATH=/bin", odd]));
    rig.task.create(rig::soon(), &rig.request("c", false)).await.unwrap();
    rig.start("c", "").await.unwrap();
    let wish = process(script.trim_end_matches("; sleep 1000"), json!({"env": ["PATH=/bin", odd]}));
    let (_, output) = rig.execute("c", "e1", &wish).await.unwrap();
    assert_eq!(output, "ff 3d 80 \n");
    assert!(rig.log("c").contains(" stdout F ff 3d 80 \n"), "{}", rig.log("c"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_in_the_user_namespace_of_its_container() {
    let mut rig = Rig::new("users").await;
    let map = windlass_sys::idmap::IdMap::parse("0:100000:65536", "0:100000:65536").unwrap();
    let users = windlass_sys::userns::open(&map).unwrap();
    rig.namespaces
        .push(json!({"type": "user", "path": format!("/proc/{}/fd/{}", std::process::id(), users.as_raw_fd())}));
    rig.run("c", "id -u; sleep 1000").await;
    let wish = process(&format!("{STATUS}; cat /proc/self/uid_map"), json!({"user": {"uid": 12, "gid": 13}}));
    let (status, output) = rig.execute("c", "e1", &wish).await.unwrap();
    assert_eq!((status, values(&output, &["Uid:", "Gid:"])), (0, vec!["12 12 12 12", "13 13 13 13"]), "{output}");
    let map: Vec<_> = output.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(map, ["0", "100000", "65536"]);
}
