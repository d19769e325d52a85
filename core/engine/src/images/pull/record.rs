//! The two batches of a pull: what is there already is held, and in the end everything is recorded.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use windlass_model::snapshotter::{Kind as SnapshotKind, Labels};
use windlass_model::{Descriptor, Digest, Error, Kind, Result, Timestamp};

use super::documents::Documents;
use super::layers::{Fetched, Layer};
use super::{Naming, Pull, digested};
use crate::content::{self, Sealed};
use crate::images::manifest::Document;
use crate::images::{ImageRecord, put};
use crate::leases::{self, LeaseRecord, Resource};
use crate::meta::schema::{BLOBS, LEASES, SNAPSHOTS};
use crate::meta::{Durability, Reader, Tx};
use crate::namespaces;
use crate::snapshots::{Recorded, record_committed};

/// How long a pull's lease outlives a daemon that died.
const LEASE_HOURS: i64 = 24;

const SOURCE: &str = "containerd.io/distribution.source.";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
const REFERS_TO_CONTENT: &str = "containerd.io/gc.ref.content.";
const REFERS_TO_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
const MANAGED: &str = "io.cri-containerd.image";

/// What this machine has of an image, held by the pull's lease.
#[derive(Debug, Default)]
pub(super) struct Known {
    blobs: HashSet<Digest>,
    /// How many of the lowest layers are snapshots.
    pub(super) snapshots: usize,
}

impl Known {
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest)
    }
}

/// A blob of the image, with the labels that it gets.
struct Blob {
    digest: Digest,
    labels: Labels,
}

impl Pull {
    /// Makes the lease, and holds by it what is there; blobs of other namespaces become this one's.
    pub(super) async fn hold(&self, documents: &Documents) -> Result<Known> {
        let detail = &documents.detail;
        let sizes = documents.blobs.iter().map(|(descriptor, _)| descriptor).chain(&detail.layers);
        let wanted: BTreeMap<Digest, u64> = sizes.map(|descriptor| (descriptor.digest, descriptor.size)).collect();
        let chain: Vec<String> = detail.chain().iter().map(Digest::to_string).collect();
        let driver = self.request.unpack.clone();
        let (events, namespace, lease) =
            (self.tenant.events().clone(), self.tenant.namespace().clone(), self.lease.clone());
        let isolated = self.tenant.is_isolated();
        let expires = (chrono::Utc::now() + chrono::Duration::hours(LEASE_HOURS)).to_rfc3339();
        let change = move |tx: &mut Tx<'_>| {
            namespaces::ensure(tx, &events, &namespace)?;
            let labels = Labels::from([(leases::EXPIRE.to_owned(), expires)]);
            let record = LeaseRecord { labels, created_at: Timestamp::now() };
            tx.put(&LEASES, &(namespace.clone(), lease.clone()), &record)?;
            let mut known = Known::default();
            for (digest, size) in wanted {
                let found = match tx.find(&BLOBS, &(namespace.clone(), digest))? {
                    Some(found) => Some(found),
                    None => content::adopt(tx, &events, (&namespace, isolated), &digest, Labels::new())?,
                };
                let Some(found) = found else { continue };
                if found.size != size {
                    return Err(Error::data_loss(format!("blob {digest} has {} bytes, not {size}", found.size)));
                }
                leases::add(tx, &namespace, &lease, &Resource::content(&digest))?;
                known.blobs.insert(digest);
            }
            if let Some(driver) = driver {
                for name in &chain {
                    let key = (namespace.clone(), driver.clone(), name.clone());
                    if tx.find(&SNAPSHOTS, &key)?.is_none_or(|found| found.kind != SnapshotKind::Committed) {
                        break;
                    }
                    leases::add(tx, &namespace, &lease, &Resource::snapshot(&driver, name))?;
                    known.snapshots += 1;
                }
            }
            Ok(known)
        };
        // The lease protects against this process's collector only, so it need not survive a power cut.
        self.tenant.update(Durability::Crash, change).await
    }

    /// Ends a failed pull's lease.
    pub(super) async fn let_go(&self) {
        let (namespace, lease) = (self.tenant.namespace().clone(), self.lease.clone());
        let change = move |tx: &mut Tx<'_>| leases::delete(tx, &namespace, &lease);
        if let Err(error) = self.tenant.update(Durability::Crash, change).await {
            tracing::warn!(%error, lease = %self.lease, "a pull's lease stays until it expires");
        }
        self.tenant.core.0.collector.nudge();
    }

    /// Records the image, after everything was synced.
    pub(super) async fn record(
        &self,
        documents: &Documents,
        small: Vec<Option<Sealed>>,
        layers: Vec<Layer>,
    ) -> Result<Vec<ImageRecord>> {
        let blobs = self.blobs(documents);
        let images = self.images(documents);
        let driver = self.request.unpack.clone();
        let source =
            (format!("{SOURCE}{}", self.request.reference.host()), self.request.reference.repository().to_owned());
        let (events, namespace, lease) =
            (self.tenant.events().clone(), self.tenant.namespace().clone(), self.lease.clone());
        let isolated = self.tenant.is_isolated();
        let (holder, target) = (self.request.lease.clone(), documents.target().digest);
        let layers = Arc::new(layers);
        let staged = layers.clone();
        let change = move |tx: &mut Tx<'_>| {
            let sealed_layers = staged.iter().filter_map(|layer| match layer.blob.get() {
                Some(Fetched::Sealed(sealed)) => Some(sealed),
                _ => None,
            });
            let sealed: BTreeMap<Digest, &Sealed> =
                small.iter().flatten().chain(sealed_layers).map(|sealed| (sealed.digest, sealed)).collect();
            for Blob { digest, mut labels } in blobs {
                let found = tx.find(&BLOBS, &(namespace.clone(), digest))?;
                let before = found.as_ref().and_then(|found| found.labels.get(&source.0));
                labels.insert(source.0.clone(), sources(before, &source.1));
                match sealed.get(&digest) {
                    Some(sealed) => content::record(tx, &events, sealed, labels)?,
                    None => {
                        let known = content::adopt(tx, &events, (&namespace, isolated), &digest, labels)?;
                        known.ok_or_else(|| gone(&digest))?;
                    }
                }
            }
            let mut kept = Vec::new();
            if let Some(driver) = &driver {
                let mut parent: Option<String> = None;
                for layer in staged.iter() {
                    let Some(name) = layer.chain_id.map(|name| name.to_string()) else {
                        kept.push(false);
                        continue;
                    };
                    if let Some(files) = layer.files.as_ref().and_then(|files| files.get()) {
                        let labels = Labels::from([("containerd.io/snapshot.ref".to_owned(), name.clone())]);
                        let parent = parent.as_deref();
                        let id = files.id();
                        let recorded = record_committed(tx, &events, &namespace, driver, &name, parent, id, labels)?;
                        kept.push(recorded == Recorded::New || recorded == Recorded::Existing(id));
                    } else {
                        kept.push(false);
                    }
                    parent = Some(name);
                }
            }
            let records =
                images.into_iter().map(|image| put(tx, &events, &namespace, image)).collect::<Result<Vec<_>>>()?;
            if let Some(holder) = &holder {
                leases::add(tx, &namespace, holder, &Resource::content(&target))?;
            }
            leases::delete(tx, &namespace, &lease)?;
            // `small` lives until the batch is written: its files have no other holder.
            Ok((records, kept, small))
        };
        let (records, kept, _small) = self.tenant.update(Durability::Power, change).await?;
        for (layer, _) in layers.iter().zip(kept).filter(|(_, kept)| *kept) {
            if let Some(files) = layer.files.as_ref().and_then(|files| files.get()) {
                files.keep();
            }
        }
        Ok(records)
    }

    /// All blobs, with the labels that hold them together.
    fn blobs(&self, documents: &Documents) -> Vec<Blob> {
        let detail = &documents.detail;
        let mut blobs = Vec::new();
        let (config, manifests) =
            documents.blobs.split_last().map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
        let snapshot = self.request.unpack.as_ref().zip(detail.chain_id);
        let snapshot: Labels = snapshot
            .map(|(driver, chain_id)| (format!("{REFERS_TO_SNAPSHOT}{driver}"), chain_id.to_string()))
            .into_iter()
            .collect();
        // Artifacts share one empty configuration, so theirs hangs on the manifest.
        let is_artifact = detail.artifact_type.is_some();
        for (position, (descriptor, _)) in manifests.iter().enumerate() {
            let mut labels = Labels::new();
            match manifests.get(position + 1) {
                Some((next, _)) => {
                    // Another pull may hold another machine's manifest by the same index.
                    let place = place_in(&documents.blobs[position].1, &next.digest);
                    labels.insert(format!("{REFERS_TO_CONTENT}m.{place}"), next.digest.to_string());
                }
                None => {
                    let config = config.map(|(config, _)| config.digest.to_string());
                    labels.extend(config.map(|digest| (format!("{REFERS_TO_CONTENT}config"), digest)));
                    labels.extend(snapshot.clone().into_iter().filter(|_| is_artifact));
                    labels.extend(
                        detail.layers.iter().enumerate().map(|(number, layer)| {
                            (format!("{REFERS_TO_CONTENT}l.{number}"), layer.digest.to_string())
                        }),
                    );
                }
            }
            blobs.push(Blob { digest: descriptor.digest, labels });
        }
        if let Some((config, _)) = config {
            let labels = if is_artifact { Labels::new() } else { snapshot };
            blobs.push(Blob { digest: config.digest, labels });
        }
        let files = detail.layers.iter().filter(|_| is_artifact);
        blobs.extend(files.map(|file| Blob { digest: file.digest, labels: Labels::new() }));
        blobs.extend(detail.layers.iter().zip(&detail.diff_ids).map(|(layer, diff_id)| Blob {
            digest: layer.digest,
            labels: Labels::from([(UNCOMPRESSED.to_owned(), diff_id.to_string())]),
        }));
        blobs
    }

    fn images(&self, documents: &Documents) -> Vec<ImageRecord> {
        let target: &Descriptor = documents.target();
        let names = self.names(&target.digest, &documents.detail.id);
        let record = |name: String| {
            let mut record = ImageRecord::new(name, target.clone());
            record.labels = self.request.labels.clone();
            match &self.request.naming {
                Naming::Plain => {}
                Naming::Cri => drop(record.labels.insert(MANAGED.into(), "managed".into())),
                Naming::Names(names) => {
                    let own = names.iter().find(|(own, _)| digested(own, &target.digest) == record.name);
                    record.labels.extend(own.into_iter().flat_map(|(_, labels)| labels.clone()));
                }
            }
            record
        };
        names.into_iter().map(record).collect()
    }
}

/// Where in an index the manifest `digest` stands.
fn place_in(index: &[u8], digest: &Digest) -> usize {
    match Document::parse(index, "") {
        Ok(Document::Index(entries)) => entries.iter().position(|entry| entry.digest == *digest).unwrap_or(0),
        _ => 0,
    }
}

/// The repositories that a blob is known from, with one more.
fn sources(before: Option<&String>, repository: &str) -> String {
    let known = before.map(String::as_str).unwrap_or_default();
    if known.split(',').any(|one| one == repository) {
        return known.to_owned();
    }
    // A label has a size; the newest source is the one of use.
    if known.is_empty() || known.len() + repository.len() > 1024 {
        return repository.to_owned();
    }
    format!("{known},{repository}")
}

fn gone(digest: &Digest) -> Error {
    Error::new(Kind::Aborted, format!("blob {digest} was removed while the image was pulled"))
}
