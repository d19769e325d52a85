//! The real dockerd over the containerd API: its verbs, and that it learns of every end, whoever was dead meanwhile.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use windlass_test_e2e::docker::Docker;
use windlass_test_e2e::{Node, Result, ensure, eventually, number};

/// Arguments that every run here begins with.
const RUN: [&str; 3] = ["run", "--network", "none"];

fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    RUN.iter().chain(more).copied().collect()
}

/// A node with a dockerd that has busybox; none where containerd is judged.
async fn docker() -> Result<Option<(Node, Docker)>> {
    let mut node = Node::start().await?;
    if node.excused("Docker on containerd needs no proof here") {
        return Ok(None);
    }
    node.mark().await;
    let docker = Docker::start(&node).await?;
    docker.import()?;
    Ok(Some((node, docker)))
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_verbs_work() -> Result<()> {
    let Some((node, docker)) = docker().await? else { return Ok(()) };
    ensure!(docker.run(&run(&["--rm", "box", "echo", "hello"]))? == "hello");
    docker.run(&run(&["-d", "--name", "one", "box", "sh", "-c", "echo out; echo err >&2; exec sleep 1000"]))?;
    let exec = docker.output(&["exec", "one", "sh", "-c", "echo inside; exit 9"])?;
    ensure!(exec.status.code() == Some(9) && exec.stdout == b"inside\n", "{exec:?}");
    let logs = docker.output(&["logs", "one"])?;
    ensure!(logs.stdout == b"out\n" && logs.stderr == b"err\n", "{logs:?}");
    ensure!(docker.run(&["ps", "--format", "{{.Names}}"])? == "one");
    ensure!(docker.run(&["top", "one"])?.contains("sleep 1000"));
    let stats = docker.run(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "one"])?;
    ensure!(stats.starts_with("1 ") && !stats.contains(" 0B /"), "{stats}");
    docker.run(&["pause", "one"])?;
    ensure!(docker.inspect("one", "{{.State.Status}}")? == "paused");
    docker.run(&["unpause", "one"])?;
    docker.run(&["update", "--memory", "32m", "--memory-swap", "32m", "one"])?;
    let before = docker.inspect("one", "{{.State.Pid}}")?;
    docker.run(&["restart", "-t", "1", "one"])?;
    let after = docker.inspect("one", "{{.State.Pid}} {{.State.Running}}")?;
    ensure!(after.ends_with("true") && !after.starts_with(&before), "{before} {after}");
    docker.run(&["stop", "-t", "1", "one"])?;
    ensure!(docker.inspect("one", "{{.State.ExitCode}}")? == "137");
    docker.run(&["start", "one"])?;
    docker.run(&["rm", "-f", "one"])?;
    ensure!(docker.run(&["ps", "-aq"])?.is_empty());
    drop(docker);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_limits_health_and_users_are_as_docker_promises() -> Result<()> {
    let Some((node, docker)) = docker().await? else { return Ok(()) };
    let mut command = docker.command(&run(&["-i", "--rm", "box", "cat"]));
    let mut cat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    cat.stdin.take().into_iter().try_for_each(|mut stdin| stdin.write_all(b"through\n"))?;
    let output = cat.wait_with_output()?;
    ensure!(output.status.success() && output.stdout == b"through\n", "{output:?}");
    let id =
        docker.run(&["run", "--rm", "--network", "host", "-u", "1000:1001", "--cpus", "0.5", "box", "id", "-u"])?;
    ensure!(id == "1000", "{id}");
    let missing = docker.output(&run(&["--rm", "box", "no-such-program"]))?;
    ensure!(missing.status.code() == Some(127), "{missing:?}");
    docker.output(&run(&["--name", "eater", "-m", "16m", "box", "tail", "/dev/zero"]))?;
    ensure!(docker.inspect("eater", "{{.State.OOMKilled}} {{.State.ExitCode}}")? == "true 137");
    docker.run(&["rm", "eater"])?;
    let health = ["-d", "--name", "well", "--health-cmd", "true", "--health-interval", "500ms", "box", "sleep", "1000"];
    docker.run(&run(&health))?;
    eventually("the container is healthy", Duration::from_secs(20), async || {
        (docker.inspect("well", "{{.State.Health.Status}}").ok()? == "healthy").then_some(())
    })
    .await?;
    docker.run(&run(&["-d", "-t", "--name", "screen", "box", "sh", "-c", "tty; exit 3"]))?;
    ensure!(docker.run(&["wait", "screen"])? == "3");
    ensure!(docker.run(&["logs", "screen"])?.starts_with("/dev/pts/"));
    docker.run(&["rm", "-f", "well", "screen"])?;
    drop(docker);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_told_also_those_while_the_daemon_was_dead() -> Result<()> {
    let Some((mut node, docker)) = docker().await? else { return Ok(()) };
    let count = number("WINDLASS_E2E_PODS", 20);
    for index in 0..count {
        // Some have ended before the daemon is killed, most end while it is dead, and some after it is back.
        let script = format!("sleep {}; exit {index}", index * 15 / count);
        docker.run(&run(&["-d", "--name", &format!("end{index}"), "box", "sh", "-c", &script]))?;
    }
    node.daemon.kill();
    tokio::time::sleep(Duration::from_secs(4)).await;
    node.resume().await?;
    for index in 0..count {
        let (name, wanted) = (format!("end{index}"), format!("exited {index}"));
        let state = eventually("the end is known", Duration::from_secs(30), async || {
            docker.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}").ok().filter(|state| *state == wanted)
        });
        if let Err(error) = state.await {
            let now = docker.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}")?;
            return Err(error.context(format!("{name} is {now}\n{}", docker.log_tail())));
        }
    }
    // It goes on as if nothing had been.
    ensure!(docker.run(&run(&["--rm", "box", "echo", "again"]))? == "again");
    for index in 0..count {
        docker.run(&["rm", &format!("end{index}")])?;
    }
    drop(docker);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_finds_its_containers_again() -> Result<()> {
    let Some((node, mut docker)) = docker().await? else { return Ok(()) };
    docker.run(&run(&["-d", "--name", "short", "box", "sh", "-c", "sleep 2; exit 5"]))?;
    let script = "i=0; while true; do i=$((i + 1)); echo line $i; sleep 0.2; done";
    docker.run(&run(&["-d", "--name", "long", "box", "sh", "-c", script]))?;
    docker.restart(Duration::from_secs(3)).await?;
    ensure!(docker.inspect("short", "{{.State.Status}} {{.State.ExitCode}}")? == "exited 5");
    ensure!(docker.inspect("long", "{{.State.Status}}")? == "running");
    let before = docker.run(&["logs", "long"])?.lines().count();
    eventually("its output goes on", Duration::from_secs(10), async || {
        (docker.run(&["logs", "long"]).ok()?.lines().count() > before + 3).then_some(())
    })
    .await?;
    ensure!(docker.run(&["exec", "long", "echo", "still here"])? == "still here");
    docker.run(&["rm", "-f", "short", "long"])?;
    drop(docker);
    node.finish().await
}
