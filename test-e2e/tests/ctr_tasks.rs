//! Tasks as the real `ctr` asks for them: their verbs, where their output goes, what survives the daemon, other shims and
//! runtimes, and the restart monitor.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::{DeleteProcessRequest, DeleteResponse};
use windlass_test_e2e::tasks::Bench;
use windlass_test_e2e::{Context, Result, edge, ensure, eventually, kernel};

#[tokio::test(flavor = "multi_thread")]
async fn ctrs_verbs_work() -> Result<()> {
    let Some(bench) = Bench::start().await? else { return Ok(()) };
    let run = ["run", "--rm", "--rootfs", &bench.rootfs, "a", "/bin/sh", "-c", "echo out; echo err >&2; exit 3"];
    let output = bench.output(&run)?;
    ensure!(output.status.code() == Some(3) && output.stdout == b"out\n" && output.stderr == b"err\n", "{output:?}");
    bench.begin("b", &[], "exec sleep 1000")?;
    let pid = bench.until("b", "RUNNING").await?;
    let exec = bench.output(&["tasks", "exec", "--exec-id", "e", "b", "/bin/sh", "-c", "echo in; exit 4"])?;
    ensure!(exec.status.code() == Some(4) && exec.stdout == b"in\n", "{exec:?}");
    ensure!(bench.run(&["tasks", "ps", "b"])?.contains(&pid));
    let metrics = bench.run(&["tasks", "metrics", "b"])?;
    ensure!(metrics.contains("pids.current"), "{metrics}");
    bench.run(&["tasks", "pause", "b"])?;
    bench.until("b", "PAUSED").await?;
    bench.run(&["tasks", "resume", "b"])?;
    bench.until("b", "RUNNING").await?;
    let refused = bench.refused(&["tasks", "exec", "--exec-id", "windlass-exec-x", "b", "/bin/true"])?;
    ensure!(refused.contains("do not begin with"), "{refused}");
    let refused = bench.refused(&["tasks", "start", "nothing"])?;
    ensure!(refused.contains("not found"), "{refused}");
    bench.end("b").await?;
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_to_files_and_logging_programs_also_without_the_daemon() -> Result<()> {
    let Some(mut bench) = Bench::start().await? else { return Ok(()) };
    let (file, said) = (bench.node.dir().join("logs/deep/file.log"), bench.node.dir().join("said"));
    let uri = format!("file://{}", file.display());
    bench.begin("file", &["--log-uri", &uri], "echo out; echo err >&2")?;
    bench.until("file", "STOPPED").await?;
    let text = fs::read_to_string(&file)?;
    ensure!(text == "out\nerr\n", "{text}");
    bench.remove("file")?;
    let logger = bench.node.dir().join("logger");
    let script = "#!/bin/sh\nexec >> \"$2\"\necho $CONTAINER_NAMESPACE $CONTAINER_ID\nexec 5>&-\n\
                  /bin/sed s/^/out:/ <&3 &\n/bin/sed s/^/err:/ <&4\nwait\n";
    edge::write_executable(&logger, script)?;
    let uri = format!("binary://{}?to={}", logger.display(), said.display());
    bench.begin("logged", &["--log-uri", &uri], "echo one; sleep 2; echo two; echo three >&2; exit 7")?;
    bench.node.daemon.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    bench.node.resume().await?;
    bench.until("logged", "STOPPED").await?;
    let told = bench.remove("logged")?;
    ensure!(told.contains("exit code 7"), "{told}");
    let text = fs::read_to_string(&said)?;
    let (first, rest) = text.split_once('\n').context("the logger's first line")?;
    // Each sed writes when its input ends, so either may come first.
    let (out, err) = ("out:one\nout:two\n", "err:three\n");
    ensure!(
        first == format!("{} logged", bench.namespace)
            && [format!("{out}{err}"), format!("{err}{out}")].contains(&rest.into()),
        "{text}"
    );
    let refused =
        bench.refused(&["run", "-d", "--log-uri", "binary:///no/such", "--rootfs", &bench.rootfs, "x", "/bin/true"])?;
    ensure!(refused.contains("logging program"), "{refused}");
    bench.node.finish().await
}

/// Runs, is entered, lives on without the daemon, and ends with its status known.
async fn lives_on(bench: &mut Bench, flags: &[&str]) -> Result<()> {
    bench.begin("lasting", flags, "sleep 1000")?;
    bench.begin("passing", flags, "sleep 2; exit 6")?;
    let pid = bench.until("lasting", "RUNNING").await?;
    bench.node.daemon.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    bench.node.resume().await?;
    ensure!(bench.until("lasting", "RUNNING").await? == pid);
    bench.until("passing", "STOPPED").await?;
    let told = bench.remove("passing")?;
    ensure!(told.contains("exit code 6"), "{told}");
    let exec = bench.output(&["tasks", "exec", "--exec-id", "e", "lasting", "/bin/sh", "-c", "echo in; exit 4"])?;
    ensure!(exec.status.code() == Some(4) && exec.stdout == b"in\n", "{exec:?}");
    bench.end("lasting").await
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_outlive_the_daemon() -> Result<()> {
    let Some(mut bench) = Bench::start().await? else { return Ok(()) };
    lives_on(&mut bench, &[]).await?;
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_by_path_keeps_its_state_where_the_client_wants() -> Result<()> {
    let Some(mut bench) = Bench::start().await? else { return Ok(()) };
    let root: PathBuf = bench.node.dir().join("runc");
    let flags = ["--runc-binary", "/usr/sbin/runc", "--runc-root", &root.to_string_lossy()].map(str::to_owned);
    lives_on(&mut bench, &flags.each_ref().map(String::as_str)).await?;
    ensure!(fs::read_dir(root.join(&bench.namespace))?.next().is_none(), "runc was asked and has forgotten");
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_own_shim_is_a_runtime_by_path() -> Result<()> {
    let Some(mut bench) = Bench::start().await? else { return Ok(()) };
    lives_on(&mut bench, &["--runtime", "/usr/bin/containerd-shim-runc-v2"]).await?;
    let missing = bench.refused(&[
        "run",
        "-d",
        "--runtime",
        "io.containerd.none.v9",
        "--rootfs",
        &bench.rootfs,
        "x",
        "/bin/true",
    ])?;
    ensure!(missing.contains("containerd-shim-none-v9"), "{missing}");
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restart_monitor_heeds_labels() -> Result<()> {
    let Some(bench) = Bench::start().await? else { return Ok(()) };
    bench.begin("kept", &["--label", "containerd.io/restart.status=running"], "exec sleep 1000")?;
    bench.begin("free", &[], "exit 1")?;
    let first = bench.until("kept", "RUNNING").await?;
    bench.run(&["tasks", "kill", "-s", "SIGKILL", "kept"])?;
    eventually("it runs again", Duration::from_secs(40), async || {
        bench.state("kept").ok().flatten().filter(|(pid, state)| *pid != first && state == "RUNNING").map(drop)
    })
    .await?;
    let labels = bench.run(&["containers", "info", "kept"])?;
    ensure!(labels.contains("\"containerd.io/restart.count\": \"1\""), "{labels}");
    bench.run(&["containers", "label", "kept", "containerd.io/restart.status=stopped"])?;
    eventually("it is stopped", Duration::from_secs(40), async || {
        bench.state("kept").ok()?.is_none_or(|(_, state)| state == "STOPPED").then_some(())
    })
    .await?;
    ensure!(bench.state("free")?.is_some_and(|(_, state)| state == "STOPPED"));
    bench.remove("kept")?;
    bench.remove("free")?;
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logging_program_that_does_not_end_is_ended() -> Result<()> {
    let Some(bench) = Bench::start().await? else { return Ok(()) };
    let logger = bench.node.dir().join("deaf");
    // It reads nothing, hears nothing, and has a child that is no better.
    let script = "#!/bin/sh\ntrap '' TERM\nexec 5>&-\nwhile :; do /bin/sleep 1; done\n";
    edge::write_executable(&logger, script)?;
    let uri = format!("binary://{}", logger.display());
    let path = logger.to_string_lossy().into_owned();
    let running = || kernel::processes_of(&path).len();
    bench.begin("c", &[], "exec sleep 1000")?;
    let exec = |id: &str, script: &str| {
        bench.run(&["tasks", "exec", "--detach", "--log-uri", &uri, "--exec-id", id, "c", "/bin/sh", "-c", script])
    };
    exec("short", "echo x")?;
    ensure!(running() == 1);
    let tenant = bench.tenant().await?;
    let request = DeleteProcessRequest { container_id: "c".into(), exec_id: "short".into() };
    eventually("the exec is deleted", Duration::from_secs(10), async || {
        tenant.ask::<DeleteResponse>("tasks.v1.Tasks", "DeleteProcess", &request).await.ok()
    })
    .await?;
    eventually("its logger is ended", Duration::from_secs(20), async || (running() == 0).then_some(())).await?;
    // One that goes with its container.
    exec("long", "exec sleep 1000")?;
    ensure!(running() == 1);
    bench.end("c").await?;
    ensure!(running() == 0, "a logger outlives its container");
    bench.node.finish().await
}
