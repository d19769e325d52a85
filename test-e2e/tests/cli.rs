//! The command line's stories: a container's life in a namespace of its own, and what every noun does with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_test_e2e::image::{Compression, Image, Layer, Recipe};
use windlass_test_e2e::{Cli, Context, Flavour, Node, Plan, Result, ensure, eventually};

/// A node with windlassd, whose command line works in a namespace of its own, and busybox pulled there. No other test's
/// containers may have its name: their cgroups are called after namespace and container.
async fn node() -> Result<(Node, Cli, String)> {
    let node = Node::start_with(Plan { flavour: Flavour::Windlass, ..Plan::default() }).await?;
    let cli = Cli::new(&node.setup.socket, &node.tag())?;
    let reference = node.registry.push("busybox", "1", &Image::busybox()?)?;
    cli.ok(&["images", "pull", &reference])?;
    Ok((node, cli, reference))
}

/// All is taken away by hand, and then the namespace, which a daemon removes only when nothing is in it.
async fn finish(node: Node, cli: &Cli) -> Result<()> {
    for task in cli.column(&["tasks", "ls"], "id")? {
        cli.ok(&["tasks", "rm", "--force", &task])?;
    }
    for container in cli.column(&["containers", "ls"], "id")? {
        cli.ok(&["containers", "rm", &container])?;
    }
    for image in cli.column(&["images", "ls"], "name")? {
        cli.ok(&["images", "rm", &image])?;
    }
    let rm = ["namespaces", "rm", cli.namespace()];
    eventually("the namespace is empty", Duration::from_secs(20), async || cli.ok(&rm).ok()).await?;
    node.finish().await
}

#[tokio::test]
async fn a_container_lives_in_the_background() -> Result<()> {
    let (node, cli, image) = node().await?;
    let log = node.dir().join("web.log");
    let uri = format!("file://{}", log.display());
    let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done";
    let started =
        cli.json(&["run", "-d", "--log-uri", &uri, "--label", "tier=front", &image, "web", "sh", "-c", script])?;
    let pid = started["pid"].as_u64().context("a pid")?;
    eventually("its log", Duration::from_secs(10), async || {
        std::fs::read_to_string(&log).ok().filter(|text| text == "up\n")
    })
    .await?;
    let tasks = cli.json(&["tasks", "ls"])?;
    ensure!(tasks[0]["id"] == "web" && tasks[0]["status"] == "running" && tasks[0]["pid"] == pid, "{tasks}");
    ensure!(cli.ok(&["tasks", "ls"])?.contains("running"), "a table for people");
    let containers = cli.json(&["containers", "ls", "labels.tier==front"])?;
    ensure!(containers[0]["id"] == "web" && containers[0]["image"] == image.as_str(), "{containers}");
    let pids = cli.json(&["tasks", "ps", "web"])?;
    ensure!(pids.as_array().is_some_and(|rows| rows.iter().any(|row| row["pid"] == pid)), "{pids}");
    let taken = cli.json(&["tasks", "metrics", "web"])?;
    ensure!(taken[0]["processes"].as_u64() > Some(0) && taken[0]["memory_bytes"].as_u64() > Some(0), "{taken}");
    cli.ok(&["tasks", "pause", "web"])?;
    ensure!(cli.json(&["tasks", "ls"])?[0]["status"] == "paused");
    cli.ok(&["tasks", "resume", "web"])?;
    // By the stop signal of an image that names none: SIGTERM.
    cli.ok(&["tasks", "kill", "web"])?;
    let waited = cli.run(&["tasks", "wait", "web"])?;
    ensure!(waited.status == 3, "{waited:?}");
    ensure!(std::fs::read_to_string(&log)? == "up\nbye\n");
    ensure!(cli.json(&["tasks", "ls"])?[0]["exit_status"] == 3);
    let gone = cli.json(&["tasks", "rm", "web"])?;
    ensure!(gone[0]["exit_status"] == 3, "{gone}");
    cli.ok(&["containers", "rm", "web"])?;
    ensure!(cli.json(&["snapshots", "ls"])?.as_array().is_some_and(|rows| rows.iter().all(|row| row["key"] != "web")));
    finish(node, &cli).await
}

#[tokio::test]
async fn its_exit_status_and_its_streams_are_ours() -> Result<()> {
    let (node, cli, image) = node().await?;
    let done = cli.run(&["run", "--rm", &image, "a", "sh", "-c", "echo out; echo err >&2; exit 42"])?;
    ensure!((done.status, &*done.stdout, &*done.stderr) == (42, "out\n", "err\n"), "{done:?}");
    ensure!(cli.json(&["containers", "ls"])? == json!([]), "--rm leaves nothing");
    let done = cli.run_with(&["run", "--rm", "-i", &image, "a", "sh", "-c", "cat; echo end"], b"one\ntwo\n")?;
    ensure!((done.status, &*done.stdout) == (0, "one\ntwo\nend\n"), "{done:?}");
    let much = cli.run(&["run", "--rm", &image, "a", "sh", "-c", "seq 1 200000"])?;
    ensure!(much.stdout.lines().count() == 200_000 && much.stdout.ends_with("200000\n"), "all of a large output");
    // What a process left behind holds open does not hold us up.
    let done = cli.run(&["run", "--rm", &image, "a", "sh", "-c", "sleep 60 & echo left"])?;
    ensure!((done.status, &*done.stdout) == (0, "left\n"), "{done:?}");
    let missing = cli.run(&["run", "--rm", &image, "a", "/no/such/program"])?;
    ensure!(missing.status == 125, "{missing:?}");
    ensure!(cli.json(&["containers", "ls"])? == json!([]), "what cannot start leaves nothing");
    ensure!(cli.run(&["run", "--rm", "no/such/image", "a"])?.status == 125);
    finish(node, &cli).await
}

#[tokio::test]
async fn signals_are_passed_on() -> Result<()> {
    let (node, cli, image) = node().await?;
    let script = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.1; done";
    // Without the guard against hanging, which would not pass a signal on.
    let guarded = cli.command(&["run", "--rm", &image, "a", "sh", "-c", script]);
    let words: Vec<_> = guarded.get_args().skip(3).map(ToOwned::to_owned).collect();
    let mut child = std::process::Command::new(&words[0])
        .args(&words[1..])
        .env("CONTAINERD_NAMESPACE", cli.namespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("its output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    ensure!(rest == "caught\n", "{rest:?}");
    ensure!(child.wait()?.code() == Some(7));
    finish(node, &cli).await
}

#[tokio::test]
async fn execs_run_beside_the_program() -> Result<()> {
    let (node, cli, image) = node().await?;
    cli.ok(&["run", "-d", "--env", "A=1", "--cwd", "/tmp", &image, "web", "sleep", "3600"])?;
    let done = cli.run(&["tasks", "exec", "-e", "B=2", "web", "sh", "-c", "echo $A$B $PWD; exit 9"])?;
    ensure!((done.status, &*done.stdout) == (9, "12 /tmp\n"), "{done:?}");
    let done = cli.run_with(&["tasks", "exec", "-i", "web", "cat"], b"through")?;
    ensure!((done.status, &*done.stdout) == (0, "through"), "{done:?}");
    let done = cli.run(&["tasks", "exec", "--user", "wally", "web", "sh", "-c", "id -u; id -G"])?;
    ensure!(done.stdout == "1000\n1000 1001\n", "{done:?}");
    let done = cli.run(&["tasks", "exec", "--user", "5:6", "--cwd", "/", "web", "sh", "-c", "id -u; id -g; pwd"])?;
    ensure!(done.stdout == "5\n6\n/\n", "{done:?}");
    ensure!(cli.run(&["tasks", "exec", "web", "/no/such/program"])?.status == 125);
    ensure!(cli.run(&["tasks", "exec", "nobody", "true"])?.status == 125);
    cli.ok(&["tasks", "exec", "-d", "--exec-id", "later", "web", "sleep", "3600"])?;
    let pids = cli.json(&["tasks", "ps", "web"])?;
    ensure!(pids.as_array().is_some_and(|rows| rows.iter().any(|row| row["exec_id"] == "later")), "{pids}");
    cli.ok(&["tasks", "kill", "--signal", "KILL", "--exec-id", "later", "web"])?;
    ensure!(cli.run(&["tasks", "wait", "--exec-id", "later", "web"])?.status == 137);
    ensure!(cli.json(&["tasks", "rm", "--exec-id", "later", "web"])?[0]["exit_status"] == 137);
    finish(node, &cli).await
}

#[tokio::test]
async fn a_terminal_is_lent_and_given_back() -> Result<()> {
    let (node, cli, image) = node().await?;
    let guarded = cli.command(&[
        "run",
        "--rm",
        "-t",
        &image,
        "a",
        "sh",
        "-c",
        "busybox stty size; busybox tty; read x; echo got $x; exit 5",
    ]);
    let words: Vec<String> =
        guarded.get_args().map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect();
    // A terminal of 40 lines and 100 columns around it, as a person's.
    let line = format!("stty rows 40 cols 100; timeout {}; echo status $?; stty -a", words.join(" "));
    let mut child = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("CONTAINERD_NAMESPACE", cli.namespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("script (Debian package bsdutils)")?;
    let mut out = BufReader::new(child.stdout.take().context("its output")?);
    let mut seen = String::new();
    while !seen.contains("/dev/pts") {
        ensure!(out.read_line(&mut seen)? > 0, "{seen:?}");
    }
    ensure!(seen.contains("40 100"), "{seen:?}");
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(b"hello\n")?;
    out.read_to_string(&mut seen)?;
    child.wait()?;
    ensure!(seen.contains("got hello") && seen.contains("status 5"), "{seen:?}");
    ensure!(seen.contains(" icanon") && seen.contains(" echo "), "the terminal is as it was: {seen:?}");
    finish(node, &cli).await
}

#[tokio::test]
async fn a_daemon_that_is_killed_takes_no_status_away() -> Result<()> {
    let (mut node, cli, image) = node().await?;
    let script = "echo before; read x; echo got $x; exit 11";
    let mut child = cli
        .command(&["run", "--rm", "-i", &image, "a", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("its output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line == "before\n", "{line:?}");
    node.restart().await?;
    child.stdin.take().context("its input")?.write_all(b"word\n")?;
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    ensure!(rest == "got word\n", "{rest:?}");
    ensure!(child.wait()?.code() == Some(11));
    finish(node, &cli).await
}

#[tokio::test]
async fn who_was_left_can_be_attached_to() -> Result<()> {
    let (node, cli, image) = node().await?;
    let script = "echo up; read x; echo got $x; exit 6";
    let guarded = cli.command(&["run", "-i", &image, "a", "sh", "-c", script]);
    let words: Vec<_> = guarded.get_args().skip(3).map(ToOwned::to_owned).collect();
    let mut first = std::process::Command::new(&words[0])
        .args(&words[1..])
        .env("CONTAINERD_NAMESPACE", cli.namespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(first.stdout.take().context("its output")?).read_line(&mut line)?;
    ensure!(line == "up\n", "{line:?}");
    first.kill()?;
    first.wait()?;
    ensure!(cli.json(&["tasks", "ls"])?[0]["status"] == "running", "it does not mind");
    let done = cli.run_with(&["tasks", "attach", "a"], b"again\n")?;
    ensure!((done.status, &*done.stdout) == (6, "got again\n"), "{done:?}");
    // The pipes of who was killed are left to whoever finds them.
    let pipes = cli.json(&["tasks", "ls"])?[0]["stdout"].as_str().context("a pipe")?.to_owned();
    std::fs::remove_dir_all(std::path::Path::new(&pipes).parent().context("a folder")?)?;
    finish(node, &cli).await
}

#[tokio::test]
async fn flags_of_run_reach_the_container() -> Result<()> {
    let (node, cli, image) = node().await?;
    let shared = node.dir().join("shared");
    std::fs::create_dir(&shared)?;
    std::fs::write(shared.join("note"), "from outside\n")?;
    let mount = format!("type=bind,src={},dst=/shared,options=rbind:ro", shared.display());
    let script = "cat /shared/note; touch /shared/x 2>/dev/null || echo read-only; id -u; hostname; cat /proc/1/cgroup | head -1; \
                  grep NoNewPrivs /proc/self/status; cat /proc/keys /proc/timer_list 2>/dev/null | wc -c";
    let words = [
        "run",
        "--rm",
        "--mount",
        &mount,
        "--user",
        "wally",
        "--hostname",
        "boxed",
        "--memory-limit",
        "64Mi",
        "--pids-limit",
        "50",
        &image,
        "a",
        "sh",
        "-c",
        script,
    ];
    let done = cli.run(&words)?;
    let lines: Vec<&str> = done.stdout.lines().collect();
    ensure!(lines[..4] == ["from outside", "read-only", "1000", "boxed"], "{done:?}");
    ensure!(lines[5..] == ["NoNewPrivs:\t1", "0"], "{done:?}");
    let host = std::fs::read_link("/proc/self/ns/net")?;
    let own = cli.ok(&["run", "--rm", &image, "a", "readlink", "/proc/self/ns/net"])?;
    ensure!(own.trim() != host.to_string_lossy(), "a network of its own");
    let shared = cli.ok(&["run", "--rm", "--net-host", &image, "a", "readlink", "/proc/self/ns/net"])?;
    ensure!(shared.trim() == host.to_string_lossy(), "the host's network");
    let all =
        cli.ok(&["run", "--rm", "--privileged", &image, "a", "sh", "-c", "grep CapEff /proc/self/status; ls /dev"])?;
    ensure!(!all.contains("CapEff:\t00000000a80425fb") && all.contains("null"), "{all:?}");
    let made = cli.ok(&["containers", "create", "--memory-limit", "64Mi", &image, "b", "sleep", "60"])?;
    ensure!(made == "b\n", "{made:?}");
    let info = cli.json(&["containers", "info", "b"])?;
    ensure!(info["spec"]["linux"]["cgroupsPath"] == format!("/{}/b", cli.namespace()), "{info}");
    let masked = info["spec"]["linux"]["maskedPaths"].as_array().context("masked paths")?;
    ensure!(masked.contains(&json!("/proc/kcore")), "{info}");
    ensure!(info["spec"]["linux"]["resources"]["memory"]["limit"] == 64 << 20, "{info}");
    cli.ok(&["containers", "label", "b", "k=v", "gone="])?;
    ensure!(cli.json(&["containers", "info", "b"])?["labels"]["k"] == "v");
    cli.ok(&["tasks", "start", "-d", "b"])?;
    cli.ok(&["tasks", "update", "--memory-limit", "32Mi", "b"])?;
    ensure!(cli.json(&["tasks", "metrics", "b"])?[0]["memory_limit_bytes"] == 32 << 20);
    ensure!(cli.fails(&["containers", "rm", "b"])?.contains("b"), "one that runs stays");
    finish(node, &cli).await
}

#[tokio::test]
async fn a_folder_can_be_the_root_file_system() -> Result<()> {
    let (node, cli, _) = node().await?;
    let root = node.dir().join("rootfs");
    for sub in ["bin", "proc", "dev", "sys", "etc"] {
        std::fs::create_dir_all(root.join(sub))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    std::fs::write(root.join("etc/passwd"), "ada:x:7:8::/:/bin/sh\n")?;
    let root = root.display().to_string();
    let done = cli.run(&["run", "--rm", "--rootfs", "--user", "ada", &root, "a", "/bin/busybox", "id", "-u"])?;
    ensure!((done.status, &*done.stdout) == (0, "7\n"), "{done:?}");
    finish(node, &cli).await
}

#[tokio::test]
async fn events_tell_a_life_in_order() -> Result<()> {
    let (node, cli, image) = node().await?;
    let mut follower = cli.command(&["--json", "events", "--follow"]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(follower.stdout.take().context("its output")?).lines();
    // Whatever comes first says that it listens.
    eventually("the follower listens", Duration::from_secs(10), async || {
        cli.ok(&["leases", "create", "--id", "l"]).ok();
        cli.ok(&["images", "tag", &image, "local/other:1"]).ok()
    })
    .await?;
    std::thread::sleep(Duration::from_millis(300));
    cli.run(&["run", "--rm", &image, "a", "sh", "-c", "exit 4"])?;
    let mut seen: Vec<Value> = Vec::new();
    while seen.last().is_none_or(|event| event["topic"] != "/containers/delete") {
        seen.push(serde_json::from_str(&lines.next().context("the follower ended")??)?);
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(follower.id())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    follower.wait()?;
    let of_tasks = |events: &[Value]| -> Vec<String> {
        let topics = events.iter().filter_map(|event| event["topic"].as_str());
        topics
            .filter(|topic| topic.starts_with("/tasks/") || topic.starts_with("/containers/"))
            .map(str::to_owned)
            .collect()
    };
    let expected =
        ["/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete"];
    ensure!(of_tasks(&seen) == expected, "{seen:#?}");
    let exit = seen.iter().find(|event| event["topic"] == "/tasks/exit").context("an exit")?;
    ensure!(exit["event"]["container_id"] == "a" && exit["event"]["exit_status"] == 4, "{exit}");
    ensure!(seen.iter().all(|event| event["namespace"] == cli.namespace()), "only of the namespace that was named");
    // The past is there for who comes late, from any number on.
    let past = |words: &[&str]| -> Result<Vec<Value>> {
        cli.ok(&[&["--json", "events"], words].concat())?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    ensure!(of_tasks(&past(&[])?) == expected);
    let since = exit["sequence"].to_string();
    ensure!(of_tasks(&past(&["--since", &since])?) == expected[4..]);
    ensure!(past(&["topic==\"/tasks/exit\""])?.len() == 1);
    cli.ok(&["leases", "rm", "l"])?;
    finish(node, &cli).await
}

#[tokio::test]
async fn images_come_and_go() -> Result<()> {
    let (node, cli, image) = node().await?;
    let registry = node.registry.host().to_owned();
    let rows = cli.json(&["images", "ls"])?;
    ensure!(rows[0]["name"] == image.as_str(), "{rows}");
    let checked = cli.json(&["images", "check"])?;
    ensure!(checked[0]["status"] == "complete" && checked[0]["unpacked"] == true, "{checked}");
    let told = cli.json(&["images", "inspect", &image])?;
    ensure!(
        told["config"]["architecture"] == "amd64" && told["manifest"]["layers"][0]["size"].as_u64() > Some(0),
        "{told}"
    );
    // Another tenant sees nothing of it.
    let other = cli.of("other");
    ensure!(other.json(&["images", "ls"])? == json!([]));
    let pushed = format!("{registry}/copy:2");
    cli.ok(&["images", "tag", &image, &pushed])?;
    cli.ok(&["images", "label", &pushed, "k=v"])?;
    cli.ok(&["images", "push", &pushed])?;
    cli.ok(&["images", "rm", &pushed])?;
    ensure!(cli.fails(&["images", "rm", &pushed])?.contains("there is no image"));
    other.ok(&["images", "pull", &pushed])?;
    ensure!(other.column(&["images", "ls"], "name")? == [pushed.as_str()]);
    ensure!(other.run(&["run", "--rm", &pushed, "a", "true"])?.status == 0);
    let archive = node.dir().join("busybox.tar").display().to_string();
    other.ok(&["images", "export", &archive, &pushed])?;
    other.ok(&["images", "rm", &pushed])?;
    let done = other.json(&["images", "import", &archive])?;
    ensure!(done["images"] == json!([pushed]), "{done}");
    ensure!(other.run(&["run", "--rm", &pushed, "a", "true"])?.status == 0, "an imported image runs");
    // Through standard output and input too.
    let piped = other.command(&["images", "export", "-", &pushed]).output()?;
    ensure!(piped.status.success() && piped.stdout == std::fs::read(&archive)?, "the same bytes each time");
    other.ok(&["images", "rm", &pushed])?;
    let done = other.run_with(&["images", "import", "-"], &piped.stdout)?;
    ensure!(done.status == 0 && done.stdout.contains(&pushed), "{done:?}");
    let cut = other.run_with(&["images", "import", "-"], &piped.stdout[..piped.stdout.len() / 2])?;
    ensure!(cut.status == 1, "half an archive: {cut:?}");
    ensure!(cli.fails(&["images", "pull", &format!("{registry}/nothing:1")])?.contains("nothing"));
    other.ok(&["images", "rm", &pushed])?;
    eventually("the other namespace is empty", Duration::from_secs(20), async || {
        other.ok(&["namespaces", "rm", "other"]).ok()
    })
    .await?;
    finish(node, &cli).await
}

#[tokio::test]
async fn blobs_leases_and_namespaces_are_kept_by_hand() -> Result<()> {
    let (node, cli, image) = node().await?;
    let lease = cli.ok(&["leases", "create", "--expires", "1h", "who=test"])?;
    let lease = lease.trim();
    ensure!(cli.json(&["leases", "ls"])?[0]["labels"]["who"] == "test");
    let done = cli.run_with(
        &["content", "ingest", "--label", "k=v", "--label", "containerd.io/gc.root=now", "mine"],
        b"some bytes",
    )?;
    let digest = done.stdout.trim().to_owned();
    ensure!(done.status == 0 && digest.starts_with("sha256:"), "{done:?}");
    ensure!(cli.ok(&["content", "get", &digest])? == "some bytes");
    ensure!(cli.json(&["content", "info", &digest])?["size"] == 10);
    cli.ok(&["content", "label", &digest, "k="])?;
    ensure!(cli.json(&["content", "info", &digest])?["labels"].get("k").is_none());
    let again = cli.run_with(
        &["content", "ingest", "--expected-digest", &digest, "--expected-size", "10", "again"],
        b"some bytes",
    )?;
    ensure!(again.status == 0, "{again:?}");
    let wrong =
        cli.run_with(&["content", "ingest", "--expected-digest", &digest, "wrong"], b"other bytes, of course")?;
    ensure!(wrong.status == 0 || wrong.stderr.contains("digest"), "{wrong:?}");
    cli.ok(&["leases", "add", lease, "content", &digest])?;
    let held = cli.json(&["leases", "resources", lease])?;
    ensure!(held[0]["id"] == digest.as_str(), "{held}");
    cli.ok(&["leases", "drop", lease, "content", &digest])?;
    ensure!(cli.json(&["leases", "resources", lease])? == json!([]));
    cli.ok(&["leases", "rm", lease])?;
    cli.ok(&["content", "rm", &digest])?;
    ensure!(cli.fails(&["content", "get", &digest])?.contains("NotFound"));
    ensure!(cli.json(&["content", "active"])? == json!([]));
    let blobs = cli.column(&["content", "ls"], "digest")?;
    ensure!(!blobs.is_empty(), "those of {image}");
    cli.ok(&["namespaces", "create", "foo", "a=b"])?;
    cli.ok(&["namespaces", "label", "foo", "c=d"])?;
    let rows = cli.json(&["namespaces", "ls"])?;
    let foo = rows.as_array().into_iter().flatten().find(|row| row["name"] == "foo").context("foo")?;
    ensure!(foo["labels"] == json!({ "a": "b", "c": "d" }), "{foo}");
    cli.ok(&["namespaces", "rm", "foo"])?;
    ensure!(
        cli.fails(&["namespaces", "rm", cli.namespace()])?.contains("FailedPrecondition"),
        "one that holds an image stays"
    );
    ensure!(cli.ok(&["plugins", "ls"])?.contains("io.containerd.snapshotter.v1"));
    finish(node, &cli).await
}

#[tokio::test]
async fn snapshots_are_made_compared_and_committed() -> Result<()> {
    let (node, cli, image) = node().await?;
    let layered = Recipe::new()
        .layer(Layer::busybox(Compression::Gzip)?)
        .layer(Layer::of_file(Compression::Zstd, "top", b"of the pile\n")?)
        .build()?;
    let layered = node.registry.push("layered", "1", &layered)?;
    cli.ok(&["content", "fetch", &layered])?;
    ensure!(cli.json(&["images", "check", &layered])?[0]["unpacked"] == false);
    let top = cli.ok(&["snapshots", "unpack", &layered])?;
    let top = top.trim();
    ensure!(cli.json(&["images", "check", &layered])?[0]["unpacked"] == true);
    ensure!(cli.ok(&["run", "--rm", &layered, "a", "cat", "/top"])? == "of the pile\n");
    let tree = cli.ok(&["snapshots", "tree"])?;
    ensure!(tree.contains(&format!("  {top}")), "{tree}");
    let mounts = cli.json(&["snapshots", "prepare", "work", top])?;
    ensure!(mounts.as_array().is_some_and(|rows| !rows.is_empty()), "{mounts}");
    ensure!(cli.ok(&["snapshots", "mounts", "--target", "/mnt", "work"])?.starts_with("mount -t "));
    ensure!(cli.json(&["snapshots", "info", "work"])?["kind"] == "active");
    // A container writes, and what it has written becomes a layer of another.
    cli.ok(&["run", &layered, "writer", "sh", "-c", "echo new > /made; rm /top"])?;
    let layer = cli.ok(&["diff", "create", "writer"])?;
    let layer = layer.trim();
    ensure!(cli.json(&["content", "info", layer])?["size"].as_u64() > Some(0));
    cli.ok(&["diff", "apply", layer, "work"])?;
    ensure!(cli.json(&["snapshots", "usage", "work"])?[0]["inodes"].as_u64() > Some(0));
    cli.ok(&["snapshots", "commit", "work", "done"])?;
    cli.ok(&["snapshots", "label", "done", "k=v"])?;
    ensure!(cli.json(&["snapshots", "info", "done"])?["labels"]["k"] == "v");
    cli.ok(&["snapshots", "view", "look", "done"])?;
    ensure!(cli.fails(&["snapshots", "rm", "done"])?.contains("FailedPrecondition"), "it is a parent");
    cli.ok(&["snapshots", "rm", "look", "done"])?;
    cli.ok(&["content", "rm", layer])?;
    ensure!(!image.is_empty());
    finish(node, &cli).await
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_line() -> Result<()> {
    let (node, cli, image) = node().await?;
    let cases: [(&[&str], i32, &str); 10] = [
        (&["tasks", "kill", "nobody"], 1, "nobody"),
        (&["tasks", "attach", "nobody"], 125, "nobody"),
        (&["containers", "info", "nobody"], 1, "NotFound"),
        (&["images", "inspect", "UPPER"], 1, "there is no image"),
        (&["run", &image, "../bad"], 125, "identifier"),
        (&["run", "--cap-add", "NONSENSE", &image, "a"], 125, "capability"),
        (&["run", "--user", "stranger", &image, "a"], 125, "stranger"),
        (&["run", "--mount", "src=/a", &image, "a"], 2, "dst"),
        (&["content", "get", "sha256:1"], 1, "digest"),
        (&["events", "topic=="], 1, "InvalidArgument"),
    ];
    for (words, status, why) in cases {
        let done = cli.run(words)?;
        ensure!(done.status == status && done.stderr.contains(why), "{words:?}: {done:?}");
    }
    ensure!(
        cli.json(&["containers", "ls"])? == json!([]) && cli.json(&["leases", "ls"])? == json!([]),
        "nothing stays"
    );
    finish(node, &cli).await
}
