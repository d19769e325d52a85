//! Tests of `fs` on a real file system.

use std::os::unix::fs::symlink;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn a_replaced_file_has_the_new_bytes_and_no_draft_stays() {
    let dir = folder();
    let path = dir.path().join("record");
    write_atomic(&path, b"one").expect("first write");
    write_atomic(&path, b"two").expect("second write");
    assert_eq!(std::fs::read(&path).expect("read"), b"two");
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
    assert!(write_atomic(&dir.path().join("none/record"), b"x").is_err_and(|error| error.is_not_found()));
}

#[test]
fn what_leads_out_of_the_root_is_refused_or_kept_inside() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("root")).expect("mkdir");
    std::fs::write(dir.path().join("secret"), b"outside").expect("write");
    std::fs::write(dir.path().join("root/secret"), b"inside").expect("write");
    symlink("/secret", dir.path().join("root/absolute")).expect("link");
    symlink("../secret", dir.path().join("root/up")).expect("link");
    let root = open_folder(&dir.path().join("root")).expect("open");
    for bad in ["absolute", "up", "../secret", "/etc/passwd"] {
        let refused = open_beneath(&root, Path::new(bad), OFlags::RDONLY, Mode::empty());
        assert_eq!(refused.expect_err(bad).kind(), Kind::PermissionDenied, "{bad}");
    }
    for kept in ["absolute", "up", "../secret", "/secret"] {
        let file = open_in_root(&root, Path::new(kept), OFlags::RDONLY, Mode::empty()).expect(kept);
        assert_eq!(std::io::read_to_string(File::from(file)).expect("read"), "inside", "{kept}");
    }
}

#[test]
fn a_lock_has_one_holder() {
    let dir = folder();
    let path = dir.path().join("lock");
    let held = lock_exclusive(&path).expect("free");
    assert_eq!(lock_exclusive(&path).expect_err("taken").kind(), Kind::FailedPrecondition);
    drop(held);
    lock_exclusive(&path).expect("free again");
}

#[test]
fn a_tree_goes_with_its_links_but_not_what_they_point_to() {
    let dir = folder();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).expect("mkdir");
    std::fs::create_dir(dir.path().join("keep")).expect("mkdir");
    std::fs::write(dir.path().join("keep/file"), b"x").expect("write");
    symlink(dir.path().join("keep"), tree.join("a/link")).expect("link");
    remove_tree(&tree).expect("remove");
    remove_tree(&tree).expect("nothing there is success");
    remove_tree(&dir.path().join("no/such/folder")).expect("no parent is success");
    assert!(!tree.exists());
    assert!(dir.path().join("keep/file").exists());
    symlink(dir.path().join("keep"), dir.path().join("link")).expect("link");
    remove_tree(&dir.path().join("link")).expect("a link goes");
    assert!(dir.path().join("keep/file").exists());
}

#[test]
fn depth_beyond_every_path_is_removed() {
    let dir = folder();
    let tree = dir.path().join("deep");
    std::fs::create_dir(&tree).expect("mkdir");
    let mut at = open_folder(&tree).expect("open");
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "dir", Mode::from_raw_mode(0o755)).expect("mkdirat");
        at = rustix::fs::openat(&at, "dir", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("openat");
    }
    remove_tree(&tree).expect("remove");
    assert!(!tree.exists());
}
