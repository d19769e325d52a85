//! Images as volumes: read-only, whole or a part of them, alive through the daemon's death, and gone with the container.

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::image::{Compression, Image, Layer, Recipe};
use windlass_test_e2e::newer::{self, RUNTIME, joined};
use windlass_test_e2e::words::{self, ContainerConfig, CreateContainerResponse};
use windlass_test_e2e::{Node, code, cri};

const PLACE: &str = "/volume";

fn volume(image: &str, sub_path: &str) -> newer::Mount {
    newer::Mount {
        container_path: PLACE.to_owned(),
        readonly: true,
        image: Some(cri::image(image)),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

async fn create(
    node: &Node,
    pod: &str,
    config: &words::PodSandboxConfig,
    container: &ContainerConfig,
    mount: newer::Mount,
) -> Result<String, tonic::Status> {
    let older = words::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(container.clone()),
        sandbox_config: Some(config.clone()),
    };
    let newer = newer::ContainerConfig { mounts: vec![mount], ..Default::default() };
    let newer = newer::CreateContainerRequest { config: Some(newer) };
    let answer = node.cri.newer().call(RUNTIME, "CreateContainer", joined(&older, &newer)).await?;
    Ok(answer.read::<CreateContainerResponse>()?.container_id)
}

/// Two layers, so that the volume is an overlay: the upper hides a file of the lower, and links try to leave.
fn data() -> Result<Image> {
    let lower = Layer::write(Compression::Gzip, |layer| {
        layer.dir("share", 0o755)?.file("share/gone", 0o644, b"low")?.file(
            "share/kept",
            0o755,
            b"#!/bin/sh\necho ran\n",
        )?;
        layer.symlink("inside", "share")?.symlink("outside", "../../../../../../../../etc")?.symlink("root", "/")?;
        Ok(())
    })?;
    let upper = Layer::write(Compression::Gzip, |layer| {
        layer.file("share/.wh.gone", 0o644, b"")?.file("top", 0o644, b"high")?;
        Ok(())
    })?;
    Recipe::new().layer(lower).layer(upper).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_volume() -> Result<()> {
    let mut node = Node::start().await?;
    let busybox = node.busybox().await?;
    let image = data()?;
    let reference = node.registry.push("data", "1", &image)?;
    let config = node.pod("volumes");
    let pod = node.cri.run_pod(&config).await?;
    let what = |name: &str| cri::container(name, &busybox, &["sleep", "3600"]);

    let missing = create(&node, &pod, &config, &what("early"), volume(&reference, "")).await;
    ensure!(code(&missing) == Code::NotFound, "an image that is not here: {missing:?}");
    node.cri.pull(&reference).await?;
    node.mark().await;

    let id = create(&node, &pod, &config, &what("whole"), volume(&reference, "")).await?;
    node.cri.start(&id).await?;
    ensure!(node.cri.output(&id, &["ls", "/volume/share"]).await? == "kept\n");
    ensure!(node.cri.output(&id, &["/volume/share/kept"]).await? == "ran\n", "programs of a volume run");
    let write = node.cri.exec(&id, &["touch", "/volume/new"], 20).await?;
    ensure!(write.exit_code != 0 && String::from_utf8_lossy(&write.stderr).contains("Read-only"), "{write:?}");

    let request = words::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let status: newer::ContainerStatusResponse = node.cri.newer().ask("ContainerStatus", &request).await?;
    let mounts = status.status.context("no status")?.mounts;
    let mount = mounts.iter().find(|mount| mount.container_path == PLACE).context("the mount is not in the status")?;
    ensure!(mount.host_path.is_empty() && mount.image.is_some());

    let removed = node.cri.remove_image(&reference).await;
    ensure!(code(&removed) == Code::FailedPrecondition, "an image that is mounted: {removed:?}");

    // A second container shares the image; the first one's end takes nothing from it.
    let part = create(&node, &pod, &config, &what("part"), volume(&image.id, "inside")).await?;
    node.restart().await?;
    node.cri.start(&part).await?;
    ensure!(node.cri.output(&id, &["cat", "/volume/top"]).await? == "high");
    node.cri.remove(&id).await?;
    ensure!(node.cri.output(&part, &["ls", PLACE]).await? == "kept\n");
    let file = create(&node, &pod, &config, &what("file"), volume(&reference, "share/kept")).await?;
    node.cri.start(&file).await?;
    ensure!(node.cri.output(&file, &["sh", PLACE]).await? == "ran\n");

    for (at, (sub_path, expected)) in [
        ("nothing", Code::NotFound),
        ("..", Code::InvalidArgument),
        ("share/../../x", Code::InvalidArgument),
        ("outside", Code::InvalidArgument),
        ("root/etc", Code::InvalidArgument),
        ("/share", Code::InvalidArgument),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = create(&node, &pod, &config, &what(&format!("bad{at}")), volume(&reference, sub_path)).await;
        ensure!(code(&answer) == expected, "{sub_path}: {answer:?}");
        ensure!(answer.is_err_and(|status| status.message().contains("image_sub_path")), "{sub_path}");
    }
    let writable = newer::Mount { readonly: false, ..volume(&reference, "") };
    let answer = create(&node, &pod, &config, &what("writable"), writable).await;
    ensure!(code(&answer) == Code::InvalidArgument, "{answer:?}");
    let both = newer::Mount { host_path: "/tmp".to_owned(), ..volume(&reference, "") };
    let answer = create(&node, &pod, &config, &what("both"), both).await;
    ensure!(code(&answer) == Code::InvalidArgument, "{answer:?}");
    node.finish().await
}
