//! Snapshots.

use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use tonic::Code;
use windlass_engine::leases::Resource;

use super::*;

#[tokio::test]
async fn snapshots_are_told() {
    let bench = bench().await;
    let store = bench.tenant("one").snapshots("native").expect("a driver");
    store.prepare("active", None, kept(), None).await.expect("prepare");
    let mut snapshots = SnapshotsClient::new(bench.channel.clone());
    let (snapshotter, key) = ("native".to_owned(), "active".to_owned());
    let request = StatSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone() };
    let info = snapshots.stat(within("one", request)).await.expect("stat").into_inner().info.expect("info");
    assert_eq!(info.kind(), Kind::Active);
    let request = MountsRequest { snapshotter: snapshotter.clone(), key: key.clone() };
    let mounts = snapshots.mounts(within("one", request)).await.expect("mounts").into_inner().mounts;
    assert_eq!(mounts[0].r#type, "bind");
    let request = UsageRequest { snapshotter: snapshotter.clone(), key: key.clone() };
    assert!(snapshots.usage(within("one", request)).await.expect("usage").into_inner().inodes > 0);
    let request = ListSnapshotsRequest { snapshotter: snapshotter.clone(), filters: Vec::new() };
    let mut list = snapshots.list(within("one", request)).await.expect("list").into_inner();
    assert_eq!(list.message().await.expect("a message").expect("a batch").info[0].name, "active");
    let request = StatSnapshotRequest { snapshotter: "btrfs".into(), key };
    assert_eq!(snapshots.stat(within("one", request)).await.expect_err("no driver").code(), Code::NotFound);
}

fn prepare(key: &str, parent: &str, pairs: &[(&str, &str)]) -> PrepareSnapshotRequest {
    let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    PrepareSnapshotRequest { snapshotter: "native".into(), key: key.into(), parent: parent.into(), labels }
}

fn commit(name: &str, key: &str) -> CommitSnapshotRequest {
    let labels = labels([("a", "b")]);
    CommitSnapshotRequest { snapshotter: "native".into(), name: name.into(), key: key.into(), labels }
}

fn remove(key: &str) -> RemoveSnapshotRequest {
    RemoveSnapshotRequest { snapshotter: "native".into(), key: key.into() }
}

#[tokio::test]
async fn a_snapshot_is_prepared_committed_viewed_labelled_and_removed() {
    let bench = bench().await;
    let mut snapshots = SnapshotsClient::new(bench.channel.clone());
    let mounts = snapshots.prepare(within("one", prepare("work", "", &[]))).await.expect("prepare").into_inner().mounts;
    assert_eq!(mounts[0].r#type, "bind");
    let again = snapshots.prepare(within("one", prepare("work", "", &[]))).await.expect_err("taken");
    assert_eq!(again.code(), Code::AlreadyExists);
    snapshots.commit(within("one", commit("base", "work"))).await.expect("commit");
    let stat = StatSnapshotRequest { snapshotter: "native".into(), key: "base".into() };
    let info = snapshots.stat(within("one", stat)).await.expect("stat").into_inner().info.expect("info");
    assert_eq!((info.kind(), info.labels), (Kind::Committed, labels([("a", "b")])));
    let missing = snapshots.prepare(within("one", prepare("x", "none", &[]))).await.expect_err("no parent");
    assert_eq!(missing.code(), Code::NotFound);
    let view = ViewSnapshotRequest {
        snapshotter: "native".into(),
        key: "view".into(),
        parent: "base".into(),
        ..Default::default()
    };
    let mounts = snapshots.view(within("one", view)).await.expect("view").into_inner().mounts;
    assert!(mounts[0].options.contains(&"ro".to_owned()), "{mounts:?}");
    let held = snapshots.remove(within("one", remove("base"))).await.expect_err("has a child");
    assert_eq!(held.code(), Code::FailedPrecondition);
    let info = Info { name: "base".into(), labels: labels([("c", "d")]), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels.c".into()] });
    let update = UpdateSnapshotRequest { snapshotter: "native".into(), info: Some(info), update_mask };
    let info = snapshots.update(within("one", update)).await.expect("update").into_inner().info.expect("info");
    assert_eq!(info.labels, labels([("a", "b"), ("c", "d")]));
    for key in ["view", "base"] {
        snapshots.remove(within("one", remove(key))).await.expect("remove");
    }
    assert_eq!(snapshots.remove(within("one", remove("base"))).await.expect_err("gone").code(), Code::NotFound);
    snapshots.cleanup(within("one", CleanupRequest { snapshotter: "native".into() })).await.expect("clean up");
    let nameless = CleanupRequest::default();
    assert_eq!(snapshots.cleanup(within("one", nameless)).await.expect_err("which?").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_a_prepare_is_for_may_be_there_already() {
    let bench = bench().await;
    let mut snapshots = SnapshotsClient::new(bench.channel.clone());
    let lease = "l".parse().expect("a lease");
    let tenant = bench.tenant("one");
    tenant.leases().create(&lease, Labels::new()).await.expect("create");
    let target = [("containerd.io/snapshot.ref", "layer")];
    snapshots.prepare(under("l", "one", prepare("extract-1", "", &target))).await.expect("prepare");
    assert_eq!(tenant.leases().resources(&lease).await.expect("held"), [Resource::snapshot("native", "extract-1")]);
    snapshots.commit(under("l", "one", commit("layer", "extract-1"))).await.expect("commit");
    assert_eq!(tenant.leases().resources(&lease).await.expect("held"), [Resource::snapshot("native", "layer")]);
    let other = "m".parse().expect("a lease");
    tenant.leases().create(&other, Labels::new()).await.expect("create");
    let second = snapshots.prepare(under("m", "one", prepare("extract-2", "", &target))).await.expect_err("there");
    assert_eq!(second.code(), Code::AlreadyExists);
    assert_eq!(tenant.leases().resources(&other).await.expect("held"), [Resource::snapshot("native", "layer")]);
    let unleased = snapshots.prepare(under("none", "one", prepare("x", "", &[]))).await.expect_err("no lease");
    assert_eq!(unleased.code(), Code::NotFound);
    for lease in [&lease, &other] {
        bench.core.collect().await.expect("collect");
        assert_eq!(tenant.snapshots("native").expect("a driver").list().await.expect("list").len(), 1);
        tenant.leases().delete(lease).await.expect("delete");
    }
    assert_eq!(bench.core.collect().await.expect("collect").snapshots, 1);
}

#[tokio::test]
async fn a_prepared_snapshot_goes_with_its_lease() {
    let bench = bench().await;
    let mut snapshots = SnapshotsClient::new(bench.channel.clone());
    let lease = "l".parse().expect("a lease");
    let tenant = bench.tenant("one");
    tenant.leases().create(&lease, Labels::new()).await.expect("create");
    snapshots.prepare(under("l", "one", prepare("work", "", &[]))).await.expect("prepare");
    assert_eq!(bench.core.collect().await.expect("collect").snapshots, 0);
    tenant.leases().delete(&lease).await.expect("delete");
    assert_eq!(bench.core.collect().await.expect("collect").snapshots, 1);
}
