//! A tenant's flood and the CRI: the kubelet's calls pass by what the flood has waiting, and the flood is served or refused,
//! not the daemon broken.

use anyhow::{Result, ensure};
use windlass_test_e2e::flood::{Flood, Size};
use windlass_test_e2e::{Node, cri, number};

/// How many calls of the flood were answered while each of some calls of the CRI waited for its answer.
async fn overtaken(node: &Node, image: &str, flood: &Flood, rounds: usize) -> Result<Vec<usize>> {
    let config = node.host_pod("fair");
    let pod = node.cri.run_pod(&config).await?;
    let mut counts = Vec::new();
    for round in 0..rounds {
        let container = cri::container(&format!("c{round}"), image, &["true"]);
        let mut before = flood.answered();
        let mut count = || {
            counts.push(flood.answered() - before);
            before = flood.answered();
        };
        let id = node.cri.create(&pod, &container, &config).await?;
        count();
        node.cri.container_status(&id).await?;
        count();
        node.cri.remove(&id).await?;
        count();
    }
    node.cri.stop_pod(&pod).await?;
    node.cri.remove_pod(&pod).await?;
    counts.sort_unstable();
    Ok(counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_flood_does_not_starve_the_cri() -> Result<()> {
    let mut node = Node::start().await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let image = node.busybox().await?;
    let (writers, publishers) = (number("FLOOD_WRITERS", 400), number("FLOOD_PUBLISHERS", 400));
    let size = Size { writers, publishers, streams: 1000, niceness: 0 };
    let flood = Flood::begin(&node.setup.socket, "flood", size).await?;
    // Each event is work for each listener, so there is an end to them.
    ensure!((1..1000).contains(&flood.streams), "{} of 1000 listeners were taken", flood.streams);
    // From here on each of its clients waits for an answer at any moment.
    while flood.answered() < writers + publishers {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let counts = overtaken(&node, &image, &flood, 40).await?;
    let done = flood.end().await;
    let (half, most) = (counts[counts.len() / 2], counts[counts.len() * 95 / 100]);
    println!("{done:?}; answered during a call of the CRI: p50 {half}, p95 {most}");
    ensure!(done.writes > writers + publishers, "the flood is not served at all: {done:?}");
    // In one queue for all, each call would wait for all that came before it, several times over where it writes several records.
    let queued = writers + publishers;
    ensure!(half < queued / 4 && most < queued, "p50 {half}, p95 {most} of {queued} overtook calls of the CRI");
    node.cri.remove_everything().await?;
    node.mark().await;
    node.finish().await
}
