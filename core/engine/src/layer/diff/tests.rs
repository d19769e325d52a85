//! Random trees, changed at random: what is made of the difference turns a copy of the old tree into the new one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode};
use windlass_model::snapshotter::{LayerTarget, Whiteouts};
use windlass_model::{Digest, Kind, Mount};
use windlass_sys::mount::{mount_all, unmount};

use super::*;
use crate::layer::tar::Archive;
use crate::layer::{Limits, unpack};

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn name(&mut self) -> String {
        format!("n{}", self.below(12))
    }

    /// A folder of the tree, its root among them.
    fn folder(&mut self, root: &Path) -> PathBuf {
        let folders: Vec<_> = all(root).into_iter().filter(|path| is_folder(path)).chain([root.to_owned()]).collect();
        folders[self.below(folders.len())].clone()
    }

    /// One random change. What a kernel refuses (a file in the place of a folder, say) is no change.
    fn change(&mut self, root: &Path) {
        let path = self.folder(root).join(self.name());
        match self.below(12) {
            0..=2 => drop(fs::create_dir(&path)),
            3..=5 if is_file(&path) || fs::symlink_metadata(&path).is_err() => {
                let length = self.below(3000);
                let _ = fs::write(&path, vec![b'a' + self.below(26) as u8; length]);
            }
            6 => drop(std::os::unix::fs::symlink(format!("to/{}", self.name()), &path)),
            7 => {
                let files: Vec<_> = all(root).into_iter().filter(|path| is_file(path)).collect();
                if !files.is_empty() {
                    let _ = fs::hard_link(&files[self.below(files.len())], &path);
                }
            }
            8 => {
                let kinds = [FileType::Fifo, FileType::CharacterDevice, FileType::BlockDevice];
                let (kind, mode) = (kinds[self.below(3)], Mode::from_raw_mode(0o644));
                let _ = rustix::fs::mknodat(CWD, &path, kind, mode, rustix::fs::makedev(1, 3));
            }
            9 if is_file(&path) || is_folder(&path) => {
                let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o4700 + self.below(64) as u32));
                let _ = xattr::set(&path, "user.a", format!("{}", self.below(4)).as_bytes());
            }
            10 => drop(std::os::unix::fs::lchown(&path, Some(self.below(5) as u32), Some(3_000_000))),
            _ if is_folder(&path) => drop(fs::remove_dir_all(&path)),
            _ => drop(fs::remove_file(&path)),
        }
    }
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.is_dir())
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.is_file())
}

fn all(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if is_folder(&path) {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Everything that a tree is, by path. Files with several names carry the first of them.
fn picture(root: &Path) -> BTreeMap<String, String> {
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut picture = BTreeMap::new();
    for path in all(root) {
        let there = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let own = if there.is_dir() { name.clone() } else { first.entry(there.ino()).or_insert(name.clone()).clone() };
        let what = match there.file_type() {
            kind if kind.is_file() => format!("{:?}", Digest::of(&fs::read(&path).unwrap())),
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            kind if kind.is_char_device() || kind.is_block_device() => format!("{}", there.rdev()),
            _ => String::new(),
        };
        let attribute = xattr::get(&path, "user.a").ok().flatten();
        let (mode, uid, gid, mtime) = (there.mode(), there.uid(), there.gid(), there.mtime());
        picture.insert(name, format!("{own} {mode:o} {uid} {gid} {mtime} {what} {attribute:?}"));
    }
    picture
}

/// Overlayfs gives each name of a lower file a file of its own when it is opened for writing, even if nothing is written.
fn without_links(picture: BTreeMap<String, String>) -> BTreeMap<String, String> {
    picture.into_iter().map(|(name, what)| (name, what.split_once(' ').unwrap().1.to_owned())).collect()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-aT").arg(from).arg(to).status().unwrap().success());
}

fn open(path: &Path) -> OwnedFd {
    windlass_sys::fs::open_folder(path).unwrap()
}

fn whole(lower: &Path, upper: &Path) -> Vec<u8> {
    diff(&Trees::Whole { lower: Some(open(lower)), upper: open(upper) }, None, Vec::new()).unwrap()
}

fn apply(layer: &[u8], to: &Path) {
    let target = LayerTarget { path: to.to_owned(), whiteouts: Whiteouts::Apply };
    unpack(layer, "", &target, &Limits::default()).unwrap();
}

fn entries(layer: &[u8]) -> Vec<String> {
    let mut archive = Archive::new(layer);
    let mut names = Vec::new();
    while let Some(entry) = archive.next().unwrap() {
        names.push(String::from_utf8(entry.path).unwrap());
    }
    names
}

#[test]
fn a_difference_applied_to_the_old_tree_gives_the_new_one() {
    for seed in 0..15 {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("lower")).unwrap();
        let mut random = Random(seed);
        (0..60).for_each(|_| random.change(&at("lower")));
        copy(&at("lower"), &at("upper"));
        copy(&at("lower"), &at("applied"));
        (0..30).for_each(|_| random.change(&at("upper")));
        let layer = whole(&at("lower"), &at("upper"));
        assert_eq!(layer, whole(&at("lower"), &at("upper")), "the same trees, the same bytes");
        apply(&layer, &at("applied"));
        assert_eq!(picture(&at("upper")), picture(&at("applied")), "seed {seed}: {:?}", entries(&layer));
        // Nothing changed, nothing in it.
        assert_eq!(entries(&whole(&at("upper"), &at("upper"))), [""; 0]);
    }
}

#[test]
fn an_overlays_upper_folder_says_the_same_as_its_whole_tree() {
    for seed in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(at(name)).unwrap();
        }
        let mut random = Random(seed);
        (0..60).for_each(|_| random.change(&at("lower")));
        copy(&at("lower"), &at("applied"));
        let options = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display())).into_iter();
        let options = options.chain(["index=off".into(), "redirect_dir=off".into(), "metacopy=off".into()]).collect();
        let overlay = Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options };
        if mount_all(&[overlay], &at("merged")).is_err() {
            eprintln!("no overlay on this file system; skipped");
            return;
        }
        (0..30).for_each(|_| random.change(&at("merged")));
        let trees = Trees::Overlay { lower: open(&at("lower")), upper: open(&at("upper")) };
        let layer = diff(&trees, None, Vec::new()).unwrap();
        apply(&layer, &at("applied"));
        let wanted = without_links(picture(&at("merged")));
        unmount(&at("merged")).unwrap();
        assert_eq!(wanted, without_links(picture(&at("applied"))), "seed {seed}: {:?}", entries(&layer));
    }
}

#[test]
fn deletions_and_the_folders_above_a_change_stand_in_the_layer() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["lower/a/b", "lower/c", "upper/a/b", "upper/d"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("lower/a/b/gone"), "x").unwrap();
    for path in ["a", "a/b", "."] {
        let time = fs::File::open(at("lower").join(path)).unwrap().metadata().unwrap().modified().unwrap();
        fs::File::open(at("upper").join(path)).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(entries(&whole(&at("lower"), &at("upper"))), ["a/", "a/b/", "a/b/.wh.gone", ".wh.c", "d/"]);
    let young = diff(&Trees::Whole { lower: None, upper: open(&at("upper")) }, Some(7), Vec::new()).unwrap();
    let mut archive = Archive::new(&young[..]);
    while let Some(entry) = archive.next().unwrap() {
        assert_eq!(entry.mtime, (7, 0));
    }
}

#[test]
fn what_a_layer_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".wh.evil"), "").unwrap();
    let trees = Trees::Whole { lower: None, upper: open(folder.path()) };
    assert_eq!(diff(&trees, None, Vec::new()).unwrap_err().kind(), Kind::FailedPrecondition);
    let folder = tempfile::tempdir().unwrap();
    let mut deep = folder.path().to_owned();
    (0..450).for_each(|_| deep.push("d"));
    fs::create_dir_all(&deep).unwrap();
    let trees = Trees::Whole { lower: None, upper: open(folder.path()) };
    assert_eq!(diff(&trees, None, Vec::new()).unwrap_err().kind(), Kind::ResourceExhausted);
    // A socket belongs to a process and is left out.
    let folder = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    let layer = diff(&Trees::Whole { lower: None, upper: open(folder.path()) }, None, Vec::new()).unwrap();
    assert_eq!(entries(&layer), [""; 0]);
}
