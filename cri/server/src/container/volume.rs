//! Folders for an image's `VOLUME`s: they begin as copies of what the image has there, and go with the container.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use windlass_cri_api::v1;
use windlass_model::{Context as _, Mount, Result};
use windlass_sys::fs::{open_folder, open_in_root};

/// The folder of the `at`th volume of a container whose own folder is `folder`.
fn source(folder: &Path, at: usize) -> PathBuf {
    folder.join("volumes").join(at.to_string())
}

/// The volumes to mount: place, source. Those that the request mounts itself are left out.
pub(super) fn places(folder: &Path, volumes: &[String], config: &v1::ContainerConfig) -> Vec<(PathBuf, PathBuf)> {
    let plain = |path: &str| -> Option<PathBuf> {
        let path = Path::new(path);
        let normal = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        (normal && path.is_absolute() && path != Path::new("/")).then(|| path.components().collect())
    };
    let asked: Vec<_> = config.mounts.iter().filter_map(|mount| plain(&mount.container_path)).collect();
    let all = volumes.iter().enumerate().filter_map(|(at, place)| Some((plain(place)?, source(folder, at))));
    all.filter(|(place, _)| !asked.contains(place)).collect()
}

/// Makes and fills the folders. Blocks.
///
/// # Errors
/// What the kernel says.
pub(super) fn make(folder: &Path, volumes: &[String], config: &v1::ContainerConfig, mounts: &[Mount]) -> Result<()> {
    let places = places(folder, volumes, config);
    if places.is_empty() {
        return Ok(());
    }
    mounted(mounts, |root| {
        for (place, source) in &places {
            let doing = || format!("volume {}", place.display());
            let parent = source.parent().unwrap_or(folder);
            fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).context(doing)?;
            let root = open_folder(root)?;
            let inside = place.strip_prefix("/").unwrap_or(place);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match open_in_root(&root, inside, flags, Mode::empty()) {
                Ok(found) => {
                    use std::os::fd::AsRawFd as _;
                    // Through the open folder, so that no link of the image counts any more.
                    let open = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
                    copy(&open, source).context(doing)?;
                }
                Err(error) if error.is_not_found() => {
                    fs::DirBuilder::new().mode(0o755).create(source).context(doing)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

/// Runs `work` over a root file system that is mounted for it alone. Blocks.
pub(super) fn mounted<T>(mounts: &[Mount], work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let place = std::env::temp_dir().join(format!("windlass-rootfs-{}", uuid::Uuid::new_v4().simple()));
    fs::DirBuilder::new().mode(0o700).create(&place).context(|| format!("make {}", place.display()))?;
    let result = windlass_sys::mount::mount_all(mounts, &place).and_then(|()| work(&place));
    let unmounted = windlass_sys::mount::unmount(&place);
    // Only the empty folder: were the mount still there, this fails and nothing of it is touched.
    let _ = fs::remove_dir(&place);
    result.and_then(|value| unmounted.map(|()| value))
}

/// Copies a folder with owners, modes and links; devices, pipes and sockets are left out.
fn copy(from: &Path, to: &Path) -> Result<(), std::io::Error> {
    let mut folders: Vec<(PathBuf, PathBuf)> = vec![(from.into(), to.into())];
    while let Some((from, to)) = folders.pop() {
        let meta = fs::metadata(&from)?;
        fs::create_dir(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (name, kind): (OsString, _) = (entry.file_name(), entry.file_type()?);
            let (source, target) = (from.join(&name), to.join(&name));
            if kind.is_dir() {
                folders.push((source, target));
                continue;
            }
            if kind.is_symlink() {
                symlink(fs::read_link(&source)?, &target)?;
            } else if kind.is_file() {
                fs::copy(&source, &target)?;
            } else {
                continue;
            }
            let meta = fs::symlink_metadata(&source)?;
            lchown(&target, Some(meta.uid()), Some(meta.gid()))?;
            if kind.is_file() {
                // A change of owner takes set-id bits away.
                fs::set_permissions(&target, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
            }
        }
        lchown(&to, Some(meta.uid()), Some(meta.gid()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_places_become_volumes() {
        let volumes = ["/data", "/data/../etc", "relative", "/", "/mine"].map(String::from);
        let mount = v1::Mount { container_path: "/mine/".into(), host_path: "/x".into(), ..Default::default() };
        let config = v1::ContainerConfig { mounts: vec![mount], ..Default::default() };
        let places = places(Path::new("/c"), &volumes, &config);
        assert_eq!(places, [(PathBuf::from("/data"), PathBuf::from("/c/volumes/0"))]);
    }

    #[test]
    fn a_copy_keeps_modes_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), "x").unwrap();
        fs::set_permissions(from.join("deep/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        let to = folder.path().join("to");
        copy(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::metadata(to.join("deep/file")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
    }
}
