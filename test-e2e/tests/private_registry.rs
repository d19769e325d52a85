//! Pulls from and pushes to a registry that wants to know who asks: by `ctr`, and by transfers, which ask their client over a
//! stream.

use std::time::Duration;

use tonic::Code;
use windlass_test_e2e::image::{Compression, Image, Layer, Recipe};
use windlass_test_e2e::inventory::Inventory;
use windlass_test_e2e::registry::{PASSWORD, Registry, USER};
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::transfer::{Says, Way, transfer};
use windlass_test_e2e::{Ctr, Node, Result, code, ensure, eventually};

/// A small image that no other test has.
fn image() -> Result<Image> {
    Recipe::new().layer(Layer::of_file(Compression::Gzip, "private", b"not for everybody")?).build()
}

/// Fails unless a namespace soon holds nothing, not even an unfinished blob.
async fn assert_empty(main: &Tenant, namespace: &'static str) -> Result<()> {
    use containerd_client::services::v1::{ListStatusesRequest, ListStatusesResponse};
    let client = main.named(Some(namespace));
    let mut left = Vec::new();
    let empty = eventually("nothing is left", Duration::from_secs(20), async || {
        left = Inventory::of(&client).await.ok()?.lines().into_iter().collect();
        let request = ListStatusesRequest::default();
        let active: ListStatusesResponse = client.ask("content.v1.Content", "ListStatuses", &request).await.ok()?;
        left.extend(active.statuses.into_iter().map(|status| format!("ingest {}", status.r#ref)));
        left.is_empty().then_some(())
    });
    empty.await.map_err(|error| error.context(format!("{left:#?}")))
}

/// Whether the registry has a manifest by that name.
fn has(registry: &Registry, name: &str, tag: &str, image: &Image) -> Result<bool> {
    let accept = [("Accept", image.top().media_type.as_str())];
    let answer = registry.request("GET", &format!("/v2/{name}/manifests/{tag}"), &accept, &[])?;
    Ok(answer.status == 200 && answer.body == image.top().bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_and_pushes_with_its_users_password() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start_private(&node.dir().join("private"))?;
    let made = image()?;
    let reference = registry.push("closed", "1", &made)?;
    let user = format!("{USER}:{PASSWORD}");
    let main = Tenant::connect(&node.setup.socket, None).await?;
    for (index, ctr) in Ctr::all(&node).into_iter().enumerate() {
        let word = if ctr.transfers { "unauthenticated" } else { "authorization failed" };
        for wrong in [&[][..], &["--user", "ann:wrong"], &["--user", "bob:geheim"]] {
            let words = [&["images", "pull", "--plain-http"], wrong, &[&reference]].concat();
            let told = ctr.refused("default", &words)?;
            let known = told.to_lowercase();
            ensure!(known.contains(word) || known.contains("401"), "{wrong:?}: {told}");
            ensure!(!told.contains("wrong"), "the password is told: {told}");
            assert_empty(&main, "default").await?;
        }
        ctr.run("default", &["images", "pull", "--plain-http", "--user", &user, &reference])?;
        let name = format!("pushed-{index}");
        let there = format!("{}/{name}:1", registry.host());
        ctr.run("default", &["images", "tag", &reference, &there])?;
        ctr.refused("default", &["images", "push", "--plain-http", "--user", "ann:wrong", &there])?;
        ensure!(!has(&registry, &name, "1", &made)?);
        ctr.run("default", &["images", "push", "--plain-http", "--user", &user, &there])?;
        ensure!(has(&registry, &name, "1", &made)?);
        for image in [&reference, &there] {
            ctr.run("default", &["images", "rm", "--sync", image])?;
        }
        assert_empty(&main, "default").await?;
    }
    drop(registry);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_asks_its_client_for_credentials() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("Debian's has no transfers") {
        return Ok(());
    }
    let registry = Registry::start_private(&node.dir().join("private"))?;
    let made = image()?;
    let reference = registry.push("closed", "1", &made)?;
    let main = Tenant::connect(&node.setup.socket, None).await?;
    let wrong = [
        (Says::Password(USER, "wrong"), Code::Unauthenticated),
        (Says::Password("bob", PASSWORD), Code::Unauthenticated),
        (Says::Header("Bearer wrong"), Code::Unauthenticated),
        (Says::Header("nonsense"), Code::InvalidArgument),
        (Says::Nothing, Code::Unauthenticated),
        (Says::Leaves, Code::Cancelled),
    ];
    for (says, expected) in wrong {
        let (outcome, asked) = transfer(&main, "private", Way::Pull, &reference, says).await?;
        ensure!(code(&outcome) == expected, "{says:?}: {outcome:?}");
        ensure!(!format!("{outcome:?}").contains("wrong"), "the password is told: {outcome:?}");
        let asked = asked.unwrap_or_default();
        ensure!(asked.host == registry.host() && asked.reference == reference, "{asked:?}");
        assert_empty(&main, "private").await?;
    }
    let right = Says::Password(USER, PASSWORD);
    transfer(&main, "private", Way::Pull, &reference, right).await?.0?;
    let client = main.named(Some("private"));
    let held = Inventory::of(&client).await?;
    ensure!(held.images.len() == 1 && held.snapshots.len() == 1, "{held:?}");

    // The other way, under another name.
    let there = format!("{}/pushed:1", registry.host());
    let ctr = Ctr::debian(&node);
    ctr.run("private", &["images", "tag", &reference, &there])?;
    for (says, expected) in wrong {
        let (outcome, _) = transfer(&main, "private", Way::Push, &there, says).await?;
        ensure!(code(&outcome) == expected, "{says:?}: {outcome:?}");
        ensure!(!has(&registry, "pushed", "1", &made)?);
    }
    let header = format!("Basic {}", windlass_test_e2e::trouble::base64(format!("{USER}:{PASSWORD}").as_bytes()));
    transfer(&main, "private", Way::Push, &there, Says::Header(&header)).await?.0?;
    ensure!(has(&registry, "pushed", "1", &made)?);
    for image in [&reference, &there] {
        ctr.run("private", &["images", "rm", "--sync", image])?;
    }
    assert_empty(&main, "private").await?;
    ctr.run("private", &["namespaces", "rm", "private"])?;
    drop(registry);
    node.finish().await
}
