//! Layers made to exhaust a node.
#![allow(missing_docs)]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::image::{Compression, Layer, Recipe};
use windlass_test_e2e::{Node, eventually, kernel, number};

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_a_million_entries_takes_little_memory() -> Result<()> {
    let mut node = Node::start().await?;
    node.daemon.kill();
    // In memory, so that the end of the pull does not wait for whatever else this machine has to write.
    let tmpfs = ["-t", "tmpfs", "-o", "size=3g,nr_inodes=0", "w-large"];
    ensure!(Command::new("mount").args(tmpfs).arg(&node.setup.root).status()?.success(), "mount of a tmpfs");
    node.resume().await?;
    node.mark().await;
    let entries = number("WINDLASS_E2E_ENTRIES", 1_000_000);
    let crowd = Layer::write(Compression::Gzip, |layer| {
        for n in 0..entries {
            if n % 1000 == 0 {
                layer.dir(&format!("crowd/{}", n / 1000), 0o755)?;
            }
            layer.file(&format!("crowd/{}/{}", n / 1000, n % 1000), 0o644, b"")?;
        }
        Ok(())
    })?;
    let image = Recipe::new().layer(Layer::busybox(Compression::Gzip)?).layer(crowd).build()?;
    let reference = node.registry.push("crowd", "1", &image)?;
    drop(image);
    let daemon = node.daemon.pid();
    let before = kernel::memory_kib(daemon, "status", "VmHWM");
    let begin = Instant::now();
    node.cri.pull(&reference).await.context("pull of a crowded layer")?;
    let grown = kernel::memory_kib(daemon, "status", "VmHWM").saturating_sub(before);
    println!("{entries} entries in {:?}; the daemon grew from {before} by {grown} KiB", begin.elapsed());
    if !node.is_reference() {
        ensure!(grown < 48 << 10, "the daemon grew by {grown} KiB");
    }
    let last = entries - 1;
    let command = format!("test -e /crowd/{}/{} && ls /crowd | wc -l", last / 1000, last % 1000);
    let pod = node.run(node.host_pod("crowd"), &reference, &["sleep", "1000"]).await?;
    ensure!(
        node.cri.output(&pod.container, &["sh", "-c", &command]).await?.trim() == entries.div_ceil(1000).to_string()
    );
    node.cri.remove_everything().await?;
    node.cri.remove_image(&reference).await?;
    if !node.is_reference() {
        eventually("the layer's folder goes", Duration::from_secs(60), async || {
            kernel::entries_at(&node.setup.root.join("snapshots/overlay"), 1).is_empty().then_some(())
        })
        .await?;
    }
    node.finish().await
}
