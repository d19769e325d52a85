//! Which files an activation may touch: those of its namespace's snapshots, and what it has mounted itself.
//!
//! Whoever could have any folder or device mounted would be root on this machine. So a path is looked for beneath the folder of a
//! snapshot or of a mount of the same activation, no link leads out of there, and what is mounted is what was found: a path with
//! names on the way that somebody else may change goes to the kernel as an open descriptor. What is read-only
//! stays so: a bind mount of it must be read-only, too.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use windlass_model::snapshotter::Kind as SnapshotKind;
use windlass_model::{Context, Error, Kind, Mount, Result};
use windlass_sys::fs::{open_beneath, open_folder};
use windlass_sys::loops::LoopOptions;
use windlass_sys::mount::{join_overlay_folders, overlay_folders};

use super::ActiveMount;
use super::options::{self, is_read_only};
use super::plan::LOOP;
use crate::snapshots::Folders;

/// What an activation may touch.
#[derive(Debug)]
pub(super) struct Ground {
    snapshots: Folders,
    /// The activation's folder.
    home: PathBuf,
    /// Whether each of its mounts may be written to; `None` for one that is a device.
    own: Vec<Option<bool>>,
}

/// A place that may be touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// What it must stay beneath.
    pub(super) root: PathBuf,
    /// The way from there.
    pub(super) rest: PathBuf,
    pub(super) is_writable: bool,
    /// In the folder of a snapshot, not in a mount.
    pub(super) in_snapshot: bool,
}

/// A mount whose paths are safe, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Safe {
    pub(super) mount: Mount,
    /// The file that is to be a device first, and how; the mount's source is that device then.
    pub(super) file: Option<(OwnedFd, LoopOptions)>,
    pub(super) is_writable: bool,
    held: Vec<OwnedFd>,
}

impl Ground {
    pub(super) fn new(snapshots: Folders, home: PathBuf) -> Self {
        Self { snapshots, home, own: Vec::new() }
    }

    /// Notes the next mount of the activation.
    pub(super) fn add(&mut self, safe: &Safe) {
        self.own.push((safe.mount.kind != LOOP).then_some(safe.is_writable));
    }

    /// Where `path` is.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] where it is nowhere that may be touched.
    pub(super) fn spot(&self, path: &Path) -> Result<Spot> {
        if let Some(found) = self.snapshots.find(path) {
            let is_writable = found.kind == SnapshotKind::Active;
            return Ok(Spot { root: found.folder, rest: found.rest, is_writable, in_snapshot: true });
        }
        let own = || {
            let mut parts = path.strip_prefix(&self.home).ok()?.components();
            let number = parts.next()?.as_os_str().to_str()?;
            let is_writable = (*self.own.get(number.parse::<usize>().ok()?)?)?;
            // What leads out of there is refused by whoever opens it.
            let rest = parts.as_path().to_owned();
            Some(Spot { root: self.home.join(number), rest, is_writable, in_snapshot: false })
        };
        own().ok_or_else(|| {
            let message = format!(
                "{} is neither in a snapshot of this namespace nor in a mount of this activation before this one",
                path.display()
            );
            Error::new(Kind::PermissionDenied, message)
        })
    }

    /// As [`Ground::spot`], where it may be written to.
    pub(super) fn writable(&self, path: &Path) -> Result<Spot> {
        let spot = self.spot(path)?;
        if !spot.is_writable {
            return Err(Error::new(Kind::PermissionDenied, format!("{} is not to be written to", path.display())));
        }
        Ok(spot)
    }

    /// Makes the paths of a mount safe. Blocks.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] for what may not be mounted; [`Kind::InvalidArgument`] for options that are not let through.
    pub(super) fn secure(&self, mount: &Mount, before: &[ActiveMount]) -> Result<Safe> {
        if !mount.target.is_empty() {
            return Err(Error::invalid("a mount that the daemon makes has no target: it goes to a folder of its own"));
        }
        let read_only = is_read_only(&mount.options);
        let mut safe = Safe { mount: mount.clone(), file: None, is_writable: !read_only, held: Vec::new() };
        match mount.kind.as_str() {
            "bind" | "rbind" => {
                options::check(&mount.kind, &mount.options)?;
                let spot = self.spot(Path::new(&mount.source))?;
                if !spot.is_writable && !read_only {
                    let message = format!("{} may only be mounted with the option ro", mount.source);
                    return Err(Error::new(Kind::PermissionDenied, message));
                }
                safe.mount.source = safe.hold(&spot)?;
            }
            "overlay" => self.secure_overlay(&mut safe)?,
            "tmpfs" => options::check(&mount.kind, &mount.options)?,
            LOOP => {
                options::check(LOOP, &mount.options)?;
                let direct_io = mount.options.iter().any(|option| option == "direct-io");
                safe.file = Some(self.file(mount, LoopOptions { read_only, direct_io, autoclear: false })?);
            }
            kind @ ("ext2" | "ext3" | "ext4" | "xfs" | "erofs") => {
                let (loops, options) = mount.options.iter().cloned().partition::<Vec<_>, _>(|option| option == LOOP);
                options::check(kind, &options)?;
                safe.mount.options = options;
                if loops.is_empty() {
                    safe.mount.source = own_device(mount, before)?;
                } else {
                    let read_only = read_only || kind == "erofs";
                    safe.file = Some(self.file(mount, LoopOptions { read_only, autoclear: true, direct_io: false })?);
                }
                if kind.starts_with("ext") && !mount.options.iter().any(|option| option.starts_with("errors=")) {
                    // Otherwise the file system itself says what happens, and it may say that the machine stops.
                    safe.mount.options.push("errors=remount-ro".into());
                }
            }
            kind => {
                let message = format!(
                    "the daemon makes no mounts of type {kind:?} for clients, only of bind, overlay, tmpfs, loop, ext2, ext3, ext4, xfs and erofs"
                );
                return Err(Error::new(Kind::PermissionDenied, message));
            }
        }
        Ok(safe)
    }

    fn secure_overlay(&self, safe: &mut Safe) -> Result<()> {
        let folders = overlay_folders(&safe.mount.options);
        let is_folder =
            |option: &String| ["lowerdir=", "upperdir=", "workdir="].iter().any(|name| option.starts_with(name));
        safe.mount.options.retain(|option| !is_folder(option));
        options::check("overlay", &safe.mount.options)?;
        safe.is_writable &= folders.upper.is_some();
        let mut lower = Vec::with_capacity(folders.lower.len());
        for folder in &folders.lower {
            lower.push(PathBuf::from(safe.hold(&self.spot(folder)?)?));
        }
        safe.mount.options.push(format!("lowerdir={}", join_overlay_folders(&lower.iter().collect::<Vec<_>>())?));
        for (name, folder) in [("upperdir", folders.upper), ("workdir", folders.work)] {
            if let Some(folder) = folder {
                let held = PathBuf::from(safe.hold(&self.writable(&folder)?)?);
                safe.mount.options.push(format!("{name}={}", join_overlay_folders(&[&held])?));
            }
        }
        Ok(())
    }

    /// Opens the file that is to be a device.
    fn file(&self, mount: &Mount, options: LoopOptions) -> Result<(OwnedFd, LoopOptions)> {
        let path = Path::new(&mount.source);
        let spot = if options.read_only { self.spot(path)? } else { self.writable(path)? };
        let access = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        // Not to wait for the other side of a pipe; and a device that stands in a snapshot does not get opened at all.
        let look = spot.open(OFlags::PATH)?;
        if !is_file(&look)? {
            return Err(Error::precondition(format!("{} is no file", mount.source)));
        }
        drop(look);
        let file = spot.open(access | OFlags::NONBLOCK | OFlags::NOFOLLOW)?;
        if !is_file(&file)? {
            return Err(Error::precondition(format!("{} is no file", mount.source)));
        }
        Ok((file, options))
    }
}

impl Spot {
    /// Opens it, beneath what it must stay beneath.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let root = open_folder(&self.root)?;
        open_beneath(&root, &self.rest, flags, Mode::empty())
            .context(|| format!("open {}", self.root.join(&self.rest).display()))
    }

    /// Opens the folder it is in, and gives its own name; `None` for the root itself.
    pub(super) fn parent(&self) -> Result<Option<(OwnedFd, PathBuf)>> {
        let Some(name) = self.rest.file_name() else { return Ok(None) };
        let rest = self.rest.parent().unwrap_or(Path::new("")).to_owned();
        let parent = Self { rest, ..self.clone() }.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Some((parent, name.into())))
    }

    /// True where nobody but drivers and the engine makes names on the way.
    fn is_plain(&self) -> bool {
        self.rest.as_os_str().is_empty() || (self.in_snapshot && matches!(self.rest.to_str(), Some("fs" | "work")))
    }
}

impl Safe {
    /// A path that leads where `spot` does, whatever happens on the way to it.
    fn hold(&mut self, spot: &Spot) -> Result<String> {
        let opened = spot.open(OFlags::PATH)?;
        if spot.is_plain() {
            let path = spot.root.join(&spot.rest);
            return path.into_os_string().into_string().map_err(|_| Error::invalid("a path that is not UTF-8"));
        }
        let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
        self.held.push(opened);
        Ok(path)
    }
}

fn is_file(file: &OwnedFd) -> Result<bool> {
    let status = rustix::fs::fstat(file).map_err(std::io::Error::from)?;
    Ok(rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::RegularFile)
}

/// The device of this activation that a mount names.
fn own_device(mount: &Mount, before: &[ActiveMount]) -> Result<String> {
    let source = Path::new(&mount.source);
    let mut devices = before.iter().filter_map(|active| Some((&active.point, active.device.as_ref()?)));
    let found = devices.find(|(point, device)| point.as_path() == source || device.as_path() == source);
    found.map(|(_, device)| device.display().to_string()).ok_or_else(|| {
        let message = format!("{:?} is no loop device of this activation", mount.source);
        Error::new(Kind::PermissionDenied, message)
    })
}
