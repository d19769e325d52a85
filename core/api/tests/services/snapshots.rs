//! Snapshots.

use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, StatSnapshotRequest, UsageRequest,
};
use tonic::Code;

use super::*;

#[tokio::test]
async fn snapshots_are_told_and_what_is_not_built_says_so() {
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
    let request = PrepareSnapshotRequest { snapshotter, ..Default::default() };
    assert_eq!(snapshots.prepare(within("one", request)).await.expect_err("not built").code(), Code::Unimplemented);
}
