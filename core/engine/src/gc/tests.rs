//! What the garbage collector keeps and what it takes.

use std::time::Instant;

use windlass_model::snapshotter::Labels;
use windlass_model::{Descriptor, Kind as Wrong, LeaseId};

use super::*;
use crate::content::BlobRecord;
use crate::leases::Resource;
use crate::meta::schema::NAMESPACES;
use crate::namespaces::NamespaceRecord;
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

/// What a collection at that moment would find.
fn garbage(tenant: &Tenant, now: Timestamp) -> Vec<Node> {
    let graph = Graph::read(&tenant.core.0.db.view(), now).unwrap();
    graph.garbage().into_iter().map(|number| graph.unkept(number).unwrap().clone()).collect()
}

fn snapshot(key: &str) -> Node {
    Node::Snapshot("test".parse().unwrap(), "folders".into(), key.into())
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
    assert_eq!(garbage(&tenant, later), [snapshot("young")]);
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
    assert_eq!(stats, GcStats { leases: 1, blobs: 1, snapshots: 2, ..GcStats::default() });
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

/// An image of that name, with labels.
async fn image(tenant: &Tenant, name: &str, digest: Digest, labels: &[(&str, &str)]) {
    let mut record = ImageRecord::new(name, target(digest));
    record.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    tenant.images().create(record).await.unwrap();
}

const PAST: &str = "2001-01-01T00:00:00Z";
const FUTURE: &str = "2261-01-01T00:00:00Z";

#[tokio::test]
async fn an_image_that_has_expired_goes_unless_something_refers_to_it() {
    let (_folder, tenant, _) = tenant().await;
    let digest = blob(&tenant, "manifest", &[]).await;
    image(&tenant, "over", digest, &[(leases::EXPIRE, PAST)]).await;
    image(&tenant, "kept", digest, &[(leases::EXPIRE, PAST)]).await;
    image(&tenant, "later", digest, &[(leases::EXPIRE, FUTURE), ("containerd.io/gc.ref.image.base", "kept")]).await;
    image(&tenant, "unreadable", digest, &[(leases::EXPIRE, "soon")]).await;
    assert_eq!(tenant.core().collect().await.unwrap(), GcStats { images: 1, ..GcStats::default() });
    let names: Vec<_> = tenant.images().list().await.unwrap().into_iter().map(|image| image.name).collect();
    assert_eq!(names, ["kept", "later", "unreadable"]);
}

#[tokio::test]
async fn a_time_keeps_content_and_snapshots_until_then() {
    let (_folder, tenant, _) = tenant().await;
    let young = blob(&tenant, "young", &[(leases::EXPIRE, FUTURE.into())]).await;
    blob(&tenant, "old", &[(leases::EXPIRE, PAST.into())]).await;
    let snapshots = tenant.snapshots("folders").unwrap();
    layer(&tenant, "base", None).await;
    snapshots.update_labels("base", |labels| drop(labels.insert(leases::EXPIRE.into(), FUTURE.into()))).await.unwrap();
    assert_eq!(tenant.core().collect().await.unwrap(), GcStats { blobs: 1, ..GcStats::default() });
    tenant.content().info(&young).await.unwrap();
    assert_eq!(names(&tenant).await, ["base"]);
}

#[tokio::test]
async fn back_references_hang_things_on_what_may_come_later() {
    let (_folder, tenant, _) = tenant().await;
    let kept = blob(&tenant, "kept", &[("containerd.io/gc.root", "x".into())]).await;
    let on_blob = blob(&tenant, "on blob", &[("containerd.io/gc.bref.content.x", kept.to_string())]).await;
    let on_image = blob(&tenant, "on image", &[("containerd.io/gc.bref.image", "app".into())]).await;
    let on_box = blob(&tenant, "on box", &[("containerd.io/gc.bref.container/x", "box".into())]).await;
    let on_layer = blob(&tenant, "on layer", &[("containerd.io/gc.bref.snapshot.folders", "low".into())]).await;
    blob(&tenant, "on nothing", &[("containerd.io/gc.bref.image", "none".into())]).await;
    blob(&tenant, "not one", &[("containerd.io/gc.bref.contents", kept.to_string())]).await;
    layer(&tenant, "low", None).await;
    image(&tenant, "app", on_blob, &[("containerd.io/gc.ref.snapshot.folders", "low")]).await;
    tenant.containers().create(ContainerRecord::new("box".parse().unwrap()), Durability::Crash).await.unwrap();
    assert_eq!(tenant.core().collect().await.unwrap().blobs, 2);
    tenant.containers().delete(&"box".parse().unwrap(), Durability::Crash).await.unwrap();
    assert_eq!(tenant.core().collect().await.unwrap().blobs, 1);
    assert!(tenant.content().info(&on_box).await.unwrap_err().is_not_found());
    tenant.images().delete("app").await.unwrap();
    let stats = tenant.core().collect().await.unwrap();
    assert_eq!((stats.blobs, stats.snapshots), (2, 1));
    assert!(tenant.content().info(&on_image).await.unwrap_err().is_not_found());
    assert!(tenant.content().info(&on_layer).await.unwrap_err().is_not_found());
    tenant.content().info(&on_blob).await.unwrap();
}

#[tokio::test]
async fn clients_words_for_the_overlay_driver_are_understood() {
    let (_folder, tenant, _) = tenant().await;
    let label = "containerd.io/gc.ref.snapshot.overlayfs/app".to_owned();
    let Some(labels::Tie::Keeps(node)) =
        labels::ties(tenant.namespace(), &Labels::from([(label, "key".into())])).next()
    else {
        panic!("no tie")
    };
    assert_eq!(node, Node::Snapshot(tenant.namespace().clone(), "overlay".into(), "key".into()));
}

#[tokio::test]
async fn what_is_written_while_garbage_is_looked_for_stays() {
    let (_folder, tenant, _) = tenant().await;
    layer(&tenant, "low", None).await;
    layer(&tenant, "high", Some("low")).await;
    let inner = blob(&tenant, "inner", &[]).await;
    let outer = blob(&tenant, "outer", &[("containerd.io/gc.ref.content.0", inner.to_string())]).await;
    blob(&tenant, "waiting", &[("containerd.io/gc.bref.image", "app".into())]).await;
    let leased = blob(&tenant, "leased", &[]).await;
    let doomed = blob(&tenant, "doomed", &[]).await;
    let db = &tenant.core.0.db;
    db.update(Durability::Crash, |tx| {
        tx.watch_changes();
        Ok(())
    })
    .await
    .unwrap();
    let mut graph = Graph::read(&db.view(), Timestamp::now()).unwrap();
    let candidates = graph.garbage();
    assert_eq!(candidates.len(), 7);

    image(&tenant, "app", outer, &[]).await;
    let lease: LeaseId = "l".parse().unwrap();
    tenant.leases().create(&lease, Labels::new()).await.unwrap();
    tenant.leases().add_resource(&lease, Resource::content(&leased)).await.unwrap();
    tenant.snapshots("folders").unwrap().prepare("rootfs", Some("high"), Labels::new(), None).await.unwrap();
    let left = db.update(Durability::Crash, move |tx| {
        for key in tx.changes().unwrap() {
            graph.revive(tx, &key)?;
        }
        graph.follow();
        Ok(candidates.iter().filter_map(|number| graph.unkept(*number).cloned()).collect::<Vec<_>>())
    });
    assert_eq!(left.await.unwrap(), [Node::Blob(tenant.namespace().clone(), doomed)]);
}

/// Records of blobs without files, all but the first of them in a chain that nothing keeps.
async fn many(tenant: &Tenant, count: u32) {
    let namespace = tenant.namespace().clone();
    for start in (0..count).step_by(1000) {
        let namespace = namespace.clone();
        let write = move |tx: &mut Tx<'_>| {
            let now = Timestamp::now();
            tx.put(&NAMESPACES, &namespace, &NamespaceRecord { labels: Labels::new(), created_at: now })?;
            for number in start..(start + 1000).min(count) {
                let next = Digest::of(&(number + 1).to_be_bytes());
                let mut labels = Labels::from([("containerd.io/gc.ref.content.next".into(), next.to_string())]);
                if number % 2 == 0 {
                    labels.insert("containerd.io/gc.root".into(), "x".into());
                    labels.remove("containerd.io/gc.ref.content.next");
                }
                let record = BlobRecord { size: 1, labels, created_at: now, updated_at: now };
                tx.put(&BLOBS, &(namespace.clone(), Digest::of(&number.to_be_bytes())), &record)?;
            }
            Ok(())
        };
        tenant.core.0.db.update(Durability::Crash, write).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_do_not_wait_for_a_collection() {
    let (_folder, tenant, _) = tenant().await;
    many(&tenant, 40_000).await;
    let core = tenant.core().clone();
    let begun = Instant::now();
    let collecting = tokio::spawn(async move { core.collect().await });
    let mut longest = Duration::ZERO;
    while !collecting.is_finished() {
        let asked = Instant::now();
        tenant.core.0.db.update(Durability::Crash, |_| Ok(())).await.unwrap();
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let whole = begun.elapsed();
    assert_eq!(collecting.await.unwrap().unwrap().blobs, 20_000);
    println!("a collection of 20000 of 40000 blobs took {whole:?}; no write waited longer than {longest:?}");
    assert!(longest < whole / 4, "a write waited {longest:?} of {whole:?}");
}
