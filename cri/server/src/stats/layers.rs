//! What containers' own layers take on disk: measured in the background, each by walking it, and answered from memory.
//!
//! A layer that takes long is measured less often, and one that does not come back is measured by nobody else and delays
//! nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use windlass_engine::Tenant;
use windlass_model::snapshotter::Usage;
use windlass_model::{Result, Timestamp};

/// How often a layer is measured while somebody asks.
const PERIOD: Duration = Duration::from_secs(10);
/// A layer may take this part of the time to measure, and no more: `1 / SHARE`.
const SHARE: u32 = 50;
/// How long an answer waits for layers that were never measured before.
const FIRST: Duration = Duration::from_millis(250);
/// A layer that was to be measured so long ago, and was not, is forgotten.
const UNASKED: Duration = Duration::from_secs(60);
/// How many are walked at once.
const WALKERS: usize = 4;
/// A walk that takes longer lets another begin beside it.
const LONG: Duration = Duration::from_secs(5);

/// A layer's driver and key.
pub(crate) type Key = (String, String);

/// What a layer took at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    /// When it was measured.
    pub(crate) at: Timestamp,
    /// Bytes and inodes.
    pub(crate) usage: Usage,
}

/// The measures of all layers that somebody asked for.
#[derive(Clone)]
pub(crate) struct Layers(Arc<Inner>);

struct Inner {
    known: Mutex<HashMap<Key, Layer>>,
    walkers: Semaphore,
}

#[derive(Default)]
struct Layer {
    measure: Option<Measure>,
    /// When it is to be measured again.
    due: Option<Instant>,
    /// Somebody is at it.
    busy: bool,
}

impl Default for Layers {
    fn default() -> Self {
        Self(Arc::new(Inner { known: Mutex::default(), walkers: Semaphore::new(WALKERS) }))
    }
}

impl Layers {
    /// The last measures of the layers; those that are due are measured anew, for the next who asks.
    pub(crate) async fn measures(&self, tenant: &Tenant, keys: &[Key]) -> HashMap<Key, Measure> {
        let mut first = Vec::new();
        for (key, never) in self.0.take_due(keys) {
            let task = tokio::spawn(self.clone().measure(tenant.clone(), key));
            if never {
                first.push(task);
            }
        }
        if !first.is_empty() {
            // The tasks go on; the next answer has what this one misses.
            let _ = timeout(FIRST, join_all(first)).await;
        }
        let known = self.0.known.lock();
        keys.iter().filter_map(|key| Some((key.clone(), known.get(key)?.measure?))).collect()
    }

    /// Forgets the layers that nobody has asked for in a while: mostly their containers are gone.
    pub(super) fn forget_old(&self) {
        let long_ago = Instant::now().checked_sub(UNASKED);
        self.0.known.lock().retain(|_, layer| layer.busy || layer.due > long_ago);
    }

    async fn measure(self, tenant: Tenant, key: Key) {
        let mut walk = std::pin::pin!(walk(&tenant, &key));
        let permit = self.0.walkers.acquire().await;
        let walked = match timeout(LONG, &mut walk).await {
            Ok(walked) => walked,
            Err(_) => {
                drop(permit);
                walk.await
            }
        };
        self.0.put(&key, walked);
    }
}

/// Walks a layer; answers what it takes and how long that took.
async fn walk(tenant: &Tenant, key: &Key) -> Result<(Usage, Duration)> {
    let begun = Instant::now();
    let usage = tenant.snapshots(&key.0)?.usage(&key.1).await?;
    Ok((usage, begun.elapsed()))
}

impl Inner {
    /// Takes those that are due, and says of each whether it was never measured.
    fn take_due(&self, keys: &[Key]) -> Vec<(Key, bool)> {
        let (mut known, now) = (self.known.lock(), Instant::now());
        let mut due = Vec::new();
        for key in keys {
            let layer = known.entry(key.clone()).or_default();
            if !layer.busy && layer.due.is_none_or(|due| due <= now) {
                layer.busy = true;
                due.push((key.clone(), layer.measure.is_none()));
            }
        }
        due
    }

    fn put(&self, key: &Key, walked: Result<(Usage, Duration)>) {
        let mut known = self.known.lock();
        match walked {
            Ok((usage, took)) => {
                let due = Some(Instant::now() + PERIOD.max(took * SHARE));
                known.insert(
                    key.clone(),
                    Layer { measure: Some(Measure { at: Timestamp::now(), usage }), due, busy: false },
                );
            }
            // Its container was removed meanwhile.
            Err(error) if error.is_not_found() => drop(known.remove(key)),
            Err(error) => {
                tracing::warn!(driver = key.0, layer = key.1, %error, "a layer could not be measured");
                if let Some(layer) = known.get_mut(key) {
                    layer.busy = false;
                    layer.due = Some(Instant::now() + PERIOD);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_measured_by_one_and_again_when_it_is_due() {
        let layers = Layers::default();
        let key: Key = ("overlay".into(), "c1".into());
        let keys = [key.clone()];
        assert_eq!(layers.0.take_due(&keys), [(key.clone(), true)]);
        assert_eq!(layers.0.take_due(&keys), [], "somebody is at it");
        let usage = Usage { inodes: 1, bytes: 2 };
        layers.0.put(&key, Ok((usage, Duration::from_secs(3600))));
        assert_eq!(layers.0.take_due(&keys), [], "fresh");
        let due = layers.0.known.lock()[&key].due.unwrap();
        assert!(due > Instant::now() + Duration::from_secs(3600 * 40), "what takes long is measured seldom");
        layers.0.known.lock().get_mut(&key).unwrap().due = Some(Instant::now());
        assert_eq!(layers.0.take_due(&keys), [(key.clone(), false)]);
        layers.forget_old();
        assert_eq!(layers.0.known.lock()[&key].measure.unwrap().usage, usage, "nobody takes it from who measures");
        layers.0.put(&key, Err(windlass_model::Error::not_found("gone")));
        assert!(layers.0.known.lock().is_empty());
        layers.0.take_due(&keys);
        layers.0.put(&key, Ok((usage, Duration::ZERO)));
        layers.forget_old();
        assert_eq!(layers.0.known.lock().len(), 1, "not asked for just now");
        layers.0.known.lock().get_mut(&key).unwrap().due = Instant::now().checked_sub(UNASKED * 2);
        layers.forget_old();
        assert!(layers.0.known.lock().is_empty());
    }
}
