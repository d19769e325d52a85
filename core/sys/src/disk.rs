//! The room on a file system, and what its device is called.

use std::fs;
use std::path::Path;

use rustix::fs::{major, minor, stat, statvfs};
use windlass_model::Result;

use crate::errno;

/// A file system's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// The device that it is on; major 0 where it has none.
    pub major: u32,
    /// The device that it is on.
    pub minor: u32,
    /// Bytes in all.
    pub bytes: u64,
    /// Inodes in all; 0 where it has no fixed number of them.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

/// The room on the file system of `folder`.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] where there is no such folder.
pub fn space(folder: &Path) -> Result<Space> {
    let doing = || format!("look at the file system of {}", folder.display());
    let (found, room) = (stat(folder).map_err(|error| errno(error, doing))?, statvfs(folder));
    let room = room.map_err(|error| errno(error, doing))?;
    Ok(Space {
        major: major(found.st_dev),
        minor: minor(found.st_dev),
        bytes: room.f_blocks.saturating_mul(room.f_frsize),
        inodes: room.f_files,
        free_inodes: room.f_ffree,
    })
}

/// The device's file, `/dev/vda1`; what is mounted, where there is no such device; else its numbers.
pub fn device_name(major: u32, minor: u32) -> String {
    let numbers = format!("{major}:{minor}");
    if let Ok(link) = fs::read_link(format!("/sys/dev/block/{numbers}"))
        && let Some(name) = link.file_name().and_then(|name| name.to_str())
    {
        return format!("/dev/{}", name.replace('!', "/"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    source(&mounts, &numbers).unwrap_or(&numbers).to_owned()
}

/// The source of the first mount of a device.
fn source<'a>(mounts: &'a str, numbers: &str) -> Option<&'a str> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(numbers))?;
    line.split_once(" - ")?.1.split(' ').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_name_or_its_numbers() {
        let mounts =
            "22 27 0:21 / /proc rw,relatime - proc proc rw\n30 1 0:55 / /data rw shared:1 - btrfs /dev/vdb rw\nodd\n";
        assert_eq!(source(mounts, "0:55"), Some("/dev/vdb"));
        assert_eq!((source(mounts, "0:56"), source("1 2 0:1 / /", "0:1")), (None, None));
        assert_eq!(device_name(4_000_000, 4_000_000), "4000000:4000000");
    }

    #[test]
    fn a_file_system_has_room() {
        let here = space(Path::new("/")).unwrap();
        assert!(here.bytes > 0 && here.free_inodes <= here.inodes);
        assert!(space(Path::new("/none/such")).unwrap_err().is_not_found());
    }
}
