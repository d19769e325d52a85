//! Tasks as the real `ctr` asks for them: their verbs, where their output goes, what survives the daemon, other shims and
//! runtimes, and the restart monitor.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use windlass_test_e2e::ctr::Ctr;
use windlass_test_e2e::{Compression, Context, Layer, Node, Result, edge, ensure, eventually};

/// A namespace that is nobody's else.
const NS: &str = "tasks-e2e";

/// A node, its `ctr`, and a root file system with busybox; none where containerd is judged.
async fn bench() -> Result<Option<(Node, Ctr, String)>> {
    let mut node = Node::start().await?;
    if node.excused("these are stories of names that ctr gives to Windlass") {
        return Ok(None);
    }
    let rootfs = node.dir().join("rootfs");
    for folder in ["proc", "dev", "sys"] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    tar::Archive::new(Layer::busybox(Compression::None)?.tar()).unpack(&rootfs)?;
    node.mark().await;
    let ctr = Ctr::debian(&node);
    Ok(Some((node, ctr, rootfs.to_string_lossy().into_owned())))
}

/// `ctr run` of a script in the background, with more flags.
fn start(ctr: &Ctr, rootfs: &str, name: &str, flags: &[&str], script: &str) -> Result<()> {
    let mut words = vec!["run", "-d"];
    words.extend(flags);
    words.extend(["--rootfs", rootfs, name, "/bin/sh", "-c", script]);
    ctr.run(NS, &words).map(drop)
}

/// The pid and state of a task, as `ctr tasks ls` has them.
fn state(ctr: &Ctr, name: &str) -> Result<Option<(String, String)>> {
    let table = ctr.run(NS, &["tasks", "ls"])?;
    let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row[0] == name);
    Ok(row.map(|row| (row[1].to_owned(), row[2].to_owned())))
}

async fn until(ctr: &Ctr, name: &str, wanted: &str) -> Result<String> {
    let limit = Duration::from_secs(40);
    eventually(&format!("{name} is {wanted}"), limit, async || {
        state(ctr, name).ok().flatten().filter(|(_, state)| state == wanted).map(|(pid, _)| pid)
    })
    .await
}

/// Forgets an ended task and its container; gives what `ctr` says of its end.
fn remove(ctr: &Ctr, name: &str) -> Result<String> {
    let told = ctr.output(NS, &["tasks", "rm", name])?;
    ctr.run(NS, &["containers", "rm", name])?;
    Ok(String::from_utf8_lossy(&told.stderr).into_owned())
}

async fn end(ctr: &Ctr, name: &str) -> Result<()> {
    ctr.run(NS, &["tasks", "kill", "-s", "SIGKILL", name])?;
    until(ctr, name, "STOPPED").await?;
    remove(ctr, name).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrs_verbs_work() -> Result<()> {
    let Some((node, ctr, rootfs)) = bench().await? else { return Ok(()) };
    let run = ["run", "--rm", "--rootfs", &rootfs, "a", "/bin/sh", "-c", "echo out; echo err >&2; exit 3"];
    let output = ctr.output(NS, &run)?;
    ensure!(output.status.code() == Some(3) && output.stdout == b"out\n" && output.stderr == b"err\n", "{output:?}");
    start(&ctr, &rootfs, "b", &[], "exec sleep 1000")?;
    let pid = until(&ctr, "b", "RUNNING").await?;
    let exec = ctr.output(NS, &["tasks", "exec", "--exec-id", "e", "b", "/bin/sh", "-c", "echo in; exit 4"])?;
    ensure!(exec.status.code() == Some(4) && exec.stdout == b"in\n", "{exec:?}");
    ensure!(ctr.run(NS, &["tasks", "ps", "b"])?.contains(&pid));
    let metrics = ctr.run(NS, &["tasks", "metrics", "b"])?;
    ensure!(metrics.contains("pids.current"), "{metrics}");
    ctr.run(NS, &["tasks", "pause", "b"])?;
    until(&ctr, "b", "PAUSED").await?;
    ctr.run(NS, &["tasks", "resume", "b"])?;
    until(&ctr, "b", "RUNNING").await?;
    let refused = ctr.refused(NS, &["tasks", "exec", "--exec-id", "windlass-exec-x", "b", "/bin/true"])?;
    ensure!(refused.contains("do not begin with"), "{refused}");
    let refused = ctr.refused(NS, &["tasks", "start", "nothing"])?;
    ensure!(refused.contains("not found"), "{refused}");
    end(&ctr, "b").await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_to_files_and_logging_programs_also_without_the_daemon() -> Result<()> {
    let Some((mut node, ctr, rootfs)) = bench().await? else { return Ok(()) };
    let (file, said) = (node.dir().join("logs/deep/file.log"), node.dir().join("said"));
    let uri = format!("file://{}", file.display());
    start(&ctr, &rootfs, "file", &["--log-uri", &uri], "echo out; echo err >&2")?;
    until(&ctr, "file", "STOPPED").await?;
    let text = fs::read_to_string(&file)?;
    ensure!(text == "out\nerr\n", "{text}");
    remove(&ctr, "file")?;
    let logger = node.dir().join("logger");
    let script = "#!/bin/sh\nexec >> \"$2\"\necho $CONTAINER_NAMESPACE $CONTAINER_ID\nexec 5>&-\n\
                  /bin/sed s/^/out:/ <&3 &\n/bin/sed s/^/err:/ <&4\nwait\n";
    edge::write_executable(&logger, script)?;
    let uri = format!("binary://{}?to={}", logger.display(), said.display());
    start(&ctr, &rootfs, "logged", &["--log-uri", &uri], "echo one; sleep 2; echo two; echo three >&2; exit 7")?;
    node.daemon.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.resume().await?;
    until(&ctr, "logged", "STOPPED").await?;
    let told = remove(&ctr, "logged")?;
    ensure!(told.contains("exit code 7"), "{told}");
    let text = fs::read_to_string(&said)?;
    let (first, rest) = text.split_once('\n').context("the logger's first line")?;
    // Each sed writes when its input ends, so either may come first.
    let (out, err) = ("out:one\nout:two\n", "err:three\n");
    ensure!(
        first == "tasks-e2e logged" && [format!("{out}{err}"), format!("{err}{out}")].contains(&rest.into()),
        "{text}"
    );
    let refused =
        ctr.refused(NS, &["run", "-d", "--log-uri", "binary:///no/such", "--rootfs", &rootfs, "x", "/bin/true"])?;
    ensure!(refused.contains("logging program"), "{refused}");
    node.finish().await
}

/// Runs, is entered, lives on without the daemon, and ends with its status known.
async fn lives_on(node: &mut Node, ctr: &Ctr, rootfs: &str, flags: &[&str]) -> Result<()> {
    start(ctr, rootfs, "lasting", flags, "sleep 1000")?;
    start(ctr, rootfs, "passing", flags, "sleep 2; exit 6")?;
    let pid = until(ctr, "lasting", "RUNNING").await?;
    node.daemon.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.resume().await?;
    ensure!(until(ctr, "lasting", "RUNNING").await? == pid);
    until(ctr, "passing", "STOPPED").await?;
    let told = remove(ctr, "passing")?;
    ensure!(told.contains("exit code 6"), "{told}");
    let exec = ctr.output(NS, &["tasks", "exec", "--exec-id", "e", "lasting", "/bin/sh", "-c", "echo in; exit 4"])?;
    ensure!(exec.status.code() == Some(4) && exec.stdout == b"in\n", "{exec:?}");
    end(ctr, "lasting").await
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_outlive_the_daemon() -> Result<()> {
    let Some((mut node, ctr, rootfs)) = bench().await? else { return Ok(()) };
    lives_on(&mut node, &ctr, &rootfs, &[]).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_by_path_keeps_its_state_where_the_client_wants() -> Result<()> {
    let Some((mut node, ctr, rootfs)) = bench().await? else { return Ok(()) };
    let root: PathBuf = node.dir().join("runc");
    let flags = ["--runc-binary", "/usr/sbin/runc", "--runc-root", &root.to_string_lossy()].map(str::to_owned);
    lives_on(&mut node, &ctr, &rootfs, &flags.each_ref().map(String::as_str)).await?;
    ensure!(fs::read_dir(root.join(NS))?.next().is_none(), "runc was asked and has forgotten");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_own_shim_is_a_runtime_by_path() -> Result<()> {
    let Some((mut node, ctr, rootfs)) = bench().await? else { return Ok(()) };
    lives_on(&mut node, &ctr, &rootfs, &["--runtime", "/usr/bin/containerd-shim-runc-v2"]).await?;
    let missing =
        ctr.refused(NS, &["run", "-d", "--runtime", "io.containerd.none.v9", "--rootfs", &rootfs, "x", "/bin/true"])?;
    ensure!(missing.contains("containerd-shim-none-v9"), "{missing}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restart_monitor_heeds_labels() -> Result<()> {
    let Some((node, ctr, rootfs)) = bench().await? else { return Ok(()) };
    start(&ctr, &rootfs, "kept", &["--label", "containerd.io/restart.status=running"], "exec sleep 1000")?;
    start(&ctr, &rootfs, "free", &[], "exit 1")?;
    let first = until(&ctr, "kept", "RUNNING").await?;
    ctr.run(NS, &["tasks", "kill", "-s", "SIGKILL", "kept"])?;
    eventually("it runs again", Duration::from_secs(40), async || {
        state(&ctr, "kept").ok().flatten().filter(|(pid, state)| *pid != first && state == "RUNNING").map(drop)
    })
    .await?;
    let labels = ctr.run(NS, &["containers", "info", "kept"])?;
    ensure!(labels.contains("\"containerd.io/restart.count\": \"1\""), "{labels}");
    ctr.run(NS, &["containers", "label", "kept", "containerd.io/restart.status=stopped"])?;
    eventually("it is stopped", Duration::from_secs(40), async || {
        state(&ctr, "kept").ok()?.is_none_or(|(_, state)| state == "STOPPED").then_some(())
    })
    .await?;
    ensure!(state(&ctr, "free")?.is_some_and(|(_, state)| state == "STOPPED"));
    remove(&ctr, "kept")?;
    remove(&ctr, "free")?;
    node.finish().await
}
