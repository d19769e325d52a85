//! What must be there before a mount: folders, and files with an empty file system.
//!
//! A file is filled under another name and gets its own when it is whole, so what is there under its name can be mounted.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use windlass_model::{Context, Error, Result};
use windlass_sys::fs::remove_tree;

use super::ground::Spot;
use super::options::{Image, ImageKind};

/// How long making a file system may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of what the program says is passed on, in bytes.
const MAX_SAID: u64 = 2048;

/// Something that was made for an activation; it goes if the activation is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// How many mounts there were then; it goes after all that came later.
    pub(super) after: usize,
    /// What it is beneath.
    root: PathBuf,
    /// The way from there.
    rest: PathBuf,
}

impl Made {
    pub(super) fn new(spot: &Spot, after: usize) -> Self {
        Self { after, root: spot.root.clone(), rest: spot.rest.clone() }
    }

    /// Takes it away with what is in it, which came of the same activation; nothing there is success. Blocks.
    pub(super) fn undo(&self) -> Result<()> {
        let spot = Spot { root: self.root.clone(), rest: self.rest.clone(), is_writable: true, in_snapshot: true };
        match spot.parent() {
            // Removed beside the open folder, whatever its path leads to meanwhile.
            Ok(Some((parent, name))) => {
                let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
                remove_tree(&path).context(|| format!("take away {}", self.root.join(&self.rest).display()))
            }
            Ok(None) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The name under which a file is filled, beside its own.
pub(super) fn draft(spot: &Spot, id: &str) -> Spot {
    Spot { rest: spot.rest.with_file_name(format!(".windlass-{id}")), ..spot.clone() }
}

/// True where a folder is there already. Blocks.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] where something else is, or a folder with another mode than is wanted.
pub(super) fn is_folder_there(spot: &Spot, mode: Option<u32>) -> Result<bool> {
    let path = spot.root.join(&spot.rest);
    let Some((parent, name)) = spot.parent()? else { return Ok(true) };
    let Some((kind, found)) = status(&parent, &name)? else { return Ok(false) };
    if kind != FileType::Directory {
        return Err(Error::precondition(format!("{} is there and no folder", path.display())));
    }
    match mode {
        Some(mode) if mode != found => {
            let message = format!("{} is there with mode {found:o}, not {mode:o}", path.display());
            Err(Error::precondition(message))
        }
        _ => Ok(true),
    }
}

/// Makes a folder, in one that is there. Blocks.
pub(super) fn folder(spot: &Spot, mode: Option<u32>, owner: Option<(u32, u32)>) -> Result<()> {
    let path = spot.root.join(&spot.rest);
    let Some((parent, name)) = spot.parent()? else { return Ok(()) };
    let make = || -> rustix::io::Result<()> {
        rustix::fs::mkdirat(&parent, &name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let made = rustix::fs::openat2(&parent, &name, flags, Mode::empty(), resolve)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode.unwrap_or(0o700)))
    };
    make().map_err(|error| failed(error, "make", &path))
}

/// True where a file is there already. Blocks.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] where something else is.
pub(super) fn is_file_there(spot: &Spot) -> Result<bool> {
    let path = spot.root.join(&spot.rest);
    let found = match spot.parent()? {
        Some((parent, name)) => status(&parent, &name)?,
        None => Some((FileType::Directory, 0)),
    };
    match found {
        None => Ok(false),
        Some((FileType::RegularFile, _)) => Ok(true),
        Some(_) => Err(Error::precondition(format!("{} is there and no file", path.display()))),
    }
}

/// Makes a file with an empty file system: as `draft` first, then as `spot`.
pub(super) async fn image(spot: Spot, draft: Spot, image: &Image) -> Result<()> {
    let size = image.size;
    let (file, draft) = crate::blocking(move || Ok((blank(&draft, size)?, draft))).await?;
    fill(file, image).await?;
    crate::blocking(move || {
        let name = |spot: &Spot| spot.parent()?.ok_or_else(|| Error::invalid("a file system needs a file"));
        let ((from, old), (to, new)) = (name(&draft)?, name(&spot)?);
        rustix::fs::renameat_with(&from, &old, &to, &new, RenameFlags::NOREPLACE)
            .map_err(|error| failed(error, "name", &spot.root.join(&spot.rest)))
    })
    .await
}

/// A new file of that size, which takes no room yet.
fn blank(draft: &Spot, size: u64) -> Result<File> {
    let path = draft.root.join(&draft.rest);
    let (parent, name) = draft.parent()?.ok_or_else(|| Error::invalid("a file system needs a file"))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| failed(error, "make", &path))?;
    let file = File::from(file);
    file.set_len(size).context(|| format!("make {} {size} bytes long", path.display()))?;
    Ok(file)
}

/// Runs the program that makes the file system, on a file that only its descriptor names.
async fn fill(file: File, image: &Image) -> Result<()> {
    let (program, mut words) = match image.kind {
        ImageKind::Ext2 => ("mkfs.ext2", vec!["-q".to_owned(), "-F".into()]),
        ImageKind::Ext3 => ("mkfs.ext3", vec!["-q".to_owned(), "-F".into()]),
        ImageKind::Ext4 => ("mkfs.ext4", vec!["-q".to_owned(), "-F".into()]),
        ImageKind::Xfs => ("mkfs.xfs", vec!["-q".to_owned()]),
    };
    match (&image.uuid, image.kind) {
        (Some(uuid), ImageKind::Xfs) => words.extend(["-m".into(), format!("uuid={uuid}")]),
        (Some(uuid), _) => words.extend(["-U".into(), uuid.to_string()]),
        (None, _) => {}
    }
    let mut child = Command::new(program)
        .args(words)
        .arg("/proc/self/fd/0")
        .stdin(Stdio::from(file))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            Error::precondition(format!("{program}, which makes the file system, does not start: {error}"))
        })?;
    let stderr = child.stderr.take();
    let work = async {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = (&mut stderr).take(MAX_SAID).read_to_end(&mut said).await;
            // So that it is not stopped by a full pipe.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        }
        (child.wait().await, said)
    };
    let (status, said) = tokio::time::timeout(PATIENCE, work)
        .await
        .map_err(|_| Error::deadline(format!("{program} took longer than {PATIENCE:?}")))?;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            Err(Error::precondition(format!("{program} ended with {status}: {said}")))
        }
        Err(error) => Err(error.into()),
    }
}

/// What stands under a name, and its mode.
fn status(parent: &OwnedFd, name: &Path) -> Result<Option<(FileType, u32)>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(Some((FileType::from_raw_mode(status.st_mode), status.st_mode & 0o7777))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(error, "look at", name)),
    }
}

fn failed(error: Errno, doing: &str, path: &Path) -> Error {
    let error = std::io::Error::from(error);
    Error::with_source(windlass_model::error::io_kind(&error), format!("{doing} {}", path.display()), error)
}
