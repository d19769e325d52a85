//! Snapshot records over a driver: kinds, parents, removal, usage.

use std::sync::atomic::Ordering;

use super::*;
use crate::testing::{close, open, tenant};
use windlass_model::Kind as Wrong;

#[tokio::test]
async fn snapshots_live_their_life() {
    let (_folder, tenant, driver) = tenant().await;
    let snapshots = tenant.snapshots("folders").unwrap();
    let mounts = snapshots.prepare("active", None, Labels::new(), None).await.unwrap();
    assert_eq!(mounts, snapshots.mounts("active").await.unwrap());
    snapshots.commit("base", "active", Labels::from([("a".into(), "b".into())])).await.unwrap();
    assert!(snapshots.stat("active").await.unwrap_err().is_not_found());
    let base = snapshots.stat("base").await.unwrap();
    assert_eq!((base.kind, base.parent, base.labels.len()), (Kind::Committed, None, 1));
    assert_eq!(snapshots.mounts("base").await.unwrap_err().kind(), Wrong::FailedPrecondition);
    let mounts = snapshots.view("view", Some("base"), Labels::new(), None).await.unwrap();
    assert_eq!(mounts[0].options, [format!("parent={}", base.id), "View".into()]);
    assert_eq!(snapshots.commit("x", "view", Labels::new()).await.unwrap_err().kind(), Wrong::FailedPrecondition);
    snapshots.prepare("second", Some("base"), Labels::new(), None).await.unwrap();
    snapshots.commit("top", "second", Labels::new()).await.unwrap();
    let top = snapshots.stat("top").await.unwrap();
    assert_eq!(snapshots.chain("top").unwrap(), [top.id, base.id]);
    let refused = snapshots.remove("base").await.unwrap_err();
    assert_eq!(refused.kind(), Wrong::FailedPrecondition);
    for key in ["view", "top", "base"] {
        snapshots.remove(key).await.unwrap();
    }
    assert!(snapshots.remove("base").await.unwrap_err().is_not_found());
    assert!(snapshots.list().await.unwrap().is_empty());
    assert!(driver.ids().unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let (_folder, tenant, driver) = tenant().await;
    let snapshots = tenant.snapshots("folders").unwrap();
    assert!(tenant.snapshots("none").err().unwrap().is_not_found());
    snapshots.prepare("a", None, Labels::new(), None).await.unwrap();
    let twice = snapshots.prepare("a", None, Labels::new(), None).await.unwrap_err();
    assert_eq!(twice.kind(), Wrong::AlreadyExists);
    let orphan = snapshots.prepare("b", Some("none"), Labels::new(), None).await.unwrap_err();
    assert_eq!(orphan.kind(), Wrong::NotFound);
    let early = snapshots.prepare("b", Some("a"), Labels::new(), None).await.unwrap_err();
    assert_eq!(early.kind(), Wrong::FailedPrecondition);
    let lease = snapshots.prepare("b", None, Labels::new(), Some(&"none".parse().unwrap())).await.unwrap_err();
    assert_eq!(lease.kind(), Wrong::NotFound);
    driver.broken.store(true, Ordering::Relaxed);
    assert_eq!(snapshots.prepare("b", None, Labels::new(), None).await.unwrap_err().kind(), Wrong::Internal);
    assert_eq!(driver.ids().unwrap().len(), 1);
    assert_eq!(snapshots.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_prepare_one_key_one_wins() {
    let (_folder, tenant, driver) = tenant().await;
    let tries = (0..10).map(|_| {
        let snapshots = tenant.snapshots("folders").unwrap();
        tokio::spawn(async move { snapshots.prepare("key", None, Labels::new(), None).await })
    });
    let outcomes = futures::future::join_all(tries).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.as_ref().unwrap().is_ok()).count(), 1);
    assert_eq!(driver.ids().unwrap().len(), 1);
}

#[tokio::test]
async fn active_snapshots_cost_no_sync() {
    let (_folder, tenant, _) = tenant().await;
    let snapshots = tenant.snapshots("folders").unwrap();
    snapshots.prepare("base", None, Labels::new(), None).await.unwrap();
    let before = tenant.core.0.db.metrics().syncs;
    for number in 0..10 {
        let key = format!("active {number}");
        snapshots.prepare(&key, None, Labels::new(), None).await.unwrap();
        snapshots.mounts(&key).await.unwrap();
        snapshots.remove(&key).await.unwrap();
    }
    assert_eq!(tenant.core.0.db.metrics().syncs, before);
}

#[tokio::test]
async fn files_without_record_are_swept_and_numbers_not_reused() {
    let folder = tempfile::tempdir().unwrap();
    let (core, driver) = open(folder.path()).await.unwrap();
    let tenant = core.tenant("test".parse().unwrap());
    drop(core);
    tenant.snapshots("folders").unwrap().prepare("kept", None, Labels::new(), None).await.unwrap();
    let orphan = tenant.snapshots("folders").unwrap().reserve() + (1 << 40);
    driver.prepare(orphan, &[], &Labels::new()).unwrap();
    close(tenant).await;
    let (core, driver) = open(folder.path()).await.unwrap();
    let snapshots = core.tenant("test".parse().unwrap()).snapshots("folders").unwrap();
    assert_eq!(driver.ids().unwrap(), [snapshots.stat("kept").await.unwrap().id]);
    assert!(snapshots.reserve() > orphan);
}

#[tokio::test]
async fn layers_of_a_pull_are_recorded_in_one_batch() {
    let (_folder, tenant, driver) = tenant().await;
    let snapshots = tenant.snapshots("folders").unwrap();
    let (low, high) = (snapshots.reserve(), snapshots.reserve());
    driver.prepare(low, &[], &Labels::new()).unwrap();
    driver.prepare(high, &[low], &Labels::new()).unwrap();
    let record = |low: SnapshotId, high: SnapshotId| {
        let (namespace, events) = (tenant.namespace().clone(), tenant.events().clone());
        let change = move |tx: &mut Tx<'_>| {
            let labels = Labels::new();
            let low = record_committed(tx, &events, &namespace, "folders", "low", None, low, labels.clone())?;
            Ok((low, record_committed(tx, &events, &namespace, "folders", "high", Some("low"), high, labels)?))
        };
        tenant.core.0.db.update(Durability::Power, change)
    };
    assert_eq!(record(low, high).await.unwrap(), (Recorded::New, Recorded::New));
    assert_eq!(record(91, 92).await.unwrap(), (Recorded::Existing(low), Recorded::Existing(high)));
    assert_eq!(snapshots.chain("high").unwrap(), [high, low]);
    assert_eq!(snapshots.usage("high").await.unwrap(), Usage::default());
}
