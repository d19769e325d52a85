//! Activations on real mounts and loop devices; they need root, as the daemon does.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use windlass_sys::loops;
use windlass_sys::mount::{is_mounted, mount_all, unmount};

use super::*;
use crate::Core;
use crate::testing::{close, open, tenant};

fn mount(kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    let source = source.as_ref().to_str().unwrap().to_owned();
    Mount {
        kind: kind.into(),
        source,
        target: String::new(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

fn tmpfs() -> Mount {
    mount("tmpfs", "tmpfs", &[])
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The folder of a new snapshot.
async fn snapshot(tenant: &Tenant, key: &str) -> PathBuf {
    let snapshots = tenant.snapshots("folders").unwrap();
    snapshots.prepare(key, None, Labels::new(), None).await.unwrap();
    let id = snapshots.stat(key).await.unwrap().id;
    tenant.core().driver("folders").unwrap().root().join(id.to_string())
}

/// Nothing of any activation is left.
pub(super) async fn assert_nothing_left(core: &Core, tenant: &Tenant) {
    assert_eq!(tenant.mounts().list().await.unwrap(), []);
    let state = core.state();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(state.join("mounts").to_str().unwrap()), "{table}");
    assert_eq!(loops::labelled(&ladder::labels(state)).unwrap(), []);
    let left = fs::read_dir(ladder::folders(state)).map_or(0, Iterator::count);
    assert_eq!(left, 0, "folders of activations");
}

#[tokio::test]
async fn what_the_client_is_to_mount_itself_is_not_mounted() {
    let (_folder, tenant, _) = tenant().await;
    let mounts = tenant.mounts();
    for (list, temporary, kind) in [
        (vec![tmpfs()], false, Kind::Unimplemented),
        (vec![mount("foo/tmpfs", "tmpfs", &[])], true, Kind::Unimplemented),
        (vec![], true, Kind::InvalidArgument),
        (vec![tmpfs(); MOST + 1], true, Kind::InvalidArgument),
    ] {
        let refused = mounts.activate("a", list, temporary, Labels::new()).await.unwrap_err();
        assert_eq!(refused.kind(), kind);
    }
    assert!(mounts.deactivate("a").await.unwrap_err().is_not_found());
    assert_nothing_left(tenant.core(), &tenant).await;
}

#[tokio::test]
async fn an_activation_lives_until_it_ends_or_nothing_keeps_it() {
    let (_folder, tenant, _) = tenant().await;
    let (core, mounts) = (tenant.core().clone(), tenant.mounts());
    let made = mounts.activate("a", vec![tmpfs()], true, Labels::new()).await.unwrap();
    assert!(is_mounted(&made.active[0].point).unwrap());
    assert_eq!(made.system[0].source, made.active[0].point.display().to_string());
    let mode = fs::metadata(made.active[0].point.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let twice = mounts.activate("a", vec![tmpfs()], true, Labels::new()).await.unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    let lease: LeaseId = "l".parse().unwrap();
    let leased = tenant.mounts().under(Some(lease.clone()));
    assert!(leased.activate("b", vec![tmpfs()], true, Labels::new()).await.unwrap_err().is_not_found());
    tenant.leases().create(&lease, Labels::new()).await.unwrap();
    let held = leased.activate("b", vec![tmpfs()], true, Labels::new()).await.unwrap();
    let container = crate::ContainerRecord::new("c".parse().unwrap());
    tenant.containers().create(container, Durability::Crash).await.unwrap();
    // Only the container keeps these two once the lease has ended: by a label of theirs, and by one of the container's.
    let back = labels(&[("containerd.io/gc.bref.container", "c")]);
    leased.activate("back", vec![tmpfs()], true, back).await.unwrap();
    leased.activate("named", vec![tmpfs()], true, Labels::new()).await.unwrap();
    let refers = |record: &mut crate::ContainerRecord| {
        record.labels = labels(&[("containerd.io/gc.ref.mount", "named")]);
        Ok(())
    };
    tenant.containers().update(&"c".parse().unwrap(), Durability::Crash, refers).await.unwrap();
    assert_eq!(core.collect().await.unwrap().mounts, 0);
    assert!(is_mounted(&held.active[0].point).unwrap());
    tenant.leases().delete(&lease).await.unwrap();
    assert_eq!(core.collect().await.unwrap().mounts, 1);
    assert!(!is_mounted(&held.active[0].point).unwrap());
    assert_eq!(mounts.list().await.unwrap().len(), 3);
    tenant.containers().delete(&"c".parse().unwrap(), Durability::Crash).await.unwrap();
    assert_eq!(core.collect().await.unwrap().mounts, 2);
    mounts.deactivate("a").await.unwrap();
    assert_nothing_left(&core, &tenant).await;
}

#[tokio::test]
async fn a_namespace_has_so_many_mounts() {
    let (_folder, tenant, _) = tenant().await;
    let mounts = tenant.mounts();
    for number in 0..MOST_OF_ALL / MOST {
        mounts.begin(mounts.key(&number.to_string()), Activation::default(), MOST).await.unwrap();
    }
    let refused = mounts.activate("one more", vec![tmpfs()], true, Labels::new()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::ResourceExhausted);
    let other = tenant.core().tenant("other".parse().unwrap()).mounts();
    other.activate("a", vec![tmpfs()], true, Labels::new()).await.unwrap();
    other.deactivate("a").await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_what_is_whole_and_takes_away_the_rest() {
    let (folder, tenant, _) = tenant().await;
    let namespace = tenant.namespace().clone();
    let mounts = tenant.mounts();
    let whole = mounts.activate("whole", vec![tmpfs()], true, Labels::new()).await.unwrap();
    let gone = mounts.activate("gone", vec![tmpfs(), tmpfs()], true, Labels::new()).await.unwrap();
    unmount(&gone.active[0].point).unwrap();
    // A mount without a record.
    let stray = ladder::folders(tenant.core().state()).join("stray/0");
    fs::create_dir_all(&stray).unwrap();
    mount_all(&[tmpfs()], &stray).unwrap();
    drop(mounts);
    close(tenant).await;
    let (core, _) = open(folder.path()).await.unwrap();
    let tenant = core.tenant(namespace);
    let left: Vec<_> = tenant.mounts().list().await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["whole"]);
    assert_eq!(fs::read_dir(ladder::folders(core.state())).unwrap().count(), 1);
    assert!(is_mounted(&whole.active[0].point).unwrap());
    tenant.mounts().deactivate("whole").await.unwrap();
    assert_nothing_left(&core, &tenant).await;
}

#[tokio::test]
async fn a_file_becomes_a_device_a_file_system_and_an_overlays_upper_folder() {
    let (folder, tenant, _) = tenant().await;
    let namespace = tenant.namespace().clone();
    let (own, below) = (snapshot(&tenant, "own").await, snapshot(&tenant, "below").await);
    let image = own.join("fs.img");
    let sized = ["X-containerd.mkfs.size=8MiB", "X-containerd.mkfs.uuid=550e8400-e29b-41d4-a716-446655440000"];
    let lower = format!("lowerdir={}", below.display());
    let list = vec![
        mount("mkfs/loop", &image, &sized),
        mount("ext4", "{{ source 0 }}", &[]),
        mount(
            "mkdir/format/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 1 }}/upper:0755:5:6",
                "X-containerd.mkdir.path={{ mount 1 }}/work",
                &lower,
                "upperdir={{ mount 1 }}/upper",
                "workdir={{ mount 1 }}/work",
            ],
        ),
    ];
    let made = tenant.mounts().activate("rootfs", list.clone(), false, Labels::new()).await.unwrap();
    let [device, files] = made.active.as_slice() else { panic!("{made:?}") };
    assert_eq!(fs::read_link(&device.point).unwrap(), *device.device.as_ref().unwrap());
    assert_eq!(files.mount.source, device.source());
    let upper = files.point.join("upper");
    let status = fs::metadata(&upper).unwrap();
    assert_eq!((status.mode() & 0o7777, status.uid(), status.gid()), (0o755, 5, 6));
    // What the client is to mount works.
    let [system] = made.system.as_slice() else { panic!("{made:?}") };
    assert_eq!(system.kind, "overlay");
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    mount_all(std::slice::from_ref(system), &target).unwrap();
    fs::write(target.join("file"), "written").unwrap();
    unmount(&target).unwrap();
    assert_eq!(fs::read(upper.join("file")).unwrap(), b"written");

    close(tenant).await;
    let (core, _) = open(folder.path()).await.unwrap();
    let tenant = core.tenant(namespace);
    assert_eq!(tenant.mounts().get("rootfs").await.unwrap(), made);
    tenant.mounts().deactivate("rootfs").await.unwrap();
    assert_nothing_left(&core, &tenant).await;
    // The file is the snapshot's; it is taken as it is the second time.
    let again = tenant.mounts().activate("rootfs", list, false, Labels::new()).await.unwrap();
    assert_eq!(fs::read(again.active[1].point.join("upper/file")).unwrap(), b"written");
    tenant.mounts().deactivate("rootfs").await.unwrap();
    // The same file in one mount, read-only, for a while.
    let once = vec![mount("ext4", &image, &["loop", "ro"])];
    let seen = tenant.mounts().activate("once", once, true, Labels::new()).await.unwrap();
    assert_eq!(fs::read(seen.active[0].point.join("upper/file")).unwrap(), b"written");
    assert!(fs::write(seen.active[0].point.join("new"), "x").is_err());
    tenant.mounts().deactivate("once").await.unwrap();
    assert_nothing_left(&core, &tenant).await;
}

#[tokio::test]
async fn nothing_of_the_host_or_of_others_is_mounted() {
    let (folder, tenant, _) = tenant().await;
    let other = tenant.core().tenant("other".parse().unwrap());
    let (own, foreign) = (snapshot(&tenant, "own").await, snapshot(&other, "key").await);
    let done = snapshot(&tenant, "done").await;
    fs::write(done.join("image"), vec![0; 1 << 20]).unwrap();
    tenant.snapshots("folders").unwrap().commit("committed", "done", Labels::new()).await.unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir_all(outside.join("folder")).unwrap();
    fs::write(outside.join("file"), vec![0; 1 << 20]).unwrap();
    symlink(&outside, own.join("link")).unwrap();
    symlink(outside.join("file"), own.join("link.img")).unwrap();
    fs::create_dir(own.join("inner")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, own.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let up = own.join("inner/../../../../../outside");
    let text = |path: &Path| path.display().to_string();
    let overlay = |lower: &Path, upper: &Path| {
        let options = [
            format!("lowerdir={}", text(lower)),
            format!("upperdir={}", text(upper)),
            format!("workdir={}", text(&own.join("inner"))),
        ];
        mount("overlay", "overlay", &options.each_ref().map(String::as_str))
    };
    let mkdir = |path: PathBuf| mount("mkdir/bind", &own, &[&format!("X-containerd.mkdir.path={}", text(&path))]);
    let mkfs = |path: PathBuf| mount("mkfs/loop", path, &["X-containerd.mkfs.size=1MiB"]);
    let denied = [
        vec![mount("bind", "/etc", &["ro"])],
        vec![mount("bind", &foreign, &["ro"])],
        vec![mount("bind", &outside, &["ro"])],
        vec![mount("bind", &up, &["ro"])],
        vec![mount("bind", own.join("link/folder"), &["ro"])],
        vec![mount("bind", &done, &[])],
        vec![mount("bind", &done, &["ro", "rw"])],
        vec![mount("bind", &done, &["ro"]), mount("bind", "{{ mount 0 }}", &["rw"])],
        vec![tmpfs(), mount("bind", "{{ mount 0 }}/../../..", &["ro"])],
        vec![overlay(&outside, &own)],
        vec![overlay(&own, &outside)],
        vec![overlay(&own, &done)],
        vec![overlay(&own.join("link"), &own)],
        vec![mount("bind", own.join("link"), &["ro"])],
        vec![mount("proc", "proc", &[])],
        vec![mount("debugfs", "none", &[])],
        vec![mount("ext4", "/dev/vda", &["ro"])],
        vec![mount("ext4", outside.join("file"), &["loop", "ro"])],
        vec![mount("loop", "/dev/vda", &["ro"])],
        vec![mount("loop", outside.join("file"), &[])],
        vec![mount("loop", own.join("link/file"), &[])],
        vec![mount("loop", own.join("link.img"), &[])],
        vec![mount("loop", done.join("image"), &[])],
        vec![mkdir(outside.join("new"))],
        vec![mkdir(own.join("link/new"))],
        vec![mkdir(done.join("new"))],
        vec![mkfs(outside.join("new"))],
        vec![mkfs(own.join("link/new"))],
        vec![mkfs(done.join("new"))],
    ];
    for list in denied {
        let refused = tenant.mounts().activate("a", list.clone(), true, Labels::new()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::PermissionDenied, "{list:?}: {refused}");
    }
    let invalid = [
        (vec![tmpfs(), mount("format/bind", "{{ mount 1 }}", &[])], Kind::InvalidArgument),
        (vec![mount("tmpfs", "/", &["rbind"])], Kind::InvalidArgument),
        (vec![Mount { target: "/x".into(), ..tmpfs() }], Kind::InvalidArgument),
        (vec![mount("loop", own.join("pipe"), &[])], Kind::FailedPrecondition),
        (vec![mount("loop", own.join("inner"), &[])], Kind::FailedPrecondition),
        (vec![mkfs(own.join("inner"))], Kind::FailedPrecondition),
        (vec![mkdir(own.join("pipe"))], Kind::FailedPrecondition),
        (vec![mkdir(own.join("no/such"))], Kind::NotFound),
    ];
    for (list, kind) in invalid {
        let refused = tenant.mounts().activate("a", list.clone(), true, Labels::new()).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{list:?}: {refused}");
    }
    assert_nothing_left(tenant.core(), &tenant).await;
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
    assert_eq!(fs::read_dir(&own).unwrap().count(), 4);
}

#[tokio::test]
async fn what_fails_leaves_nothing_and_what_is_done_stays_in_the_snapshot() {
    let (_folder, tenant, _) = tenant().await;
    let own = snapshot(&tenant, "own").await;
    let made = own.join("made");
    let option = format!("X-containerd.mkdir.path={}:0710", made.display());
    let image = mount("mkfs/loop", own.join("image"), &["X-containerd.mkfs.size=2MiB"]);
    let good = vec![tmpfs(), mount("mkdir/bind", &made, &[&option]), image];
    // By way of a mount, too, and with what overlayfs leaves in a working folder.
    let inner = [
        "X-containerd.mkdir.path={{ mount 3 }}/up",
        "X-containerd.mkdir.path={{ mount 3 }}/work",
        "upperdir={{ mount 3 }}/up",
        "workdir={{ mount 3 }}/work",
        "lowerdir={{ mount 0 }}",
    ];
    let by_mount = vec![mount("bind", &own, &[]), mount("mkdir/overlay", "overlay", &inner)];
    let bad = [good.clone(), by_mount, vec![mount("bind", "/nonexistent", &[])]].concat();
    let refused = tenant.mounts().activate("a", bad, true, Labels::new()).await.unwrap_err();
    assert!(refused.to_string().contains("mount 5"), "{refused}");
    assert_nothing_left(tenant.core(), &tenant).await;
    assert_eq!(fs::read_dir(&own).unwrap().count(), 0);

    tenant.mounts().activate("a", good.clone(), true, Labels::new()).await.unwrap();
    tenant.mounts().deactivate("a").await.unwrap();
    assert_eq!(fs::read_dir(&own).unwrap().count(), 2);
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o710);
    tenant.mounts().activate("a", good.clone(), true, Labels::new()).await.unwrap();
    tenant.mounts().deactivate("a").await.unwrap();
    fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
    let other = tenant.mounts().activate("a", good, true, Labels::new()).await.unwrap_err();
    assert_eq!(other.kind(), Kind::FailedPrecondition);
    // It was there before, so it stays.
    assert!(made.exists() && own.join("image").exists());
    assert_nothing_left(tenant.core(), &tenant).await;
}

#[tokio::test]
async fn what_somebody_else_made_meanwhile_is_theirs() {
    let (_folder, tenant, _) = tenant().await;
    let own = snapshot(&tenant, "own").await;
    let path = own.join("made");
    let spot = ground::Spot { root: own.clone(), rest: "made".into(), is_writable: true, in_snapshot: true };
    assert!(!make::is_folder_there(&spot, None).unwrap());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("precious"), "x").unwrap();
    // As if it had been looked for before.
    let late = make::folder(&spot, None, None).unwrap_err();
    assert_eq!(late.kind(), Kind::AlreadyExists);
    let begun = Activation { id: "x".into(), made: vec![Made::new(&spot, 0)], ..Activation::default() };
    let mounts = tenant.mounts();
    mounts.begin(mounts.key("a"), begun.clone(), 1).await.unwrap();
    let mut ladder = Ladder::new(mounts.clone(), mounts.key("a"), begun).unwrap();
    assert_eq!(ladder.unless_there(0, Err(late)).await.unwrap_err().kind(), Kind::Aborted);
    let kept = mounts.get("a").await.unwrap();
    ladder::undo(&mounts.home(&kept), &kept.made).unwrap();
    assert!(path.join("precious").exists());
}
