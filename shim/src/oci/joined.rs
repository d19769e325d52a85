//! The built-in runtime's way into namespaces by path from inside a user namespace.
//!
//! libcontainer joins the user namespace first and opens the other namespaces afterwards, when files below the `/proc` of
//! a process of the host are closed to it. So they are opened here, while this process is still the host's, and it is
//! told to join them through these descriptors.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use windlass_model::{Context, Error, Kind, Result};
use windlass_wire::words;

use super::corrections::{self, Corrected};

/// The folder in a container's bundle with the specification that libcontainer gets.
const FOLDER: &str = "oci-spec";

/// A bundle whose namespaces are named by descriptors.
#[derive(Debug)]
pub struct Joined {
    /// The bundle that libcontainer is to take; nothing where it is the container's own.
    pub bundle: Option<PathBuf>,
    /// The container's own, as it is for libcontainer.
    pub corrected: Option<Corrected>,
    _namespaces: Vec<File>,
}

impl Joined {
    /// Opens what the specification in `bundle` joins; nothing where it asks for no user namespace. What is `confined` by this
    /// runtime is left out. Where hooks are told which folder is the container's, it stays that one.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where the specification is none; otherwise where a namespace cannot be opened.
    pub fn take(bundle: &Path, confined: bool, hooked: bool) -> Result<Option<Self>> {
        let file = bundle.join(words::SPEC_FILE);
        let bytes = fs::read(&file).context(|| format!("read {}", file.display()))?;
        let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error);
        let mut spec: Value = serde_json::from_slice(&bytes).map_err(refuse)?;
        let Some(namespaces) = rewrite(&mut spec, bundle)? else { return Ok(None) };
        corrections::correct(&mut spec, confined);
        if hooked {
            let corrected = Corrected::write(file, bytes, &spec)?;
            return Ok(Some(Self { bundle: None, corrected: Some(corrected), _namespaces: namespaces }));
        }
        let folder = bundle.join(FOLDER);
        fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
        let bytes = serde_json::to_vec(&spec).map_err(refuse)?;
        windlass_sys::fs::write_atomic(&folder.join(words::SPEC_FILE), &bytes)?;
        Ok(Some(Self { bundle: Some(folder), corrected: None, _namespaces: namespaces }))
    }
}

/// Names the namespaces by descriptors, where there is a user namespace.
fn rewrite(spec: &mut Value, bundle: &Path) -> Result<Option<Vec<File>>> {
    let list = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    let Some(list) = list.filter(|list| list.iter().any(|namespace| namespace["type"] == "user")) else {
        return Ok(None);
    };
    let mut opened = Vec::new();
    for namespace in list {
        let Some(path) = namespace["path"].as_str().filter(|path| !path.is_empty()) else { continue };
        let file = File::open(path).context(|| format!("open the namespace {path}"))?;
        namespace["path"] = json!(format!("/proc/self/fd/{}", file.as_raw_fd()));
        opened.push(file);
    }
    if let Some(path) = spec.pointer_mut("/root/path") {
        // Joining an absolute path gives that path.
        *path = json!(bundle.join(path.as_str().unwrap_or_default()));
    }
    Ok(Some(opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_opened_only_for_users_of_their_own() {
        let of = |kinds: Value| json!({"root": {"path": "rootfs"}, "linux": {"namespaces": kinds}});
        let mut plain = of(json!([{"type": "ipc", "path": "/proc/self/ns/ipc"}]));
        assert!(rewrite(&mut plain, Path::new("/b")).unwrap().is_none());
        let mut own = of(json!([{"type": "user", "path": "/proc/self/ns/user"}, {"type": "pid"},
            {"type": "ipc", "path": "/proc/self/ns/ipc"}]));
        let opened = rewrite(&mut own, Path::new("/b")).unwrap().unwrap();
        assert_eq!(opened.len(), 2);
        assert_eq!(own["root"]["path"], "/b/rootfs");
        assert!(own["linux"]["namespaces"][1].get("path").is_none());
        let path = own["linux"]["namespaces"][2]["path"].as_str().unwrap();
        assert_eq!(fs::read_link(path).unwrap(), fs::read_link("/proc/self/ns/ipc").unwrap());
        let mut gone = of(json!([{"type": "user", "path": "/nowhere"}]));
        assert!(rewrite(&mut gone, Path::new("/b")).unwrap_err().is_not_found());
    }
}
