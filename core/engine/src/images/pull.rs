//! Pull of an image: from a reference to records, in one pass and all or nothing.
//!
//! 1. *Resolve*: what the reference stands for, its manifest and its configuration ([`documents`]).
//! 2. *Plan*: what of it this machine has already; that is held by a lease until the end.
//! 3. *Fetch and unpack*: layers side by side; bytes are hashed, written down, decompressed and unpacked as they come
//!    ([`layers`], [`super::unpack`]).
//! 4. *Sync*: one `syncfs` for everything.
//! 5. *Record*: blobs, snapshots and names in one synced batch ([`record`]).
//!
//! Until the last step there is no record, so a pull that fails, or a daemon that dies, leaves no part of an image: files
//! without a record go away at once, or when the core is opened next. Pulls that need the same layer share its files
//! while they are on their way. A pull runs to its end even if its caller goes away; a retry finds what it has.

mod artifact;
mod documents;
mod layers;
mod record;
mod shelf;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use windlass_model::snapshotter::Labels;
use windlass_model::{Context, Digest, Error, Kind, LeaseId, Platform, Reference, Result};

use self::documents::Documents;
pub(crate) use self::layers::stopped;
pub(crate) use self::shelf::Pulls;
use super::image::{ImageDetail, ImageRecord, Images};
use crate::Tenant;
use crate::registry::{Credentials, Session};

/// How many layers of one image are fetched and unpacked at once.
const PARALLEL_LAYERS: usize = 6;

/// Under which names a pulled image is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// The reference, in its full form.
    #[default]
    Plain,
    /// As the CRI knows images: `name:tag`, `name@digest` and the image's id, all with the label
    /// `io.cri-containerd.image=managed`.
    Cri,
}

/// What is to be pulled, and how.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// For the registry that the reference names.
    pub auth: Option<Credentials>,
    /// The machine it is for.
    pub platform: Platform,
    /// The snapshot driver to unpack with; `None` fetches only.
    pub unpack: Option<String>,
    /// The names it gets.
    pub naming: Naming,
    /// Labels of those names.
    pub labels: Labels,
    /// Without a byte of a layer for this long, the pull fails.
    pub progress_timeout: Duration,
}

/// An image that was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its names.
    pub records: Vec<ImageRecord>,
    /// What it is.
    pub detail: Arc<ImageDetail>,
}

/// A pull under way.
struct Pull {
    tenant: Tenant,
    request: PullRequest,
    session: Arc<Session>,
    /// Holds what was there already.
    lease: LeaseId,
    /// Stops the other layers when one fails.
    stop: CancellationToken,
    /// The layer that failed will fail again.
    hopeless: Arc<AtomicBool>,
}

impl PullRequest {
    /// A pull for this machine, unpacked by no driver, with the plain name.
    pub fn new(reference: Reference) -> Self {
        Self {
            reference,
            auth: None,
            platform: Platform::host(),
            unpack: None,
            naming: Naming::Plain,
            labels: Labels::new(),
            progress_timeout: Duration::from_secs(60),
        }
    }
}

impl Images {
    /// Pulls an image. Dropping the future does not stop the pull.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthenticated`], [`Kind::PermissionDenied`], [`Kind::ResourceExhausted`] (also a full
    /// disk) and [`Kind::Unavailable`] as the registry answers; [`Kind::DataLoss`] for bytes that are not what their digest
    /// or size says; [`Kind::InvalidArgument`] for a layer that is none; [`Kind::DeadlineExceeded`] without progress.
    pub async fn pull(&self, request: PullRequest) -> Result<Pulled> {
        let span = tracing::info_span!("pull", image = %request.reference);
        let tenant = self.tenant.clone();
        let reference = request.reference.to_string();
        let pulling = tokio::spawn(async move { Pull::start(tenant, request).await }.instrument(span));
        let pulled = pulling.await.map_err(|error| Error::with_source(Kind::Internal, "the pull broke off", error))?;
        pulled.context(|| format!("pull {reference}"))
    }
}

impl Pull {
    async fn start(tenant: Tenant, mut request: PullRequest) -> Result<Pulled> {
        if let Some(driver) = &request.unpack {
            tenant.core.driver(driver)?;
        }
        let session = tenant.core.0.registry.session(&request.reference, request.auth.take()).await?;
        let lease = format!("pull-{}", uuid::Uuid::new_v4()).parse()?;
        let (session, stop) = (Arc::new(session), CancellationToken::new());
        Self { tenant, request, session, lease, stop, hopeless: Arc::default() }.run().await
    }

    async fn run(self) -> Result<Pulled> {
        let documents = self.documents().await?;
        let known = self.hold(&documents).await?;
        let outcome = self.finish(&documents, &known).await;
        if outcome.is_err() {
            self.let_go().await;
        }
        outcome
    }

    async fn finish(&self, documents: &Documents, known: &record::Known) -> Result<Pulled> {
        let small = self.store_documents(documents, known).await?;
        let layers = self.layers(&documents.detail, known).await?;
        if small.iter().any(Option::is_some) || layers.iter().any(layers::Layer::is_new) {
            self.sync().await?;
        }
        let records = self.record(documents, small, layers).await?;
        let detail = documents.detail.clone();
        if self.request.platform == Platform::host() {
            self.tenant.core.0.details.put(documents.target().digest, detail.clone());
        }
        tracing::info!(id = %detail.id, size = detail.size, "pulled");
        Ok(Pulled { records, detail })
    }

    /// The names that the image gets.
    fn names(&self, target: &Digest, id: &Digest) -> Vec<String> {
        let reference = &self.request.reference;
        match self.request.naming {
            Naming::Plain => vec![reference.to_string()],
            Naming::Cri => {
                // A tag beside a digest was not asked for and may stand for something else by now.
                let tagged = if reference.digest().is_some() { None } else { reference.tagged() };
                let by_digest = reference.with_digest(target).to_string();
                tagged.into_iter().chain([by_digest, id.to_string()]).collect()
            }
        }
    }

    /// One flush for each file system that got something.
    async fn sync(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let mut folders = vec![self.tenant.core.root().to_owned()];
        if let Some(driver) = &self.request.unpack {
            folders.push(self.tenant.core.driver(driver)?.root().to_owned());
        }
        crate::blocking(move || {
            let mut synced = Vec::new();
            for folder in folders {
                let device = std::fs::metadata(&folder).context(|| format!("look at {}", folder.display()))?.dev();
                if !synced.contains(&device) {
                    windlass_sys::fs::sync_filesystem(&folder)?;
                    synced.push(device);
                }
            }
            Ok(())
        })
        .await
    }
}
