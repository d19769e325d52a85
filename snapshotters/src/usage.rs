//! What a folder takes on disk, counted by walking it.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use windlass_model::snapshotter::Usage;
use windlass_model::{Context, Error, Result};

/// Counts inodes and allocated bytes below `root`, itself included; a file with several names counts once, other file
/// systems mounted inside do not count, and what vanishes meanwhile is passed over.
pub(crate) fn walk(root: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    for entry in walkdir::WalkDir::new(root).same_file_system(true).follow_links(false).max_open(16) {
        let status = entry.and_then(|entry| entry.metadata());
        let status = match status {
            Ok(status) => status,
            Err(error) if error.depth() > 0 && not_there(&error) => continue,
            Err(error) => {
                return Err(Error::from(io::Error::from(error))).context(|| format!("measure {}", root.display()));
            }
        };
        if status.nlink() > 1 && !status.is_dir() && !linked.insert(status.ino()) {
            continue;
        }
        usage.inodes += 1;
        usage.bytes += status.blocks() * 512;
    }
    Ok(usage)
}

fn not_there(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_and_holes_do_not_count() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("file"), vec![1; 8192]).expect("write");
        std::fs::hard_link(dir.path().join("file"), dir.path().join("link")).expect("link");
        std::fs::File::create(dir.path().join("hole")).and_then(|file| file.set_len(1 << 30)).expect("hole");
        let usage = walk(dir.path()).expect("walk");
        assert_eq!(usage.inodes, 3);
        assert!((8192..64 * 1024).contains(&usage.bytes), "{usage:?}");
        assert!(walk(&dir.path().join("none")).is_err_and(|error| error.is_not_found()));
    }
}
