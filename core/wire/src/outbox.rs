//! Events that a shim keeps on disk until the daemon has acknowledged them: one file each, JSON, in the order of names.
//!
//! The shim writes `<bundle>/outbox/<sequence>.json` before it forwards the event and removes it afterwards. Where the
//! shim is dead, the daemon reads the files itself. `sequence` counts from 1 in each bundle.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use windlass_model::event::Event;
use windlass_model::{Context, Error, Kind, Namespace, Result, Timestamp};

use crate::words;

/// One spooled event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the order of this bundle.
    pub sequence: u64,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Whose event it is.
    pub namespace: Namespace,
    /// What happened.
    pub event: Event,
}

/// The file of entry `sequence` in the outbox of `bundle`; names sort as numbers do.
pub fn file(bundle: &Path, sequence: u64) -> PathBuf {
    bundle.join(words::OUTBOX_DIR).join(format!("{sequence:020}.json"))
}

/// The entry as the file has it.
pub fn encode(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(entry).unwrap_or_default()
}

/// The entry that a file holds.
///
/// # Errors
/// [`Kind::DataLoss`] where it is not one.
pub fn decode(bytes: &[u8]) -> Result<Entry> {
    serde_json::from_slice(bytes).map_err(|error| Error::with_source(Kind::DataLoss, "outbox entry", error))
}

/// All entries of a bundle in their order; files that hold no entry (cut off by a full disk) are passed over.
///
/// # Errors
/// Where the folder is there and cannot be read.
pub fn read(bundle: &Path) -> Result<Vec<Entry>> {
    let dir = bundle.join(words::OUTBOX_DIR);
    let listing = match fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("list {}", dir.display())),
    };
    let mut entries = Vec::new();
    for found in listing {
        let path = found.context(|| format!("list {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            entries.extend(fs::read(&path).ok().and_then(|bytes| decode(&bytes).ok()));
        }
    }
    entries.sort_by_key(|entry: &Entry| entry.sequence);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64) -> Entry {
        Entry {
            sequence,
            timestamp: Timestamp(7),
            namespace: "k8s.io".parse().unwrap(),
            event: Event::TaskOom { container: "c".into() },
        }
    }

    #[test]
    fn entries_come_back_in_order_and_rubbish_is_passed_over() {
        let bundle = std::env::temp_dir().join(format!("w-outbox-{}", std::process::id()));
        fs::create_dir_all(bundle.join(words::OUTBOX_DIR)).unwrap();
        for sequence in [10, 2, 1] {
            fs::write(file(&bundle, sequence), encode(&entry(sequence))).unwrap();
        }
        fs::write(file(&bundle, 3), b"{\"seq").unwrap();
        fs::write(bundle.join(words::OUTBOX_DIR).join("4.tmp"), encode(&entry(4))).unwrap();
        let found: Vec<u64> = read(&bundle).unwrap().iter().map(|entry| entry.sequence).collect();
        fs::remove_dir_all(&bundle).unwrap();
        assert_eq!(found, [1, 2, 10]);
        assert!(read(&bundle).unwrap().is_empty());
    }
}
