//! Mounts as the containerd API words them, made and taken away.

mod mapped;
mod options;
mod overlay;

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use windlass_model::{Context, Error, Mount, Result};

use crate::errno;
use options::Options;
pub use overlay::{OverlayFolders, join_overlay_folders, overlay_folders};

/// The longest option text that mount(2) takes: one page with its final zero.
const MAX_DATA: usize = 4095;

/// How many mounts stacked on one folder [`unmount`] takes away before it calls that an error.
const MAX_STACKED: usize = 1024;

/// Performs `mounts` in their order on the folder `target`; when one fails, those before it are taken away again.
///
/// An option that is not a flag of mount(2) goes to the file system as it is, but `uidmap=inside:outside:length[,…]` and
/// `gidmap=…`: with them a bind mount, or the lower folders of an overlay, show files under the ids of such a map. An overlay may have as many lower folders
/// as the kernel's overlayfs takes (500).
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    for (count, mount) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(mount, target) {
            undo(&mounts[..count], target);
            return Err(error);
        }
    }
    Ok(())
}

/// Takes away everything mounted on `target`, at once for new users and later for those inside. A target that is no
/// mount or does not exist is success.
pub fn unmount(target: &Path) -> Result<()> {
    for _ in 0..MAX_STACKED {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INTR) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(errno(error, || format!("unmount {}", target.display()))),
        }
    }
    Err(Error::internal(format!("more than {MAX_STACKED} mounts on {}", target.display())))
}

/// True if `path` is the root of a mount; false where nothing exists.
pub fn is_mounted(path: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE) {
        Ok(status) => Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(errno(error, || format!("look at {}", path.display()))),
    }
}

fn undo(mounts: &[Mount], target: &Path) {
    for mount in mounts.iter().rev() {
        let at = target.join(mount.target.trim_start_matches('/'));
        if let Err(error) = unmount(&at) {
            tracing::warn!(target = %at.display(), %error, "a mount stays behind");
        }
    }
}

fn mount_one(mount: &Mount, target: &Path) -> Result<()> {
    let doing = || format!("mount {} {} on {}", mount.kind, mount.source, target.join(&mount.target).display());
    // A target inside the mount before it is untrusted content: the path is walked with links kept inside.
    let (_held, at) = if mount.target.is_empty() {
        (None, target.to_owned())
    } else {
        let root = crate::fs::open_folder(target)?;
        let inner = Path::new(mount.target.trim_start_matches('/'));
        let place = crate::fs::open_in_root(&root, inner, OFlags::PATH, Mode::empty()).context(doing)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
        (Some(place), path)
    };
    let mut options = Options::parse(&mount.kind, &mount.options)?;
    let map = mapped::take(&mut options)?;
    let made = match (options.bind, &map) {
        (Some(recursive), None) => bind(mount, &at, recursive).and_then(|()| flag(&at, &options)).map_err(Error::from),
        (Some(recursive), Some(map)) => mapped::bind(Path::new(&mount.source), &at, recursive, map)
            .and_then(|()| flag(&at, &options).map_err(Error::from)),
        (None, None) => plain(mount, &at, &options).map_err(Error::from),
        (None, Some(map)) if mount.kind == "overlay" && mount.target.is_empty() => {
            mapped::overlay(&mount.source, &at, &options, map)
        }
        (None, Some(_)) => Err(Error::unimplemented(format!("mapped ids in a mount of type {}", mount.kind))),
    };
    made.context(doing)?;
    match options.propagation {
        Some(propagation) => {
            rustix::mount::mount_change(&at, propagation).map_err(|error| errno(error, doing)).inspect_err(|_| {
                let _ = unmount(&at);
            })
        }
        None => Ok(()),
    }
}

fn bind(mount: &Mount, at: &Path, recursive: bool) -> std::io::Result<()> {
    if recursive {
        rustix::mount::mount_bind_recursive(&mount.source, at)?;
    } else {
        rustix::mount::mount_bind(&mount.source, at)?;
    }
    Ok(())
}

/// Sets the flags of a bind mount, which come from its source unless something else is asked for.
fn flag(at: &Path, options: &Options) -> std::io::Result<()> {
    if options.flags.is_empty() && options.cleared.is_empty() {
        return Ok(());
    }
    // A remount sets all flags anew, so those that came from the source must be said again.
    let inherited = inherited_flags(at)?;
    let flags = (inherited & !options.cleared) | options.flags | MountFlags::BIND;
    if let Err(error) = rustix::mount::mount_remount(at, flags, "") {
        let _ = unmount(at);
        return Err(error.into());
    }
    Ok(())
}

/// The flags that a mount has now, in the words of mount(2).
fn inherited_flags(at: &Path) -> std::io::Result<MountFlags> {
    let now = rustix::fs::statvfs(at)?.f_flag;
    let table = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let set = table.into_iter().filter(|(has, _)| now.contains(*has));
    Ok(set.fold(MountFlags::empty(), |flags, (_, flag)| flags | flag))
}

fn plain(mount: &Mount, at: &Path, options: &Options) -> std::io::Result<()> {
    let data = options.data.join(",");
    if mount.kind == "overlay" && data.len() > MAX_DATA {
        return overlay::mount_long(&mount.source, at, options);
    }
    let data = CString::new(data)?;
    let source = if mount.source.is_empty() { &mount.kind } else { &mount.source };
    rustix::mount::mount(source.as_str(), at, mount.kind.as_str(), options.flags, data.as_c_str())?;
    Ok(())
}

#[cfg(test)]
mod tests;
