//! The folder of a driver: one entry for each id, which comes and goes at once.
//!
//! An entry is built as `<id>.new` and renamed to `<id>` when it is whole; it is renamed to `<id>.gone` before it is
//! removed. Whatever a crash leaves therefore shows in its name, counts as the id's, and is cleared by the next call.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use windlass_model::snapshotter::SnapshotId;
use windlass_model::{Context, Result};
use windlass_sys::fs::remove_tree;

/// The ending of an entry that is being built.
const NEW: &str = ".new";

/// The ending of an entry that is being removed.
const GONE: &str = ".gone";

/// A driver's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Takes `path` as a driver's folder and makes it if it is missing, closed to everyone but its owner.
    pub fn open(path: PathBuf) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .and_then(|()| path.canonicalize())
            .map(|path| Self { path })
            .context(|| format!("make the snapshot folder {}", path.display()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole entry of `id`.
    pub fn entry(&self, id: SnapshotId) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Makes the entry of `id` with `build`, which fills a new empty folder; an entry that is there already stays as it
    /// is.
    pub fn make(&self, id: SnapshotId, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let entry = self.entry(id);
        if entry.exists() {
            return Ok(());
        }
        let draft = self.path.join(format!("{id}{NEW}"));
        let made = remove_tree(&draft)
            .and_then(|()| std::fs::create_dir(&draft).context(|| format!("make {}", draft.display())))
            .and_then(|()| build(&draft))
            .and_then(|()| std::fs::rename(&draft, &entry).context(|| format!("finish {}", entry.display())));
        if made.is_err()
            && let Err(error) = remove_tree(&draft)
        {
            tracing::warn!(draft = %draft.display(), %error, "a half-made snapshot stays until it is removed");
        }
        made.context(|| format!("make snapshot {id}"))
    }

    /// Removes everything of `id`.
    pub fn remove(&self, id: SnapshotId) -> Result<()> {
        let (entry, gone) = (self.entry(id), self.path.join(format!("{id}{GONE}")));
        // What an earlier call left has to go first, or there is no place to rename to.
        remove_tree(&gone)
            .and_then(|()| match std::fs::rename(&entry, &gone) {
                Ok(()) => remove_tree(&gone),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error.into()),
            })
            .and_then(|()| remove_tree(&self.path.join(format!("{id}{NEW}"))))
            .context(|| format!("remove snapshot {id}"))
    }

    /// Every id that has something on disk, whole or not.
    pub fn ids(&self) -> Result<Vec<SnapshotId>> {
        let doing = || format!("list {}", self.path.display());
        let mut ids = BTreeSet::new();
        for entry in std::fs::read_dir(&self.path).context(doing)? {
            let name = entry.context(doing)?.file_name();
            ids.extend(name.to_str().and_then(parse));
        }
        Ok(ids.into_iter().collect())
    }
}

/// The id that an entry's name stands for; `None` for anything a driver did not name.
fn parse(name: &str) -> Option<SnapshotId> {
    let number = name.strip_suffix(NEW).or_else(|| name.strip_suffix(GONE)).unwrap_or(name);
    number.parse().ok().filter(|id: &SnapshotId| id.to_string() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_ids() {
        assert_eq!(parse("12"), Some(12));
        assert_eq!(parse("12.new"), Some(12));
        assert_eq!(parse("12.gone"), Some(12));
        for other in ["", "012", "-1", "12.old", "lost+found", "1.new.gone"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
