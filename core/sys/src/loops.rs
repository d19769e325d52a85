//! Loop devices: files that can be mounted as block devices are.
//!
//! The kernel keeps 63 bytes of text with a device, which tools fill with the file's name. Here it is a label by which whoever
//! made a device finds it again, also after a crash. Source: loop(4) and `linux/loop.h`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use windlass_model::{Context, Error, Kind, Result};

use crate::errno;

/// The longest label, in bytes.
pub const MAX_LABEL: usize = 63;

/// How often another device is asked for where somebody else was quicker.
const TRIES: usize = 64;

const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;
const CLEAR: libc::Ioctl = 0x4c01;
const STATUS: libc::Ioctl = 0x4c05;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// How a file becomes a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopOptions {
    /// Nothing is written to it.
    pub read_only: bool,
    /// Past the page cache of the file.
    pub direct_io: bool,
    /// It ends with its last user.
    pub autoclear: bool,
}

/// A device that was just made; it is in use until this is dropped.
#[derive(Debug)]
pub struct LoopDevice {
    /// Its file in `/dev`.
    pub path: PathBuf,
    _held: File,
}

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    raw_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: u32,
    key_length: u32,
    flags: u32,
    label: [u8; 64],
    cipher: [u8; 64],
    key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Configuration {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

impl Info {
    fn new() -> Self {
        Self {
            device: 0,
            inode: 0,
            raw_device: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encryption: 0,
            key_length: 0,
            flags: 0,
            label: [0; 64],
            cipher: [0; 64],
            key: [0; 32],
            init: [0; 2],
        }
    }

    fn label(&self) -> String {
        let end = self.label.iter().position(|byte| *byte == 0).unwrap_or(self.label.len());
        String::from_utf8_lossy(&self.label[..end]).into_owned()
    }
}

/// Makes a device of `file` under a label.
///
/// # Errors
/// [`Kind::InvalidArgument`] for a label that is too long; [`Kind::FailedPrecondition`] where this kernel or `/dev` has no
/// loop devices; [`Kind::ResourceExhausted`] where none is free.
pub fn attach(file: BorrowedFd<'_>, options: LoopOptions, label: &str) -> Result<LoopDevice> {
    if label.len() > MAX_LABEL || label.contains('\0') {
        return Err(Error::invalid(format!("{label:?} is no label of a loop device")));
    }
    let control = open(Path::new("/dev/loop-control"), true)
        .map_err(|error| Error::with_source(Kind::FailedPrecondition, "there are no loop devices here", error))?;
    let flags = [(options.read_only, READ_ONLY), (options.direct_io, DIRECT_IO), (options.autoclear, AUTOCLEAR)];
    let mut info = Info::new();
    info.flags = flags.into_iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag);
    info.label[..label.len()].copy_from_slice(label.as_bytes());
    let configuration = Configuration { file: number(file)?, block_size: 0, info, reserved: [0; 8] };
    for _ in 0..TRIES {
        let number = free(&control).map_err(|error| errno(error, || "look for a free loop device".into()))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path, !options.read_only).map_err(|error| {
            Error::with_source(Kind::FailedPrecondition, format!("{} cannot be opened", path.display()), error)
        })?;
        match configure(&device, &configuration) {
            Ok(()) => return Ok(LoopDevice { path, _held: device }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(errno(error, || format!("make {} of a file", path.display()))),
        }
    }
    Err(Error::new(Kind::ResourceExhausted, "no loop device stays free long enough to be taken"))
}

/// Ends the device at `path` if it still has that label: at once, or with its last user.
pub fn detach(path: &Path, label: &str) -> Result<()> {
    let doing = || format!("end {}", path.display());
    let device = match open(path, false) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => return Ok(()),
        device => device.context(doing)?,
    };
    if label_of(&device).as_deref() != Some(label) {
        return Ok(());
    }
    // JUSTIFICATION: no safe crate wraps this request.
    // SAFETY: the descriptor is open, and the request takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), CLEAR, 0) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            error => Err(errno(error, doing)),
        },
    }
}

/// True if the device at `path` has that label.
pub fn has_label(path: &Path, label: &str) -> bool {
    open(path, false).is_ok_and(|device| label_of(&device).as_deref() == Some(label))
}

/// All devices whose label begins with `start`.
pub fn labelled(start: &str) -> Result<Vec<(PathBuf, String)>> {
    let blocks = match std::fs::read_dir("/sys/block") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        blocks => blocks.context(|| "list block devices".into())?,
    };
    let mut found = Vec::new();
    for block in blocks {
        let block = block.context(|| "list block devices".into())?;
        // Only a device that is in use has this folder.
        if !block.path().join("loop").exists() {
            continue;
        }
        let path = Path::new("/dev").join(block.file_name());
        // Whoever's it is may end it meanwhile.
        if let Ok(device) = open(&path, false)
            && let Some(label) = label_of(&device)
            && label.starts_with(start)
        {
            found.push((path, label));
        }
    }
    Ok(found)
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    File::options().read(true).write(write).open(path)
}

fn number(file: BorrowedFd<'_>) -> Result<u32> {
    let raw: RawFd = file.as_raw_fd();
    u32::try_from(raw).map_err(|_| Error::internal("a descriptor below zero"))
}

fn free(control: &File) -> io::Result<i32> {
    // JUSTIFICATION: no safe crate wraps this request.
    // SAFETY: the descriptor is open, and the request takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

fn configure(device: &File, configuration: &Configuration) -> io::Result<()> {
    // JUSTIFICATION: no safe crate wraps this request.
    // SAFETY: the kernel reads a `struct loop_config`, which the pointer leads to for as long as the call takes.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, std::ptr::from_ref(configuration)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The label of a device that is in use.
fn label_of(device: &impl AsFd) -> Option<String> {
    let mut info = Info::new();
    // JUSTIFICATION: no safe crate wraps this request.
    // SAFETY: the kernel writes a `struct loop_info64` to where the pointer leads, which nobody else uses meanwhile.
    let answer = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), STATUS, std::ptr::from_mut(&mut info)) };
    (answer == 0).then(|| info.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_kernel_have_its_sizes() {
        assert_eq!((size_of::<Info>(), size_of::<Configuration>()), (232, 304));
    }

    #[test]
    fn a_device_is_found_by_its_label_and_ended_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let label = format!("windlass-test:{}", std::process::id());
        let device = attach(file.as_fd(), LoopOptions::default(), &label).unwrap();
        let path = device.path.clone();
        drop(device);
        assert!(has_label(&path, &label) && !has_label(&path, "another"));
        assert_eq!(labelled(&label).unwrap(), [(path.clone(), label.clone())]);
        detach(&path, "another").unwrap();
        assert!(has_label(&path, &label));
        detach(&path, &label).unwrap();
        detach(&path, &label).unwrap();
        assert!(labelled(&label).unwrap().is_empty());
        let long = "x".repeat(MAX_LABEL + 1);
        let refused = attach(file.as_fd(), LoopOptions::default(), &long).unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
    }

    #[test]
    fn a_device_may_end_with_its_last_user() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let label = format!("windlass-last:{}", std::process::id());
        let options = LoopOptions { autoclear: true, ..LoopOptions::default() };
        let device = attach(file.as_fd(), options, &label).unwrap();
        assert!(has_label(&device.path, &label));
        drop(device);
        assert!(labelled(&label).unwrap().is_empty());
    }
}
