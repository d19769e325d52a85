//! Pushes: to the registry that everybody runs, and to one that misbehaves.

use std::time::Duration;

use windlass_engine::images::{Naming, Progress, PushRequest, Reporter};
use windlass_engine::registry::{Access, Credentials};
use windlass_model::{Digest, Kind, Platform, Result};

use crate::Node;
use crate::image::{INDEX, Image, Packed, noise, tar};
use crate::real::DockerRegistry;
use crate::registry::{Door, Fault, Registry};

impl Node {
    /// Pulls under its plain name, so that it can be pushed by that.
    async fn take(&self, reference: &str) -> String {
        let mut request = self.request(reference);
        request.naming = Naming::Plain;
        self.tenant.images().pull(request).await.unwrap().records[0].name.clone()
    }

    fn pushing(&self, name: &str, to: &str) -> PushRequest {
        PushRequest {
            name: name.into(),
            reference: to.parse().unwrap(),
            access: Access::default(),
            platforms: Vec::new(),
            reporter: Reporter::default(),
        }
    }

    async fn push(&self, name: &str, to: &str) -> Result<()> {
        self.tenant.images().push(self.pushing(name, to)).await
    }
}

/// An image with one layer that takes three pieces.
fn large(registry: &Registry, tag: &str) -> Image {
    let layer = tar(&[("noise", &noise(20 << 20))]);
    Image::put(registry, tag, &[(layer, Packed::Plain), (tar(&[("small", b"x")]), Packed::Gzip)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_takes_what_is_pushed() {
    let Some(real) = DockerRegistry::start().await else {
        eprintln!("docker-registry is not installed; skipped");
        return;
    };
    let (node, double) = (Node::start().await, Registry::start());
    let image = large(&double, "1");
    let name = node.take(&format!("{}/a/b:1", double.host)).await;
    let pushed = format!("{}/some/where:tag", real.host);
    let steps = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Progress>::new()));
    let heard = steps.clone();
    let reporter = Reporter::new(move |step| heard.lock().unwrap().push(step));
    node.tenant.images().push(PushRequest { reporter, ..node.pushing(&name, &pushed) }).await.unwrap();
    let steps = steps.lock().unwrap().clone();
    assert!(steps.iter().any(|step| step.event == "uploading" && step.progress == 8 << 20), "{steps:?}");
    assert_eq!(steps.iter().filter(|step| step.event == "complete").count(), 4);
    // Another machine pulls it, and pushes it to another repository of the same registry: nothing is sent.
    let other = Node::start().await;
    let name = other.take(&pushed).await;
    let record = other.tenant.images().get(&name).await.unwrap();
    assert_eq!(record.target.digest, image.manifest);
    other.push(&name, &format!("{}/else/where:2", real.host)).await.unwrap();
    let third = Node::start().await;
    assert_eq!(third.pull(&format!("{}/else/where:2", real.host)).await.unwrap().detail.layers.len(), 2);
    // A name that is taken is given to the new one, also where the old one is of a kind that this registry likes to rewrite.
    real.push_docker("some/where", "old").await;
    other.push(&name, &format!("{}/some/where:old", real.host)).await.unwrap();
    let missing = other.push("nobody:1", &pushed).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_sent_again() {
    let (node, from, to) = (Node::start().await, Registry::start(), Registry::start());
    let image = large(&from, "1");
    let name = node.take(&format!("{}/a/b:1", from.host)).await;
    let target = format!("{}/c/d:2", to.host);
    node.push(&name, &target).await.unwrap();
    for digest in image.layers.iter().chain([&image.config]) {
        assert_eq!(to.blob(digest), from.blob(digest));
    }
    assert_eq!(to.manifest("2"), from.manifest("1"));
    // Three pieces and an end for the large layer, an end alone for the others.
    assert_eq!((to.count("POST", "uploads"), to.count("PATCH", "uploads"), to.count("PUT", "uploads")), (3, 3, 3));
    node.push(&name, &target).await.unwrap();
    assert_eq!((to.count("POST", "uploads"), to.count("PUT", "manifests")), (3, 1));
    assert_eq!(to.open_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_mounted_from_where_they_came() {
    let (node, registry) = (Node::start().await, Registry::start());
    Image::simple(&registry, "1");
    let name = node.take(&format!("{}/a/b:1", registry.host)).await;
    registry.mountable("a/b");
    node.push(&name, &format!("{}/c/d:2", registry.host)).await.unwrap();
    assert_eq!(registry.count("POST", "mount=sha256%3A"), 3);
    assert_eq!(registry.count("PUT", "uploads"), 0);
    assert!(registry.manifest("2").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_broke() {
    let (node, from) = (Node::start().await, Registry::start());
    let image = large(&from, "1");
    let name = node.take(&format!("{}/a/b:1", from.host)).await;
    let faults = [
        ("state=x", Fault::Lost(0), 2),
        ("state=x", Fault::Lost(1 << 20), 3),
        ("state=x", Fault::Forgotten, 1),
        ("state=x", Fault::Status(503, None), 2),
        ("uploads/?", Fault::Status(500, None), 1),
        ("uploads/", Fault::Status(429, Some(("Retry-After", "1".into()))), 1),
        ("manifests/2", Fault::Status(502, None), 2),
    ];
    for (word, fault, times) in faults {
        let to = Registry::start();
        to.fault(word, fault.clone(), times);
        node.push(&name, &format!("{}/c/d:2", to.host)).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(to.blob(&image.layers[0]), from.blob(&image.layers[0]), "{fault:?}");
        assert!(to.manifest("2").is_some() && to.open_uploads() == 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_ends_the_push() {
    let (node, from) = (Node::start().await, Registry::start());
    Image::simple(&from, "1");
    let name = node.take(&format!("{}/a/b:1", from.host)).await;
    let cases = [
        ("uploads", Fault::Status(403, None), Kind::PermissionDenied),
        ("uploads", Fault::Status(405, None), Kind::Unimplemented),
        ("state=x", Fault::Lost(0), Kind::Unavailable),
        ("manifests/2", Fault::Status(413, None), Kind::Unknown),
    ];
    for (word, fault, kind) in cases {
        let to = Registry::start();
        to.fault(word, fault, 1000);
        let target = format!("{}/c/d:2", to.host);
        let pushing = tokio::time::timeout(Duration::from_secs(60), node.push(&name, &target));
        assert_eq!(pushing.await.expect("it ends").unwrap_err().kind(), kind, "{word}");
        assert!(to.manifest("2").is_none());
    }
    let target = format!("{}/c/d:2", from.host);
    node.hosts(&from.host, &format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", from.host));
    // The registry itself can do everything; only its mirrors can be narrowed.
    node.push(&name, &target).await.unwrap();
    let nowhere = node.push(&name, "127.0.0.1:1/c/d:2").await.unwrap_err();
    assert_eq!(nowhere.kind(), Kind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_writing() {
    let (node, from, to) = (Node::start().await, Registry::start(), Registry::start());
    Image::simple(&from, "1");
    let name = node.take(&format!("{}/a/b:1", from.host)).await;
    to.door(Door::Token(Some("Basic dTpw".into())));
    let target = format!("{}/c/d:2", to.host);
    assert_eq!(node.push(&name, &target).await.unwrap_err().kind(), Kind::Unauthenticated);
    let auth = Some(Credentials::Basic { user: "u".into(), password: "p".into() });
    let request = PushRequest { access: Access::with(auth), ..node.pushing(&name, &target) };
    node.tenant.images().push(request).await.unwrap();
    assert!(to.count("GET", "repository%3Ac%2Fd%3Apull%2Cpush") > 0, "{:?}", to.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_pushed_after_its_manifests() {
    let (node, from, to) = (Node::start().await, Registry::start(), Registry::start());
    let image = Image::simple(&from, "one");
    let host = Platform::host();
    let entry = |digest: Digest, size: usize, os: &str| {
        serde_json::json!({"mediaType": crate::image::MANIFEST, "digest": digest, "size": size,
            "platform": {"os": os, "architecture": host.architecture}})
    };
    let size = from.manifest_size(&image.manifest);
    let index = |entries: &[serde_json::Value]| {
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})).unwrap()
    };
    let whole = from.add_manifest("whole", INDEX, &index(&[entry(image.manifest, size, "linux")]));
    let part = index(&[entry(image.manifest, size, "linux"), entry(Digest::of(b"gone"), 4, "plan9")]);
    from.add_manifest("part", INDEX, &part);
    let name = node.take(&format!("{}/a/b:whole", from.host)).await;
    node.push(&name, &format!("{}/c/d:2", to.host)).await.unwrap();
    let puts: Vec<String> = to.seen().into_iter().filter(|seen| seen.method == "PUT").map(|seen| seen.path).collect();
    let manifests: Vec<&String> = puts.iter().filter(|path| path.contains("manifests")).collect();
    assert_eq!(manifests, [&format!("/v2/c/d/manifests/{}", image.manifest), "/v2/c/d/manifests/2"]);
    assert!(to.manifest(&whole.to_string()).is_some());
    // A part that was never pulled is named.
    let name = node.take(&format!("{}/a/b:part", from.host)).await;
    let error = node.push(&name, &format!("{}/c/d:3", to.host)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("plan9"), "{error}");
    let request = PushRequest { platforms: vec![host], ..node.pushing(&name, &format!("{}/c/d:3", to.host)) };
    node.tenant.images().push(request).await.unwrap();
    assert_eq!(to.manifest("3").unwrap(), part);
}
