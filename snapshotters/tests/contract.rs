//! The contract of a snapshot driver, run over every driver with real mounts; needs root.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Mode, XattrFlags};
use windlass_model::Mount;
use windlass_model::snapshotter::{Kind, Labels, SnapshotId, Snapshotter, Whiteouts};
use windlass_snapshotters::{Native, Overlay};
use windlass_sys::mount::{mount_all, unmount};

/// A driver on a folder of its own.
struct Bench {
    dir: tempfile::TempDir,
    driver: Box<dyn Snapshotter>,
}

/// A snapshot, mounted until dropped.
struct Shown(PathBuf);

impl Bench {
    fn mount(&self, mounts: &[Mount]) -> Shown {
        let target = tempfile::tempdir_in(self.dir.path()).expect("a folder").keep();
        mount_all(mounts, &target).expect("mount");
        Shown(target)
    }

    fn show(&self, id: SnapshotId, parents: &[SnapshotId], kind: Kind) -> Shown {
        self.mount(&self.driver.mounts(id, parents, kind).expect("mounts"))
    }

    /// Prepares `id`, lets `change` work on its mounted files, and commits it.
    fn layer(&self, id: SnapshotId, parents: &[SnapshotId], change: impl FnOnce(&Path)) {
        self.driver.prepare(id, parents, &Labels::new()).expect("prepare");
        change(&self.show(id, parents, Kind::Active).0);
        self.driver.commit(id, parents).expect("commit");
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        unmount(&self.0).expect("unmount");
        fs::remove_dir(&self.0).expect("the target is empty again");
    }
}

fn overlay() -> Bench {
    let dir = tempfile::tempdir().expect("a folder");
    let driver = Box::new(Overlay::open(dir.path().join("sn,ap:shots")).expect("overlay"));
    Bench { dir, driver }
}

fn native() -> Bench {
    let dir = tempfile::tempdir().expect("a folder");
    let driver = Box::new(Native::open(dir.path().join("snapshots")).expect("native"));
    Bench { dir, driver }
}

/// The names of everything below a folder, with the content of files.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(|entry| entry.expect("walk"));
    entries
        .map(|entry| {
            let content = if entry.file_type().is_file() {
                fs::read_to_string(entry.path()).expect("read")
            } else {
                String::new()
            };
            (entry.path().strip_prefix(root).expect("below").to_owned(), content)
        })
        .collect()
}

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
    fs::write(path, content).expect("write");
}

fn files(pairs: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
    pairs.iter().map(|(name, content)| (PathBuf::from(name), (*content).to_owned())).collect()
}

fn a_chain_shows_every_change(bench: &Bench) {
    bench.layer(1, &[], |root| {
        write(root, "a", "one");
        write(root, "dir/b", "one");
        write(root, "dir/c", "one");
        write(root, "old/x", "one");
    });
    bench.layer(2, &[1], |root| {
        write(root, "a", "two");
        fs::remove_file(root.join("dir/b")).expect("remove");
        fs::remove_dir_all(root.join("old")).expect("remove");
        write(root, "old/y", "two");
    });
    bench.layer(3, &[2, 1], |root| {
        fs::remove_file(root.join("a")).expect("remove");
        fs::rename(root.join("dir/c"), root.join("moved")).expect("rename");
    });
    bench.driver.view(4, &[2, 1], &Labels::new()).expect("view");
    let second = bench.show(4, &[2, 1], Kind::View);
    assert_eq!(tree(&second.0), files(&[("a", "two"), ("dir", ""), ("dir/c", "one"), ("old", ""), ("old/y", "two")]));
    bench.driver.view(5, &[3, 2, 1], &Labels::new()).expect("view");
    let third = bench.show(5, &[3, 2, 1], Kind::View);
    assert_eq!(tree(&third.0), files(&[("dir", ""), ("moved", "one"), ("old", ""), ("old/y", "two")]));
}

fn a_view_takes_no_writes(bench: &Bench) {
    bench.layer(1, &[], |root| write(root, "a", "one"));
    bench.layer(2, &[1], |root| write(root, "b", "two"));
    for (id, parents) in [(3, &[][..]), (4, &[1][..]), (5, &[2, 1][..])] {
        bench.driver.view(id, parents, &Labels::new()).expect("view");
        let shown = bench.show(id, parents, Kind::View);
        let refused = fs::write(shown.0.join("a"), "x").expect_err("read-only");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "view {id}");
    }
}

fn writers_over_one_parent_do_not_meet(bench: &Bench) {
    bench.layer(1, &[], |root| write(root, "shared", "parent"));
    for id in [2, 3] {
        bench.driver.prepare(id, &[1], &Labels::new()).expect("prepare");
    }
    let (left, right) = (bench.show(2, &[1], Kind::Active), bench.show(3, &[1], Kind::Active));
    write(&left.0, "shared", "left");
    fs::remove_file(right.0.join("shared")).expect("remove");
    assert_eq!(tree(&left.0), files(&[("shared", "left")]));
    assert_eq!(tree(&right.0), files(&[]));
    bench.driver.view(4, &[1], &Labels::new()).expect("view");
    assert_eq!(tree(&bench.show(4, &[1], Kind::View).0), files(&[("shared", "parent")]));
}

fn verbs_complete_when_called_again(bench: &Bench) {
    bench.layer(1, &[], |root| write(root, "a", "one"));
    let driver = &bench.driver;
    // What a crash leaves of each verb: a draft, and an entry on its way out.
    let draft = driver.root().join("2.new/fs/half");
    fs::create_dir_all(draft).expect("mkdir");
    fs::create_dir_all(driver.root().join("9.gone/fs/half")).expect("mkdir");
    fs::create_dir_all(driver.root().join("9/fs")).expect("mkdir");
    assert_eq!(driver.ids().expect("ids"), [1, 2, 9]);
    driver.remove(9).expect("remove");
    driver.prepare(2, &[1], &Labels::new()).expect("prepare over a draft");
    write(&bench.show(2, &[1], Kind::Active).0, "b", "two");
    driver.prepare(2, &[1], &Labels::new()).expect("prepare again");
    assert_eq!(tree(&bench.show(2, &[1], Kind::Active).0), files(&[("a", "one"), ("b", "two")]));
    driver.commit(2, &[1]).expect("commit");
    driver.commit(2, &[1]).expect("commit again");
    driver.view(3, &[2, 1], &Labels::new()).expect("view");
    driver.view(3, &[2, 1], &Labels::new()).expect("view again");
    assert_eq!(driver.ids().expect("ids"), [1, 2, 3]);
    for id in [3, 2, 1] {
        driver.remove(id).expect("remove");
        driver.remove(id).expect("remove again");
    }
    assert_eq!(driver.ids().expect("ids"), []);
    assert_eq!(fs::read_dir(driver.root()).expect("list").count(), 0, "nothing is left");
}

fn missing_things_are_not_found(bench: &Bench) {
    let driver = &bench.driver;
    assert!(driver.mounts(7, &[], Kind::Active).expect_err("no such id").is_not_found());
    assert!(driver.usage(7, &[]).expect_err("no such id").is_not_found());
    assert!(driver.commit(7, &[]).expect_err("no such id").is_not_found());
    assert!(driver.prepare(8, &[7], &Labels::new()).expect_err("no such parent").is_not_found());
    assert_eq!(driver.ids().expect("ids"), [], "a failed prepare leaves nothing");
    driver.remove(7).expect("nothing to remove is success");
}

fn usage_counts_what_is_written(bench: &Bench) {
    bench.layer(1, &[], |root| write(root, "big", &"x".repeat(1 << 20)));
    bench.driver.prepare(2, &[1], &Labels::new()).expect("prepare");
    let before = bench.driver.usage(2, &[1]).expect("usage");
    write(&bench.show(2, &[1], Kind::Active).0, "more", &"y".repeat(1 << 20));
    let after = bench.driver.usage(2, &[1]).expect("usage");
    assert_eq!(after.inodes, before.inodes + 1);
    assert!(after.bytes >= before.bytes + (1 << 20), "{before:?} {after:?}");
}

/// Everything that a file can be, made below `root`.
fn zoo(root: &Path) {
    fs::set_permissions(root, fs::Permissions::from_mode(0o711)).expect("chmod");
    write(root, "plain", "plain");
    fs::hard_link(root.join("plain"), root.join("second-name")).expect("link");
    symlink("/nowhere", root.join("link")).expect("symlink");
    std::os::unix::fs::lchown(root.join("link"), Some(7), Some(8)).expect("lchown");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .expect("mknod");
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .expect("mkfifo");
    write(root, "tool", "#!");
    std::os::unix::fs::chown(root.join("tool"), Some(1000), Some(1001)).expect("chown");
    // cap_net_raw+ep, version 2, as setcap writes it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::lsetxattr(root.join("tool"), "security.capability", &capability, XattrFlags::empty())
        .expect("setxattr");
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o6755)).expect("chmod");
    let sparse = fs::File::create(root.join("sparse")).expect("create");
    sparse.write_all_at(b"middle", 32 << 20).expect("write");
    sparse.set_len(64 << 20).expect("length");
    fs::create_dir(root.join("sticky")).expect("mkdir");
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    write(root, "sticky/inside", "");
    rustix::fs::lsetxattr(root.join("sticky"), "trusted.note", b"kept", XattrFlags::empty()).expect("setxattr");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for name in ["plain", "sticky"] {
        let times = fs::FileTimes::new().set_modified(long_ago).set_accessed(long_ago);
        fs::File::open(root.join(name)).and_then(|file| file.set_times(times)).expect("times");
    }
}

fn check_zoo(root: &Path) {
    let look = |name: &str| root.join(name).symlink_metadata().expect(name);
    assert_eq!(root.symlink_metadata().expect("root").mode() & 0o7777, 0o711);
    assert_eq!(look("plain").ino(), look("second-name").ino());
    assert_eq!((look("plain").mtime(), look("plain").mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!((look("sticky").mtime(), look("sticky").mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!(fs::read_link(root.join("link")).expect("readlink"), Path::new("/nowhere"));
    assert_eq!((look("link").uid(), look("link").gid()), (7, 8));
    assert!(look("null").file_type().is_char_device());
    assert_eq!(look("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(look("fifo").file_type().is_fifo());
    assert_eq!((look("tool").uid(), look("tool").gid(), look("tool").mode() & 0o7777), (1000, 1001, 0o6755));
    let mut value = [0; 64];
    let length =
        rustix::fs::lgetxattr(root.join("tool"), "security.capability", value.as_mut_slice()).expect("capability");
    assert_eq!((length, value[5]), (20, 0x20));
    let length = rustix::fs::lgetxattr(root.join("sticky"), "trusted.note", value.as_mut_slice()).expect("xattr");
    assert_eq!(&value[..length], b"kept");
    assert_eq!(look("sticky").mode() & 0o7777, 0o1777);
    assert_eq!(look("sparse").len(), 64 << 20);
    assert!(look("sparse").blocks() * 512 < 1 << 20, "holes stay holes");
    let mut middle = [0; 6];
    fs::File::open(root.join("sparse")).and_then(|file| file.read_exact_at(&mut middle, 32 << 20)).expect("read");
    assert_eq!(&middle, b"middle");
}

fn everything_a_file_can_be_is_kept(bench: &Bench) {
    bench.layer(1, &[], zoo);
    bench.driver.prepare(2, &[1], &Labels::new()).expect("prepare");
    check_zoo(&bench.show(2, &[1], Kind::Active).0);
    bench.driver.commit(2, &[1]).expect("commit");
    bench.layer(3, &[2, 1], |_| {});
    bench.driver.view(4, &[3, 2, 1], &Labels::new()).expect("view");
    check_zoo(&bench.show(4, &[3, 2, 1], Kind::View).0);
}

fn a_layer_written_straight_shows_in_the_mounts(bench: &Bench) {
    bench.layer(1, &[], |root| {
        write(root, "gone", "one");
        write(root, "dir/hidden", "one");
    });
    bench.driver.prepare(2, &[1], &Labels::new()).expect("prepare");
    let target = bench.driver.layer_target(2).expect("a target");
    match target.whiteouts {
        Whiteouts::Overlay => {
            let whiteout = CString::new(target.path.join("gone").to_str().expect("utf-8")).expect("no zero");
            rustix::fs::mknodat(rustix::fs::CWD, whiteout, FileType::CharacterDevice, Mode::empty(), 0).expect("mknod");
            fs::create_dir(target.path.join("dir")).expect("mkdir");
            let opaque = target.path.join("dir");
            rustix::fs::lsetxattr(opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty()).expect("setxattr");
        }
        Whiteouts::Apply => {
            fs::remove_file(target.path.join("gone")).expect("remove");
            fs::remove_dir_all(target.path.join("dir")).expect("remove");
        }
    }
    write(&target.path, "dir/new", "two");
    bench.driver.commit(2, &[1]).expect("commit");
    bench.driver.view(3, &[2, 1], &Labels::new()).expect("view");
    assert_eq!(tree(&bench.show(3, &[2, 1], Kind::View).0), files(&[("dir", ""), ("dir/new", "two")]));
}

fn as_many_layers_as_images_have(bench: &Bench) {
    let mut parents: Vec<SnapshotId> = Vec::new();
    for id in 1..=130 {
        bench.driver.prepare(id, &parents, &Labels::new()).expect("prepare");
        let target = bench.driver.layer_target(id).expect("a target");
        write(&target.path, &format!("layer-{id}"), "");
        bench.driver.commit(id, &parents).expect("commit");
        parents.insert(0, id);
    }
    bench.driver.prepare(131, &parents, &Labels::new()).expect("prepare");
    let shown = bench.show(131, &parents, Kind::Active);
    assert_eq!(tree(&shown.0).len(), 130);
    write(&shown.0, "layer-1", "changed");
}

macro_rules! suite {
    ($($driver:ident),*: $tests:tt) => { $(mod $driver { suite!(@tests $driver $tests); })* };
    (@tests $driver:ident [$($test:ident),* $(,)?]) => {
        $(#[test] fn $test() { super::$test(&super::$driver()); })*
    };
}

suite!(overlay, native: [
    a_chain_shows_every_change,
    a_view_takes_no_writes,
    writers_over_one_parent_do_not_meet,
    verbs_complete_when_called_again,
    missing_things_are_not_found,
    usage_counts_what_is_written,
    everything_a_file_can_be_is_kept,
    a_layer_written_straight_shows_in_the_mounts,
    as_many_layers_as_images_have,
]);
