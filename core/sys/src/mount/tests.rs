//! Tests of real mounts; each needs root and leaves nothing.

use super::*;

/// A folder on a tmpfs of its own, unmounted at the end.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        let ground = Self(tempfile::tempdir().expect("a temporary folder"));
        mount_all(&[word("tmpfs", "tmpfs", &["size=16m", "private"])], ground.0.path())
            .expect("a tmpfs; are you root?");
        ground
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(&path).expect("mkdir");
        path
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = unmount(self.0.path());
    }
}

fn word(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

#[test]
fn a_read_only_bind_refuses_writes_and_goes_away_twice() {
    let ground = Ground::new();
    let (source, target) = (ground.folder("source"), ground.folder("target"));
    std::fs::write(source.join("file"), b"x").expect("write");
    let mount = word("bind", source.to_str().expect("utf-8"), &["rbind", "ro"]);
    mount_all(&[mount.clone(), mount], &target).expect("mount");
    assert!(is_mounted(&target).expect("statx"));
    assert!(target.join("file").exists());
    assert!(std::fs::write(target.join("file"), b"y").is_err());
    unmount(&target).expect("both go");
    assert!(!is_mounted(&target).expect("statx"));
    unmount(&target).expect("again");
    unmount(&ground.0.path().join("missing")).expect("nothing there");
}

#[test]
fn a_failing_mount_takes_those_before_it_away() {
    let ground = Ground::new();
    let target = ground.folder("target");
    let mounts = [word("tmpfs", "tmpfs", &[]), word("no-such-fs", "none", &[])];
    mount_all(&mounts, &target).expect_err("no such file system");
    assert!(!is_mounted(&target).expect("statx"));
}

#[test]
fn a_mount_below_another_stays_inside_it() {
    let ground = Ground::new();
    let (source, target) = (ground.folder("source"), ground.folder("target"));
    std::fs::create_dir(source.join("etc")).expect("mkdir");
    std::os::unix::fs::symlink("/etc", source.join("link")).expect("link");
    let outer = word("bind", source.to_str().expect("utf-8"), &["rbind"]);
    let inner = Mount { target: "/link".into(), ..word("tmpfs", "tmpfs", &[]) };
    mount_all(&[outer, inner], &target).expect("mount");
    assert!(is_mounted(&target.join("etc")).expect("statx"));
    unmount(&target).expect("unmount");
}

#[test]
fn a_tree_with_a_mount_in_it_is_not_removed() {
    let ground = Ground::new();
    let (source, tree) = (ground.folder("source"), ground.folder("tree/inner"));
    std::fs::write(source.join("precious"), b"x").expect("write");
    mount_all(&[word("bind", source.to_str().expect("utf-8"), &[])], &tree).expect("mount");
    let refused = crate::fs::remove_tree(&ground.0.path().join("tree")).expect_err("mounted");
    assert_eq!(refused.kind(), windlass_model::Kind::FailedPrecondition);
    assert!(source.join("precious").exists());
    unmount(&tree).expect("unmount");
    crate::fs::remove_tree(&ground.0.path().join("tree")).expect("now it goes");
}

/// Lower folders with names long enough that 120 of them pass a page.
fn lowers(ground: &Ground, count: usize) -> Vec<String> {
    let name = "n".repeat(60);
    (0..count)
        .map(|number| {
            let folder = ground.folder(&format!("layers/{name}-{number}/fs"));
            std::fs::write(folder.join(format!("file-{number}")), b"x").expect("write");
            folder.to_str().expect("utf-8").to_owned()
        })
        .collect()
}

#[test]
fn an_overlay_of_many_layers_shows_them_all() {
    let ground = Ground::new();
    let lowers = lowers(&ground, 120);
    let (upper, work, target) = (ground.folder("up,per"), ground.folder("work"), ground.folder("target"));
    let options = [
        "index=off".to_owned(),
        format!("upperdir={}", upper.display()).replace(',', "\\,"),
        format!("workdir={}", work.display()),
        format!("lowerdir={}", lowers.join(":")),
    ];
    let mount =
        Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options: options.into() };
    mount_all(&[mount], &target).expect("mount");
    for number in 0..120 {
        assert!(target.join(format!("file-{number}")).exists(), "layer {number}");
    }
    std::fs::write(target.join("new"), b"x").expect("the upper takes writes");
    assert!(upper.join("new").exists());
    unmount(&target).expect("unmount");
}

#[test]
fn old_kernels_get_short_names() {
    let ground = Ground::new();
    let lowers = lowers(&ground, 50);
    let target = ground.folder("target");
    let words = [format!("lowerdir={}", lowers.join(":")), "ro".into()];
    let options = Options::parse("overlay", &words).expect("known words");
    assert!(options.data.join(",").len() > MAX_DATA);
    overlay::mount_from_common_folder("overlay", &target, &options).expect("mount");
    assert!(target.join("file-49").exists());
    unmount(&target).expect("unmount");
}
