//! A power cut: what was answered is there afterwards, and what was not whole is not.
//!
//! The daemon's data lies on a file system in a file. What the kernel has not yet written to that file is lost with the
//! power, so a copy of the file is what the machine finds when it comes back. Nothing is written behind a test's back: the
//! journal is committed every ten minutes only, and a file written without a flush shows that it really gets lost.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use windlass_test_e2e::image::{Compression, Layer, Recipe, digest, noise};
use windlass_test_e2e::trouble::{Fault, Troublemaker, Where};
use windlass_test_e2e::{Node, eventually};

fn must(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn mount(disk: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target)?;
    must(Command::new("mount").args(["-o", "loop,commit=600"]).arg(disk).arg(target))
}

/// Gives the node a disk of its own and starts its daemon there.
async fn on_a_disk(node: &mut Node) -> Result<PathBuf> {
    node.daemon.kill();
    let disk = node.dir().join("disk.img");
    std::fs::File::create(&disk)?.set_len(256 << 20)?;
    must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk))?;
    mount(&disk, &node.setup.root)?;
    node.resume().await?;
    Ok(disk)
}

/// Takes the power away: the daemon dies, and its disk is what has been written of it so far.
async fn cut_the_power(node: &mut Node, disk: &Path) -> Result<()> {
    node.daemon.kill();
    let careless = node.setup.root.join("written-without-a-flush");
    std::fs::write(&careless, "lost")?;
    let found = disk.with_extension("found.img");
    must(Command::new("cp").arg("--sparse=always").arg(disk).arg(&found))?;
    must(Command::new("umount").arg(&node.setup.root))?;
    mount(&found, &node.setup.root)?;
    ensure!(!careless.exists(), "this is no power cut: what was not flushed is there");
    node.resume().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_survives() -> Result<()> {
    let mut node = Node::start().await?;
    let disk = on_a_disk(&mut node).await?;
    let bytes = noise(12 << 20, 11);
    let mut recipe = Recipe::new().layer(Layer::busybox(Compression::Gzip)?);
    recipe = recipe.layer(Layer::of_file(Compression::Gzip, "noise", &bytes)?);
    for n in 0..6 {
        recipe =
            recipe.layer(Layer::of_file(Compression::Zstd, &format!("small-{n}"), format!("layer {n}").as_bytes())?);
    }
    let reference = node.registry.push("lasting", "1", &recipe.build()?)?;
    let id = node.cri.pull(&reference).await?;
    cut_the_power(&mut node, &disk).await?;

    let image = node.cri.image(&reference).await?;
    ensure!(image.as_ref().is_some_and(|image| image.id == id), "{id} became {image:?}");
    let pod = node.run(node.host_pod("again"), &reference, &["sleep", "1000"]).await?;
    let sum = node.cri.output(&pod.container, &["/bin/busybox", "sha256sum", "/noise"]).await?;
    ensure!(digest(&bytes).ends_with(sum.split(' ').next().unwrap_or("nothing")), "{sum}");
    let small = node.cri.output(&pod.container, &["sh", "-c", "cat /small-*"]).await?;
    ensure!(small == (0..6).map(|n| format!("layer {n}")).collect::<String>(), "{small}");
    node.cri.remove_everything().await?;
    // A second power cut, after the image was given up: what is gone may come back, but never half of it.
    node.cri.remove_image(&reference).await?;
    cut_the_power(&mut node, &disk.with_extension("found.img")).await?;
    node.cri.pull(&reference).await?;
    let pod = node.run(node.host_pod("anew"), &reference, &["/bin/busybox", "sha256sum", "/noise"]).await?;
    ensure!(node.exited(&pod.container).await?.exit_code == 0);
    node.cri.remove_everything().await
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_pull_leaves_no_image() -> Result<()> {
    let mut node = Node::start().await?;
    let disk = on_a_disk(&mut node).await?;
    let registry = Troublemaker::start()?;
    let image = Recipe::new()
        .layer(Layer::busybox(Compression::Gzip)?)
        .layer(Layer::of_file(Compression::None, "late", &noise(4 << 20, 12))?)
        .build()?;
    let reference = registry.hold("half", "1", &image);
    registry.fail(Where::Blob(image.layers[1].clone()), Fault::Stall(3 << 20), 1);
    let (client, theirs) = (node.cri.clone(), reference.clone());
    let held = tokio::spawn(async move { client.pull(&theirs).await });
    let asked = format!("GET /v2/half/blobs/{}", image.layers[1]);
    eventually("the second layer is on its way", Duration::from_secs(20), async || {
        registry.requests().contains(&asked).then_some(())
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    cut_the_power(&mut node, &disk).await?;
    ensure!(held.await?.is_err(), "the pull succeeded");
    ensure!(node.cri.images().await?.is_empty(), "half an image");
    registry.heal();
    node.cri.pull(&reference).await?;
    let pod = node.run(node.host_pod("whole"), &reference, &["sh", "-c", "test $(wc -c < /late) = 4194304"]).await?;
    ensure!(node.exited(&pod.container).await?.exit_code == 0);
    node.cri.remove_everything().await
}
