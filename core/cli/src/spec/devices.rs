//! Devices of the machine that a container is to have.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What of `/dev` belongs to every container itself.
const OWN: [&str; 8] = ["console", "core", "fd", "mqueue", "ptmx", "pts", "shm", "termination-log"];

/// What runtimes make in every container, and refuse to make twice.
const MADE: [&str; 6] = ["/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"];

/// A device node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Device {
    path: String,
    kind: char,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Device {
    /// As a specification places it.
    pub fn place(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }

    /// What the device cgroup has to allow.
    pub fn rule(&self) -> Value {
        let kind = self.kind.to_string();
        json!({ "allow": true, "type": kind, "major": self.major, "minor": self.minor, "access": "rwm" })
    }

    /// The node that was found at a path; nothing where something else is there.
    fn of(path: &Path, metadata: &fs::Metadata) -> Option<Self> {
        let kind = match metadata.file_type() {
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            _ => return None,
        };
        let number = metadata.rdev();
        Some(Self {
            path: path.display().to_string(),
            kind,
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }
}

/// The devices at `paths`, and with `all` those that stand in `/dev` itself; without those that every container has.
///
/// # Errors
/// Naming the path that is no device.
pub(super) fn asked(paths: &[String], all: bool) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).with_context(|| format!("device {path}"))?;
        let Some(device) = Device::of(Path::new(path), &metadata) else { bail!("{path} is no device") };
        found.push(device);
    }
    if all {
        for entry in fs::read_dir("/dev").context("list /dev")? {
            let entry = entry.context("list /dev")?;
            let name = entry.file_name();
            if OWN.iter().any(|own| name == *own) || found.iter().any(|known| Path::new(&known.path) == entry.path()) {
                continue;
            }
            // One that has gone in between is none, and neither is a link: /dev/stdin is whatever ours is.
            found.extend(entry.metadata().ok().and_then(|metadata| Device::of(&entry.path(), &metadata)));
        }
    }
    found.retain(|device| !MADE.contains(&device.path.as_str()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_from_files() {
        let null = Device::of(Path::new("/dev/null"), &fs::metadata("/dev/null").expect("null")).expect("a device");
        assert_eq!((null.kind, null.major, null.minor), ('c', 1, 3));
        assert!(asked(&["/dev/null".into()], false).expect("null").is_empty(), "every container has it");
        assert!(asked(&["/etc/passwd".into()], false).is_err());
        assert!(asked(&["/dev/no-such-device".into()], false).is_err());
        let all = asked(&[], true).expect("all");
        assert!(all.iter().all(|device| device.path.starts_with("/dev/")));
        assert!(all.iter().all(|device| device.path != "/dev/ptmx" && device.path != "/dev/zero"));
    }
}
