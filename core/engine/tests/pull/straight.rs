//! Pulls that succeed.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use windlass_engine::registry::Credentials;
use windlass_model::{Digest, Platform};

use crate::image::{INDEX, Image, Packed, tar};
use crate::registry::{Door, Registry, TOKEN};
use crate::{Node, names};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_unpacked_and_named() {
    let (node, registry) = (Node::start().await, Registry::start());
    let image = Image::simple(&registry, "v1");
    let reference = format!("{}/a/b:v1", registry.host);
    let pulled = node.pull(&reference).await.unwrap();
    assert_eq!(pulled.detail.id, image.config);
    let found: Vec<String> = pulled.records.iter().map(|record| record.name.clone()).collect();
    let by_digest = format!("{}/a/b@{}", registry.host, image.manifest);
    assert_eq!(found, [reference.clone(), by_digest, image.config.to_string()]);
    assert!(pulled.records.iter().all(|record| record.labels["io.cri-containerd.image"] == "managed"));

    let lower = node.layer(&image.chain[0]).await;
    assert_eq!(std::fs::read(lower.join("etc/passwd")).unwrap(), b"root");
    let shell = std::fs::metadata(lower.join("bin/sh")).unwrap();
    assert_eq!((shell.len(), shell.permissions().mode() & 0o7777, shell.mtime()), (300_000, 0o4755, 1_600_000_000));
    let upper = node.layer(&image.chain[1]).await;
    assert!(std::fs::symlink_metadata(upper.join("gone")).unwrap().file_type().is_char_device());
    // The upper layer has no entry for `etc`: it is as below.
    assert_eq!(std::fs::metadata(upper.join("etc")).unwrap().permissions().mode() & 0o7777, 0o1777);
    assert_eq!(std::fs::metadata(upper.join("etc")).unwrap().mtime(), 1_600_000_000);

    // All of it stays when garbage is collected, and nothing else is there.
    node.core.collect().await.unwrap();
    assert_eq!(node.tenant.content().list().await.unwrap().len(), 4);
    assert_eq!(node.tenant.snapshots("overlay").unwrap().list().await.unwrap().len(), 2);
    assert!(node.tenant.leases().list().await.unwrap().is_empty());
    assert_eq!(node.ingests(), 0);

    // A second pull asks for the manifest's digest and nothing more.
    let before = registry.seen().len();
    node.pull(&reference).await.unwrap();
    assert_eq!(registry.seen().len(), before + 1);

    // Without its names, the image goes whole.
    for name in found {
        node.tenant.images().delete(&name).await.unwrap();
    }
    node.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_downloads_no_layer() {
    let (node, registry) = (Node::start().await, Registry::start());
    let image = Image::simple(&registry, "v1");
    let reference = format!("{}/a/b:v1", registry.host);
    node.pull(&reference).await.unwrap();
    let before = registry.seen().len();
    let other = node.core.tenant("other".parse().unwrap());
    other.images().pull(node.request(&reference)).await.unwrap();
    let asked: Vec<String> = registry.seen().split_off(before).into_iter().map(|seen| seen.path).collect();
    assert!(!asked.iter().any(|path| image.layers.iter().any(|layer| path.contains(&layer.to_string()))), "{asked:?}");
    assert_eq!(other.snapshots("overlay").unwrap().list().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_the_same_image_share_its_layers() {
    let (node, registry) = (Node::start().await, Registry::start());
    let image = Image::simple(&registry, "v1");
    registry.fault("/blobs/", crate::registry::Fault::Slow(std::time::Duration::from_millis(300)), usize::MAX);
    let reference = format!("{}/a/b:v1", registry.host);
    let pulls: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let (images, request) = (node.tenant.images(), node.request(&reference));
                async move { images.pull(request).await }
            })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    for layer in &image.layers {
        let times = registry.seen().iter().filter(|seen| seen.path.contains(&layer.to_string())).count();
        assert_eq!(times, 1, "{layer}");
    }
    let folders = names(&node.folder.path().join("root/snapshots/overlay"));
    assert_eq!(folders.iter().filter(|name| name.parse::<u64>().is_ok()).count(), 2, "{folders:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_of_this_machine() {
    let (node, registry) = (Node::start().await, Registry::start());
    let other = Image::put(&registry, "other", &[(tar(&[("other", b"")]), Packed::Plain)]);
    let mine = Image::simple(&registry, "mine");
    let entry = |image: &Image, architecture: &str| {
        serde_json::json!({"mediaType": crate::image::MANIFEST, "digest": image.manifest, "size":
            registry_size(&registry, image), "platform": {"os": "linux", "architecture": architecture}})
    };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests":
        [entry(&other, "pdp11"), entry(&mine, &Platform::host().architecture)]});
    let digest = registry.add_manifest("v1", INDEX, &serde_json::to_vec(&index).unwrap());
    let pulled = node.pull(&format!("{}/a/b:v1", registry.host)).await.unwrap();
    assert_eq!(pulled.detail.id, mine.config);
    assert_eq!(pulled.records[0].target.digest, digest);
    node.core.collect().await.unwrap();
    assert_eq!(node.tenant.content().list().await.unwrap().len(), 5);
    // And by its digest.
    let pulled = node.pull(&format!("{}/a/b@{digest}", registry.host)).await.unwrap();
    assert_eq!(pulled.records.len(), 2);
}

fn registry_size(registry: &Registry, image: &Image) -> usize {
    registry.manifest_size(&image.manifest)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_native_driver_gets_whole_trees() {
    let (node, registry) = (Node::start().await, Registry::start());
    let image = Image::simple(&registry, "v1");
    let mut request = node.request(&format!("{}/a/b:v1", registry.host));
    request.unpack = Some("native".into());
    node.tenant.images().pull(request).await.unwrap();
    let id = node.tenant.snapshots("native").unwrap().stat(&image.chain[1].to_string()).await.unwrap().id;
    let mounts = node
        .tenant
        .snapshots("native")
        .unwrap()
        .view("v", Some(&image.chain[1].to_string()), Default::default(), None)
        .await
        .unwrap();
    let top = std::path::PathBuf::from(&mounts[0].source);
    assert!(
        top.join("etc/passwd").exists() && top.join("etc/group").exists() && top.join("new").exists(),
        "{id} {mounts:?}"
    );
    assert!(!top.join("gone").exists() && !top.join(".wh.gone").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_may_stand_in_an_image_twice() {
    let (node, registry) = (Node::start().await, Registry::start());
    let layer = tar(&[("a", b"1")]);
    let image = Image::put(
        &registry,
        "v1",
        &[(layer.clone(), Packed::Gzip), (layer.clone(), Packed::Gzip), (tar(&[]), Packed::Gzip)],
    );
    node.pull(&format!("{}/a/b:v1", registry.host)).await.unwrap();
    for chain in &image.chain[..2] {
        assert!(node.layer(chain).await.join("a").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_open_doors() {
    let basic = |user: &str| Credentials::Basic { user: user.into(), password: "p".into() };
    // "u:p" and "u2:p" in base 64.
    let cases = [
        (Door::Basic("Basic dTpw".into()), Some(basic("u"))),
        (Door::Token(None), None),
        (Door::Token(Some("Basic dTpw".into())), Some(basic("u"))),
        (Door::Token(Some("refresh_token=identity".into())), Some(Credentials::Identity("identity".into()))),
        (Door::Token(Some("nobody".into())), Some(Credentials::Registry(TOKEN.into()))),
    ];
    for (door, auth) in cases {
        let (node, registry) = (Node::start().await, Registry::start());
        Image::simple(&registry, "v1");
        registry.door(door.clone());
        let mut request = node.request(&format!("{}/a/b:v1", registry.host));
        request.access.auth = auth;
        node.tenant.images().pull(request).await.unwrap_or_else(|error| panic!("{door:?}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_gets_no_credentials() {
    let (node, mirror, origin) = (Node::start().await, Registry::start(), Registry::start());
    Image::simple(&mirror, "v1");
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        origin.host, mirror.host
    );
    node.hosts("registry.example", &text);
    let mut request = node.request("registry.example/a/b:v1");
    request.access.auth = Some(Credentials::Basic { user: "u".into(), password: "p".into() });
    node.tenant.images().pull(request.clone()).await.unwrap();
    assert!(origin.seen().is_empty());
    let seen = mirror.seen();
    assert!(seen.iter().all(|seen| seen.path.contains("?ns=registry.example")));
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")));
    // An edit counts at once.
    node.hosts("registry.example", &format!("server = \"http://{}\"", origin.host));
    assert!(node.tenant.images().pull(request).await.unwrap_err().is_not_found());
    assert!(!origin.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leaves_credentials_behind() {
    let (node, registry, store) = (Node::start().await, Registry::start(), Registry::start());
    Image::simple(&registry, "v1");
    Image::simple(&store, "v1");
    registry.door(Door::Basic("Basic dTpw".into()));
    registry.redirect(&store.host);
    let mut request = node.request(&format!("{}/a/b:v1", registry.host));
    request.access.auth = Some(Credentials::Basic { user: "u".into(), password: "p".into() });
    node.tenant.images().pull(request).await.unwrap();
    assert_eq!(store.seen().len(), 3);
    assert!(store.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_of_a_tag_may_change() {
    let (node, registry) = (Node::start().await, Registry::start());
    let reference = format!("{}/a/b:v1", registry.host);
    let digests: Vec<Digest> = (0..2u8)
        .map(|round| {
            Image::put(&registry, if round == 0 { "v1" } else { "v2" }, &[(tar(&[("f", &[round])]), Packed::Plain)])
                .config
        })
        .collect();
    assert_eq!(node.pull(&reference).await.unwrap().detail.id, digests[0]);
    Image::put(&registry, "v1", &[(tar(&[("f", &[1u8])]), Packed::Plain)]);
    assert_eq!(node.pull(&reference).await.unwrap().detail.id, digests[1]);
    assert_eq!(node.tenant.images().list().await.unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_namespace_asks_only_what_the_name_stands_for() {
    let (node, registry) = (Node::start().await, Registry::start());
    Image::simple(&registry, "1");
    let reference = format!("{}/a/b:1", registry.host);
    node.pull(&reference).await.unwrap();
    let before = registry.seen().len();
    let other = node.core.tenant("other".parse().unwrap());
    other.images().pull(node.request(&reference)).await.unwrap();
    let asked: Vec<_> = registry.seen()[before..].iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(asked, ["HEAD"]);
    assert_eq!(other.content().list().await.unwrap().len(), 4);
    // Who is isolated is not to learn what others have.
    let alone = node.core.tenant("alone".parse().unwrap()).isolated();
    let before = registry.seen().len();
    alone.images().pull(node.request(&reference)).await.unwrap();
    assert_eq!(registry.seen().len() - before, 5);
}
