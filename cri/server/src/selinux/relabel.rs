//! Gives files of the host the label of the container that is to use them.
//!
//! The files may be anybody's and change while they are walked: folders are opened beneath the one that was asked for,
//! links are labelled and not followed, and what is gone meanwhile is no error.

use std::ffi::OsStr;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, XattrFlags, lgetxattr, lsetxattr};
use rustix::io::Errno;
use windlass_model::{Error, Kind, Result};
use windlass_sys::fs::{open_beneath, open_folder};

use super::context::Context;

/// The attribute that holds a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// Room for a label, in bytes.
const ROOM: usize = 1024;
/// The level that every container may use.
const SHARED: &str = "s0";
/// What the host itself needs under its own label.
const HOSTS: [&str; 25] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Labels `path` and everything below it, `path` itself last, with `label`. A file system without labels is left alone.
/// Blocks.
///
/// # Errors
/// [`Kind::InvalidArgument`] for a folder that the host itself needs; what the kernel says.
pub(crate) fn relabel(path: &Path, label: &str) -> Result<()> {
    labelled(path, label, ATTRIBUTE)
}

/// As [`relabel`], but for all containers: the level has no categories. Blocks.
///
/// # Errors
/// As [`relabel`].
pub(crate) fn relabel_shared(path: &Path, label: &str) -> Result<()> {
    let shared = Context::parse(label).map(|context| Context { level: SHARED.into(), ..context });
    let shared = shared.ok_or_else(|| Error::internal(format!("{label:?} is no label")))?;
    labelled(path, &shared.to_string(), ATTRIBUTE)
}

fn labelled(path: &Path, label: &str, attribute: &str) -> Result<()> {
    let path: PathBuf = path.components().collect();
    if HOSTS.iter().any(|hosts| path == Path::new(hosts)) {
        return Err(Error::invalid(format!("{} is the host's own and gets no label of a container", path.display())));
    }
    let label = Label { text: label, attribute };
    if path.is_dir() && !path.is_symlink() {
        let root = open_folder(&path)?;
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            if !label.put_on_entries(&root, &folder, &mut folders)? {
                return Ok(());
            }
        }
    }
    label.put(&path).map(drop)
}

struct Label<'a> {
    text: &'a str,
    attribute: &'a str,
}

impl Label<'_> {
    /// Labels what is in `folder` below `root`, and adds the folders there to `found`; false where the file system knows
    /// no labels.
    fn put_on_entries(&self, root: &OwnedFd, folder: &Path, found: &mut Vec<PathBuf>) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let open = match open_beneath(root, below, flags, Mode::empty()) {
            Ok(open) => open,
            Err(error) if error.is_not_found() => return Ok(true),
            Err(error) => return Err(error),
        };
        let doing = |error: Errno| Error::from(std::io::Error::from(error));
        let place = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        for entry in Dir::read_from(&open).map_err(doing)? {
            let entry = entry.map_err(doing)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if !self.put(&place.join(name))? {
                return Ok(false);
            }
            let is_folder = match entry.file_type() {
                FileType::Unknown => place.join(name).symlink_metadata().is_ok_and(|meta| meta.is_dir()),
                kind => kind == FileType::Directory,
            };
            if is_folder {
                found.push(folder.join(name));
            }
        }
        Ok(true)
    }

    /// Labels one file, or the link itself; false where the file system knows no labels.
    fn put(&self, path: &Path) -> Result<bool> {
        let mut now = [0; ROOM];
        let length = lgetxattr(path, self.attribute, &mut now[..]).unwrap_or(0);
        let now = now[..length].strip_suffix(b"\0").unwrap_or(&now[..length]);
        if now == self.text.as_bytes() {
            return Ok(true);
        }
        match lsetxattr(path, self.attribute, self.text.as_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::OPNOTSUPP) => Ok(false),
            Err(error) => {
                let message = format!("label {} as {}: {error}", path.display(), self.text);
                let kind = windlass_model::error::io_kind(&error.into());
                Err(Error::new(if kind == Kind::InvalidArgument { Kind::Internal } else { kind }, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Links take no `user.` attribute, so this one is of the kind that root may set on anything.
    const ATTRIBUTE: &str = "trusted.windlass-test";

    fn label_of(path: &Path) -> Option<String> {
        let mut value = [0; ROOM];
        let length = lgetxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
        Some(String::from_utf8_lossy(&value[..length]).into_owned())
    }

    #[test]
    fn a_tree_is_labelled_to_its_leaves_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        if lsetxattr(&outside, ATTRIBUTE, b"x", XattrFlags::empty()).is_err() {
            eprintln!("not root, or a file system without attributes: nothing to see here");
            return;
        }
        labelled(&tree, "u:r:t:s0:c1,c2", ATTRIBUTE).unwrap();
        for path in ["", "a", "a/b", "a/b/file", "link"] {
            assert_eq!(label_of(&tree.join(path)).as_deref(), Some("u:r:t:s0:c1,c2"), "{path}");
        }
        assert_eq!(label_of(&outside).as_deref(), Some("x"));
        labelled(&tree.join("a/b/file"), "u:r:t:s0", ATTRIBUTE).unwrap();
        assert_eq!(label_of(&tree.join("a/b/file")).as_deref(), Some("u:r:t:s0"));
    }

    #[test]
    fn the_hosts_own_folders_are_left_alone() {
        for path in ["/", "/etc/", "/usr", "/var/log"] {
            assert_eq!(relabel(Path::new(path), "a:b:c").unwrap_err().kind(), Kind::InvalidArgument, "{path}");
        }
    }
}
