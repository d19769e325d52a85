//! The layers of an image: fetched and unpacked side by side, as far as they are not there yet.

mod sink;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::Instrument;
use windlass_model::digest::chain_ids;
use windlass_model::snapshotter::Whiteouts;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, Result};

use self::sink::{Sunk, sink};
use super::record::Known;
use super::{PARALLEL_LAYERS, Pull};
use crate::content::Sealed;
use crate::images::image::ImageDetail;
use crate::images::unpack::{LayerFiles, Unpacking};
use crate::layer::Unpacked;
use crate::registry::BlobStream;

/// How many pieces of a layer wait between the network and the disk: a slow disk slows the network down.
const PIECES: usize = 8;
/// After how many bytes more of a layer it is told how far it is.
const TOLD: u64 = 1 << 20;
/// How often a pull looks whether somebody else's writer of the same ingest is done.
const LOCKED_POLL: std::time::Duration = std::time::Duration::from_millis(200);

/// A blob that is there.
pub(super) enum Fetched {
    /// This namespace has a record of it.
    Known,
    /// It waits for its record.
    Sealed(Sealed),
}

/// A layer that is there, for as long as this lives.
pub(super) struct Layer {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    /// The name of its snapshot; `None` for a file of an artifact, of which only the last stands for the snapshot of all.
    pub(super) chain_id: Option<Digest>,
    pub(super) blob: Arc<OnceCell<Fetched>>,
    /// `None` where it is not to be unpacked or the snapshot is recorded already.
    pub(super) files: Option<Arc<OnceCell<LayerFiles>>>,
}

impl Layer {
    pub(super) fn is_new(&self) -> bool {
        self.files.is_some() || matches!(self.blob.get(), Some(Fetched::Sealed(_)))
    }
}

impl Pull {
    /// Brings all layers here.
    pub(super) async fn layers(self: &Pull, detail: &ImageDetail, known: &Known) -> Result<Vec<Layer>> {
        if detail.artifact_type.is_some() {
            return self.artifact(detail, known).await;
        }
        let chain = chain_ids(&detail.diff_ids);
        let unpacking = match &self.request.unpack {
            Some(driver) => Some(Unpacking::new(&self.tenant, driver)?),
            None => None,
        };
        let namespace = self.tenant.namespace();
        let pulls = &self.tenant.core.0.pulls;
        let layer = |index: usize| {
            let (descriptor, chain_id) = (detail.layers[index].clone(), chain[index]);
            let blob = pulls.blobs.cell((namespace.clone(), descriptor.digest));
            let files = unpacking.as_ref().filter(|_| index >= known.snapshots).map(|unpacking| {
                pulls.layers.cell((namespace.clone(), unpacking.driver_name().to_owned(), chain_id.to_string()))
            });
            Layer { descriptor, diff_id: detail.diff_ids[index], chain_id: Some(chain_id), blob, files }
        };
        let layers: Vec<Arc<Layer>> = (0..detail.layers.len()).map(|index| Arc::new(layer(index))).collect();
        let together = unpacking.as_ref().is_some_and(|unpacking| unpacking.whiteouts() == Whiteouts::Overlay);
        self.side_by_side(&layers, unpacking.as_ref().filter(|_| together)).await?;
        if let Some(unpacking) = &unpacking {
            let mut below = match known.snapshots {
                0 => Vec::new(),
                count => unpacking.snapshots().chain(&chain[count - 1].to_string())?,
            };
            for layer in &layers {
                let Some(cell) = &layer.files else { continue };
                // With a driver whose layers stand on each other, one after the other.
                let files = cell.get_or_try_init(|| self.unpack_file(layer, unpacking, &below)).await?;
                if together {
                    files.inherit(&below).await?;
                }
                self.told("extracted", &layer.descriptor, layer.descriptor.size);
                below.insert(0, files.id());
            }
        }
        // The tasks are done, so nobody else has these.
        Ok(layers.into_iter().filter_map(Arc::into_inner).collect())
    }

    pub(super) async fn side_by_side(&self, layers: &[Arc<Layer>], unpacking: Option<&Unpacking>) -> Result<()> {
        let turns = Arc::new(Semaphore::new(PARALLEL_LAYERS));
        let mut tasks = JoinSet::new();
        for layer in layers {
            let (me, layer, unpacking, turns) = (self.share(), layer.clone(), unpacking.cloned(), turns.clone());
            let span = tracing::info_span!("layer", digest = %layer.descriptor.digest);
            let work = async move {
                // The semaphore is never closed.
                let _turn = turns.acquire_owned().await.ok();
                if me.stop.is_cancelled() {
                    return Err(stopped());
                }
                let doing = || format!("layer {}", layer.descriptor.digest);
                match (&layer.files, &unpacking) {
                    (Some(files), Some(unpacking)) => {
                        let unpacked = files.get_or_try_init(|| me.fetch_and_unpack(&layer, unpacking)).await;
                        unpacked.map(drop).context(doing)?;
                        me.blob(&layer).await.context(doing)
                    }
                    _ => me.blob(&layer).await.context(doing),
                }
            };
            tasks.spawn(work.instrument(span));
        }
        // All tasks are waited for: none may write any more when files are removed.
        let mut failed: Option<Error> = None;
        while let Some(done) = tasks.join_next().await {
            let done = done.map_err(|error| Error::with_source(Kind::Internal, "a layer broke off", error));
            if let Err(error) = done.and_then(|done| done) {
                if self.is_hopeless(&error) {
                    self.hopeless.store(true, Ordering::Relaxed);
                }
                self.stop.cancel();
                if failed.as_ref().is_none_or(|failed| failed.kind() == Kind::Canceled) {
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Makes sure that the blob is there.
    async fn blob(&self, layer: &Layer) -> Result<()> {
        layer
            .blob
            .get_or_try_init(async || Ok::<_, Error>(self.download(&layer.descriptor, None).await?.0))
            .await
            .map(drop)
    }

    async fn fetch_and_unpack(&self, layer: &Layer, unpacking: &Unpacking) -> Result<LayerFiles> {
        let files = unpacking.prepare(&[]).await?;
        let mut on_the_way = None;
        let mut used = false;
        layer
            .blob
            .get_or_try_init(async || {
                used = true;
                let (fetched, unpacked) = self.download(&layer.descriptor, Some(&files)).await?;
                on_the_way = unpacked;
                Ok::<_, Error>(fetched)
            })
            .await?;
        if !used {
            return self.unpack_into(files, layer, unpacking, &[]).await;
        }
        match on_the_way {
            Some(unpacked) => unpacking.finish(files, unpacked, &layer.diff_id, &[]).await,
            // The folder may hold what another host gave.
            None => {
                files.discard().await;
                self.unpack_file(layer, unpacking, &[]).await
            }
        }
    }

    /// Unpacks a blob that is there.
    async fn unpack_file(&self, layer: &Layer, unpacking: &Unpacking, below: &[u64]) -> Result<LayerFiles> {
        let files = unpacking.prepare(below).await?;
        self.unpack_into(files, layer, unpacking, below).await
    }

    async fn unpack_into(
        &self,
        files: LayerFiles,
        layer: &Layer,
        unpacking: &Unpacking,
        below: &[u64],
    ) -> Result<LayerFiles> {
        let path = self.tenant.core.0.blobs.path(&layer.descriptor.digest);
        let unpacked = files.unpack_file(path, layer.descriptor.media_type.clone(), self.stop.clone()).await?;
        unpacking.finish(files, unpacked, &layer.diff_id, below).await
    }

    /// Fetches a blob, and unpacks it on the way if it comes in one piece.
    async fn download(
        &self,
        descriptor: &Descriptor,
        mut files: Option<&LayerFiles>,
    ) -> Result<(Fetched, Option<Unpacked>)> {
        loop {
            let Some(writer) = self.writer(descriptor).await? else { return Ok((Fetched::Known, None)) };
            let offset = writer.offset();
            let target =
                files.filter(|_| offset == 0).map(|files| (files.target().clone(), descriptor.media_type.clone()));
            let mut stream =
                BlobStream::new(self.session.clone(), descriptor.clone(), offset, self.request.progress_timeout);
            let (sender, receiver) = mpsc::channel(PIECES);
            let sinking = tokio::task::spawn_blocking(move || sink(writer, receiver, target));
            let fed = self.feed(&mut stream, sender, descriptor, offset).await;
            let sunk = sinking.await.map_err(|error| Error::with_source(Kind::Internal, "a layer broke off", error))?;
            let Sunk { writer, written, unpacked } = sunk;
            // What the disk says comes first: a full one ends the feeding, too.
            if let Err(error) = written {
                writer.abort().await?;
                return Err(error);
            }
            if let Err(error) = fed {
                // Bytes that a later pull can build on are kept; nothing else is.
                if writer.offset() == 0 || self.is_hopeless(&error) {
                    writer.abort().await?;
                }
                if error.kind() == Kind::DataLoss && stream.source().is_some_and(|host| self.session.distrust(host)) {
                    tracing::warn!(%error, "a host gave wrong bytes; asking the next one");
                    files = None;
                    continue;
                }
                return Err(error);
            }
            match writer.seal(descriptor.size, &descriptor.digest).await {
                Ok(sealed) => {
                    self.told("complete", descriptor, descriptor.size);
                    return Ok((Fetched::Sealed(sealed), unpacked.transpose()?));
                }
                Err(error) if error.kind() == Kind::FailedPrecondition => {
                    if !stream.source().is_some_and(|host| self.session.distrust(host)) {
                        return Err(Error::with_source(Kind::DataLoss, "the registry's bytes are wrong", error));
                    }
                    tracing::warn!(%error, "a host gave wrong bytes; asking the next one");
                    files = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The writer of a blob; `None` where this namespace has it meanwhile.
    async fn writer(&self, descriptor: &Descriptor) -> Result<Option<crate::content::Writer>> {
        let reference = format!("layer-{}", descriptor.digest);
        let content = self.tenant.content();
        let begin = tokio::time::Instant::now();
        loop {
            match content.ingest(&reference, Some(descriptor), Some(&self.lease)).await {
                Ok(writer) => return Ok(Some(writer)),
                Err(error) if error.kind() == Kind::AlreadyExists => return Ok(None),
                // A client of the content API writes the same layer.
                Err(error) if error.kind() == Kind::Unavailable => {
                    if begin.elapsed() > self.request.progress_timeout || self.stop.is_cancelled() {
                        return Err(error);
                    }
                    tokio::time::sleep(LOCKED_POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn feed(
        &self,
        stream: &mut BlobStream,
        sender: mpsc::Sender<Bytes>,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<()> {
        let (mut done, mut told) = (offset, offset);
        loop {
            let piece = tokio::select! {
                piece = stream.next() => piece?,
                () = self.stop.cancelled() => return Err(stopped()),
            };
            let Some(piece) = piece else { return Ok(()) };
            done += piece.len() as u64;
            if done - told >= TOLD {
                told = done;
                self.told("downloading", descriptor, done);
            }
            if sender.send(piece).await.is_err() {
                // The other end tells why.
                return Ok(());
            }
        }
    }

    /// True where trying again will not help, so that what came so far is of no use.
    fn is_hopeless(&self, error: &Error) -> bool {
        match error.kind() {
            Kind::Unavailable | Kind::DeadlineExceeded => false,
            // Who gives a pull up does not come back for it.
            Kind::Canceled => self.request.stop.is_cancelled() || self.hopeless.load(Ordering::Relaxed),
            _ => true,
        }
    }

    fn share(&self) -> Pull {
        Pull {
            tenant: self.tenant.clone(),
            request: self.request.clone(),
            session: self.session.clone(),
            from: self.from.clone(),
            lease: self.lease.clone(),
            stop: self.stop.clone(),
            hopeless: self.hopeless.clone(),
        }
    }
}

/// Why a layer was given up that is not the one that failed.
pub(crate) fn stopped() -> Error {
    Error::new(Kind::Canceled, "another layer failed")
}
