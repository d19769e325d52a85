//! Layers as a driver's snapshots: files that are made before their record.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use windlass_model::digest::chain_ids;
use windlass_model::snapshotter::{Kind, Labels, LayerTarget, SnapshotId, Snapshotter, Whiteouts};
use windlass_model::{Context, Descriptor, Digest, Error, LeaseId, Result};

use super::image::ImageDetail;
use super::pull::stopped;
use crate::Tenant;
use crate::layer::{self, Limits, Unpacked};
use crate::leases::Resource;
use crate::snapshots::Snapshots;

/// How much of a blob is read at once.
const READ: usize = 256 << 10;

/// Unpacking with one driver.
#[derive(Clone)]
pub(crate) struct Unpacking {
    driver: Arc<dyn Snapshotter>,
    snapshots: Snapshots,
    whiteouts: Whiteouts,
}

/// The files of a layer under a number without a record. They go away with this, unless they were recorded meanwhile.
pub(crate) struct LayerFiles {
    driver: Arc<dyn Snapshotter>,
    snapshots: Snapshots,
    id: SnapshotId,
    target: LayerTarget,
    /// Folders that the layer only implies.
    implied: Vec<PathBuf>,
    inherited: OnceCell<()>,
    recorded: AtomicBool,
}

/// A file that can be given up between two reads.
struct Stoppable<R> {
    inner: R,
    stop: CancellationToken,
}

impl<R: BufRead> Read for Stoppable<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Stoppable<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other(stopped()));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

impl Unpacking {
    pub(crate) fn new(tenant: &Tenant, driver: &str) -> Result<Self> {
        let snapshots = tenant.snapshots(driver)?;
        let driver = tenant.core.driver(driver)?.clone();
        // A number that is not used: only what kind of driver this is matters here.
        let target = driver.layer_target(0).ok_or_else(|| no_target(driver.as_ref()))?;
        Ok(Self { driver, snapshots, whiteouts: target.whiteouts })
    }

    pub(crate) fn driver_name(&self) -> &'static str {
        self.driver.name()
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// With [`Whiteouts::Overlay`], layers are unpacked without those below.
    pub(crate) fn whiteouts(&self) -> Whiteouts {
        self.whiteouts
    }

    /// An empty layer over `parents`, nearest first.
    pub(crate) async fn prepare(&self, parents: &[SnapshotId]) -> Result<LayerFiles> {
        let id = self.snapshots.reserve();
        let target = self.driver.layer_target(id).ok_or_else(|| no_target(self.driver.as_ref()))?;
        let files = LayerFiles {
            driver: self.driver.clone(),
            snapshots: self.snapshots.clone(),
            id,
            target,
            implied: Vec::new(),
            inherited: OnceCell::new(),
            recorded: AtomicBool::new(false),
        };
        let (driver, parents) = (self.driver.clone(), parents.to_vec());
        crate::blocking(move || driver.prepare(id, &parents, &Labels::new())).await?;
        Ok(files)
    }

    /// Takes over what was unpacked, if it is what the image says.
    pub(crate) async fn finish(
        &self,
        mut files: LayerFiles,
        unpacked: Unpacked,
        diff_id: &Digest,
        parents: &[SnapshotId],
    ) -> Result<LayerFiles> {
        if unpacked.diff_id != *diff_id {
            let found = unpacked.diff_id;
            return Err(Error::data_loss(format!("the layer's diffID is {found}, the image says {diff_id}")));
        }
        files.implied = unpacked.implied;
        self.commit(files, parents).await
    }

    /// Ends the writing to a layer.
    pub(crate) async fn commit(&self, files: LayerFiles, parents: &[SnapshotId]) -> Result<LayerFiles> {
        let (driver, id, parents) = (self.driver.clone(), files.id, parents.to_vec());
        crate::blocking(move || driver.commit(id, &parents)).await?;
        Ok(files)
    }
}

/// A snapshot that was made and waits for its record.
pub(crate) struct NewLayer {
    pub(crate) driver: &'static str,
    pub(crate) name: String,
    pub(crate) parent: Option<String>,
    pub(crate) files: LayerFiles,
}

impl Unpacking {
    /// Makes those snapshots of an image that are neither recorded nor among `made`, from the files of its blobs, lowest
    /// first. `lease` holds those that are recorded.
    pub(crate) async fn unpack_image(
        &self,
        tenant: &Tenant,
        detail: &ImageDetail,
        lease: &LeaseId,
        stop: &CancellationToken,
        made: &mut Vec<NewLayer>,
    ) -> Result<()> {
        let mut below: Vec<SnapshotId> = Vec::new();
        let mut parent: Option<String> = None;
        let layers = detail.layers.iter().zip(&detail.diff_ids).zip(chain_ids(&detail.diff_ids));
        for ((layer, diff_id), name) in layers {
            let name = name.to_string();
            let known = match made.iter().find(|made| made.driver == self.driver_name() && made.name == name) {
                Some(made) => Some(made.files.id()),
                None => self.recorded(tenant, &name, lease).await?,
            };
            let id = match known {
                Some(id) => id,
                None => {
                    let doing = || format!("unpack layer {}", layer.digest);
                    let files = self.unpack_blob(tenant, layer, diff_id, &below, stop).await.context(doing)?;
                    let id = files.id();
                    made.push(NewLayer { driver: self.driver_name(), name: name.clone(), parent, files });
                    id
                }
            };
            below.insert(0, id);
            parent = Some(name);
        }
        Ok(())
    }

    /// The number of a committed snapshot, which `lease` holds then.
    async fn recorded(&self, tenant: &Tenant, name: &str, lease: &LeaseId) -> Result<Option<SnapshotId>> {
        let found = match self.snapshots.stat(name).await {
            Ok(found) if found.kind == Kind::Committed => found,
            Ok(_) => return Ok(None),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        tenant.leases().add_resource(lease, Resource::snapshot(self.driver_name(), name)).await?;
        Ok(Some(found.id))
    }

    async fn unpack_blob(
        &self,
        tenant: &Tenant,
        layer: &Descriptor,
        diff_id: &Digest,
        below: &[SnapshotId],
        stop: &CancellationToken,
    ) -> Result<LayerFiles> {
        let together = self.whiteouts == Whiteouts::Overlay;
        let parents = if together { &[][..] } else { below };
        let files = self.prepare(parents).await?;
        let path = tenant.core.0.blobs.path(&layer.digest);
        let unpacked = files.unpack_file(path, layer.media_type.clone(), stop.clone()).await?;
        let files = self.finish(files, unpacked, diff_id, parents).await?;
        if together {
            files.inherit(below).await?;
        }
        Ok(files)
    }
}

impl LayerFiles {
    pub(crate) fn id(&self) -> SnapshotId {
        self.id
    }

    pub(crate) fn target(&self) -> &LayerTarget {
        &self.target
    }

    /// Unpacks a blob's file.
    pub(crate) async fn unpack_file(
        &self,
        path: PathBuf,
        media_type: String,
        stop: CancellationToken,
    ) -> Result<Unpacked> {
        let target = self.target.clone();
        crate::blocking(move || {
            let file = File::open(&path).context(|| format!("open {}", path.display()))?;
            let source = Stoppable { inner: BufReader::with_capacity(READ, file), stop };
            layer::unpack(source, &media_type, &target, &Limits::default())
        })
        .await
    }

    /// Gives folders without an entry what the layers `below`, nearest first, say of them.
    pub(crate) async fn inherit(&self, below: &[SnapshotId]) -> Result<()> {
        let inherit = || async {
            let (driver, target, implied, below) =
                (self.driver.clone(), self.target.path.clone(), self.implied.clone(), below.to_vec());
            crate::blocking(move || {
                let below = below.iter().map(|id| driver.layer_target(*id).map(|target| target.path));
                let below: Vec<PathBuf> = below.collect::<Option<_>>().ok_or_else(|| no_target(driver.as_ref()))?;
                layer::inherit(&target, &implied, &below)
            })
            .await
        };
        self.inherited.get_or_try_init(inherit).await.map(drop)
    }

    /// The files have a record now.
    pub(crate) fn keep(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// Removes the files and waits for it.
    pub(crate) async fn discard(self) {
        self.keep();
        self.snapshots.discard(self.id).await;
    }
}

impl Drop for LayerFiles {
    fn drop(&mut self) {
        if self.recorded.load(Ordering::Relaxed) {
            return;
        }
        let (snapshots, id) = (self.snapshots.clone(), self.id);
        // Without a runtime the process is ending, and the next open removes what has no record.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { snapshots.discard(id).await });
        }
    }
}

fn no_target(driver: &dyn Snapshotter) -> Error {
    Error::unimplemented(format!("driver {} takes no layers directly", driver.name()))
}
