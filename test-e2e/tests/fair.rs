//! A tenant's flood and the CRI: calls of the kubelet stay quick, and the flood is served or refused, not the daemon broken.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use windlass_test_e2e::flood::Flood;
use windlass_test_e2e::{Node, cri, number, patient};

/// How long each of some calls of the CRI takes: a container made, looked at, and removed.
async fn calls(node: &Node, image: &str, rounds: usize) -> Result<Vec<Duration>> {
    let config = node.host_pod("fair");
    let pod = node.cri.run_pod(&config).await?;
    let mut took = Vec::new();
    for round in 0..rounds {
        let name = format!("c{round}");
        let begin = Instant::now();
        let id = node.cri.create(&pod, &cri::container(&name, image, &["true"]), &config).await?;
        node.cri.container_status(&id).await?;
        node.cri.remove(&id).await?;
        took.push(begin.elapsed());
    }
    node.cri.stop_pod(&pod).await?;
    node.cri.remove_pod(&pod).await?;
    took.sort();
    Ok(took)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_flood_does_not_starve_the_cri() -> Result<()> {
    let mut node = Node::start().await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let image = node.busybox().await?;
    let quiet = calls(&node, &image, 60).await?;
    let flood =
        Flood::begin(&node.setup.socket, "flood", (number("FLOOD_WRITERS", 32), number("FLOOD_PUBLISHERS", 32)), 1000)
            .await?;
    // Each event is work for each listener, so there is an end to them.
    ensure!((1..1000).contains(&flood.streams), "{} of 1000 listeners were taken", flood.streams);
    let loud = calls(&node, &image, 60).await?;
    let done = flood.end().await;
    for (what, took) in [("quiet", &quiet), ("in the flood", &loud)] {
        println!("{what}: p50 {:?}, p95 {:?}", percentile(took, 50), percentile(took, 95));
    }
    println!("{done:?}");
    ensure!(done.writes > 100, "the flood is not served at all: {done:?}");
    // Both share two processors with the flood's own client, so this says only that nobody waits for the whole queue.
    let limit = percentile(&quiet, 95) * 10 + patient(Duration::from_millis(500));
    ensure!(percentile(&loud, 95) < limit, "{:?} instead of {:?}", percentile(&loud, 95), percentile(&quiet, 95));
    node.cri.remove_everything().await?;
    node.mark().await;
    node.finish().await
}
