//! Registries that misbehave: an error of the right kind, and nothing left.

use std::time::{Duration, Instant};

use windlass_engine::registry::Credentials;
use windlass_model::Kind;

use crate::image::{Image, MANIFEST, Packed, noise, parts, tar};
use crate::registry::{Door, Fault, Registry};
use crate::{Node, open};

/// A pull that must fail with `kind` and leave nothing.
async fn fails(word: &str, fault: Fault, kind: Kind) -> String {
    let (node, registry) = (Node::start().await, Registry::start());
    Image::simple(&registry, "v1");
    registry.fault(word, fault.clone(), usize::MAX);
    let begin = Instant::now();
    let error = node.pull(&format!("{}/a/b:v1", registry.host)).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{fault:?}: {error}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{fault:?} took {:?}", begin.elapsed());
    node.assert_empty().await;
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_kind() {
    for (status, kind) in [(401, Kind::Unauthenticated), (403, Kind::PermissionDenied), (404, Kind::NotFound)] {
        fails("/manifests/", Fault::Status(status, None), kind).await;
        fails("/blobs/", Fault::Status(status, None), kind).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_registry_is_asked_again_but_not_for_ever() {
    fails("/manifests/", Fault::Status(500, None), Kind::Unavailable).await;
    fails("/blobs/", Fault::Status(503, None), Kind::Unavailable).await;
    let soon = Some(("Retry-After", "0".to_owned()));
    fails("/manifests/", Fault::Status(429, soon), Kind::ResourceExhausted).await;
    let late = Some(("Retry-After", "3600".to_owned()));
    let begin = Instant::now();
    fails("/manifests/", Fault::Status(429, late), Kind::ResourceExhausted).await;
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_recovers_is_no_failure() {
    let (node, registry) = (Node::start().await, Registry::start());
    Image::simple(&registry, "v1");
    registry.fault("/manifests/", Fault::Status(429, Some(("Retry-After", "1".to_owned()))), 1);
    registry.fault("/blobs/", Fault::Status(500, None), 2);
    let begin = Instant::now();
    node.pull(&format!("{}/a/b:v1", registry.host)).await.unwrap();
    assert!(begin.elapsed() > Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens() {
    let node = Node::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = node.pull(&format!("{port}/a/b:v1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    node.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_found() {
    fails("/blobs/", Fault::Wrong, Kind::DataLoss).await;
    fails("/blobs/", Fault::Endless, Kind::DataLoss).await;
    fails("/blobs/", Fault::Short(100), Kind::DataLoss).await;
    let told = fails("/manifests/", Fault::Wrong, Kind::DataLoss).await;
    assert!(told.contains("digest"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends() {
    fails("/blobs/", Fault::Silent, Kind::DeadlineExceeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_resumed() {
    for fault in [Fault::Cut(1000), Fault::Cut(0)] {
        let (node, registry) = (Node::start().await, Registry::start());
        let noise = noise(200_000);
        let image = Image::put(&registry, "v1", &[(tar(&[("noise", &noise)]), Packed::Gzip)]);
        registry.fault(&image.layers[0].to_string(), fault.clone(), 2);
        node.pull(&format!("{}/a/b:v1", registry.host)).await.unwrap();
        let ranges = registry.seen().iter().filter(|seen| seen.headers.contains_key("range")).count();
        assert_eq!(ranges, if matches!(fault, Fault::Cut(0)) { 0 } else { 2 });
        assert_eq!(std::fs::read(node.layer(&image.chain[0]).await.join("noise")).unwrap(), noise);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_pull_continues_where_one_stopped() {
    let (node, registry) = (Node::start().await, Registry::start());
    let noise = noise(200_000);
    let image = Image::put(&registry, "v1", &[(tar(&[("noise", &noise)]), Packed::Gzip)]);
    let layer = image.layers[0].to_string();
    registry.fault(&layer, Fault::Cut(70_000), 1);
    registry.fault(&layer, Fault::Status(500, None), usize::MAX);
    let reference = format!("{}/a/b:v1", registry.host);
    assert_eq!(node.pull(&reference).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(node.ingests(), 1);
    node.assert_empty().await;
    registry.forgive();
    registry.fault(&layer, Fault::NoRanges, 1);
    node.pull(&reference).await.unwrap();
    assert!(registry.seen().last().unwrap().headers["range"].starts_with("bytes="));
    assert_eq!(node.ingests(), 0);
    assert_eq!(std::fs::read(node.layer(&image.chain[0]).await.join("noise")).unwrap(), noise);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_download_that_broke_keeps_its_bytes() {
    let faults = [
        (Fault::Cut(70_000), 1),
        (Fault::Silent, 0),
        (Fault::Status(403, None), 0),
        (Fault::Status(404, None), 0),
        (Fault::Status(429, Some(("Retry-After", "3600".to_owned()))), 0),
        (Fault::Wrong, 0),
        (Fault::Short(150_000), 0),
        (Fault::Endless, 0),
    ];
    for (fault, kept) in faults {
        let (node, registry) = (Node::start().await, Registry::start());
        // The other layer comes slowly, so that it is under way, without a byte, when the first fails.
        let layers = [(tar(&[("noise", &noise(200_000))]), Packed::Gzip), (tar(&[("more", b"x")]), Packed::Plain)];
        let image = Image::put(&registry, "v1", &layers);
        let layer = image.layers[0].to_string();
        registry.fault(&layer, fault.clone(), if kept == 1 { 1 } else { usize::MAX });
        registry.fault(&layer, Fault::Status(500, None), usize::MAX);
        registry.fault(&image.layers[1].to_string(), Fault::Slow(Duration::from_millis(300)), usize::MAX);
        let reference = format!("{}/a/b:v1", registry.host);
        node.pull(&reference).await.unwrap_err();
        assert_eq!(node.ingests(), kept, "{fault:?}");
        node.assert_empty().await;
        registry.forgive();
        node.pull(&reference).await.unwrap();
        assert_eq!(node.ingests(), 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_goes_when_it_turns_out_to_be_of_no_use() {
    let (node, registry) = (Node::start().await, Registry::start());
    let layers = [(tar(&[("noise", &noise(200_000))]), Packed::Gzip), (tar(&[("more", b"x")]), Packed::Plain)];
    let image = Image::put(&registry, "v1", &layers);
    let reference = format!("{}/a/b:v1", registry.host);
    registry.fault(&image.layers[0].to_string(), Fault::Cut(70_000), 1);
    registry.fault(&image.layers[0].to_string(), Fault::Status(500, None), usize::MAX);
    assert_eq!(node.pull(&reference).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(node.ingests() > 0);
    registry.forgive();
    registry.fault(&image.layers[0].to_string(), Fault::Status(404, None), usize::MAX);
    assert_eq!(node.pull(&reference).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(node.ingests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_mirror_is_left_for_the_registry() {
    for fault in [Fault::Wrong, Fault::Status(500, None), Fault::Status(404, None), Fault::Endless] {
        let (node, mirror, origin) = (Node::start().await, Registry::start(), Registry::start());
        Image::simple(&mirror, "v1");
        Image::simple(&origin, "v1");
        mirror.fault("/blobs/", fault.clone(), usize::MAX);
        node.hosts(
            "registry.example",
            &format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", origin.host, mirror.host),
        );
        node.pull("registry.example/a/b:v1").await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused() {
    let (node, registry) = (Node::start().await, Registry::start());
    Image::simple(&registry, "v1");
    for door in [Door::Basic("Basic dTpw".into()), Door::Token(Some("Basic dTpw".into()))] {
        registry.door(door);
        for auth in [
            None,
            Some(Credentials::Basic { user: "u".into(), password: "wrong".into() }),
            Some(Credentials::Registry("x".into())),
        ] {
            let mut request = node.request(&format!("{}/a/b:v1", registry.host));
            request.access.auth = auth;
            let error = node.tenant.images().pull(request).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthenticated, "{error}");
            assert!(!error.to_string().contains("wrong"), "{error}");
        }
    }
    node.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_the_image_says() {
    let (node, registry) = (Node::start().await, Registry::start());
    let reference = format!("{}/a/b:v1", registry.host);
    let good = (tar(&[("a", &[1; 100_000])]), Packed::Gzip);
    let escape = {
        let mut bytes = tar(&[("aa/etc/passwd", b"x")]);
        bytes[..2].copy_from_slice(b"..");
        // The checksum: 'a' is 0x61, '.' is 0x2e.
        let sum: u32 = bytes[..512]
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    };
    for (bad, kind) in [(escape, Kind::InvalidArgument), (b"no tar at all".repeat(100), Kind::DataLoss)] {
        Image::put(&registry, "v1", &[good.clone(), (bad, Packed::Gzip)]);
        let error = node.pull(&reference).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        node.assert_empty().await;
        assert_eq!(node.ingests(), 0);
    }
    // A diffID that is another layer's.
    let (manifest, config, blobs, _) = parts(std::slice::from_ref(&good));
    let other = parts(&[(tar(&[("b", b"2")]), Packed::Gzip)]).1;
    assert_eq!(config.len(), other.len());
    let text = String::from_utf8(manifest).unwrap();
    let text =
        text.replace(&windlass_model::Digest::of(&config).to_string(), &windlass_model::Digest::of(&other).to_string());
    registry.add_blob(&other);
    blobs.iter().for_each(|blob| {
        registry.add_blob(blob);
    });
    registry.add_manifest("v1", MANIFEST, text.as_bytes());
    let error = node.pull(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss, "{error}");
    assert!(error.to_string().contains("diffID"), "{error}");
    node.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_none() {
    let (node, registry) = (Node::start().await, Registry::start());
    let reference = format!("{}/a/b:v1", registry.host);
    for (text, kind) in [
        ("{}", Kind::DataLoss),
        ("{\"schemaVersion\":1}", Kind::Unimplemented),
        ("rubbish", Kind::DataLoss),
        ("{\"schemaVersion\":2,\"manifests\":[]}", Kind::NotFound),
    ] {
        registry.add_manifest("v1", "", text.as_bytes());
        let error = node.pull(&reference).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
    }
    registry.add_manifest("v1", MANIFEST, &vec![b' '; 5 << 20]);
    assert_eq!(node.pull(&reference).await.unwrap_err().kind(), Kind::InvalidArgument);
    node.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_daemon_left_goes_at_the_next_start() {
    let (node, registry) = (Node::start().await, Registry::start());
    Image::simple(&registry, "v1");
    registry.fault("/blobs/", Fault::Silent, usize::MAX);
    let (images, mut request) = (node.tenant.images(), node.request(&format!("{}/a/b:v1", registry.host)));
    request.progress_timeout = Duration::from_secs(1);
    let _ = images.pull(request).await;
    let Node { folder, core, tenant } = node;
    drop((images, tenant));
    core.close().await;
    let core = open(folder.path()).await;
    let node = Node { tenant: core.tenant("test".parse().unwrap()), folder, core };
    node.assert_empty().await;
    registry.forgive();
    node.pull(&format!("{}/a/b:v1", registry.host)).await.unwrap();
}
