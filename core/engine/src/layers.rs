//! The layers of one namespace as a client handles them: applied to the mounts of a snapshot, and made from the mounts of
//! two.
//!
//! No mount is performed that could be spared: a bind mount is its source, and an overlay that takes or gives a layer is
//! its upper folder. Only the folders of snapshots of this namespace are touched ([`mounts`]); whoever could name any
//! folder would be root on this machine. Work that was begun runs to its end even if the caller goes away.

mod mounts;
#[cfg(test)]
mod tests;

use std::io::{self, BufReader, Write};

use sha2::{Digest as _, Sha256};
use tracing::Instrument;
use windlass_model::snapshotter::{Labels, LayerTarget};
use windlass_model::{Context, Descriptor, Digest, Error, Kind, LeaseId, Mount, Result};

use self::mounts::{Place, Sides};
use crate::Tenant;
use crate::content::Writer;
use crate::layer::{self, Compression, Limits, diff};

/// How much of a blob is read at once.
const READ: usize = 256 << 10;
/// What the uncompressed form of any layer is called.
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
/// Where a blob says what it holds.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The layers of one namespace.
#[derive(Clone)]
pub struct Layers {
    tenant: Tenant,
}

/// Which layer is wanted of two trees, and how it is kept.
#[derive(Clone, Debug, Default)]
pub struct DiffRequest {
    /// The mounts of the older tree; none for an empty one.
    pub lower: Vec<Mount>,
    /// The mounts of the newer one; none for an empty one.
    pub upper: Vec<Mount>,
    /// What it is called, which says how it is packed; gzip where it is empty.
    pub media_type: String,
    /// The name under which it is written; one of its own where it is empty.
    pub reference: String,
    /// Labels of the blob.
    pub labels: Labels,
    /// No file in it is younger, in seconds since 1970.
    pub newest: Option<i64>,
    /// What holds the blob.
    pub lease: Option<LeaseId>,
}

/// Bytes on their way into an ingest, hashed before they are packed.
struct Packing<'a> {
    packer: layer::Packer<Ingest<'a>>,
    hash: Sha256,
}

struct Ingest<'a>(&'a mut Writer);

impl Write for Ingest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_blocking(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Packing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.packer.write(bytes)?;
        self.hash.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packer.flush()
    }
}

impl Layers {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant }
    }

    /// Unpacks the blob `layer` into what `mounts` show, and gives the descriptor of its uncompressed form; with `sync`,
    /// the files survive a power cut afterwards.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without the blob; [`Kind::PermissionDenied`] for mounts that are not of a writable snapshot of
    /// this namespace, and where image verifiers are asked and allow no image that the layer is of; [`Kind::InvalidArgument`] and [`Kind::DataLoss`] for a blob that is no layer.
    pub async fn apply(&self, layer: &Descriptor, mounts: &[Mount], sync: bool) -> Result<Descriptor> {
        let place = Place::writable(&self.tenant, mounts)?;
        self.tenant.images().may_unpack(&layer.digest).await?;
        let (file, _) = self.tenant.content().open(&layer.digest).await?;
        let media_type = layer.media_type.clone();
        let work = move || {
            let Place { folder, whiteouts, below } = place;
            let target = LayerTarget { path: folder, whiteouts };
            let source = BufReader::with_capacity(READ, file);
            let unpacked = layer::unpack(source, &media_type, &target, &Limits::default())?;
            layer::inherit(&target.path, &unpacked.implied, &below)?;
            if sync {
                windlass_sys::fs::sync_filesystem(&target.path)?;
            }
            Ok(descriptor(PLAIN, unpacked.diff_id, unpacked.size))
        };
        crate::blocking(work).await.context(|| format!("apply layer {}", layer.digest))
    }

    /// Makes the layer that turns one tree into the other, and keeps it as a blob.
    ///
    /// # Errors
    /// [`Kind::Unimplemented`] for a media type that is no layer's; [`Kind::PermissionDenied`] for mounts that are not of a
    /// snapshot of this namespace; [`Kind::Unavailable`] where the reference has a writer; and what a layer cannot hold.
    pub async fn diff(&self, request: DiffRequest) -> Result<Descriptor> {
        let me = self.clone();
        let span = tracing::info_span!("diff", namespace = %self.tenant.namespace());
        let working = tokio::spawn(async move { me.make(request).await }.instrument(span));
        let made = working.await.map_err(|error| Error::with_source(Kind::Internal, "the diff broke off", error))?;
        made.context(|| "make a layer".into())
    }

    async fn make(&self, request: DiffRequest) -> Result<Descriptor> {
        let media_type =
            if request.media_type.is_empty() { format!("{PLAIN}+gzip") } else { request.media_type.clone() };
        let compression = Compression::of(&media_type)?;
        let sides = Sides::new(&self.tenant, &request.lower, &request.upper)?;
        let own = request.reference.is_empty();
        let reference = if own { format!("diff-{}", uuid::Uuid::new_v4()) } else { request.reference.clone() };
        let content = self.tenant.content();
        let mut writer = content.ingest(&reference, None, request.lease.as_ref()).await?;
        if writer.offset() > 0 {
            // What a diff was cut off at cannot be gone on with: trees change.
            writer.truncate(0).await?;
        }
        let (newest, state) = (request.newest, self.tenant.core.state().to_owned());
        let (writer, made) = crate::blocking(move || {
            let mut writer = writer;
            let made = match sides.changes(&state) {
                Ok(Some(trees)) => pack(&trees, newest, compression, &mut writer),
                Ok(None) => Err(Error::unimplemented("these are two whole trees")),
                Err(error) => Err(error),
            };
            let made = match made {
                // What cannot be read the short way can be the long way.
                Err(error) if error.kind() == Kind::Unimplemented => writer
                    .truncate_blocking(0)
                    .and_then(|()| sides.whole(&state))
                    .and_then(|trees| pack(&trees, newest, compression, &mut writer)),
                made => made,
            };
            Ok((writer, made))
        })
        .await?;
        let diff_id = match made {
            Ok(diff_id) => diff_id,
            Err(error) => {
                writer.abort().await?;
                return Err(error);
            }
        };
        let size = writer.offset();
        let mut labels = request.labels;
        if compression != Compression::None {
            labels.insert(UNCOMPRESSED.into(), diff_id.to_string());
        }
        let digest = writer.commit(Some(size), None, labels).await?;
        Ok(descriptor(&media_type, digest, size))
    }
}

/// Writes the layer, packed; gives the digest of what is in it.
fn pack(trees: &diff::Trees, newest: Option<i64>, compression: Compression, writer: &mut Writer) -> Result<Digest> {
    let packing = Packing { packer: layer::Packer::new(compression, Ingest(writer))?, hash: Sha256::new() };
    let Packing { packer, hash } = diff::diff(trees, newest, packing)?;
    packer.finish()?;
    Ok(Digest::from_bytes(hash.finalize().into()))
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest,
        size,
        platform: None,
        annotations: Default::default(),
        urls: vec![],
    }
}
