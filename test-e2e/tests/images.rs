//! Images and their names: ids that agree everywhere, several tags, pins, the user, and removal by any name.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use windlass_test_e2e::image::{Compression, Image, Layer, Recipe};
use windlass_test_e2e::newer::{self, Bytes, IMAGES};
use windlass_test_e2e::words::{Int64Value, ListImagesRequest};
use windlass_test_e2e::{Node, cri};

fn image(seed: &str, user: &str) -> Result<Image> {
    let layer = Layer::of_file(Compression::Gzip, "seed", seed.as_bytes())?;
    Recipe::new().layer(Layer::busybox(Compression::Gzip)?).layer(layer).config("User", json!(user)).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_agree_everywhere() -> Result<()> {
    let mut node = Node::start().await?;
    let image = image("ids", "")?;
    let first = node.registry.push("one", "1", &image)?;
    let second = node.registry.push("other/two", "2", &image)?;
    let id = node.cri.pull(&first).await?;
    ensure!(id == image.id && node.cri.pull(&second).await? == id);
    node.mark().await;
    let digest = image.top().digest();
    let by_digest = format!("{}@{digest}", first.trim_end_matches(":1"));
    let both = format!("{first}@{digest}");
    for name in [&first, &second, &by_digest, &both, &id, &id[7..].to_owned(), &id[7..20].to_owned()] {
        let found = node.cri.image(name).await?.with_context(|| format!("no image by {name}"))?;
        ensure!(found.id == id, "{name}: {}", found.id);
    }
    let request = ListImagesRequest { filter: None };
    let listed = node.cri.newer().call(IMAGES, "ListImages", Bytes::of(&request)).await?;
    let listed: newer::ListImagesResponse = listed.read()?;
    let listed = listed.images.into_iter().find(|found| found.id == id).context("not in the list")?;
    ensure!(listed.spec.is_some_and(|spec| spec.image_ref == id));

    let config = node.pod("ids");
    let pod = node.run(config, &second, &["sleep", "3600"]).await?;
    ensure!(node.cri.container_status(&pod.container).await?.image_id == id);
    let listed = node.cri.containers(None).await?;
    ensure!(listed.len() == 1 && listed[0].image_id == id);
    node.cri.remove_everything().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_by_any_name_takes_all_names() -> Result<()> {
    let mut node = Node::start().await?;
    let (image, other) = (image("names", "")?, image("other", "")?);
    let stays = node.registry.push("stays", "1", &other)?;
    node.cri.pull(&stays).await?;
    node.mark().await;
    let tags = [
        node.registry.push("names", "1", &image)?,
        node.registry.push("names", "2", &image)?,
        node.registry.push("more/names", "3", &image)?,
    ];
    let digest = format!("{}@{}", tags[0].trim_end_matches(":1"), image.top().digest());
    for name in [&tags[1], &digest, &image.id] {
        for tag in &tags {
            node.cri.pull(tag).await?;
        }
        let found = node.cri.image(name).await?.context("no image")?;
        let mut names = found.repo_tags.clone();
        names.sort();
        let mut expected = tags.to_vec();
        expected.sort();
        ensure!(names == expected && found.repo_digests.len() == 2, "{found:?}");
        node.cri.remove_image(name).await?;
        for gone in tags.iter().chain([&digest, &image.id]) {
            ensure!(node.cri.image(gone).await?.is_none(), "{gone} after removal by {name}");
        }
        node.cri.remove_image(name).await?;
        ensure!(node.cri.image(&stays).await?.is_some());
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_pins_and_labels_are_told() -> Result<()> {
    let mut node = Node::start().await?;
    for (at, (user, uid, name)) in
        [("", None, ""), ("1000", Some(1000), ""), ("1000:10", Some(1000), ""), ("wally:extra", None, "wally")]
            .into_iter()
            .enumerate()
    {
        let reference = node.registry.push("user", &at.to_string(), &image(&at.to_string(), user)?)?;
        node.cri.pull(&reference).await?;
        let found = node.cri.image(&reference).await?.context("no image")?;
        ensure!(found.uid == uid.map(|value| Int64Value { value }) && found.username == name, "{user}: {found:?}");
        ensure!(!found.pinned);
    }
    node.mark().await;
    // A pin holds for images that are here already.
    let host = node.registry.host().to_owned();
    let config = std::fs::read_to_string(&node.setup.config)?;
    let pinned =
        config.replacen("[cri]\n", &format!("[cri]\npinned_images = [\"{host}/user:1\", \"{host}/pin*\"]\n"), 1);
    ensure!(pinned != config, "the configuration has no [cri]");
    std::fs::write(&node.setup.config, pinned)?;
    node.restart().await?;
    for (name, pinned) in [("user:0", false), ("user:1", true)] {
        let found = node.cri.image(&format!("{host}/{name}")).await?.context("no image")?;
        ensure!(found.pinned == pinned, "{name}");
    }
    let verbose = windlass_test_e2e::words::ImageStatusRequest {
        image: Some(cri::image(&format!("{host}/user:3"))),
        verbose: true,
    };
    let info = node.cri.image_service().image_status(verbose).await?.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info")?)?;
    ensure!(info["imageSpec"]["config"]["User"] == "wally:extra" && info["chainID"].is_string(), "{info}");
    node.finish().await
}
