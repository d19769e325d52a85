//! Devices of the machine that a container is to have.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What of `/dev` belongs to every container itself.
const OWN: [&str; 8] = ["console", "core", "fd", "mqueue", "ptmx", "pts", "shm", "termination-log"];

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

    /// The node at a path; nothing where something else is there.
    fn at(path: &Path) -> std::io::Result<Option<Self>> {
        let metadata = fs::metadata(path)?;
        let kind = match metadata.file_type() {
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            _ => return Ok(None),
        };
        let number = metadata.rdev();
        Ok(Some(Self {
            path: path.display().to_string(),
            kind,
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }))
    }
}

/// The devices at `paths`, and with `all` those that stand in `/dev` itself.
///
/// # Errors
/// Naming the path that is no device.
pub(super) fn asked(paths: &[String], all: bool) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for path in paths {
        let device = Device::at(Path::new(path)).with_context(|| format!("device {path}"))?;
        let Some(device) = device else { bail!("{path} is no device") };
        found.push(device);
    }
    if all {
        for entry in fs::read_dir("/dev").context("list /dev")? {
            let entry = entry.context("list /dev")?;
            let name = entry.file_name();
            if OWN.iter().any(|own| name == *own) || found.iter().any(|known| Path::new(&known.path) == entry.path()) {
                continue;
            }
            // One that has gone in between is none.
            found.extend(Device::at(&entry.path()).ok().flatten());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_from_files() {
        let found = asked(&["/dev/null".into()], false).expect("null");
        assert_eq!((found[0].kind, found[0].major, found[0].minor), ('c', 1, 3));
        assert!(asked(&["/etc/passwd".into()], false).is_err());
        assert!(asked(&["/dev/no-such-device".into()], false).is_err());
        let all = asked(&[], true).expect("all");
        assert!(all.iter().any(|device| device.path == "/dev/zero"));
        assert!(all.iter().all(|device| device.path != "/dev/ptmx"));
    }
}
