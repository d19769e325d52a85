//! Image records, and what they say of the image behind them.

use super::*;
use crate::testing::tenant;

async fn blob(tenant: &Tenant, media_type: &str, bytes: &[u8]) -> Descriptor {
    let mut writer = tenant.content().ingest(&Digest::of(bytes).to_string(), None, None).await.unwrap();
    writer.write(bytes).await.unwrap();
    let digest = writer.commit(None, None, Labels::new()).await.unwrap();
    let (media_type, size) = (media_type.to_owned(), bytes.len() as u64);
    Descriptor { media_type, digest, size, platform: None, annotations: Default::default(), urls: Vec::new() }
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// Two layers (not there), a configuration as Docker writes it, a manifest, and an index over it.
async fn image(tenant: &Tenant, diff_ids: usize) -> (Descriptor, Descriptor, Descriptor) {
    let diff_ids: Vec<_> = (0..diff_ids).map(|number| Digest::of(&[number as u8])).collect();
    let config = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux", "created": "2024-01-01T00:00:00.123456789Z",
        "config": {"Env": ["A=b"], "Cmd": null, "Entrypoint": ["/bin/sh"], "ExposedPorts": {"80/tcp": {}}, "Labels": null,
                   "Volumes": {"/data": {}}, "User": "1000:1000", "OnBuild": null, "ArgsEscaped": true},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "x", "empty_layer": true}],
        "container_config": {"Hostname": ""}, "docker_version": "20"
    });
    let config = blob(tenant, "application/vnd.docker.container.image.v1+json", &json(&config)).await;
    let layer = |name: &str| Descriptor { digest: Digest::of(name.as_bytes()), size: 1000, ..config.clone() };
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer("low"), layer("high")]});
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    let mut manifest = blob(tenant, media_type, &json(&manifest)).await;
    let plain = manifest.clone();
    manifest.platform = Some(Platform::host());
    let mut foreign = plain.clone();
    foreign.platform = Some(Platform { os: "linux".into(), architecture: "s390x".into(), variant: String::new() });
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [foreign, manifest]});
    let index = blob(tenant, "application/vnd.oci.image.index.v1+json", &json(&index)).await;
    (config, plain, index)
}

#[tokio::test]
async fn an_image_is_described_through_its_index() {
    let (_folder, tenant, _) = tenant().await;
    let (config, manifest, index) = image(&tenant, 2).await;
    let record = tenant.images().create(ImageRecord::new("a", index.clone())).await.unwrap();
    let detail = tenant.images().describe(&record).await.unwrap();
    assert_eq!((detail.id, detail.manifest.digest), (config.digest, manifest.digest));
    assert_eq!(detail.size, 2000 + config.size + manifest.size);
    assert_eq!(detail.diff_ids.len(), 2);
    assert_eq!(detail.chain_id, chain_ids(&detail.diff_ids).last().copied());
    assert_eq!(detail.config.config().as_ref().unwrap().user().as_deref(), Some("1000:1000"));
    assert!(Arc::ptr_eq(&detail, &tenant.images().describe(&record).await.unwrap()));
    // Another namespace does not see it just because it is remembered.
    let other = tenant.core().tenant("other".parse().unwrap());
    assert!(other.images().describe(&record).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_configuration_that_contradicts_the_manifest_is_refused() {
    let (_folder, tenant, _) = tenant().await;
    let (_, manifest, _) = image(&tenant, 3).await;
    let record = tenant.images().create(ImageRecord::new("a", manifest)).await.unwrap();
    assert_eq!(tenant.images().describe(&record).await.unwrap_err().kind(), Kind::DataLoss);
}

#[tokio::test]
async fn records_are_made_changed_and_forgotten() {
    let (_folder, tenant, _) = tenant().await;
    let images = tenant.images();
    let (_, manifest, index) = image(&tenant, 2).await;
    let made = images.create(ImageRecord::new("a", manifest.clone())).await.unwrap();
    assert_eq!(images.create(made.clone()).await.unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(images.create(ImageRecord::new("", manifest)).await.unwrap_err().kind(), Kind::InvalidArgument);
    let changed = images
        .update("a", move |record| {
            record.target = index;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(changed.created_at, made.created_at);
    assert!(changed.updated_at > made.updated_at && changed.target != made.target);
    let renamed = images
        .update("a", |record| {
            record.name = "b".into();
            Ok(())
        })
        .await;
    assert_eq!(renamed.unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(images.list().await.unwrap(), [changed]);
    images.delete("a").await.unwrap();
    assert!(images.get("a").await.unwrap_err().is_not_found());
    assert!(images.delete("a").await.unwrap_err().is_not_found());
}
