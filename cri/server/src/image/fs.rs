//! ImageFsInfo: what images and containers take from the disk.
//!
//! A committed snapshot never changes, so it is measured once. Containers' own layers change, and measuring one walks
//! it: each is measured anew only after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use windlass_cri_api::v1;
use windlass_model::snapshotter::{Kind, Usage};
use windlass_model::{Result, Timestamp};

use crate::Server;

/// How long the measure of a changing snapshot counts.
const FRESH: Duration = Duration::from_secs(60);

/// Measures of snapshots by key.
#[derive(Default)]
pub(crate) struct Measures(Mutex<HashMap<String, (Usage, Instant)>>);

impl Measures {
    fn get(&self, key: &str, kind: Kind) -> Option<Usage> {
        let known = self.0.lock();
        let (usage, at) = known.get(key)?;
        (kind == Kind::Committed || at.elapsed() < FRESH).then_some(*usage)
    }

    fn keep(&self, keys: &[String]) {
        let mut known = self.0.lock();
        if known.len() > keys.len() {
            known.retain(|key, _| keys.contains(key));
        }
    }
}

impl Server {
    /// Bytes and inodes of images (blobs and layers) and of containers' own layers.
    pub(crate) async fn image_fs_info(
        self: &Arc<Self>,
        _request: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse> {
        let snapshots = self.tenant.snapshots(&self.config.snapshotter)?;
        let (mut images, mut containers) = (Usage::default(), Usage::default());
        let all = snapshots.list().await?;
        for info in &all {
            let usage = match self.measures.get(&info.key, info.kind) {
                Some(usage) => usage,
                // One that went away meanwhile takes nothing.
                None => match snapshots.usage(&info.key).await {
                    Ok(usage) => {
                        self.measures.0.lock().insert(info.key.clone(), (usage, Instant::now()));
                        usage
                    }
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                },
            };
            let sum = if info.kind == Kind::Committed { &mut images } else { &mut containers };
            sum.bytes += usage.bytes;
            sum.inodes += usage.inodes;
        }
        self.measures.keep(&all.into_iter().map(|info| info.key).collect::<Vec<_>>());
        for blob in self.tenant.content().list().await? {
            images.bytes += blob.size;
            images.inodes += 1;
        }
        let mountpoint = self.tenant.core().root().join("snapshots").join(&self.config.snapshotter);
        let mountpoint = mountpoint.display().to_string();
        Ok(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage(&mountpoint, images)],
            container_filesystems: vec![usage(&mountpoint, containers)],
        })
    }
}

fn usage(mountpoint: &str, usage: Usage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: Timestamp::now().nanos(),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.into() }),
        used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
        inodes_used: Some(v1::UInt64Value { value: usage.inodes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_change_is_measured_once() {
        let measures = Measures::default();
        let usage = Usage { inodes: 1, bytes: 2 };
        let long_ago = Instant::now().checked_sub(FRESH * 2).unwrap_or_else(Instant::now);
        measures.0.lock().insert("a".into(), (usage, long_ago));
        assert_eq!(measures.get("a", Kind::Committed), Some(usage));
        assert_eq!(measures.get("b", Kind::Committed), None);
        measures.keep(&[]);
        assert_eq!(measures.get("a", Kind::Committed), None);
    }
}
