//! What several pulls make together: blobs and layers on their way, each made by one and awaited by the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use windlass_model::{Digest, Namespace};

use super::layers::Fetched;
use crate::images::unpack::LayerFiles;

/// Blobs and layers on their way to all namespaces.
#[derive(Default)]
pub(crate) struct Pulls {
    pub(super) blobs: Shelf<(Namespace, Digest), Fetched>,
    /// By namespace, driver and snapshot name.
    pub(super) layers: Shelf<(Namespace, String, String), LayerFiles>,
}

/// Cells that live as long as somebody needs them. The first who comes to an empty one fills it; if that fails, the next
/// one tries.
pub(super) struct Shelf<K, V>(Mutex<HashMap<K, Weak<OnceCell<V>>>>);

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V> Shelf<K, V> {
    pub(super) fn cell(&self, key: K) -> Arc<OnceCell<V>> {
        let mut cells = self.0.lock();
        cells.retain(|_, cell| cell.strong_count() > 0);
        if let Some(cell) = cells.get(&key).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::new(OnceCell::new());
        cells.insert(key, Arc::downgrade(&cell));
        cell
    }
}
