//! Layers where images are verified: a client that unpacks by itself does not go round those who are asked.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::types::{Descriptor, Mount};
use tonic::{Code, Status};
use windlass_engine::images::{ImageRecord, VerifierConfig};
use windlass_model::Digest;
use windlass_model::snapshotter::Labels;

use crate::{Bench, bench_with, put_blob, within};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

async fn apply(bench: &Bench, layer: &Digest, size: usize) -> Result<(), Status> {
    let snapshots = bench.tenant("test").snapshots("native").expect("native");
    let key = format!("work-{}", next());
    let mounts = snapshots.prepare(&key, None, Labels::new(), None).await.expect("prepare");
    let word = |mount: windlass_model::Mount| Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    let diff =
        Descriptor { media_type: LAYER.into(), digest: layer.to_string(), size: size as i64, ..Descriptor::default() };
    let request =
        ApplyRequest { diff: Some(diff), mounts: mounts.into_iter().map(word).collect(), ..ApplyRequest::default() };
    DiffClient::new(bench.channel.clone()).apply(within("test", request)).await.map(drop)
}

/// A number that no other snapshot here has.
fn next() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_applied_only_for_an_image_that_is_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let bin_dir = folder.path().join("bin");
    std::fs::create_dir(&bin_dir).expect("make");
    let script = |text: &str| {
        let path = bin_dir.join("verifier");
        std::fs::write(&path, format!("#!/bin/sh\necho \"$@\" >> {}/asked\n{text}\n", folder.path().display()))
            .expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    };
    script("exit 0");
    let per_verifier_timeout = Duration::from_secs(5);
    let bench =
        bench_with(Some(VerifierConfig { bin_dir: bin_dir.clone(), max_verifiers: None, per_verifier_timeout })).await;
    let tenant = bench.tenant("test");
    let bytes = vec![0; 1024];
    let layer = put_blob(&tenant, &bytes).await;
    let error = apply(&bench, &layer, bytes.len()).await.expect_err("of no image");
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert!(!folder.path().join("asked").exists(), "there is nothing to ask about");

    let config = Digest::of(b"{}");
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": LAYER, "digest": layer, "size": bytes.len()}]})
    .to_string();
    let manifest = put_blob(&tenant, manifest.as_bytes()).await;
    let refers = async |label: &'static str, to: Digest| {
        let to = to.to_string();
        tenant.content().update_labels(&manifest, move |labels| drop(labels.insert(label.into(), to))).await
    };
    // A label that lies does not help: what counts is what the manifest lists.
    let other = put_blob(&tenant, &[0; 2048]).await;
    refers("containerd.io/gc.ref.content.l.0", other).await.expect("label");
    assert_eq!(apply(&bench, &other, 2048).await.expect_err("not listed").code(), Code::PermissionDenied);
    refers("containerd.io/gc.ref.content.l.0", layer).await.expect("label");
    script("echo not signed; exit 1");
    let error = apply(&bench, &layer, bytes.len()).await.expect_err("refused");
    assert!(error.code() == Code::PermissionDenied && error.message().contains("not signed"), "{error}");
    script("exit 0");
    apply(&bench, &layer, bytes.len()).await.expect("allowed");
    // A record's name is asked about, and so is where it came from.
    let asked = std::fs::read_to_string(folder.path().join("asked")).expect("asked");
    assert!(asked.contains(&format!("-name {manifest} -digest {manifest} ")), "{asked}");
    let target = serde_json::from_value(serde_json::json!({"mediaType": MANIFEST, "digest": manifest, "size": 1}));
    tenant.images().create(ImageRecord::new("a/b:c", target.expect("a descriptor"))).await.expect("create");
    script("case \"$2\" in a/b:c) exit 1;; esac");
    assert_eq!(apply(&bench, &layer, bytes.len()).await.expect_err("refused").code(), Code::PermissionDenied);
    // Nobody can be asked.
    std::fs::remove_dir_all(&bin_dir).expect("remove");
    assert_eq!(apply(&bench, &layer, bytes.len()).await.expect_err("refused").code(), Code::PermissionDenied);
}
