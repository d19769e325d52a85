//! What the kubelet's questions cost: the daemon's CPU time for one minute of them.
//!
//! Each ten seconds: all pods, all containers, what they use, the runtime's condition, and the status of each container.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use windlass_test_e2e::words::{ListContainerStatsRequest, ListPodSandboxStatsRequest, StatusRequest};
use windlass_test_e2e::{Flavour, Node, kernel, number};

use crate::table::Table;

/// How often the kubelet asks.
const PERIOD: Duration = Duration::from_secs(10);
/// How often it is asked in a minute.
const ROUNDS: usize = 6;

/// One round of questions; answers how many containers and pods were told of.
async fn ask(node: &Node, table: Option<&mut Table>) -> Result<(usize, usize)> {
    let mut laps = Vec::new();
    let mut begin = Instant::now();
    let mut lap = |name: &'static str| {
        laps.push((name, begin.elapsed()));
        begin = Instant::now();
    };
    node.cri.pods(None).await.context("ListPodSandbox")?;
    lap("ListPodSandbox");
    let containers = node.cri.containers(None).await.context("ListContainers")?;
    lap("ListContainers");
    let mut runtime = node.cri.runtime();
    let stats = runtime.list_container_stats(ListContainerStatsRequest { filter: None }).await;
    let stats = stats.context("ListContainerStats")?.into_inner().stats;
    lap("ListContainerStats");
    let pods = runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter: None }).await;
    let pods = pods.context("ListPodSandboxStats")?.into_inner().stats;
    lap("ListPodSandboxStats");
    runtime.status(StatusRequest { verbose: false }).await.context("Status")?;
    lap("Status");
    for container in &containers {
        node.cri.container_status(&container.id).await.context("ContainerStatus")?;
        lap("ContainerStatus");
    }
    if let Some(table) = table {
        laps.into_iter().for_each(|(name, took)| table.time(name, crate::name(node.setup.flavour), took));
    }
    Ok((stats.len(), pods.len()))
}

/// The CPU time in milliseconds of the daemon, and of everything that works for the pods.
fn spent(node: &Node) -> (f64, f64) {
    (kernel::process_cpu_ms(node.daemon.pid()), kernel::cgroup_cpu_ms(&node.tag()))
}

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let count = number("BENCH_PODS", 50);
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let title =
        format!("{ROUNDS} rounds of the kubelet's questions in a minute, {count} pods with a network: p50 / p95");
    let mut table = Table::new(&title, &columns);
    for flavour in flavours {
        let mut node = crate::node(*flavour).await?;
        let image = node.busybox().await?;
        for n in 0..count {
            node.run(node.pod(&format!("stats-{n}")), &image, &["sleep", "100000"]).await?;
        }
        // The first round finds nothing prepared, and is not counted.
        let (containers, pods) = ask(&node, None).await?;
        println!("{}: told of {containers} containers and {pods} pods", crate::name(*flavour));
        tokio::time::sleep(PERIOD).await;
        let before = spent(&node);
        let begin = Instant::now();
        for round in 1..=ROUNDS {
            ask(&node, Some(&mut table)).await?;
            tokio::time::sleep_until(begin + PERIOD * round as u32).await;
        }
        let after = spent(&node);
        table.number("CPU of the daemon in the minute", crate::name(*flavour), after.0 - before.0, "ms");
        table.number("CPU of daemon, helpers and pods", crate::name(*flavour), after.1 - before.1, "ms");
        node.finish_measured().await?;
    }
    table.print();
    Ok(())
}
