//! How containers are stopped: with which signal, how long they have, what a second call changes, and what a frozen one does.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::newer::{self, Bytes, RUNTIME, joined};
use windlass_test_e2e::words::{ContainerStatusRequest, CreateContainerRequest, CreateContainerResponse};
use windlass_test_e2e::{Node, code, cri, eventually};

/// Numbers of the CRI's enum `Signal`.
const SIGUSR1: i32 = 29;
const SIGTERM: i32 = 23;
const SIGRTMIN_PLUS_3: i32 = 38;

/// A script that ends with a code of its own for each of some signals.
const SCRIPT: &str =
    "trap 'exit 10' USR1; trap 'exit 15' TERM; trap 'exit 37' 37; echo ready; while true; do sleep 0.05; done";

/// Creates a container with a stop signal and starts it; waits until its traps are set.
async fn with_signal(node: &Node, pod: &str, name: &str, image: &str, signal: i32) -> Result<String> {
    let config = node.pod(pod);
    let sandbox = node.cri.run_pod(&config).await?;
    let older = CreateContainerRequest {
        pod_sandbox_id: sandbox,
        config: Some(cri::container(name, image, &["sh", "-c", SCRIPT])),
        sandbox_config: Some(config),
    };
    let newer = newer::CreateContainerRequest {
        config: Some(newer::ContainerConfig { stop_signal: signal, ..Default::default() }),
    };
    let answer = node.cri.newer().call(RUNTIME, "CreateContainer", joined(&older, &newer)).await?;
    let id = answer.read::<CreateContainerResponse>()?.container_id;
    node.cri.start(&id).await?;
    ready(node, pod, name).await?;
    Ok(id)
}

async fn ready(node: &Node, pod: &str, name: &str) -> Result<()> {
    let log = format!("{name}.log");
    eventually("the traps", Duration::from_secs(20), async || {
        node.raw_log(pod, &log).iter().any(|line| line.ends_with(" F ready")).then_some(())
    })
    .await
}

async fn told_signal(node: &Node, id: &str) -> Result<i32> {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    let answer = node.cri.newer().call(RUNTIME, "ContainerStatus", Bytes::of(&request)).await?;
    Ok(answer.read::<newer::ContainerStatusResponse>()?.status.context("no status")?.stop_signal)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_stopped_with_the_signal_that_was_asked_for() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    for (pod, signal, told, exit) in
        [("usr1", SIGUSR1, SIGUSR1, 10), ("rt", SIGRTMIN_PLUS_3, SIGRTMIN_PLUS_3, 37), ("default", 0, SIGTERM, 15)]
    {
        let id = with_signal(&node, pod, "main", &image, signal).await?;
        ensure!(told_signal(&node, &id).await? == told, "{pod}: {}", told_signal(&node, &id).await?);
        node.cri.stop(&id, 30).await?;
        let status = node.cri.container_status(&id).await?;
        ensure!(status.exit_code == exit, "{pod}: {status:?}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_time_at_all_kills_at_once() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let id = with_signal(&node, "now", "main", &image, SIGTERM).await?;
    node.cri.stop(&id, 0).await?;
    let status = node.cri.container_status(&id).await?;
    ensure!(status.exit_code == 137, "its trap was run: {status:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_with_less_time_ends_the_first_ones_wait() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let script = "trap '' TERM; echo ready; while true; do sleep 0.05; done";
    let pod = node.run(node.pod("twice"), &image, &["sh", "-c", script]).await?;
    ready(&node, "twice", "main").await?;
    let (client, id) = (node.cri.clone(), pod.container.clone());
    let first = tokio::spawn(async move { client.stop(&id, 3600).await });
    node.cri.stop(&pod.container, 1).await?;
    // An hour has not passed.
    tokio::time::timeout(Duration::from_secs(60), first).await???;
    ensure!(node.cri.container_status(&pod.container).await?.exit_code == 137);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_container_is_stopped_too() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("frozen"), &image, &["sleep", "1000"]).await?;
    let switch = switch(&node, &pod.container).await?;
    let (frozen, file) = if switch.ends_with("freezer.state") { ("FROZEN", &switch) } else { ("1", &switch) };
    fs::write(file, frozen).with_context(|| format!("write {}", file.display()))?;
    node.cri.stop(&pod.container, 1).await?;
    // The kernel notes the first deadly signal, and that may be the one that waited while it was frozen.
    let code = node.cri.container_status(&pod.container).await?.exit_code;
    ensure!(code == 137 || code == 143, "{code}");
    node.finish().await
}

/// The file that freezes a container.
async fn switch(node: &Node, id: &str) -> Result<PathBuf> {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
    let info = node.cri.runtime().container_status(tonic::Request::new(request)).await?.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info")?)?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", info["pid"]))?;
    let find = |wanted: &str| {
        groups.lines().find_map(|line| line.split_once(':')?.1.split_once(':').filter(|(names, _)| *names == wanted))
    };
    if let Some((_, path)) = find("freezer") {
        return Ok(PathBuf::from(format!("/sys/fs/cgroup/freezer{path}/freezer.state")));
    }
    let (_, path) = find("").context("no cgroup")?;
    Ok(PathBuf::from(format!("/sys/fs/cgroup{path}/cgroup.freeze")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_reopened_only_while_the_container_runs() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("log"), &image, &["sleep", "1000"]).await?;
    node.cri.reopen_log(&pod.container).await?;
    node.cri.stop(&pod.container, 0).await?;
    ensure!(code(&node.cri.reopen_log(&pod.container).await) == Code::FailedPrecondition);
    ensure!(code(&node.cri.reopen_log("unknown").await) == Code::NotFound);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_is_cut_where_the_configuration_says() -> Result<()> {
    let more_config = String::new();
    let mut node = Node::start_with(windlass_test_e2e::Plan { more_config, ..Default::default() }).await?;
    if node.is_reference() {
        return node.finish().await;
    }
    // The key belongs to [cri], which the harness has written already.
    let text = fs::read_to_string(&node.setup.config)?;
    fs::write(&node.setup.config, text.replacen("[cri]\n", "[cri]\nmax_container_log_line_size = 10\n", 1))?;
    node.restart().await?;
    let image = node.busybox().await?;
    node.run(node.pod("cut"), &image, &["sh", "-c", "echo 0123456789abcdefghijKLM; sleep 1000"]).await?;
    let expected = ["P 0123456789", "P abcdefghij", "F KLM"];
    eventually("three entries", Duration::from_secs(20), async || {
        (node.raw_log("cut", "main.log").len() >= 3).then_some(())
    })
    .await?;
    let log = node.raw_log("cut", "main.log");
    for (line, expected) in log.iter().zip(expected) {
        ensure!(line.ends_with(expected), "{log:?}");
    }
    node.finish().await
}
