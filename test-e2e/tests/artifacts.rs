//! OCI artifacts: pulled, listed and removed as images are, mounted as volumes, never run.

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::image::Image;
use windlass_test_e2e::words::Mount;
use windlass_test_e2e::{Node, code, cri};

const KIND: &str = "application/vnd.example.model.v1";

fn volume(image: &str) -> Mount {
    Mount { container_path: "/model".to_owned(), readonly: true, image: Some(cri::image(image)), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_a_volume_of_its_files() -> Result<()> {
    let mut node = Node::start().await?;
    let busybox = node.busybox().await?;
    let artifact = Image::artifact(
        KIND,
        &[("weights", b"many numbers"), ("deep/card.md", b"card"), ("copy", b"many numbers"), ("", b"nameless")],
    )?;
    let reference = node.registry.push("model", "1", &artifact)?;
    let id = node.cri.pull(&reference).await?;
    ensure!(id == artifact.id, "{id} is not {}", artifact.id);
    ensure!(node.cri.pull(&reference).await? == id, "a second pull");

    for name in [&reference, &id] {
        let found = node.cri.image(name).await?.with_context(|| format!("no status by {name}"))?;
        ensure!(found.id == id && found.repo_tags == [reference.clone()] && found.size >= 12 + 4 + 8, "{found:?}");
        ensure!(found.repo_digests.len() == 1 && found.repo_digests[0].ends_with(&id), "{found:?}");
        let annotations = found.spec.context("no spec")?.annotations;
        ensure!(annotations.get("org.example.made").is_some_and(|value| value == "here"), "{annotations:?}");
    }
    ensure!(node.cri.images().await?.iter().filter(|image| image.id == id).count() == 1);

    let config = node.pod("artifacts");
    let pod = node.cri.run_pod(&config).await?;
    let run = node.cri.create(&pod, &cri::container("run", &reference, &["sh"]), &config).await;
    ensure!(code(&run) == Code::InvalidArgument, "an artifact was run: {run:?}");
    let mut what = cri::container("main", &busybox, &["sleep", "3600"]);
    what.mounts.push(volume(&reference));
    let container = node.add(&pod, &config, what).await?;
    ensure!(
        node.cri.output(&container, &["ls", "-R", "/model"]).await?
            == "/model:\ncopy\ndeep\nweights\n\n/model/deep:\ncard.md\n"
    );
    ensure!(node.cri.output(&container, &["cat", "/model/copy"]).await? == "many numbers");
    ensure!(node.cri.exec(&container, &["touch", "/model/x"], 20).await?.exit_code != 0);
    ensure!(node.cri.output(&container, &["stat", "-c", "%a %u", "/model/deep/card.md"]).await? == "644 0\n");

    let refused = node.cri.remove_image(&reference).await;
    ensure!(code(&refused) == Code::FailedPrecondition, "{refused:?}");
    node.restart().await?;
    ensure!(node.cri.output(&container, &["cat", "/model/weights"]).await? == "many numbers");
    node.cri.remove_everything().await?;
    node.cri.remove_image(&reference).await?;
    ensure!(node.cri.image(&id).await?.is_none() && node.cri.image(&reference).await?.is_none());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_names_no_file_outside_of_it() -> Result<()> {
    let node = Node::start().await?;
    let bad: [&[(&str, &[u8])]; 4] =
        [&[("../out", b"x")], &[("/etc/passwd", b"x")], &[("a", b"x"), ("./a", b"y")], &[("a", b"x"), ("a/b", b"y")]];
    for (at, files) in bad.into_iter().enumerate() {
        let reference = node.registry.push("bad", &at.to_string(), &Image::artifact(KIND, files)?)?;
        let answer = node.cri.pull(&reference).await;
        ensure!(code(&answer) == Code::InvalidArgument, "{files:?}: {answer:?}");
        ensure!(node.cri.image(&reference).await?.is_none());
    }
    node.finish().await
}
