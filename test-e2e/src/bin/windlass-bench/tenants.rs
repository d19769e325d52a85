//! What the kubelet feels of another tenant's flood: the same calls on a quiet daemon and beside many writers and streams.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use windlass_test_e2e::flood::{Flood, Size};
use windlass_test_e2e::{Flavour, Node, cri, number};

use crate::table::Table;

/// Makes, looks at and removes containers, and lists all; each call is a row that begins with `when`.
async fn ask(node: &Node, image: &str, when: &str, table: &mut Table) -> Result<()> {
    let column = crate::name(node.setup.flavour);
    let config = node.host_pod("tenants");
    let pod = node.cri.run_pod(&config).await.context("RunPodSandbox")?;
    for round in 0..number("BENCH_ROUNDS", 100) {
        let mut begin = Instant::now();
        let mut lap = |call: &str| {
            table.time(&format!("{when}: {call}"), column, begin.elapsed());
            begin = Instant::now();
        };
        let container = cri::container(&format!("c{round}"), image, &["true"]);
        let id = node.cri.create(&pod, &container, &config).await.context("CreateContainer")?;
        lap("CreateContainer");
        node.cri.container_status(&id).await.context("ContainerStatus")?;
        lap("ContainerStatus");
        node.cri.containers(None).await.context("ListContainers")?;
        lap("ListContainers");
        node.cri.remove(&id).await.context("RemoveContainer")?;
        lap("RemoveContainer");
    }
    node.cri.stop_pod(&pod).await?;
    node.cri.remove_pod(&pod).await?;
    Ok(())
}

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let (writers, streams) = (number("BENCH_WRITERS", 32), number("BENCH_STREAMS", 1000));
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let title = format!(
        "The CRI beside a tenant with {writers} writers of blobs, {writers} publishers and {streams} listeners: p50 / p95"
    );
    let mut table = Table::new(&title, &columns);
    for flavour in flavours {
        let mut node = crate::node(*flavour).await?;
        let image = node.busybox().await?;
        ask(&node, &image, "quiet", &mut table).await?;
        // The flood's own work is to take nothing from the daemon and the kubelet; what the daemon does for it is measured.
        let size = Size { writers, publishers: writers, streams, niceness: number("BENCH_NICENESS", 19) as i32 };
        let flood = Flood::begin(&node.setup.socket, "flood", size).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begin = Instant::now();
        ask(&node, &image, "flood", &mut table).await?;
        let took = begin.elapsed().as_secs_f64();
        let done = flood.end().await;
        table.number("the flood's writes in a second", crate::name(*flavour), done.writes as f64 / took, "");
        table.number("listeners that were taken", crate::name(*flavour), done.streams as f64, "");
        node.mark().await;
        node.finish_measured().await?;
    }
    table.print();
    Ok(())
}
