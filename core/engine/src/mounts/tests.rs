//! Activations on real mounts; they need root, as the daemon does.

use windlass_model::Kind;

use super::*;
use crate::testing::{close, open, tenant};

fn tmpfs() -> Mount {
    Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..Mount::default() }
}

#[tokio::test]
async fn what_the_client_is_to_mount_itself_is_not_mounted() {
    let (_folder, tenant, _) = tenant().await;
    let mounts = tenant.mounts();
    let strange = Mount { kind: "format/tmpfs".into(), ..tmpfs() };
    for (list, temporary, kind) in [
        (vec![tmpfs()], false, Kind::Unimplemented),
        (vec![strange], true, Kind::Unimplemented),
        (vec![], true, Kind::InvalidArgument),
        (vec![tmpfs(); MOST + 1], true, Kind::InvalidArgument),
    ] {
        let refused = mounts.activate("a", list, temporary, Labels::new()).await.unwrap_err();
        assert_eq!(refused.kind(), kind);
    }
    assert!(mounts.list().await.unwrap().is_empty());
    assert!(mounts.deactivate("a").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_activation_lives_until_it_ends_or_its_lease_does() {
    let (folder, tenant, _) = tenant().await;
    let wrong = Mount { kind: "bind".into(), source: "/nonexistent".into(), options: vec!["bind".into()], ..tmpfs() };
    let mounts = tenant.mounts();
    mounts.activate("half", vec![tmpfs(), wrong], true, Labels::new()).await.unwrap_err();
    assert!(mounts.list().await.unwrap().is_empty());
    let state = folder.path().join("state");
    assert_eq!(fs::read_dir(folders(&state)).unwrap().count(), 0);

    let made = mounts.activate("a", vec![tmpfs()], true, Labels::new()).await.unwrap();
    assert!(is_mounted(&made.active[0].point).unwrap());
    assert_eq!(made.system[0].source, made.active[0].point.display().to_string());
    let twice = mounts.activate("a", vec![tmpfs()], true, Labels::new()).await.unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    let lease: LeaseId = "l".parse().unwrap();
    let leased = tenant.mounts().under(Some(lease.clone()));
    assert!(leased.activate("b", vec![tmpfs()], true, Labels::new()).await.unwrap_err().is_not_found());
    tenant.leases().create(&lease, Labels::new()).await.unwrap();
    let held = leased.activate("b", vec![tmpfs()], true, Labels::new()).await.unwrap();
    tenant.core().collect().await.unwrap();
    assert!(is_mounted(&held.active[0].point).unwrap());
    tenant.leases().delete(&lease).await.unwrap();
    tenant.core().collect().await.unwrap();
    assert!(!is_mounted(&held.active[0].point).unwrap());
    mounts.deactivate("a").await.unwrap();
    assert!(!made.active[0].point.exists());
    assert!(mounts.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restart_keeps_what_is_whole_and_takes_away_the_rest() {
    let (folder, tenant, _) = tenant().await;
    let namespace = tenant.namespace().clone();
    let mounts = tenant.mounts();
    let whole = mounts.activate("whole", vec![tmpfs()], true, Labels::new()).await.unwrap();
    let gone = mounts.activate("gone", vec![tmpfs()], true, Labels::new()).await.unwrap();
    unmount(&gone.active[0].point).unwrap();
    mounts.begin(mounts.key("begun"), Activation::default()).await.unwrap();
    perform(&mounts.folder("begun"), vec![tmpfs()]).unwrap();
    drop(mounts);
    close(tenant).await;
    let (core, _) = open(folder.path()).await.unwrap();
    let mounts = core.tenant(namespace).mounts();
    let left: Vec<_> = mounts.list().await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["whole"]);
    assert_eq!(fs::read_dir(folders(&folder.path().join("state"))).unwrap().count(), 1);
    assert!(is_mounted(&whole.active[0].point).unwrap());
    mounts.deactivate("whole").await.unwrap();
}
