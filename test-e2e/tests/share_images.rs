//! Images of one namespace that another may use: seen, run without a download, and kept whatever the owner does.

use anyhow::{Context as _, Result, ensure};
use containerd_client::services::v1::{DeleteImageRequest, ListImagesRequest, ListImagesResponse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;
use windlass_test_e2e::image::Image;
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::{Node, Plan, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_image_runs_without_a_download_and_outlives_its_owners() -> Result<()> {
    let plan = Plan { more_cri: "share_images = [\"moby\"]".to_owned(), ..Plan::default() };
    let mut node = Node::start_with(plan).await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let image = node.registry.push("lent", "1", &Image::busybox()?)?;
    let windlass = windlass_test_e2e::daemon::bin_dir()?.join("windlass");
    let address = node.setup.socket.to_string_lossy().into_owned();
    let pulled = std::process::Command::new(windlass)
        .args(["--address", &address, "--namespace", "moby", "images", "pull", &image])
        .output()?;
    ensure!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let cri = moby.named(Some("k8s.io"));
    let own = async || -> Result<usize> {
        let list: ListImagesResponse = cri.ask("images.v1.Images", "List", &ListImagesRequest::default()).await?;
        Ok(list.images.len())
    };
    let seen = node.cri.image(&image).await?.context("the lent image is not seen")?;
    ensure!(seen.pinned && seen.repo_tags == [image.clone()], "{seen:?}");
    ensure!(node.cri.images().await?.len() == 1 && own().await? == 0);
    let removed = node.cri.remove_image(&image).await;
    ensure!(code(&removed) == Code::FailedPrecondition, "{removed:?}");

    // No registry any more: what runs came from the other tenant.
    kill(Pid::from_raw(i32::try_from(node.registry.pid())?), Signal::SIGKILL)?;
    let pod = node.run(node.host_pod("lent"), &image, &["sleep", "1000"]).await?;
    ensure!(node.cri.output(&pod.container, &["echo", "well"]).await? == "well\n");
    ensure!(own().await? > 0 && node.cri.image(&image).await?.is_some_and(|image| !image.pinned));

    let deletion = DeleteImageRequest { name: image.clone(), sync: true, ..Default::default() };
    moby.ask::<()>("images.v1.Images", "Delete", &deletion).await?;
    let again = node.add(&pod.id, &pod.config, windlass_test_e2e::cri::container("again", &image, &["true"])).await?;
    node.exited(&again).await?;
    node.cri.remove_everything().await?;
    node.cri.remove_image(&image).await?;
    ensure!(node.cri.images().await?.is_empty());
    node.mark().await;
    node.finish().await
}
