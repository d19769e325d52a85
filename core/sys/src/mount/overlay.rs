//! Overlay mounts whose option text is longer than mount(2) takes.
//!
//! From Linux 6.8 on, `fsconfig` takes the lower folders one by one (`lowerdir+`). Before, the only way is to make the
//! names short: a thread with a working folder of its own stands where the lower folders begin and names them from there.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};

use super::options::Options;
use super::{MAX_DATA, unmount};

/// The longest value that `fsconfig` takes.
const MAX_VALUE: usize = 255;

/// The folders that an overlay's options name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayFolders {
    /// The one that is written to.
    pub upper: Option<PathBuf>,
    /// Where overlayfs prepares what it writes.
    pub work: Option<PathBuf>,
    /// Those below it, nearest first.
    pub lower: Vec<PathBuf>,
}

/// Reads `upperdir=`, `workdir=` and `lowerdir=`, with the escapes that overlayfs knows.
pub fn overlay_folders(options: &[String]) -> OverlayFolders {
    let mut folders = OverlayFolders::default();
    for option in options {
        match option.split_once('=') {
            Some(("upperdir", folder)) => folders.upper = Some(PathBuf::from(unescape(folder))),
            Some(("workdir", folder)) => folders.work = Some(PathBuf::from(unescape(folder))),
            Some(("lowerdir", text)) => folders.lower = split_escaped(text).into_iter().map(PathBuf::from).collect(),
            _ => {}
        }
    }
    folders
}

/// The value of `lowerdir=` for `folders`, nearest first.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for a name that is not UTF-8, as mounts are text.
pub fn join_overlay_folders(folders: &[&PathBuf]) -> windlass_model::Result<String> {
    let text = |folder: &&PathBuf| {
        let text = folder.to_str().map(escape);
        text.ok_or_else(|| windlass_model::Error::invalid(format!("{} is not UTF-8", folder.display())))
    };
    Ok(folders.iter().map(text).collect::<windlass_model::Result<Vec<_>>>()?.join(":"))
}

/// Mounts an overlay with options of any length at `at`.
pub(super) fn mount_long(source: &str, at: &Path, options: &Options) -> io::Result<()> {
    match mount_by_parts(source, at, options) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput || error.kind() == io::ErrorKind::Unsupported => {
            mount_from_common_folder(source, at, options).map_err(|second| {
                io::Error::new(second.kind(), format!("{second} (and with the new mount API: {error})"))
            })
        }
        result => result,
    }
}

/// The new mount API: one call per lower folder.
fn mount_by_parts(source: &str, at: &Path, options: &Options) -> io::Result<()> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut held = Vec::new();
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(&context, "source", source)?;
    }
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", folders)) => {
                for folder in split_escaped(folders) {
                    set_folder(&context, "lowerdir+", &folder, &mut held)?;
                }
            }
            Some((key @ ("upperdir" | "workdir"), folder)) if folder.len() > MAX_VALUE => {
                set_folder(&context, key, &unescape(folder), &mut held)?;
            }
            // Text of one mount(2) has it in quotes, for its commas.
            Some((key @ "context", label)) => {
                rustix::mount::fsconfig_set_string(&context, key, label.trim_matches('"'))?
            }
            Some((key, value)) => rustix::mount::fsconfig_set_string(&context, key, value)?,
            None => rustix::mount::fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    if options.flags.contains(MountFlags::RDONLY) {
        rustix::mount::fsconfig_set_flag(&context, "ro")?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(options.flags))?;
    rustix::mount::move_mount(mount.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Names a folder to `fsconfig`, by a descriptor's short name where its own is too long.
fn set_folder(context: &OwnedFd, key: &str, folder: &str, held: &mut Vec<OwnedFd>) -> io::Result<()> {
    if folder.len() <= MAX_VALUE {
        return Ok(rustix::mount::fsconfig_set_string(context, key, folder)?);
    }
    let open = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::mount::fsconfig_set_string(context, key, format!("/proc/self/fd/{}", open.as_raw_fd()))?;
    held.push(open);
    Ok(())
}

fn attributes(flags: MountFlags) -> MountAttrFlags {
    let table = [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ];
    table
        .into_iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .fold(MountAttrFlags::empty(), |all, (_, attribute)| all | attribute)
}

/// Kernels before `lowerdir+`: mount(2) with lower folders named from the folder that holds them all.
pub(super) fn mount_from_common_folder(source: &str, at: &Path, options: &Options) -> io::Result<()> {
    let lower = options.data.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let folders: Vec<PathBuf> = split_escaped(lower).into_iter().map(PathBuf::from).collect();
    let common = common_folder(&folders).ok_or_else(|| io::Error::from(Errno::TOOBIG))?;
    let short = folders.iter().filter_map(|folder| folder.strip_prefix(&common).ok()?.to_str()).map(escape);
    let lowerdir = format!("lowerdir={}", short.collect::<Vec<_>>().join(":"));
    let data = options.data.iter().filter(|option| !option.starts_with("lowerdir="));
    let data = data.map(String::as_str).chain([lowerdir.as_str()]).collect::<Vec<_>>().join(",");
    if data.len() > MAX_DATA {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this kernel takes no overlay of so many layers"));
    }
    let data = CString::new(data)?;
    let source = if source.is_empty() { "overlay" } else { source };
    // The working folder belongs to the process; only a thread that left it alone may change it.
    let mounting = || -> io::Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        rustix::process::chdir(&common)?;
        rustix::mount::mount(source, at, "overlay", options.flags, data.as_c_str())?;
        Ok(())
    };
    std::thread::scope(|scope| match scope.spawn(mounting).join() {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("the thread that mounts panicked")),
    })
    .inspect_err(|_| {
        let _ = unmount(at);
    })
}

/// The deepest folder above all of `folders`.
fn common_folder(folders: &[PathBuf]) -> Option<PathBuf> {
    let (first, rest) = folders.split_first()?;
    let mut common = first.parent()?;
    while !rest.iter().all(|folder| folder.starts_with(common) && folder != common) {
        common = common.parent()?;
    }
    Some(common.to_owned())
}

/// Splits at colons; a backslash takes away the meaning of what follows.
pub(super) fn split_escaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let taken = match character {
            '\\' => characters.next(),
            ':' => {
                parts.push(String::new());
                continue;
            }
            other => Some(other),
        };
        if let (Some(part), Some(taken)) = (parts.last_mut(), taken) {
            part.push(taken);
        }
    }
    parts
}

fn unescape(text: &str) -> String {
    split_escaped(text).join(":")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_split_unless_escaped() {
        assert_eq!(split_escaped(r"/a:/b\:c:/d\\e"), ["/a", "/b:c", r"/d\e"]);
        assert_eq!(escape("/b:c,d"), r"/b\:c\,d");
    }

    #[test]
    fn an_overlays_folders_are_read_as_they_were_written() {
        let lower = [PathBuf::from("/a:b"), PathBuf::from(r"/c\d,e")];
        let text = join_overlay_folders(&lower.each_ref()).expect("text");
        let folders = overlay_folders(&[format!("lowerdir={text}"), r"upperdir=/u\:v".into(), "index=off".into()]);
        assert_eq!(folders, OverlayFolders { upper: Some("/u:v".into()), work: None, lower: lower.to_vec() });
    }

    #[test]
    fn the_common_folder_is_above_every_layer() {
        let folders: Vec<PathBuf> = ["/s/o/1/fs", "/s/o/22/fs"].iter().map(PathBuf::from).collect();
        assert_eq!(common_folder(&folders), Some(PathBuf::from("/s/o")));
        assert_eq!(common_folder(&[]), None);
    }
}
