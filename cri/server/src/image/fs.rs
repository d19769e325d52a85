//! ImageFsInfo: what images and containers take from the disk.
//!
//! Images are blobs and committed snapshots. A committed one never changes, so it is measured once. What containers write
//! changes, and is measured in the background (see [`crate::stats::Layers`]), so that a layer that does not come back from
//! the disk holds nobody up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use windlass_cri_api::v1;
use windlass_model::snapshotter::{Kind, Usage};
use windlass_model::{Result, Timestamp};

use crate::Server;

/// Measures of committed snapshots by key.
#[derive(Default)]
pub(crate) struct Measures(Mutex<HashMap<String, Usage>>);

impl Measures {
    fn keep(&self, alive: &HashSet<&str>) {
        self.0.lock().retain(|key, _| alive.contains(key.as_str()));
    }
}

impl Server {
    /// Bytes and inodes of images (blobs and layers), and apart from them of what containers have written. Both name the
    /// folder of the driver, whose file system is the one that the kubelet watches.
    pub(crate) async fn image_fs_info(
        self: &Arc<Self>,
        _request: v1::ImageFsInfoRequest,
    ) -> Result<v1::ImageFsInfoResponse> {
        let driver = &self.config.snapshotter;
        let all = self.tenant.snapshots(driver)?.list().await?;
        let (committed, changing): (Vec<_>, Vec<_>) = all.iter().partition(|info| info.kind == Kind::Committed);
        let mut images = self.committed(committed.iter().map(|info| info.key.as_str()).collect()).await?;
        for blob in self.tenant.content().list().await? {
            images.bytes += blob.size;
            images.inodes += 1;
        }
        let keys: Vec<_> = changing.iter().map(|info| (driver.clone(), info.key.clone())).collect();
        let mut containers = Usage::default();
        for measure in self.stats.layers.measures(&self.tenant, &keys).await.values() {
            containers.bytes += measure.usage.bytes;
            containers.inodes += measure.usage.inodes;
        }
        let mountpoint = self.layers_on(driver);
        Ok(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage(&mountpoint, images)],
            container_filesystems: vec![usage(&mountpoint, containers)],
        })
    }

    /// What committed snapshots take together.
    async fn committed(&self, keys: Vec<&str>) -> Result<Usage> {
        let snapshots = self.tenant.snapshots(&self.config.snapshotter)?;
        let mut sum = Usage::default();
        for key in &keys {
            let known = self.measures.0.lock().get(*key).copied();
            let usage = match known {
                Some(usage) => usage,
                None => match snapshots.usage(key).await {
                    Ok(usage) => *self.measures.0.lock().entry((*key).to_owned()).or_insert(usage),
                    // One that went away meanwhile takes nothing.
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                },
            };
            sum.bytes += usage.bytes;
            sum.inodes += usage.inodes;
        }
        self.measures.keep(&keys.into_iter().collect());
        Ok(sum)
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
    fn the_measures_of_what_is_gone_are_forgotten() {
        let measures = Measures::default();
        for key in ["a", "b"] {
            measures.0.lock().insert(key.into(), Usage { inodes: 1, bytes: 2 });
        }
        measures.keep(&HashSet::from(["a", "c"]));
        assert_eq!(measures.0.lock().keys().collect::<Vec<_>>(), ["a"]);
    }
}
