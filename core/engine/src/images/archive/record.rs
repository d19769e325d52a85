//! The one batch of an import: blobs, snapshots and names.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use windlass_model::snapshotter::Labels;
use windlass_model::{Context, Error, Kind, Result};

use super::import::{Import, Plan, REFERS_TO_CONTENT};
use super::read::{Parts, descriptor};
use crate::content;
use crate::images::image::{ImageRecord, put};
use crate::images::manifest::Document;
use crate::leases::{self, Resource};
use crate::meta::{Durability, Tx};
use crate::snapshots::{Recorded, record_committed};

impl Import {
    /// Syncs what is there, and records it.
    pub(super) async fn record(&self, mut parts: Parts, plan: Plan) -> Result<Vec<ImageRecord>> {
        let Plan { mut blobs, mut images, layers, .. } = plan;
        if let Some(index) = parts.index.take() {
            let digest = windlass_model::Digest::of(&index);
            let mut labels = Labels::new();
            if let Document::Index(entries) = Document::parse(&index, "")? {
                let held = entries.iter().enumerate().filter(|(_, entry)| blobs.contains_key(&entry.digest));
                labels.extend(held.map(|(at, entry)| (format!("{REFERS_TO_CONTENT}m.{at}"), entry.digest.to_string())));
            }
            blobs.entry(digest).or_default().extend(labels);
            let target = descriptor("application/vnd.oci.image.index.v1+json", digest, index.len() as u64);
            let mut record = ImageRecord::new(self.request.index_name.clone(), target);
            record.labels = self.request.labels.clone();
            images.push(record);
        }
        self.sync(&layers.iter().map(|layer| layer.driver).collect()).await?;
        let (events, namespace, lease) =
            (self.tenant.events().clone(), self.tenant.namespace().clone(), self.lease.clone());
        let (holder, isolated) = (self.request.lease.clone(), self.tenant.is_isolated());
        let change = move |tx: &mut Tx<'_>| {
            for (digest, labels) in blobs {
                match parts.sealed.get(&digest) {
                    Some(sealed) => content::record(tx, &events, sealed, labels)?,
                    None => {
                        let known = content::adopt(tx, &events, (&namespace, isolated), &digest, labels)?;
                        let gone = || Error::new(Kind::Aborted, format!("blob {digest} was removed meanwhile"));
                        known.ok_or_else(gone)?;
                    }
                }
            }
            let mut kept = Vec::new();
            for layer in &layers {
                let labels = Labels::from([("containerd.io/snapshot.ref".to_owned(), layer.name.clone())]);
                let (parent, id) = (layer.parent.as_deref(), layer.files.id());
                let recorded =
                    record_committed(tx, &events, &namespace, layer.driver, &layer.name, parent, id, labels)?;
                kept.push(recorded == Recorded::New || recorded == Recorded::Existing(id));
            }
            let mut records = Vec::new();
            for image in images {
                if let Some(holder) = &holder {
                    leases::add(tx, &namespace, holder, &Resource::content(&image.target.digest))?;
                }
                records.push(put(tx, &events, &namespace, image)?);
            }
            leases::delete(tx, &namespace, &lease)?;
            // The blobs live until the batch is written: their files have no other holder.
            Ok((records, layers, kept, parts))
        };
        let (records, layers, kept, _parts) = self.tenant.update(Durability::Power, change).await?;
        for (layer, _) in layers.iter().zip(kept).filter(|(_, kept)| *kept) {
            layer.files.keep();
        }
        // Blobs that nothing refers to are held no more.
        self.tenant.core.0.collector.nudge();
        Ok(records)
    }

    /// Ends a failed import's lease.
    pub(super) async fn let_go(&self) {
        if let Err(error) = self.tenant.leases().delete(&self.lease).await {
            tracing::warn!(%error, lease = %self.lease, "an import's lease stays until it expires");
        }
    }

    /// One flush for each file system that got something.
    async fn sync(&self, drivers: &BTreeSet<&'static str>) -> Result<()> {
        let mut folders = vec![self.tenant.core.root().to_owned()];
        for driver in drivers {
            folders.push(self.tenant.core.driver(driver)?.root().to_owned());
        }
        crate::blocking(move || {
            let mut synced = BTreeSet::new();
            for folder in folders {
                let device = std::fs::metadata(&folder).context(|| format!("look at {}", folder.display()))?.dev();
                if synced.insert(device) {
                    windlass_sys::fs::sync_filesystem(&folder)?;
                }
            }
            Ok(())
        })
        .await
    }
}
