//! The options of mounts that the engine makes: those that are its own, and those that it lets through to the kernel; pure.
//!
//! ```text
//! X-containerd.mkfs.size=100MiB    how large the file becomes; 1024 to the power is meant, whatever the unit's spelling
//! X-containerd.mkfs.fs=ext4        ext2, ext3, ext4 or xfs
//! X-containerd.mkfs.uuid=UUID      of the file system
//! X-containerd.mkdir.path=FOLDER[:MODE[:UID:GID]]
//! ```
//!
//! An option goes to the kernel only where it is known to name no file or device, and to stop no machine. Source:
//! containerd, `docs/mounts.md`.

use std::path::PathBuf;

use windlass_model::{Error, Mount, Result};

const MKFS: &str = "X-containerd.mkfs.";
const MKDIR: &str = "X-containerd.mkdir.";

/// The smallest and the largest file that is made a file system, in bytes. It takes only what is written to it.
const IMAGE_SIZES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;

/// Options that are flags of a mount, of whatever type.
const FLAGS: [&str; 21] = [
    "",
    "defaults",
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "sync",
    "async",
    "dirsync",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "lazytime",
];
/// How mounts spread; none of these words makes anything appear elsewhere.
const PROPAGATION: [&str; 6] = ["private", "rprivate", "slave", "rslave", "unbindable", "runbindable"];

/// Something that must be there before a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Make {
    /// A folder; one that is there is left as it is.
    Folder { path: PathBuf, mode: Option<u32>, owner: Option<(u32, u32)> },
    /// A file with an empty file system; one that is there is left as it is.
    Image(Image),
}

/// A file with an empty file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    /// In bytes.
    pub(super) size: u64,
    pub(super) kind: ImageKind,
    pub(super) uuid: Option<uuid::Uuid>,
}

/// File systems that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageKind {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
}

/// Takes the options for a file system out of a mount's.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for what is missing, unknown or out of bounds.
pub(super) fn take_mkfs(mount: &mut Mount) -> Result<Make> {
    let (mut size, mut kind, mut uuid) = (None, ImageKind::Ext4, None);
    for option in take(mount, MKFS) {
        let refuse = |what: &str| Error::invalid(format!("{MKFS}{option}: {what}"));
        match option.split_once('=') {
            Some(("size", text)) => {
                let bytes = bytes(text).filter(|bytes| IMAGE_SIZES.contains(bytes));
                size = Some(bytes.ok_or_else(|| refuse("a file system is of 1MiB to 1TiB"))?);
            }
            Some(("fs", "ext2")) => kind = ImageKind::Ext2,
            Some(("fs", "ext3")) => kind = ImageKind::Ext3,
            Some(("fs", "ext4")) => kind = ImageKind::Ext4,
            Some(("fs", "xfs")) => kind = ImageKind::Xfs,
            Some(("fs", _)) => return Err(refuse("ext2, ext3, ext4 and xfs can be made")),
            Some(("uuid", text)) => uuid = Some(text.parse().map_err(|_| refuse("this is no UUID"))?),
            _ => return Err(refuse("there is no such option")),
        }
    }
    let size = size.ok_or_else(|| Error::invalid(format!("to make a file system needs the option {MKFS}size")))?;
    Ok(Make::Image(Image { path: PathBuf::from(&mount.source), size, kind, uuid }))
}

/// Takes the options for folders out of a mount's.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for what is not understood.
pub(super) fn take_mkdir(mount: &mut Mount) -> Result<Vec<Make>> {
    let folder = |option: &String| {
        let refuse = || Error::invalid(format!("{MKDIR}{option} is not path=FOLDER[:MODE[:UID:GID]]"));
        let value = option.strip_prefix("path=").ok_or_else(refuse)?;
        let parts: Vec<&str> = value.split(':').collect();
        let (path, mode, owner) = match parts.as_slice() {
            [path] => (path, None, None),
            [path, mode] => (path, Some(*mode), None),
            [path, mode, uid, gid] => (path, Some(*mode), Some((*uid, *gid))),
            _ => return Err(refuse()),
        };
        let mode = mode.map(|mode| u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(refuse));
        let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX).ok_or_else(refuse);
        let owner = owner.map(|(uid, gid)| id(uid).and_then(|uid| Ok((uid, id(gid)?)))).transpose()?;
        Ok(Make::Folder { path: PathBuf::from(path), mode: mode.transpose()?, owner })
    };
    take(mount, MKDIR).iter().map(folder).collect()
}

/// Takes the options with that beginning out of a mount's; gives what comes after it.
fn take(mount: &mut Mount, start: &str) -> Vec<String> {
    let (own, rest) = std::mem::take(&mut mount.options).into_iter().partition(|option| option.starts_with(start));
    mount.options = rest;
    let own: Vec<String> = own;
    own.into_iter().map(|option| option[start.len()..].to_owned()).collect()
}

/// Reads `10`, `10k`, `10MB` or `1GiB`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << (10 * power))
}

/// Lets only options through that are harmless for a mount of type `kind`.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] names the first that is not.
pub(super) fn check(kind: &str, options: &[String]) -> Result<()> {
    let known = |option: &String| {
        let name = option.split_once('=').map_or(option.as_str(), |(name, _)| name);
        FLAGS.contains(&option.as_str()) || PROPAGATION.contains(&option.as_str()) || is_known(kind, name, option)
    };
    match options.iter().find(|option| option.contains([',', '\0', '\\', '"']) || !known(option)) {
        None => Ok(()),
        Some(option) => Err(Error::invalid(format!("option {option:?} is not let through to a mount of type {kind}"))),
    }
}

fn is_known(kind: &str, name: &str, option: &str) -> bool {
    match kind {
        "bind" | "rbind" => matches!(option, "bind" | "rbind") || matches!(name, "uidmap" | "gidmap"),
        "overlay" => matches!(
            name,
            "index"
                | "metacopy"
                | "redirect_dir"
                | "xino"
                | "volatile"
                | "userxattr"
                | "nfs_export"
                | "uuid"
                | "uidmap"
                | "gidmap"
        ),
        "tmpfs" => matches!(name, "size" | "nr_blocks" | "nr_inodes" | "mode" | "uid" | "gid"),
        // Not `errors=panic`, nor a journal elsewhere.
        "ext2" | "ext3" | "ext4" => matches!(
            option,
            "discard"
                | "nodiscard"
                | "noload"
                | "norecovery"
                | "barrier"
                | "nobarrier"
                | "errors=continue"
                | "errors=remount-ro"
                | "data=ordered"
                | "data=writeback"
                | "data=journal"
                | "user_xattr"
                | "acl"
        ),
        "xfs" => matches!(option, "nouuid" | "norecovery" | "discard" | "nodiscard" | "inode64" | "noquota"),
        "erofs" => matches!(option, "user_xattr" | "nouser_xattr" | "acl" | "noacl") || name == "cache_strategy",
        super::plan::LOOP => option == "direct-io",
        _ => false,
    }
}

/// True where the last word on it says that nothing is written.
pub(super) fn is_read_only(options: &[String]) -> bool {
    options.iter().rev().find(|option| matches!(option.as_str(), "ro" | "rw")).is_some_and(|option| option == "ro")
}

#[cfg(test)]
mod tests {
    use windlass_model::Kind;

    use super::*;

    fn mount(options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { kind: "loop".into(), source: "/d/image".into(), options, ..Mount::default() }
    }

    #[test]
    fn a_file_system_is_asked_for_by_options() {
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        let mut asked = mount(&["X-containerd.mkfs.size=100MiB", "ro", "X-containerd.mkfs.fs=xfs"]);
        asked.options.push(format!("X-containerd.mkfs.uuid={uuid}"));
        let made = take_mkfs(&mut asked).unwrap();
        let uuid = Some(uuid.parse().unwrap());
        assert_eq!(made, Make::Image(Image { path: "/d/image".into(), size: 100 << 20, kind: ImageKind::Xfs, uuid }));
        assert_eq!(asked.options, ["ro"]);
        for bad in [
            "size=1",
            "size=2TiB",
            "size=99999999999999999999",
            "size=-1",
            "size=1X",
            "size",
            "fs=btrfs",
            "uuid=x",
            "y=1",
        ] {
            let mut asked = mount(&["X-containerd.mkfs.size=1g", &format!("{MKFS}{bad}")]);
            assert_eq!(take_mkfs(&mut asked).unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
        }
        assert_eq!(take_mkfs(&mut mount(&[])).unwrap_err().kind(), Kind::InvalidArgument);
        for (text, value) in [("1048576", 1 << 20), ("1g", 1 << 30), ("2 MB", 2 << 20), ("3KiB", 3 << 10)] {
            assert_eq!(bytes(text), Some(value));
        }
    }

    #[test]
    fn folders_are_asked_for_by_options() {
        let made = |value: &str| take_mkdir(&mut mount(&[&format!("{MKDIR}{value}")]));
        let folder = |mode, owner| vec![Make::Folder { path: "/d/x".into(), mode, owner }];
        assert_eq!(made("path=/d/x").unwrap(), folder(None, None));
        assert_eq!(made("path=/d/x:0755").unwrap(), folder(Some(0o755), None));
        assert_eq!(made("path=/d/x:700:5:6").unwrap(), folder(Some(0o700), Some((5, 6))));
        for bad in [
            "/d/x",
            "path=/d/x:",
            "path=/d/x:999",
            "path=/d/x:4755",
            "path=/d/x:755:1",
            "path=/d/x:755:a:1",
            "path=/d/x:755:4294967295:1",
            "path=/d/x:755:1:2:3",
        ] {
            assert_eq!(made(bad).unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn only_harmless_options_reach_the_kernel() {
        let check = |kind: &str, option: &str| check(kind, &[option.to_owned()]);
        for (kind, option) in
            [("bind", "rbind"), ("tmpfs", "size=1m"), ("ext4", "ro"), ("overlay", "index=off"), ("loop", "direct-io")]
        {
            check(kind, option).unwrap();
        }
        for (kind, option) in [
            ("tmpfs", "bind"),
            ("tmpfs", "rbind"),
            ("bind", "remount"),
            ("bind", "rshared"),
            ("ext4", "errors=panic"),
            ("ext4", "journal_path=/dev/vda"),
            ("xfs", "logdev=/dev/vda"),
            ("erofs", "device=/dev/vda"),
            ("ext4", "ro,errors=panic"),
            ("overlay", "index=off,upperdir=/etc"),
            ("overlay", "lowerdir+=/etc"),
            ("proc", "hidepid=1"),
            ("loop", "X-containerd.mkfs.size=1g"),
        ] {
            assert_eq!(check(kind, option).unwrap_err().kind(), Kind::InvalidArgument, "{kind} {option}");
        }
    }
}
