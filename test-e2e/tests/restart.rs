//! The daemon is killed while pods run and log; nothing is lost, and the new daemon knows what happened meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::words::{ContainerState, PodSandboxState};
use windlass_test_e2e::{Node, code, eventually, number};

/// Writes numbered lines in parts, so that a line may be torn where the writer is cut off.
const LOGGER: &str = "n=0; while [ ! -e /stop ]; do n=$((n+1)); printf 'line '; echo $n; usleep 5000; done";

fn check_lines(lines: &[String]) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        let mut words = line.splitn(4, ' ');
        let (Some(_), Some("stdout"), Some(flag), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            anyhow::bail!("torn: {line:?}");
        };
        text.push_str(rest);
        if flag == "F" {
            text.push('\n');
        }
    }
    for (at, line) in text.lines().enumerate() {
        ensure!(line == format!("line {}", at + 1), "line {} reads {line:?}", at + 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_pods_survive_the_daemon() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let count = number("WINDLASS_E2E_PODS", 30);
    let mut pods = Vec::new();
    for n in 0..count {
        let name = format!("p{n}");
        let config = if n % 3 == 0 { node.pod(&name) } else { node.host_pod(&name) };
        // The first three end by themselves, each with a code of its own, once the file is there.
        let script = if n < 3 {
            format!("echo line 1; while [ ! -e /tmp/end ]; do usleep 5000; done; exit {}", n + 10)
        } else {
            LOGGER.to_owned()
        };
        pods.push(node.run(config, &image, &["sh", "-c", &script]).await?);
    }
    for pod in &pods[..3] {
        node.cri.output(&pod.container, &["sh", "-c", "(sleep 2; touch /tmp/end) > /dev/null 2>&1 &"]).await?;
    }
    let before: Vec<_> =
        futures::future::try_join_all(pods.iter().map(|pod| node.cri.container_status(&pod.container))).await?;
    let lengths =
        |node: &Node| -> Vec<usize> { (0..count).map(|n| node.raw_log(&format!("p{n}"), "main.log").len()).collect() };
    eventually("the first lines", Duration::from_secs(10), async || {
        lengths(&node).iter().all(|length| *length > 0).then_some(())
    })
    .await?;

    node.daemon.kill();
    let killed_at = now();
    let at_kill = lengths(&node);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let while_away = lengths(&node);
    for n in 3..count {
        ensure!(
            node.is_reference() || while_away[n] > at_kill[n] + 20,
            "pod {n} wrote {} lines while the daemon was away",
            while_away[n] - at_kill[n]
        );
    }
    let restarted_at = now();
    node.resume().await?;
    println!("first answer with {count} pods: {:?}", node.daemon.first_answer);

    let listed: HashMap<_, _> = node.cri.pods(None).await?.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
    let containers: HashMap<_, _> =
        node.cri.containers(None).await?.into_iter().map(|one| (one.id.clone(), one)).collect();
    ensure!(
        listed.len() == count && containers.len() == count,
        "{} pods, {} containers",
        listed.len(),
        containers.len()
    );
    for (n, pod) in pods.iter().enumerate() {
        let sandbox = listed.get(&pod.id).with_context(|| format!("pod {n} is not listed"))?;
        ensure!(
            sandbox.state == PodSandboxState::SandboxReady as i32 && sandbox.metadata == pod.config.metadata,
            "{sandbox:?}"
        );
        let status = node.cri.container_status(&pod.container).await?;
        ensure!(
            status.started_at == before[n].started_at && status.created_at == before[n].created_at,
            "times of pod {n}"
        );
        if n >= 3 {
            ensure!(status.state == ContainerState::ContainerRunning as i32, "pod {n}: {status:?}");
            continue;
        }
        let ended = node.exited(&pod.container).await?;
        ensure!(ended.exit_code == n as i32 + 10, "exit code of pod {n}: {ended:?}");
        ensure!(
            ended.finished_at >= killed_at - 1_000_000_000 && ended.finished_at <= restarted_at,
            "pod {n} ended at {}, away {killed_at} to {restarted_at}",
            ended.finished_at
        );
    }
    let last = &pods[count - 1];
    ensure!(node.cri.output(&last.container, &["echo", "still"]).await? == "still\n");
    for pod in &pods[3..] {
        let exec = node.cri.exec(&pod.container, &["touch", "/stop"], 10).await?;
        // The end that it brings about may overtake it: the kernel kills all that is left in a pid namespace.
        ensure!(exec.exit_code == 0 || exec.exit_code == 137, "touch ends with {}", exec.exit_code);
    }
    for pod in &pods[3..] {
        ensure!(node.exited(&pod.container).await?.exit_code == 0);
    }
    for n in 0..count {
        check_lines(&node.raw_log(&format!("p{n}"), "main.log")).with_context(|| format!("log of pod {n}"))?;
    }
    node.finish().await
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_end_leaves_pods_running() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("polite"), &image, &["sleep", "1000"]).await?;
    let begin = Instant::now();
    let status = node.daemon.terminate().await?;
    println!("SIGTERM to the end: {:?}, {status}", begin.elapsed());
    node.resume().await?;
    ensure!(node.state(&pod.container).await == Some(ContainerState::ContainerRunning));
    ensure!(node.cri.output(&pod.container, &["echo", "yes"]).await? == "yes\n");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_is_known_again() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let running = node.run(node.pod("running"), &image, &["sleep", "1000"]).await?;
    let config = node.pod("created");
    let created = node.cri.run_pod(&config).await?;
    let what = windlass_test_e2e::cri::container("main", &image, &["sleep", "1000"]);
    let waiting = node.cri.create(&created, &what, &config).await?;
    let ended = node.run(node.pod("ended"), &image, &["sh", "-c", "exit 3"]).await?;
    let finished_at = node.exited(&ended.container).await?.finished_at;
    let stopped = node.run(node.pod("stopped"), &image, &["sleep", "1000"]).await?;
    node.cri.stop_pod(&stopped.id).await?;
    let address = node.cri.pod_status(&running.id).await?.network.context("no network")?.ip;

    for _ in 0..2 {
        node.restart().await?;
        ensure!(node.state(&running.container).await == Some(ContainerState::ContainerRunning));
        ensure!(node.cri.pod_status(&running.id).await?.network.context("no network")?.ip == address);
        ensure!(node.state(&waiting).await == Some(ContainerState::ContainerCreated));
        let status = node.cri.container_status(&ended.container).await?;
        ensure!(status.exit_code == 3 && status.finished_at == finished_at, "{status:?}");
        ensure!(node.cri.pod_status(&stopped.id).await?.state == PodSandboxState::SandboxNotready as i32);
        ensure!(node.cri.image(&image).await?.is_some());
    }
    node.cri.start(&waiting).await?;
    ensure!(node.cri.output(&waiting, &["echo", "late"]).await? == "late\n");
    node.cri.stop(&running.container, 0).await?;
    ensure!(code(&node.cri.exec(&running.container, &["true"], 1).await) != Code::Ok);
    node.finish().await
}
