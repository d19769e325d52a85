//! Mounts that show files under the ids of a user namespace: options `uidmap=` and `gidmap=`, in containerd's words.
//!
//! A bind mount is mapped as it is. overlayfs itself takes no map, but its lower folders may be mapped ones; what is
//! written goes to the upper folder under the ids outside, so that folder is not mapped. The mapped copies of the lower
//! folders are only needed until the overlay is made. They are attached in a mount namespace that a thread has for
//! itself, so nothing of them is left behind whatever happens.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};
use windlass_model::{Context as _, Error, Result};

use super::MAX_DATA;
use super::options::Options;
use super::overlay::split_escaped;
use crate::idmap::{self, IdMap};

/// The map that options ask for, which are taken out of `options`.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] where there is only one of both, or something that is no map.
pub(super) fn take(options: &mut Options) -> Result<Option<IdMap>> {
    let mut value = |name: &str| {
        let at = options.data.iter().position(|option| option.starts_with(name))?;
        Some(options.data.remove(at).split_off(name.len()))
    };
    match (value("uidmap="), value("gidmap=")) {
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => IdMap::parse(&uids, &gids).map(Some),
        _ => Err(Error::invalid("a mount with only one of the options uidmap and gidmap")),
    }
}

/// Binds `source` to `at` under the ids of `map`.
pub(super) fn bind(source: &Path, at: &Path, recursive: bool, map: &IdMap) -> Result<()> {
    let namespace = crate::userns::open(map)?;
    let tree = idmap::clone_mapped(source, recursive, namespace.as_fd())?;
    idmap::attach(tree.as_fd(), at)
}

/// Mounts an overlay at `at` whose lower folders are under the ids of `map`.
pub(super) fn overlay(source: &str, at: &Path, options: &Options, map: &IdMap) -> Result<()> {
    let namespace = crate::userns::open(map)?;
    let making = || merged(source, at, options, namespace.as_fd());
    let tree = std::thread::scope(|scope| scope.spawn(making).join());
    let tree = tree.map_err(|_| Error::internal("the thread that mounts panicked"))??;
    idmap::attach(tree.as_fd(), at)
}

/// The overlay, attached nowhere; to be run on a thread of its own, which is lost for other work.
fn merged(source: &str, at: &Path, options: &Options, namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let doing = || format!("make an overlay with mapped ids for {}", at.display());
    let lower = options.data.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let mut data: Vec<&str> =
        options.data.iter().filter(|option| !option.starts_with("lowerdir=")).map(String::as_str).collect();
    // A working folder and a mount namespace of this thread alone.
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(io::Error::from).context(doing)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let stage = || -> io::Result<()> {
        rustix::mount::mount_change("/", private)?;
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"size=1m")?;
        rustix::process::chdir(at)?;
        std::fs::create_dir("merged")
    };
    stage().context(doing)?;
    let folders = split_escaped(lower);
    for (count, folder) in folders.iter().enumerate() {
        let place = count.to_string();
        std::fs::create_dir(&place).context(doing)?;
        let tree = idmap::clone_mapped(Path::new(folder), false, namespace)?;
        idmap::attach(tree.as_fd(), Path::new(&place))?;
    }
    let lowerdir = (0..folders.len()).map(|count| count.to_string()).collect::<Vec<_>>().join(":");
    let lowerdir = format!("lowerdir={lowerdir}");
    data.push(&lowerdir);
    let data = data.join(",");
    if data.len() > MAX_DATA {
        return Err(Error::invalid("an overlay with mapped ids whose options are too long"));
    }
    let make = || -> io::Result<OwnedFd> {
        let data = CString::new(data)?;
        let source = if source.is_empty() { "overlay" } else { source };
        rustix::mount::mount(source, "merged", "overlay", options.flags, data.as_c_str())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(rustix::mount::open_tree(CWD, "merged", flags)?)
    };
    make().context(doing)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, chown};

    use windlass_model::Mount;

    use super::super::{mount_all, unmount};
    use super::*;

    #[test]
    fn an_overlay_shows_its_layers_under_other_ids_and_writes_them_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["low0", "low1", "upper", "work", "at"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("low0/a"), "a").unwrap();
        fs::write(path("low1/b"), "b").unwrap();
        chown(path("low1/b"), Some(5), Some(6)).unwrap();
        chown(path("upper"), Some(100_000), Some(100_000)).unwrap();
        let text = |name: &str| path(name).display().to_string();
        let options = vec![
            "index=off".into(),
            format!("workdir={}", text("work")),
            format!("upperdir={}", text("upper")),
            format!("lowerdir={}:{}", text("low0"), text("low1")),
            "uidmap=0:100000:65536".into(),
            "gidmap=0:100000:65536".into(),
        ];
        let mount = Mount { kind: "overlay".into(), source: "overlay".into(), options, ..Mount::default() };
        mount_all(&[mount], &path("at")).unwrap();
        let owner = |name: &str| fs::metadata(path(name)).map(|meta| (meta.uid(), meta.gid())).unwrap();
        let seen = (owner("at/a"), owner("at/b"), owner("at"));
        fs::write(path("at/b"), "changed").unwrap();
        let copied = owner("upper/b");
        unmount(&path("at")).unwrap();
        assert_eq!(seen, ((100_000, 100_000), (100_005, 100_006), (100_000, 100_000)));
        assert_eq!(copied, (100_005, 100_006));
        assert_eq!((owner("low1/b"), fs::read(path("low1/b")).unwrap()), ((5, 6), b"b".to_vec()));
        let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!left.contains(folder.path().to_str().unwrap()), "{left}");
    }

    #[test]
    fn one_map_alone_is_refused() {
        let mount =
            Mount { kind: "bind".into(), source: "/".into(), options: vec!["uidmap=0:1:1".into()], ..Mount::default() };
        let error = mount_all(&[mount], Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.kind(), windlass_model::Kind::InvalidArgument, "{error}");
    }
}
