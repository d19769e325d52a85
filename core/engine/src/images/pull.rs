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
use windlass_model::{Context, Descriptor, Digest, Error, Kind, LeaseId, Platform, Reference, Result};

use self::documents::Documents;
pub(crate) use self::layers::stopped;
pub(crate) use self::shelf::Pulls;
use super::image::{ImageDetail, ImageRecord, Images};
use super::manifest::Document;
use super::progress::Reporter;
use crate::Tenant;
use crate::registry::{Access, Session};

/// How many layers of one image are fetched and unpacked at once.
const PARALLEL_LAYERS: usize = 6;

/// Under which names a pulled image is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// The reference, in its full form.
    #[default]
    Plain,
    /// As the CRI knows images: `name:tag`, `name@digest` and the image's id, all with the label
    /// `io.cri-containerd.image=managed`.
    Cri,
    /// These, each with labels of its own beside those of the request. One that ends in `@` gets the image's digest.
    Names(Vec<(String, Labels)>),
}

/// What is to be pulled, and how.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// How the registry is reached.
    pub access: Access,
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
    /// A lease that holds the image when it is there.
    pub lease: Option<LeaseId>,
    /// Where steps are told.
    pub reporter: Reporter,
    /// Gives the pull up; nothing of it is left then.
    pub stop: CancellationToken,
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
    /// The namespace that has the image already, and what it is there.
    from: Option<(Tenant, Descriptor)>,
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
            access: Access::default(),
            platform: Platform::host(),
            unpack: None,
            naming: Naming::Plain,
            labels: Labels::new(),
            progress_timeout: Duration::from_secs(60),
            lease: None,
            reporter: Reporter::default(),
            stop: CancellationToken::new(),
        }
    }
}

impl Images {
    /// Pulls an image. Dropping the future does not stop the pull; [`PullRequest::stop`] does.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthenticated`], [`Kind::PermissionDenied`], [`Kind::ResourceExhausted`] (also a full
    /// disk) and [`Kind::Unavailable`] as the registry answers; [`Kind::DataLoss`] for bytes that are not what their digest
    /// or size says; [`Kind::InvalidArgument`] for a layer that is none; [`Kind::DeadlineExceeded`] without progress.
    pub async fn pull(&self, request: PullRequest) -> Result<Pulled> {
        self.get_from(None, request).await
    }

    /// Takes an image over from another namespace as if it had been pulled: its blobs become this namespace's, too, its
    /// layers are unpacked for it, and nothing that happens over there takes them away. Only what the other has lost is
    /// fetched.
    ///
    /// # Errors
    /// As [`Images::pull`].
    pub async fn take_over(&self, from: &Tenant, target: &Descriptor, request: PullRequest) -> Result<Pulled> {
        self.get_from(Some((from.clone(), target.clone())), request).await
    }

    async fn get_from(&self, from: Option<(Tenant, Descriptor)>, request: PullRequest) -> Result<Pulled> {
        let span = tracing::info_span!("pull", image = %request.reference);
        let tenant = self.tenant.clone();
        let reference = request.reference.to_string();
        let pulling = tokio::spawn(async move { Pull::start(tenant, from, request).await }.instrument(span));
        let pulled = pulling.await.map_err(|error| Error::with_source(Kind::Internal, "the pull broke off", error))?;
        pulled.context(|| format!("pull {reference}"))
    }
}

/// A name with the digest that it asks for.
pub(super) fn digested(name: &str, target: &Digest) -> String {
    if name.ends_with('@') { format!("{name}{target}") } else { name.to_owned() }
}

impl Images {
    /// The machines that an image in a registry is made for; none where it does not say.
    ///
    /// # Errors
    /// As [`Images::pull`].
    pub async fn platforms_at(&self, reference: &Reference, access: Access) -> Result<Vec<Platform>> {
        let session = self.tenant.core.0.registry.session(reference, access).await?;
        let resolved = session.resolve().await?;
        let bytes = match resolved.bytes {
            Some(bytes) => bytes,
            None => session.manifest(&resolved.descriptor).await?,
        };
        let Document::Index(entries) = Document::parse(&bytes, &resolved.descriptor.media_type)? else {
            return Ok(Vec::new());
        };
        let mut platforms: Vec<Platform> = Vec::new();
        // Attestations stand among the images, made for no machine.
        for platform in entries.into_iter().filter_map(|entry| entry.platform).filter(|own| own.os != "unknown") {
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        Ok(platforms)
    }
}

impl Pull {
    async fn start(tenant: Tenant, from: Option<(Tenant, Descriptor)>, mut request: PullRequest) -> Result<Pulled> {
        if let Some(driver) = &request.unpack {
            tenant.core.driver(driver)?;
        }
        let session = tenant.core.0.registry.session(&request.reference, std::mem::take(&mut request.access)).await?;
        let lease = format!("pull-{}", uuid::Uuid::new_v4()).parse()?;
        let (session, stop) = (Arc::new(session), request.stop.child_token());
        Self { tenant, request, session, from, lease, stop, hopeless: Arc::default() }.run().await
    }

    async fn run(self) -> Result<Pulled> {
        let given_up = || Error::new(Kind::Canceled, "the pull was given up");
        self.request.reporter.say(format!("Resolving from OCI Registry ({})", self.request.reference));
        let documents = self.request.stop.run_until_cancelled(self.documents()).await.ok_or_else(given_up)??;
        let known = self.hold(&documents).await?;
        self.announce(&documents, &known);
        let outcome = self.finish(&documents, &known).await;
        if outcome.is_err() {
            self.let_go().await;
        }
        outcome.map_err(|error| if self.request.stop.is_cancelled() { given_up() } else { error })
    }

    /// Tells what is going to be fetched, and what need not be.
    fn announce(&self, documents: &Documents, known: &record::Known) {
        let (reporter, name) = (&self.request.reporter, self.request.reference.to_string());
        reporter.say(format!("Pulling from OCI Registry ({name})"));
        reporter.name("fetching image content", &name, documents.target());
        for (descriptor, _) in &documents.blobs {
            reporter.blob("complete", &name, descriptor, descriptor.size);
        }
        for layer in &documents.detail.layers {
            let (event, done) = if known.has(&layer.digest) { ("already exists", layer.size) } else { ("waiting", 0) };
            reporter.blob(event, &name, layer, done);
        }
    }

    fn told(&self, event: &str, layer: &Descriptor, done: u64) {
        self.request.reporter.blob(event, &self.request.reference.to_string(), layer, done);
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
        for record in &records {
            self.request.reporter.name("saved", &record.name, &record.target);
        }
        self.request.reporter.say(format!("Completed pull from OCI Registry ({})", self.request.reference));
        Ok(Pulled { records, detail })
    }

    /// The names that the image gets.
    fn names(&self, target: &Digest, id: &Digest) -> Vec<String> {
        let reference = &self.request.reference;
        match &self.request.naming {
            Naming::Plain => vec![reference.to_string()],
            Naming::Names(names) => names.iter().map(|(name, _)| digested(name, target)).collect(),
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
