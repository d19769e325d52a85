//! Layers through a core: what may be named, and that what is made can be applied.

use windlass_model::Kind;

use super::*;
use crate::testing;

fn bind(path: &std::path::Path) -> Mount {
    Mount {
        kind: "bind".into(),
        source: path.to_str().unwrap().into(),
        target: String::new(),
        options: vec!["rbind".into(), "rw".into()],
    }
}

#[tokio::test]
async fn only_folders_of_this_namespaces_snapshots_are_touched() {
    let folder = tempfile::tempdir().unwrap();
    let (core, driver) = testing::open(folder.path()).await.unwrap();
    let (mine, other) = (core.tenant("mine".parse().unwrap()), core.tenant("other".parse().unwrap()));
    for tenant in [&mine, &other] {
        let snapshots = tenant.snapshots("folders").unwrap();
        snapshots.prepare("key", None, Labels::new(), None).await.unwrap();
        snapshots.prepare("done", None, Labels::new(), None).await.unwrap();
        snapshots.commit("committed", "done", Labels::new()).await.unwrap();
    }
    let place = |tenant: Tenant, key: &'static str| {
        let driver = driver.clone();
        async move { driver.path(tenant.snapshots("folders").unwrap().stat(key).await.unwrap().id) }
    };
    let own = place(mine.clone(), "key").await;
    std::fs::write(own.join("file"), "hello").unwrap();
    let request = DiffRequest { upper: vec![bind(&own)], ..DiffRequest::default() };
    let layer = mine.layers().diff(request.clone()).await.unwrap();
    assert_eq!(layer.media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
    // The same again: the blob is there, and nothing is wrong.
    assert_eq!(mine.layers().diff(request).await.unwrap(), layer);
    let foreign = place(other.clone(), "key").await;
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    // A link that some layer brought leads nowhere.
    std::fs::create_dir(own.join("fs")).unwrap();
    std::os::unix::fs::symlink(&outside, own.join("fs/link")).unwrap();
    let linked = own.join("fs/link");
    for bad in [&foreign, &outside, &linked, &own.join("../../outside"), &place(mine.clone(), "committed").await] {
        let error = mine.layers().apply(&layer, &[bind(bad)], false).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "{}", bad.display());
    }
    for bad in [&foreign, &outside, &linked, &own.join("../../outside")] {
        let request = DiffRequest { lower: vec![bind(bad)], upper: vec![bind(&own)], ..DiffRequest::default() };
        assert_eq!(mine.layers().diff(request).await.unwrap_err().kind(), Kind::PermissionDenied);
    }
    // A blob of another namespace is none of this one.
    let error = other.layers().apply(&layer, &[bind(&foreign)], false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let snapshots = mine.snapshots("folders").unwrap();
    snapshots.prepare("to", None, Labels::new(), None).await.unwrap();
    let to = place(mine.clone(), "to").await;
    let applied = mine.layers().apply(&layer, &[bind(&to)], true).await.unwrap();
    assert_eq!(std::fs::read(to.join("file")).unwrap(), b"hello");
    let info = mine.content().info(&layer.digest).await.unwrap();
    assert_eq!(info.labels[UNCOMPRESSED], applied.digest.to_string());
    assert_eq!(applied.media_type, PLAIN);
    core.close().await;
}

#[tokio::test]
async fn a_diff_that_fails_leaves_no_ingest() {
    let folder = tempfile::tempdir().unwrap();
    let (core, driver) = testing::open(folder.path()).await.unwrap();
    let tenant = core.tenant("mine".parse().unwrap());
    let snapshots = tenant.snapshots("folders").unwrap();
    snapshots.prepare("key", None, Labels::new(), None).await.unwrap();
    let own = driver.path(snapshots.stat("key").await.unwrap().id);
    std::fs::write(own.join(".wh.bad"), "").unwrap();
    let request = DiffRequest { upper: vec![bind(&own)], ..DiffRequest::default() };
    assert_eq!(tenant.layers().diff(request.clone()).await.unwrap_err().kind(), Kind::FailedPrecondition);
    let unknown = DiffRequest { media_type: "application/x".into(), ..request };
    assert_eq!(tenant.layers().diff(unknown).await.unwrap_err().kind(), Kind::Unimplemented);
    assert!(tenant.content().statuses().await.unwrap().is_empty());
    assert!(tenant.content().list().await.unwrap().is_empty());
    core.close().await;
}
