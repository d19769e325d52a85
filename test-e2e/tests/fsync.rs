//! How often the daemon waits for the disk: never in a pod's life, a few times in a pull, counted by strace.

use std::time::Duration;

use anyhow::{Result, ensure};
use windlass_test_e2e::flushes::{self, Flushes};
use windlass_test_e2e::image::Image;
use windlass_test_e2e::{Flavour, Node, Plan, cri};

#[tokio::test(flavor = "multi_thread")]
async fn only_what_must_last_is_flushed() -> Result<()> {
    let mut node = Node::start_with(Plan { wrap: flushes::wrap(), ..Plan::default() }).await?;
    let image = node.registry.push("ten", "1", &Image::many_layers(9)?)?;
    let counted = Flushes::since_now(node.dir())?;
    node.cri.pull(&image).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pull = counted.so_far()?;
    println!("flushes in a pull of ten layers: {}\n  {}", pull.len(), pull.join("\n  "));

    let counted = Flushes::since_now(node.dir())?;
    for config in [node.host_pod("host"), node.pod("cni")] {
        let pod = node.run(config, &image, &["sleep", "1000"]).await?;
        ensure!(node.cri.output(&pod.container, &["echo", "well"]).await? == "well\n");
        let other = node.add(&pod.id, &pod.config, cri::container("other", &image, &["true"])).await?;
        node.exited(&other).await?;
        node.cri.stop(&pod.container, 0).await?;
        node.cri.remove(&pod.container).await?;
        node.cri.stop_pod(&pod.id).await?;
        node.cri.remove_pod(&pod.id).await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let life = counted.so_far()?;
    println!("flushes in the lives of two pods: {}\n  {}", life.len(), life.join("\n  "));
    if node.setup.flavour == Flavour::Windlass {
        ensure!(life.is_empty(), "{} flushes in two pods' lives", life.len());
        ensure!(!pull.is_empty() && pull.len() <= 6, "{} flushes in a pull of ten layers", pull.len());
    }
    node.cri.remove_everything().await?;
    node.mark().await;
    node.finish().await
}
