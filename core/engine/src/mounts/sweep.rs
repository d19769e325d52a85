//! What is done about activations when the core is opened, and when nothing keeps them any more.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use windlass_model::{Context, Result};
use windlass_sys::loops;

use super::ladder::{self, Home};
use crate::meta::schema::MOUNTS;
use crate::meta::{Db, Durability, Reader};

/// Takes away what an earlier process left half made, and what a reboot or somebody else left of the rest. What is recorded and
/// still mounted stays.
pub(crate) async fn sweep(db: &Db, state: &Path) -> Result<()> {
    let records = db.view().scan(&MOUNTS, &())?;
    let folder = state.to_owned();
    let gone = crate::blocking(move || {
        let (mut kept, mut gone) = (HashSet::new(), Vec::new());
        for (key, record) in records {
            let home = Home::of(&folder, &record.id);
            let whole = record.is_whole && ladder::is_there(&home, &record.active)?;
            match if whole { Ok(()) } else { ladder::undo(&home, &record.made) } {
                Ok(()) if !whole => gone.push(key),
                Ok(()) => drop(kept.insert(record.id)),
                Err(error) => {
                    tracing::warn!(namespace = %key.0, name = key.1, %error, "half an activation stays until the next start");
                    kept.insert(record.id);
                }
            }
        }
        strays(&folder, &kept)?;
        Ok(gone)
    })
    .await?;
    if gone.is_empty() {
        return Ok(());
    }
    db.update(Durability::Crash, move |tx| {
        gone.iter().for_each(|key| tx.delete(&MOUNTS, key));
        Ok(())
    })
    .await
}

/// Takes away the folders and devices of activations that are not in `kept`.
fn strays(state: &Path, kept: &HashSet<String>) -> Result<()> {
    let folders = ladder::folders(state);
    let entries = match fs::read_dir(&folders) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        entries => Some(entries.context(|| format!("list {}", folders.display()))?),
    };
    for entry in entries.into_iter().flatten() {
        let name = entry?.file_name();
        if let Some(id) = name.to_str().filter(|id| !kept.contains(*id)) {
            ladder::clear(&Home::of(state, id)).context(|| format!("clear {}", folders.join(id).display()))?;
        }
    }
    // A crash between a device and the link to it leaves only the device.
    let start = ladder::labels(state);
    for (device, label) in loops::labelled(&start)? {
        let id = label[start.len()..].split(':').next().unwrap_or_default();
        if !kept.contains(id) {
            loops::detach(&device, &label)?;
        }
    }
    Ok(())
}

/// Takes away the mounts of activations whose records are gone.
pub(crate) async fn discard(state: PathBuf, ids: Vec<String>) {
    let clear = move || {
        for id in ids {
            if let Err(error) = ladder::clear(&Home::of(&state, &id)) {
                tracing::warn!(id, %error, "the mounts of an activation stay until the next start");
            }
        }
        Ok(())
    };
    // Nothing in it fails as a whole.
    let _ = crate::blocking(clear).await;
}
