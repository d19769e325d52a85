//! Import: from an archive to records, all or nothing.
//!
//! The archive is read once ([`super::read`]); then everything that its images need is looked up, unpacked where that is
//! asked for, synced, and recorded in one batch ([`super::record`]). Before that there is no record, so an archive that
//! is cut off, hostile or incomplete leaves nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use windlass_model::snapshotter::Labels;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, LeaseId, Platform, Result};

use super::format;
use super::names::Wanted;
use super::read::{Parts, Reading};
use crate::Tenant;
use crate::images::image::{ImageDetail, ImageRecord, Images};
use crate::images::manifest::{Document, MAX_CONFIG, MAX_MANIFEST};
use crate::images::progress::Reporter;
use crate::images::tree::{Choice, may_be_distributed};
use crate::images::unpack::{NewLayer, Unpacking};

/// How many indexes may point at each other before a manifest comes.
const MAX_DEPTH: usize = 4;
/// What the index of an archive is called where it is kept.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) const REFERS_TO_CONTENT: &str = "containerd.io/gc.ref.content.";
pub(super) const REFERS_TO_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// What is to be imported, and what of it.
#[derive(Clone, Debug, Default)]
pub struct ImportRequest {
    /// The names that images get.
    pub wanted: Vec<Wanted>,
    /// The name that the archive's whole index gets; empty for none.
    pub index_name: String,
    /// Labels of those names.
    pub labels: Labels,
    /// Which machines' images are taken; none means all.
    pub platforms: Vec<Platform>,
    /// The machines that images are unpacked for, and with which drivers.
    pub unpack: Vec<(Platform, String)>,
    /// Whether layers that are bare archives are packed, where the archive has no manifests that name them.
    pub compress: bool,
    /// A lease that holds the images when they are there.
    pub lease: Option<LeaseId>,
    /// Where steps are told.
    pub reporter: Reporter,
    /// Gives the import up.
    pub stop: CancellationToken,
}

/// An import under way.
pub(super) struct Import {
    pub(super) tenant: Tenant,
    pub(super) request: ImportRequest,
    /// Holds what was there already.
    pub(super) lease: LeaseId,
}

/// Everything that is going to be recorded.
#[derive(Default)]
pub(super) struct Plan {
    /// Blobs with the labels that hold them together.
    pub(super) blobs: BTreeMap<Digest, Labels>,
    pub(super) images: Vec<ImageRecord>,
    pub(super) layers: Vec<NewLayer>,
    /// Details of the manifests that were taken, with what the configuration says it is for.
    details: BTreeMap<Digest, Arc<ImageDetail>>,
}

impl Images {
    /// Imports the images of an archive; gives the records that were made. Runs to its end even if the caller goes away,
    /// unless [`ImportRequest::stop`] says otherwise.
    ///
    /// # Errors
    /// [`Kind::DataLoss`] for an archive that is cut off, damaged or incomplete; [`Kind::InvalidArgument`] for one with names
    /// that lead out of it; [`Kind::ResourceExhausted`] for one with too many parts; [`Kind::NotFound`] where nothing in it is
    /// wanted; [`Kind::PermissionDenied`] where an image verifier refuses what is to be unpacked.
    pub async fn import(&self, request: ImportRequest, source: impl Read + Send + 'static) -> Result<Vec<ImageRecord>> {
        let tenant = self.tenant.clone();
        let work = async move {
            for (_, driver) in &request.unpack {
                tenant.core.driver(driver)?;
            }
            let lease: LeaseId = format!("import-{}", uuid::Uuid::new_v4()).parse()?;
            tenant.leases().create_for_a_day(&lease).await?;
            let import = Import { tenant, request, lease };
            let outcome = import.run(source).await;
            if outcome.is_err() {
                import.let_go().await;
            }
            outcome
        };
        let importing = tokio::spawn(work.instrument(tracing::info_span!("import")));
        let imported =
            importing.await.map_err(|error| Error::with_source(Kind::Internal, "the import broke off", error))?;
        imported.context(|| "import images".into())
    }
}

impl Import {
    async fn run(&self, source: impl Read + Send + 'static) -> Result<Vec<ImageRecord>> {
        self.request.reporter.say("Importing");
        let (parts, entries) = self.read(source).await?;
        let mut plan = Plan::default();
        for entry in &entries {
            self.look_up(&parts, entry, &mut plan)
                .await
                .context(|| format!("image {} of the archive", entry.digest))?;
        }
        if plan.details.is_empty() {
            return Err(Error::not_found("the archive holds no image for the platforms asked for"));
        }
        self.name(&entries, &mut plan)?;
        self.unpack(&entries, &parts, &mut plan).await?;
        if self.request.stop.is_cancelled() {
            return Err(Error::new(Kind::Canceled, "the import was given up"));
        }
        let records = self.record(parts, plan).await?;
        for record in &records {
            self.request.reporter.name("saved", &record.name, &record.target);
        }
        self.request.reporter.say("Completed import");
        Ok(records)
    }

    /// Reads the archive; gives its parts and the images in it.
    async fn read(&self, source: impl Read + Send + 'static) -> Result<(Parts, Vec<Descriptor>)> {
        let reading = Reading {
            tenant: self.tenant.clone(),
            runtime: tokio::runtime::Handle::current(),
            lease: self.lease.clone(),
            stop: self.request.stop.clone(),
        };
        let (compress, keeps_index) = (self.request.compress, !self.request.index_name.is_empty());
        crate::blocking(move || {
            let mut parts = reading.run(source)?;
            let entries = match (parts.layout.take(), parts.index.take(), parts.docker.take()) {
                (Some(layout), Some(index), _) => {
                    format::Layout::check(&layout)?;
                    let entries = format::index(&index)?;
                    if keeps_index {
                        reading.keep(&mut parts, INDEX, &index)?;
                        parts.index = Some(index);
                    }
                    entries
                }
                (Some(_), None, None) => {
                    return Err(Error::data_loss("the archive has an OCI layout and no index.json"));
                }
                (_, _, Some(docker)) => {
                    let mut entries = Vec::new();
                    for image in format::docker(&docker)? {
                        entries.extend(reading.manifest(&mut parts, &image, compress)?);
                    }
                    if keeps_index {
                        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
                        let index = index.to_string().into_bytes();
                        reading.keep(&mut parts, INDEX, &index)?;
                        parts.index = Some(index);
                    }
                    entries
                }
                _ => return Err(Error::invalid("this is neither an OCI layout nor an archive of docker save")),
            };
            Ok((parts, entries))
        })
        .await
    }

    /// Finds all that an image is made of.
    async fn look_up(&self, parts: &Parts, entry: &Descriptor, plan: &mut Plan) -> Result<()> {
        let choice = Choice { platforms: self.request.platforms.clone(), skip_missing: true };
        if !choice.wants(entry) {
            return Ok(());
        }
        let mut todo = vec![(entry.clone(), 0)];
        while let Some((descriptor, depth)) = todo.pop() {
            if plan.blobs.contains_key(&descriptor.digest) && depth > 0 {
                continue;
            }
            if depth > MAX_DEPTH {
                return Err(Error::data_loss(format!("it leads through more than {MAX_DEPTH} indexes")));
            }
            let bytes = match self.bytes(parts, &descriptor, MAX_MANIFEST).await {
                // An archive mostly holds one machine's image of an index that names many.
                Err(error) if error.is_not_found() && depth > 0 => continue,
                Err(error) if error.is_not_found() => return Err(missing(&descriptor)),
                bytes => bytes?,
            };
            let mut labels = Labels::new();
            match Document::parse(&bytes, &descriptor.media_type)? {
                Document::Index(entries) => {
                    for (place, entry) in entries.into_iter().enumerate() {
                        if choice.wants(&entry) {
                            labels.insert(format!("{REFERS_TO_CONTENT}m.{place}"), entry.digest.to_string());
                            todo.push((entry, depth + 1));
                        }
                    }
                }
                Document::Manifest(manifest) => {
                    labels.insert(format!("{REFERS_TO_CONTENT}config"), manifest.config.digest.to_string());
                    for (number, layer) in manifest.layers.iter().enumerate() {
                        labels.insert(format!("{REFERS_TO_CONTENT}l.{number}"), layer.digest.to_string());
                        if may_be_distributed(&layer.media_type) {
                            self.require(parts, layer).await?;
                            plan.blobs.entry(layer.digest).or_default();
                        }
                    }
                    let config = match self.bytes(parts, &manifest.config, MAX_CONFIG).await {
                        Err(error) if error.is_not_found() => return Err(missing(&manifest.config)),
                        config => config?,
                    };
                    plan.blobs.entry(manifest.config.digest).or_default();
                    let detail = ImageDetail::new(descriptor.clone(), *manifest, &config)?;
                    plan.details.insert(descriptor.digest, Arc::new(detail));
                }
            }
            plan.blobs.entry(descriptor.digest).or_default().extend(labels);
        }
        Ok(())
    }

    async fn bytes(&self, parts: &Parts, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>> {
        self.require(parts, descriptor).await.map_err(|error| {
            if error.kind() == Kind::DataLoss { Error::not_found(error.to_string()) } else { error }
        })?;
        if descriptor.size > max {
            return Err(Error::data_loss(format!("blob {} is larger than {max} bytes", descriptor.digest)));
        }
        if !parts.sealed.contains_key(&descriptor.digest) {
            return self.tenant.content().read(&descriptor.digest, max).await;
        }
        let path = self.tenant.core.0.blobs.path(&descriptor.digest);
        crate::blocking(move || std::fs::read(&path).context(|| format!("read {}", path.display()))).await
    }

    /// Makes sure that a blob came with the archive, or is known; the lease holds it then.
    async fn require(&self, parts: &Parts, descriptor: &Descriptor) -> Result<()> {
        match parts.sealed.get(&descriptor.digest) {
            Some(sealed) if sealed.size == descriptor.size => Ok(()),
            Some(sealed) => {
                let (digest, size, told) = (descriptor.digest, sealed.size, descriptor.size);
                Err(Error::invalid(format!("blob {digest} has {size} bytes, the archive says {told}")))
            }
            None => match self.tenant.content().adopt(descriptor, Some(&self.lease)).await {
                Err(error) if error.is_not_found() => Err(missing(descriptor)),
                adopted => adopted.map(drop),
            },
        }
    }

    /// Decides what the images are called.
    fn name(&self, entries: &[Descriptor], plan: &mut Plan) -> Result<()> {
        let mut records: BTreeMap<String, ImageRecord> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| plan.blobs.contains_key(&entry.digest)) {
            for name in self.request.wanted.iter().flat_map(|wanted| wanted.names(&entry.annotations, &entry.digest)) {
                records.insert(name.clone(), ImageRecord::new(name, entry.clone()));
            }
        }
        plan.images = records.into_values().collect();
        if plan.images.is_empty() && self.request.index_name.is_empty() {
            return Err(Error::not_found("no image of the archive has a name that is wanted"));
        }
        for record in &mut plan.images {
            record.labels = self.request.labels.clone();
        }
        Ok(())
    }

    async fn unpack(&self, entries: &[Descriptor], parts: &Parts, plan: &mut Plan) -> Result<()> {
        for (platform, driver) in &self.request.unpack {
            let unpacking = Unpacking::new(&self.tenant, driver)?;
            for entry in entries {
                if !plan.blobs.contains_key(&entry.digest) {
                    continue;
                }
                let Some(detail) = self.fitting(entry, parts, platform, plan).await? else { continue };
                self.verify(entry, plan).await?;
                let stop = &self.request.stop;
                unpacking.unpack_image(&self.tenant, &detail, &self.lease, stop, &mut plan.layers).await?;
                if let Some(chain) = detail.chain_id {
                    let label = format!("{REFERS_TO_SNAPSHOT}{}", unpacking.driver_name());
                    plan.blobs.entry(detail.id).or_default().insert(label, chain.to_string());
                }
                for (layer, diff_id) in detail.layers.iter().zip(&detail.diff_ids) {
                    plan.blobs.entry(layer.digest).or_default().insert(UNCOMPRESSED.into(), diff_id.to_string());
                }
                let size = detail.size;
                self.request.reporter.blob("extracted", &entry.digest.to_string(), &detail.manifest, size);
            }
        }
        Ok(())
    }

    /// The image of `entry` for `platform`; `None` where there is none, or only an artifact.
    async fn fitting(
        &self,
        entry: &Descriptor,
        parts: &Parts,
        platform: &Platform,
        plan: &Plan,
    ) -> Result<Option<Arc<ImageDetail>>> {
        let mut todo = vec![entry.clone()];
        let mut looked = 0;
        while let Some(descriptor) = todo.pop() {
            looked += 1;
            if let Some(detail) = plan.details.get(&descriptor.digest) {
                let config = &detail.config;
                let own = Platform {
                    os: config.os().to_string(),
                    architecture: config.architecture().to_string(),
                    variant: config.variant().clone().unwrap_or_default(),
                };
                if detail.artifact_type.is_none() && platform.accepts(&own) {
                    return Ok(Some(detail.clone()));
                }
            } else if plan.blobs.contains_key(&descriptor.digest) && looked < 1024 {
                let bytes = self.bytes(parts, &descriptor, MAX_MANIFEST).await?;
                if let Document::Index(entries) = Document::parse(&bytes, &descriptor.media_type)? {
                    let fits = |entry: &Descriptor| entry.platform.as_ref().is_none_or(|own| platform.accepts(own));
                    todo.extend(entries.into_iter().filter(fits).rev());
                }
            }
        }
        Ok(None)
    }

    /// Asks the image verifiers about what is going to be unpacked, by each of its names.
    async fn verify(&self, entry: &Descriptor, plan: &Plan) -> Result<()> {
        let verifiers = &self.tenant.core.0.verifiers;
        let names = plan.images.iter().filter(|image| image.target.digest == entry.digest);
        let mut named = false;
        for image in names {
            verifiers.judge_again(&image.name, entry).await?;
            named = true;
        }
        if named { Ok(()) } else { verifiers.judge_again(&entry.digest.to_string(), entry).await }
    }
}

fn missing(descriptor: &Descriptor) -> Error {
    Error::data_loss(format!("the archive lacks blob {} ({})", descriptor.digest, descriptor.media_type))
}
