//! Export: images of a namespace as an archive that containerd, Docker and everybody who knows OCI layouts can read.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};

use tokio_util::sync::CancellationToken;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, Platform, Result};

use super::format::{DockerImage, Layout};
use super::names::{annotate, familiar};
use crate::content::Store;
use crate::images::image::{ImageRecord, Images};
use crate::images::manifest::Manifest;
use crate::images::progress::Reporter;
use crate::images::tree::{Choice, Tree, may_be_distributed};
use crate::layer::tar::{Builder, Entry, EntryKind};

/// How much of a blob is copied at once.
const PIECE: usize = 256 << 10;
/// Annotations by which the origin of an image travels with it.
const SOURCE: &str = "containerd.io/distribution.source.";

/// What is to be exported.
#[derive(Clone, Debug, Default)]
pub struct ExportRequest {
    /// The names of the images.
    pub names: Vec<String>,
    /// Which machines' manifests are taken of an index; none means all.
    pub platforms: Vec<Platform>,
    /// Whether Docker's `manifest.json` is left out.
    pub skip_docker: bool,
    /// Where steps are told.
    pub reporter: Reporter,
    /// Gives the export up.
    pub stop: CancellationToken,
}

/// All that is going to be written.
#[derive(Default)]
struct Plan {
    /// What `index.json` lists.
    index: Vec<Descriptor>,
    /// Blobs, each once.
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
    /// For Docker: an image each, by the digest of its manifest.
    docker: BTreeMap<Digest, DockerImage>,
}

impl Images {
    /// Writes the images as one archive.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where an image or a part of it is missing; [`Kind::DataLoss`] for a blob that is damaged; and what
    /// `out` fails with.
    pub async fn export(&self, request: ExportRequest, out: impl Write + Send + 'static) -> Result<()> {
        request.reporter.say("Exporting");
        let mut plan = Plan::default();
        for name in &request.names {
            let record = self.get(name).await?;
            self.plan(&record, &request, &mut plan).await.context(|| format!("export image {name:?}"))?;
        }
        if plan.index.is_empty() {
            return Err(Error::invalid("no image is named to be exported"));
        }
        let content = self.tenant.content();
        let (runtime, stop) = (tokio::runtime::Handle::current(), request.stop.clone());
        let docker = !request.skip_docker;
        crate::blocking(move || {
            let mut archive = Builder::new(out);
            plan.write(&mut archive, docker, |archive, blob| {
                let (file, size) = runtime.block_on(content.open(&blob.digest))?;
                copy(archive, blob, file, size, &stop)
            })?;
            archive.finish()?.flush()?;
            Ok(())
        })
        .await
        .context(|| "export images".into())?;
        request.reporter.say("Completed export");
        Ok(())
    }

    async fn plan(&self, record: &ImageRecord, request: &ExportRequest, plan: &mut Plan) -> Result<()> {
        let content = self.tenant.content();
        let choice = Choice { platforms: request.platforms.clone(), skip_missing: false };
        let tree = Tree::read(&content, &record.target, &choice).await?;
        let mut entry = record.target.clone();
        annotate(&mut entry.annotations, &record.name);
        let info = content.info(&entry.digest).await?;
        entry.annotations.extend(info.labels.into_iter().filter(|(key, _)| key.starts_with(SOURCE)));
        plan.index.push(entry);
        let documents = tree.documents.iter().map(|(document, _)| document);
        for blob in documents.chain(tree.blobs()) {
            plan.require(&content, blob).await?;
        }
        // Docker knows one machine only.
        let host = Platform::host();
        let fits = |(descriptor, _): &&(Descriptor, Manifest)| {
            descriptor.platform.as_ref().is_none_or(|own| host.accepts(own))
        };
        let manifest = tree.manifests.iter().find(fits).or(tree.manifests.first());
        if let Some((descriptor, manifest)) = manifest.filter(|(_, manifest)| manifest.artifact_type.is_none()) {
            let image = plan.docker.entry(descriptor.digest).or_insert_with(|| docker(manifest));
            image.repo_tags.extend(familiar(&record.name));
        }
        Ok(())
    }
}

impl Plan {
    async fn require(&mut self, content: &Store, blob: &Descriptor) -> Result<()> {
        if !self.seen.insert(blob.digest) {
            return Ok(());
        }
        let info = content.info(&blob.digest).await?;
        if info.size != blob.size {
            let (size, told) = (info.size, blob.size);
            return Err(Error::data_loss(format!("blob {} has {size} bytes, its manifest says {told}", blob.digest)));
        }
        self.blobs.push(blob.clone());
        Ok(())
    }

    fn write<W: Write>(
        self,
        archive: &mut Builder<W>,
        docker: bool,
        mut blob: impl FnMut(&mut Builder<W>, &Descriptor) -> Result<()>,
    ) -> Result<()> {
        for folder in ["blobs/", "blobs/sha256/"] {
            archive.entry(&entry(folder.into(), EntryKind::Directory), 0)?;
        }
        for descriptor in &self.blobs {
            blob(archive, descriptor)?;
        }
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": self.index
        });
        document(archive, "index.json", &index)?;
        if docker && !self.docker.is_empty() {
            document(archive, "manifest.json", &self.docker.values().collect::<Vec<_>>())?;
        }
        document(archive, "oci-layout", &Layout::new())
    }
}

fn docker(manifest: &Manifest) -> DockerImage {
    let layers = manifest.layers.iter().filter(|layer| may_be_distributed(&layer.media_type));
    DockerImage {
        config: place(&manifest.config.digest),
        repo_tags: Vec::new(),
        layers: layers.map(|layer| place(&layer.digest)).collect(),
    }
}

fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn entry(path: String, kind: EntryKind) -> Entry {
    let mode = if kind == EntryKind::Directory { 0o755 } else { 0o444 };
    let (path, link, xattrs) = (path.into_bytes(), Vec::new(), Vec::new());
    Entry { path, kind, link, mode, uid: 0, gid: 0, mtime: (0, 0), device: (0, 0), xattrs, sparse: None }
}

fn document<W: Write>(archive: &mut Builder<W>, name: &str, what: &impl serde::Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(what)
        .map_err(|error| Error::with_source(Kind::Internal, format!("{name} cannot be written"), error))?;
    archive.entry(&entry(name.into(), EntryKind::File), bytes.len() as u64)?;
    archive.data(&bytes)
}

/// Copies a blob, and verifies it on the way: who reads the archive cannot tell who damaged it.
fn copy<W: Write>(
    archive: &mut Builder<W>,
    blob: &Descriptor,
    mut file: std::fs::File,
    size: u64,
    stop: &CancellationToken,
) -> Result<()> {
    use sha2::Digest as _;
    archive.entry(&entry(place(&blob.digest), EntryKind::File), size)?;
    let (mut hash, mut piece) = (sha2::Sha256::new(), vec![0; PIECE]);
    while archive.left() > 0 {
        if stop.is_cancelled() {
            return Err(Error::new(Kind::Canceled, "the export was given up"));
        }
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Err(Error::data_loss(format!("blob {} lost its end on disk", blob.digest)));
        }
        hash.update(&piece[..length]);
        archive.data(&piece[..length])?;
    }
    if Digest::from_bytes(hash.finalize().into()) != blob.digest {
        return Err(Error::data_loss(format!("blob {} is damaged on disk", blob.digest)));
    }
    Ok(())
}
