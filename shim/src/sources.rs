//! The sources of a container's bind mounts, attached in its bundle where its user namespace can reach them.
//!
//! Root of a user namespace is nobody on the host and may not walk through the host's folders, and not every OCI runtime
//! mounts files under other ids. So this process, which may do both, attaches copies of the sources below
//! `<bundle>/sources`, under the ids that the specification asks for, and the runtime binds those.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::idmap::{self, IdMap, Range};
use windlass_sys::{mount, userns};

/// The folder in the bundle.
const FOLDER: &str = "sources";

/// A copy of a mount to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    recursive: bool,
    ids: Option<IdMap>,
}

/// A range of ids in the words of the OCI specification.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Mapping {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
    size: u32,
}

/// The map that two lists of a specification mean; nothing where both are empty.
///
/// # Errors
/// [`Kind::InvalidArgument`] where they are no map.
pub fn ids(uids: &Value, gids: &Value) -> Result<Option<IdMap>> {
    let ranges = |list: &Value| -> Result<Vec<Range>> {
        if list.is_null() {
            return Ok(Vec::new());
        }
        let list = Vec::<Mapping>::deserialize(list)
            .map_err(|error| Error::with_source(Kind::InvalidArgument, "id mappings", error))?;
        let range = |one: Mapping| Range { inside: one.container, outside: one.host, length: one.size };
        Ok(list.into_iter().map(range).collect())
    };
    let (uids, gids) = (ranges(uids)?, ranges(gids)?);
    if uids.is_empty() && gids.is_empty() { Ok(None) } else { IdMap::new(uids, gids).map(Some) }
}

/// Takes the bind mounts out of a specification's `mounts` that are to be attached in `bundle`: all of them for a
/// container with a user namespace, else those with ids of their own. Each then names the copy as its source.
///
/// # Errors
/// [`Kind::InvalidArgument`] for ids that are no map.
pub fn take(mounts: &mut [Value], bundle: &Path, own_users: bool) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for mount in mounts {
        let has = |option: &str| mount["options"].as_array().is_some_and(|list| list.iter().any(|one| one == option));
        let recursive = has("rbind");
        let is_bind = recursive || has("bind") || mount["type"] == "bind";
        let ids = ids(&mount["uidMappings"], &mount["gidMappings"])
            .context(|| format!("mount of {}", mount["destination"]))?;
        let Some(path) = mount["source"].as_str().filter(|_| is_bind && (own_users || ids.is_some())) else { continue };
        sources.push(Source { path: path.into(), recursive, ids });
        mount["source"] = json!(place(bundle, sources.len() - 1));
        if let Value::Object(mount) = mount {
            mount.remove("uidMappings");
            mount.remove("gidMappings");
        }
    }
    Ok(sources)
}

fn place(bundle: &Path, at: usize) -> PathBuf {
    bundle.join(FOLDER).join(at.to_string())
}

/// Attaches the copies.
///
/// # Errors
/// [`Kind::FailedPrecondition`] for a file system that cannot show files under other ids; what the kernel says otherwise.
pub fn attach(sources: &[Source], bundle: &Path) -> Result<()> {
    if sources.is_empty() {
        return Ok(());
    }
    let folder = bundle.join(FOLDER);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&folder)
        .context(|| format!("make {}", folder.display()))?;
    for (at, source) in sources.iter().enumerate() {
        let tree = match &source.ids {
            Some(map) => idmap::clone_mapped(&source.path, source.recursive, userns::open(map)?.as_fd())?,
            None => idmap::clone(&source.path, source.recursive)?,
        };
        // Taking the copy away again must not take away the host's mounts below the source.
        idmap::only_follow(tree.as_fd())?;
        let place = place(bundle, at);
        idmap::make_place(tree.as_fd(), &place)?;
        idmap::attach(tree.as_fd(), &place)?;
    }
    Ok(())
}

/// Takes away what [`attach`] left in `bundle`; nothing there is success.
///
/// # Errors
/// What the kernel says.
pub fn detach(bundle: &Path) -> Result<()> {
    let folder = bundle.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(|| format!("read {}", folder.display()))?,
    };
    for entry in entries.flatten() {
        mount::unmount(&entry.path())?;
    }
    windlass_sys::fs::remove_tree(&folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_binds_that_need_it_are_taken() {
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
        let spec = || {
            vec![
                json!({"destination": "/proc", "type": "proc", "source": "proc"}),
                json!({"destination": "/a", "type": "bind", "source": "/x", "options": ["rbind", "ro"]}),
                json!({"destination": "/b", "type": "bind", "source": "/y", "options": ["bind"],
                    "uidMappings": mapping, "gidMappings": mapping}),
            ]
        };
        let mut mounts = spec();
        let taken = take(&mut mounts, Path::new("/b"), false).unwrap();
        assert_eq!((taken.len(), taken[0].recursive, taken[0].ids.is_some()), (1, false, true));
        assert_eq!((mounts[1]["source"].as_str(), mounts[2]["source"].as_str()), (Some("/x"), Some("/b/sources/0")));
        assert!(mounts[2].get("uidMappings").is_none());
        let mut mounts = spec();
        let taken = take(&mut mounts, Path::new("/b"), true).unwrap();
        assert_eq!((taken.len(), taken[0].recursive, taken[0].ids.is_none()), (2, true, true));
        assert_eq!(mounts[0]["source"], "proc");
        let mut broken = vec![json!({"type": "bind", "source": "/x", "uidMappings": mapping})];
        assert_eq!(take(&mut broken, Path::new("/b"), false).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn copies_come_and_go_without_the_mounts_below_their_source() {
        let folder = std::env::temp_dir().join(format!("w-sources-{}", std::process::id()));
        let (source, bundle) = (folder.join("source"), folder.join("bundle"));
        fs::create_dir_all(source.join("inner")).unwrap();
        fs::create_dir_all(&bundle).unwrap();
        let inner = windlass_model::Mount { kind: "tmpfs".into(), source: "t".into(), ..Default::default() };
        mount::mount_all(&[inner], &source.join("inner")).unwrap();
        fs::write(source.join("inner/file"), "x").unwrap();
        let one = Source { path: source.clone(), recursive: true, ids: None };
        attach(&[one], &bundle).unwrap();
        let seen = fs::read_to_string(bundle.join("sources/0/inner/file"));
        detach(&bundle).unwrap();
        detach(&bundle).unwrap();
        let kept = source.join("inner/file").exists();
        mount::unmount(&source.join("inner")).unwrap();
        let gone = !bundle.join("sources").exists();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((seen.unwrap().as_str(), kept, gone), ("x", true, true));
    }
}
