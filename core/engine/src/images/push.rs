//! Push of an image: layers and configurations side by side, then manifests, then indexes, and the name last.
//!
//! Nothing is changed on this machine, so a push may be given up at any point; what a registry got by then it keeps or
//! forgets by its own rules, and a retry finds it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::Instrument;
use url::Url;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, Platform, Reference, Result};

use super::image::Images;
use super::progress::Reporter;
use super::tree::{Choice, Tree};
use crate::registry::{Access, Pushed, Session, Upload};

/// How many blobs of one image are sent at once.
const PARALLEL: usize = 4;
/// From how many other repositories blobs are tried to be taken.
const MAX_SOURCES: usize = 4;
/// Where a blob says from which repositories of a registry it came.
const SOURCE: &str = "containerd.io/distribution.source.";

/// What is to be pushed, and where to.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The name of the image here.
    pub name: String,
    /// The name that it gets there.
    pub reference: Reference,
    /// How the registry is reached.
    pub access: Access,
    /// Of which machines the manifests are pushed; none means all.
    pub platforms: Vec<Platform>,
    /// Where steps are told.
    pub reporter: Reporter,
}

/// A push under way.
struct Push {
    session: Arc<Session>,
    home: Url,
    name: String,
    reporter: Reporter,
}

impl Images {
    /// Pushes an image; dropping the future stops it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without the image or a part of it; [`Kind::FailedPrecondition`] where no host takes pushes; and as
    /// the registry answers.
    pub async fn push(&self, request: PushRequest) -> Result<()> {
        let span = tracing::info_span!("push", image = %request.name, to = %request.reference);
        let reference = request.reference.clone();
        self.push_parts(request).instrument(span).await.context(|| format!("push {reference}"))
    }

    async fn push_parts(&self, request: PushRequest) -> Result<()> {
        let PushRequest { name, reference, access, platforms, reporter } = request;
        let target = self.get(&name).await?.target;
        reporter.say(format!("Pushing to OCI Registry ({reference})"));
        reporter.name("pushing content", &name, &target);
        let choice = Choice { platforms, skip_missing: false };
        let tree = Tree::read(&self.tenant.content(), &target, &choice).await?;
        let mut uploads = Vec::new();
        let mut all = BTreeSet::new();
        for blob in tree.blobs() {
            let sources = self.sources(&blob.digest, &reference).await?;
            all.extend(sources.iter().cloned());
            uploads.push((blob.clone(), sources));
        }
        let all: Vec<String> = all.into_iter().take(MAX_SOURCES).collect();
        let session = self.tenant.core.0.registry.push_session(&reference, access, &all).await?;
        let home = session.push_home().await?;
        let push = Arc::new(Push { session: Arc::new(session), home, name, reporter });
        self.blobs(&push, uploads).await?;
        push.documents(&reference, &tree, &target).await?;
        push.reporter.name("pushed content", &push.name, &target);
        push.reporter.say(format!("Completed push to OCI Registry ({reference})"));
        Ok(())
    }

    /// The other repositories of the registry from which a blob came.
    async fn sources(&self, digest: &Digest, reference: &Reference) -> Result<Vec<String>> {
        let info = self.tenant.content().info(digest).await?;
        let known = info.labels.get(&format!("{SOURCE}{}", reference.host()));
        let known = known.into_iter().flat_map(|known| known.split(','));
        let others = known.filter(|one| !one.is_empty() && *one != reference.repository());
        Ok(others.take(MAX_SOURCES).map(str::to_owned).collect())
    }

    async fn blobs(&self, push: &Arc<Push>, blobs: Vec<(Descriptor, Vec<String>)>) -> Result<()> {
        let turns = Arc::new(Semaphore::new(PARALLEL));
        let mut tasks = JoinSet::new();
        for (descriptor, sources) in blobs {
            push.reporter.blob("waiting", &push.name, &descriptor, 0);
            let (file, size) = self.tenant.content().open(&descriptor.digest).await?;
            if size != descriptor.size {
                let message =
                    format!("blob {} has {size} bytes, its manifest says {}", descriptor.digest, descriptor.size);
                return Err(Error::data_loss(message));
            }
            let (push, turns) = (push.clone(), turns.clone());
            let work = async move {
                // The semaphore is never closed.
                let _turn = turns.acquire_owned().await.ok();
                push.blob(descriptor, Arc::new(file), sources).await
            };
            tasks.spawn(work.in_current_span());
        }
        while let Some(done) = tasks.join_next().await {
            // The others end with the set.
            done.map_err(|error| Error::with_source(Kind::Internal, "an upload broke off", error))??;
        }
        Ok(())
    }
}

impl Push {
    async fn blob(&self, descriptor: Descriptor, file: Arc<std::fs::File>, sources: Vec<String>) -> Result<()> {
        let (reporter, name, blob) = (self.reporter.clone(), self.name.clone(), descriptor.clone());
        let told = Box::new(move |sent| reporter.blob("uploading", &name, &blob, sent));
        let upload = Upload { descriptor, file, sources, told };
        let pushed = self.session.push_blob(&self.home, &upload).await?;
        self.told(pushed, &upload.descriptor);
        Ok(())
    }

    /// Manifests and indexes, each after what it points at.
    async fn documents(&self, reference: &Reference, tree: &Tree, target: &Descriptor) -> Result<()> {
        for (descriptor, bytes) in &tree.documents {
            let top = descriptor.digest == target.digest;
            let tag = if top { reference.tag().filter(|_| reference.digest().is_none()) } else { None };
            let pushed = self.session.push_manifest(&self.home, tag, descriptor, bytes.clone()).await?;
            self.told(pushed, descriptor);
        }
        Ok(())
    }

    fn told(&self, pushed: Pushed, descriptor: &Descriptor) {
        tracing::debug!(digest = %descriptor.digest, ?pushed, "pushed");
        let event = if pushed == Pushed::Sent { "complete" } else { "already exists" };
        self.reporter.blob(event, &self.name, descriptor, descriptor.size);
    }
}
