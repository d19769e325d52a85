//! What the garbage collector keeps and what it takes.

use windlass_model::{Descriptor, Kind as Wrong};

use super::*;
use crate::leases::Resource;
use crate::testing::tenant;
use crate::{ContainerRecord, Tenant, images::ImageRecord};

async fn blob(tenant: &Tenant, text: &str, labels: &[(&str, String)]) -> Digest {
    let mut writer = tenant.content().ingest(text, None, None).await.unwrap();
    writer.write(text.as_bytes()).await.unwrap();
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    writer.commit(None, None, labels).await.unwrap()
}

async fn layer(tenant: &Tenant, name: &str, parent: Option<&str>) {
    let snapshots = tenant.snapshots("folders").unwrap();
    snapshots.prepare("making", parent, Labels::new(), None).await.unwrap();
    snapshots.commit(name, "making", Labels::new()).await.unwrap();
}

fn target(digest: Digest) -> Descriptor {
    let media_type = String::new();
    Descriptor { media_type, digest, size: 1, platform: None, annotations: Default::default(), urls: Vec::new() }
}

async fn names(tenant: &Tenant) -> Vec<String> {
    tenant.snapshots("folders").unwrap().list().await.unwrap().into_iter().map(|snapshot| snapshot.key).collect()
}

#[tokio::test]
async fn an_image_keeps_what_it_leads_to_and_nothing_else() {
    let (folder, tenant, driver) = tenant().await;
    layer(&tenant, "low", None).await;
    layer(&tenant, "high", Some("low")).await;
    layer(&tenant, "unrelated", None).await;
    let config = blob(&tenant, "config", &[("containerd.io/gc.ref.snapshot.folders", "high".into())]).await;
    let unpacked = blob(&tenant, "layer", &[]).await;
    let labels = [
        ("containerd.io/gc.ref.content.config", config.to_string()),
        ("containerd.io/gc.ref.content.l.0", unpacked.to_string()),
    ];
    let manifest = blob(&tenant, "manifest", &labels).await;
    blob(&tenant, "unrelated", &[("containerd.io/gc.ref.contention", manifest.to_string())]).await;
    blob(&tenant, "root", &[("containerd.io/gc.root", "now".into())]).await;
    tenant.images().create(ImageRecord::new("image", target(manifest))).await.unwrap();

    let stats = tenant.core().collect().await.unwrap();
    assert_eq!(stats, GcStats { blobs: 1, snapshots: 1, ..GcStats::default() });
    assert_eq!(names(&tenant).await, ["high", "low"]);
    assert_eq!(tenant.content().list().await.unwrap().len(), 4);
    assert_eq!(tenant.core().collect().await.unwrap(), GcStats::default());

    tenant.images().delete("image").await.unwrap();
    let stats = tenant.core().collect().await.unwrap();
    assert_eq!((stats.blobs, stats.snapshots), (3, 2));
    use windlass_model::snapshotter::Snapshotter;
    assert!(driver.ids().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("root/content/blobs/sha256")).unwrap().count(), 1);
}

#[tokio::test]
async fn containers_and_youth_keep_active_snapshots() {
    let (_folder, tenant, _) = tenant().await;
    layer(&tenant, "base", None).await;
    let snapshots = tenant.snapshots("folders").unwrap();
    snapshots.prepare("rootfs", Some("base"), Labels::new(), None).await.unwrap();
    snapshots.prepare("young", None, Labels::new(), None).await.unwrap();
    let mut container = ContainerRecord::new("c".parse().unwrap());
    (container.snapshotter, container.snapshot_key) = ("folders".into(), "rootfs".into());
    tenant.containers().create(container, Durability::Crash).await.unwrap();
    assert_eq!(tenant.core().collect().await.unwrap(), GcStats::default());
    let later = Timestamp(Timestamp::now().nanos() + GRACE.as_nanos() as i64 + 1);
    let garbage = mark(&tenant.core.0.db.view(), later).unwrap();
    assert_eq!(garbage.snapshots.iter().map(|(key, _)| key.2.as_str()).collect::<Vec<_>>(), ["young"]);
}

#[tokio::test]
async fn leases_hold_until_they_end() {
    let (_folder, tenant, _) = tenant().await;
    layer(&tenant, "low", None).await;
    layer(&tenant, "high", Some("low")).await;
    let inner = blob(&tenant, "inner", &[]).await;
    let outer = blob(&tenant, "outer", &[("containerd.io/gc.ref.content.0", inner.to_string())]).await;
    let leases = tenant.leases();
    let (deep, flat): (LeaseId, LeaseId) = ("deep".parse().unwrap(), "flat".parse().unwrap());
    leases.create(&deep, Labels::new()).await.unwrap();
    leases.create(&flat, Labels::from([(leases::FLAT.into(), "true".into())])).await.unwrap();
    leases.add_resource(&flat, Resource::content(&outer)).await.unwrap();
    leases.add_resource(&flat, Resource::snapshot("folders", "high")).await.unwrap();
    leases.add_resource(&deep, Resource::content(&outer)).await.unwrap();
    assert_eq!(tenant.core().collect().await.unwrap(), GcStats::default());

    leases.delete(&deep).await.unwrap();
    let stats = tenant.core().collect().await.unwrap();
    assert_eq!((stats.blobs, stats.snapshots), (1, 0));
    assert!(tenant.content().info(&inner).await.unwrap_err().is_not_found());

    leases.delete(&flat).await.unwrap();
    let expired: LeaseId = "expired".parse().unwrap();
    leases.create(&expired, Labels::from([(leases::EXPIRE.into(), "2001-01-01T00:00:00Z".into())])).await.unwrap();
    leases.add_resource(&expired, Resource::content(&outer)).await.unwrap();
    let stats = tenant.core().collect().await.unwrap();
    assert_eq!(stats, GcStats { leases: 1, blobs: 1, snapshots: 2, ingests: 0 });
    assert!(leases.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn wrong_leases_are_refused() {
    let (_folder, tenant, _) = tenant().await;
    let (leases, id) = (tenant.leases(), "a".parse::<LeaseId>().unwrap());
    let labels = Labels::from([(leases::EXPIRE.into(), "tomorrow".into())]);
    assert_eq!(leases.create(&id, labels).await.unwrap_err().kind(), Wrong::InvalidArgument);
    leases.create(&id, Labels::new()).await.unwrap();
    assert_eq!(leases.create(&id, Labels::new()).await.unwrap_err().kind(), Wrong::AlreadyExists);
    let unknown = Resource { kind: "rubbish".into(), id: "x".into() };
    assert_eq!(leases.add_resource(&id, unknown).await.unwrap_err().kind(), Wrong::Unimplemented);
    let no_digest = Resource { kind: "content".into(), id: "x".into() };
    assert_eq!(leases.add_resource(&id, no_digest).await.unwrap_err().kind(), Wrong::InvalidArgument);
    let resource = Resource::image("x");
    leases.add_resource(&id, resource.clone()).await.unwrap();
    leases.remove_resource(&id, resource.clone()).await.unwrap();
    assert!(leases.resources(&id).await.unwrap().is_empty());
    assert!(leases.add_resource(&"b".parse().unwrap(), resource).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn one_namespace_does_not_keep_for_another() {
    let (_folder, tenant, _) = tenant().await;
    let other = tenant.core().tenant("other".parse().unwrap());
    let digest = blob(&tenant, "blob", &[]).await;
    other.content().adopt(&Descriptor { size: 4, ..target(digest) }, None).await.unwrap();
    other.images().create(ImageRecord::new("image", target(digest))).await.unwrap();
    assert_eq!(tenant.core().collect().await.unwrap().blobs, 1);
    assert!(tenant.content().info(&digest).await.unwrap_err().is_not_found());
    assert_eq!(other.content().read(&digest, 10).await.unwrap(), b"blob");
}
