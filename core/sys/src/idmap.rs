//! How ids inside a user namespace stand for ids outside, and mounts that show files under other ids.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use windlass_model::{Context as _, Error, Result};

use crate::errno;

/// How many ranges the kernel takes in one map.
const MOST_RANGES: usize = 340;
/// `MOUNT_ATTR_IDMAP` of `mount_setattr(2)`.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// One range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first id inside.
    pub inside: u32,
    /// Its first id outside.
    pub outside: u32,
    /// How many ids it has.
    pub length: u32,
}

/// The ids of a user namespace, users and groups each in a checked list of ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    uids: Vec<Range>,
    gids: Vec<Range>,
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

impl IdMap {
    /// A map of users and groups.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] saying what the kernel would not take: no range or too many, an empty
    /// one, one that ends beyond the last id, two that share ids on either side; or no place for root.
    pub fn new(uids: Vec<Range>, gids: Vec<Range>) -> Result<Self> {
        for (field, ranges) in [("uids", &uids), ("gids", &gids)] {
            check(ranges).map_err(|why| Error::invalid(format!("{field} {why}")))?;
        }
        Ok(Self { uids, gids })
    }

    /// The ranges of users.
    pub fn uids(&self) -> &[Range] {
        &self.uids
    }

    /// The ranges of groups.
    pub fn gids(&self) -> &[Range] {
        &self.gids
    }

    /// The user outside that `uid` inside stands for.
    pub fn uid(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// The group outside that `gid` inside stands for.
    pub fn gid(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }

    /// Root inside, as user and group outside.
    pub fn root(&self) -> (u32, u32) {
        (self.uid(0).unwrap_or(u32::MAX), self.gid(0).unwrap_or(u32::MAX))
    }

    /// The map as two options of a mount, in containerd's words: `uidmap=inside:outside:length[,…]` and `gidmap=…`.
    pub fn options(&self) -> [String; 2] {
        let text = |ranges: &[Range]| {
            let parts = ranges.iter().map(|range| format!("{}:{}:{}", range.inside, range.outside, range.length));
            parts.collect::<Vec<_>>().join(",")
        };
        [format!("uidmap={}", text(&self.uids)), format!("gidmap={}", text(&self.gids))]
    }

    /// The map that the values of both options say.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] where they are none.
    pub fn parse(uids: &str, gids: &str) -> Result<Self> {
        let ranges = |text: &str| -> Option<Vec<Range>> {
            let range = |part: &str| {
                let mut numbers = part.split(':').map(str::parse);
                let range = Range {
                    inside: numbers.next()?.ok()?,
                    outside: numbers.next()?.ok()?,
                    length: numbers.next()?.ok()?,
                };
                numbers.next().is_none().then_some(range)
            };
            text.split(',').map(range).collect()
        };
        let broken = || Error::invalid(format!("id maps {uids:?} and {gids:?}"));
        Self::new(ranges(uids).ok_or_else(broken)?, ranges(gids).ok_or_else(broken)?)
    }

    /// The lines for `uid_map` and `gid_map` in `/proc`.
    pub(crate) fn lines(&self) -> [String; 2] {
        [&self.uids, &self.gids].map(|ranges| {
            ranges.iter().fold(String::new(), |mut text, range| {
                // Writing to a text cannot fail.
                let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.length);
                text
            })
        })
    }
}

fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|range| id >= range.inside && id - range.inside < range.length)?;
    Some(range.outside + (id - range.inside))
}

fn check(ranges: &[Range]) -> Result<(), String> {
    if ranges.is_empty() {
        return Err("has no range".into());
    }
    if ranges.len() > MOST_RANGES {
        return Err(format!("has more than {MOST_RANGES} ranges"));
    }
    for side in [|range: &Range| range.inside, |range: &Range| range.outside] {
        let mut sorted: Vec<(u64, u64)> =
            ranges.iter().map(|range| (u64::from(side(range)), u64::from(range.length))).collect();
        sorted.sort_unstable();
        for (first, length) in &sorted {
            if *length == 0 {
                return Err("has a range of length 0".into());
            }
            // The last number is no id: it stands for "no change".
            if first + length > u64::from(u32::MAX) {
                return Err("has a range that ends beyond the last id".into());
            }
        }
        if sorted.windows(2).any(|pair| matches!(pair, [(first, length), (next, _)] if first + length > *next)) {
            return Err("has ranges that overlap".into());
        }
    }
    if outside(ranges, 0).is_none() {
        return Err("has no range with id 0 inside, which a container's root needs".into());
    }
    Ok(())
}

/// A copy of the mount at `source`, with those below it where `recursive`, that shows files under the ids that
/// `namespace` gives them; nothing is changed in the file system. The copy is attached nowhere yet.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] naming `source` where its file system cannot do that.
pub fn clone_mapped(source: &Path, recursive: bool, namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let tree = clone(source, recursive)?;
    let mapped = MountAttributes {
        set: MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        userns: u64::from(namespace.as_raw_fd().unsigned_abs()),
    };
    set_attributes(tree.as_fd(), recursive, &mapped).map_err(|error| {
        let refused = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
        let kind =
            if refused { windlass_model::Kind::FailedPrecondition } else { windlass_model::error::io_kind(&error) };
        let what = format!("{}: its file system takes no id-mapped mounts", source.display());
        Error::with_source(kind, what, error)
    })?;
    Ok(tree)
}

/// A copy of the mount at `source` that is attached nowhere yet.
///
/// # Errors
/// What the kernel says.
pub fn clone(source: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(CWD, source, flags).map_err(|error| errno(error, || format!("bind {}", source.display())))
}

/// Attaches a copy of a mount at `place`.
///
/// # Errors
/// What the kernel says.
pub fn attach(tree: BorrowedFd<'_>, place: &Path) -> Result<()> {
    rustix::mount::move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| errno(error, || format!("mount on {}", place.display())))
}

/// Lets a copy of mounts, attached nowhere yet, follow what is mounted and unmounted in its original, and the original
/// none of what happens in the copy.
///
/// # Errors
/// What the kernel says.
pub fn only_follow(tree: BorrowedFd<'_>) -> Result<()> {
    let follow = MountAttributes { set: 0, clear: 0, propagation: libc::MS_SLAVE, userns: 0 };
    set_attributes(tree, true, &follow)
        .map_err(|error| errno(error, || "detach a copy of mounts from its original".into()))
}

/// Makes an empty file or folder at `place`, whichever `tree` is, so that it can be attached there.
///
/// # Errors
/// What the kernel says; that something is there already is none.
pub fn make_place(tree: BorrowedFd<'_>, place: &Path) -> Result<()> {
    let doing = || format!("make {}", place.display());
    let status = rustix::fs::fstat(tree).map_err(|error| errno(error, doing))?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return std::fs::create_dir_all(place).context(doing);
    }
    std::fs::OpenOptions::new().append(true).create(true).open(place).map(drop).context(doing)
}

fn set_attributes(tree: BorrowedFd<'_>, recursive: bool, attributes: &MountAttributes) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // JUSTIFICATION: no safe crate wraps mount_setattr(2).
    // SAFETY: the path is an empty C string, `attributes` is the kernel's struct of the length that is told, and both
    // live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn range(inside: u32, outside: u32, length: u32) -> Range {
        Range { inside, outside, length }
    }

    #[test]
    fn ids_are_found_outside() {
        let map = IdMap::new(vec![range(0, 100_000, 1000), range(5000, 7, 1)], vec![range(0, 200_000, 10)]).unwrap();
        assert_eq!(
            (map.uid(0), map.uid(999), map.uid(1000), map.uid(5000)),
            (Some(100_000), Some(100_999), None, Some(7))
        );
        assert_eq!((map.gid(9), map.gid(10), map.root()), (Some(200_009), None, (100_000, 200_000)));
        let [uids, gids] = map.options();
        assert_eq!(uids, "uidmap=0:100000:1000,5000:7:1");
        let again = IdMap::parse(uids.trim_start_matches("uidmap="), gids.trim_start_matches("gidmap="));
        assert_eq!(again.unwrap(), map);
        assert_eq!(map.lines()[0], "0 100000 1000\n5000 7 1\n");
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_before() {
        for (ranges, why) in [
            (vec![], "no range"),
            (vec![range(0, 1, 0)], "length 0"),
            (vec![range(0, u32::MAX, 1)], "beyond"),
            (vec![range(0, 10, 5), range(4, 100, 5)], "overlap"),
            (vec![range(0, 10, 5), range(5, 14, 5)], "overlap"),
            (vec![range(1, 10, 5)], "root"),
            ((0..400).map(|at| range(at, 1000 + at, 1)).collect(), "more than"),
        ] {
            let error = IdMap::new(ranges, vec![range(0, 1, 1)]).unwrap_err().to_string();
            assert!(error.contains(why) && error.starts_with("uids "), "{error}");
        }
        for text in ["", "0:1", "0:1:2:3", "a:b:c", "0:1:1,"] {
            assert!(IdMap::parse(text, "0:1:1").is_err(), "{text}");
        }
    }

    #[test]
    fn a_mapped_copy_shows_files_under_other_ids() {
        let folder = tempfile::tempdir().unwrap();
        let (source, place) = (folder.path().join("source"), folder.path().join("place"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "x").unwrap();
        let map = IdMap::new(vec![range(0, 100_000, 10)], vec![range(0, 200_000, 10)]).unwrap();
        let namespace = crate::userns::open(&map).unwrap();
        let tree = clone_mapped(&source, true, namespace.as_fd()).unwrap();
        make_place(tree.as_fd(), &place).unwrap();
        attach(tree.as_fd(), &place).unwrap();
        let shown = std::fs::metadata(place.join("file")).unwrap();
        crate::mount::unmount(&place).unwrap();
        assert_eq!((shown.uid(), shown.gid()), (100_000, 200_000));
        assert_eq!(std::fs::metadata(source.join("file")).unwrap().uid(), 0);
    }
}
