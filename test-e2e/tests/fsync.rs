//! How often the daemon waits for the disk: never in a pod's life, a few times in a pull, counted by strace.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use windlass_test_e2e::image::Image;
use windlass_test_e2e::{Flavour, Node, Plan, cri};

const CALLS: [&str; 6] = ["fsync(", "fdatasync(", "syncfs(", "sync_file_range(", "msync(", "sync("];

/// The flushes in a trace, from line `from` on.
fn flushes(trace: &Path, from: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(trace)?;
    let call = |line: &&str| {
        let rest = line.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ' ');
        CALLS.iter().any(|call| rest.starts_with(call))
    };
    Ok(text.lines().skip(from).filter(call).map(str::to_owned).collect())
}

fn length(trace: &Path) -> Result<usize> {
    Ok(std::fs::read_to_string(trace)?.lines().count())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_must_last_is_flushed() -> Result<()> {
    let calls = "trace=fsync,fdatasync,syncfs,sync_file_range,msync,sync";
    let words = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-e", calls, "-o", "{dir}/strace"];
    let wrap = words.iter().map(|word| (*word).to_owned()).collect();
    let mut node = Node::start_with(Plan { wrap, ..Plan::default() }).await?;
    let trace = node.dir().join("strace");
    let image = node.registry.push("ten", "1", &Image::many_layers(9)?)?;
    let start = length(&trace)?;
    node.cri.pull(&image).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pull = flushes(&trace, start)?;
    println!("flushes in a pull of ten layers: {}\n  {}", pull.len(), pull.join("\n  "));

    let start = length(&trace)?;
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
    let life = flushes(&trace, start)?;
    println!("flushes in the lives of two pods: {}\n  {}", life.len(), life.join("\n  "));
    if node.setup.flavour == Flavour::Windlass {
        ensure!(life.is_empty(), "{} flushes in two pods' lives", life.len());
        ensure!(!pull.is_empty() && pull.len() <= 6, "{} flushes in a pull of ten layers", pull.len());
    }
    node.cri.remove_everything().await?;
    node.mark().await;
    node.finish().await
}
