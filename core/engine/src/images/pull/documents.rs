//! The small blobs of an image: indexes, manifest and configuration.

use std::sync::Arc;

use windlass_model::{Context, Descriptor, Digest, Error, Kind, Result};

use super::Pull;
use super::record::Known;
use crate::content::Sealed;
use crate::images::image::ImageDetail;
use crate::images::manifest::{Document, MAX_CONFIG, MAX_MANIFEST, choose};
use crate::layer::check_media_type;
use crate::registry::{BlobStream, Resolved};

/// How many indexes may point at each other before a manifest comes.
const MAX_DEPTH: usize = 4;

/// Everything that is known of an image before its layers.
pub(super) struct Documents {
    /// From what the reference stands for down to the manifest, each pointing at the next, and then the configuration.
    pub(super) blobs: Vec<(Descriptor, Vec<u8>)>,
    pub(super) detail: Arc<ImageDetail>,
}

impl Documents {
    /// What the reference stands for.
    pub(super) fn target(&self) -> &Descriptor {
        // `Pull::documents` begins with it.
        &self.blobs[0].0
    }
}

impl Pull {
    pub(super) async fn documents(&self) -> Result<Documents> {
        let resolved = match &self.from {
            Some((_, target)) => Resolved { descriptor: target.clone(), bytes: None },
            None => self.session.resolve().await?,
        };
        self.tenant.core.0.verifiers.judge(&self.request.reference.to_string(), &resolved.descriptor).await?;
        let (mut descriptor, mut bytes) = (resolved.descriptor, resolved.bytes);
        let mut blobs = Vec::new();
        for _ in 0..MAX_DEPTH {
            let content = match bytes.take() {
                Some(bytes) => bytes,
                None => self.manifest(&descriptor).await?,
            };
            if descriptor.size != content.len() as u64 {
                let (told, size) = (descriptor.size, content.len());
                return Err(Error::data_loss(format!("manifest {} has {size} bytes, not {told}", descriptor.digest)));
            }
            let document = Document::parse(&content, &descriptor.media_type)?;
            descriptor.media_type = media_type(&content, &document, descriptor.media_type);
            blobs.push((descriptor.clone(), content));
            match document {
                Document::Index(entries) => descriptor = choose(&entries, &self.request.platform)?.clone(),
                Document::Manifest(manifest) => {
                    let layers = manifest.layers.iter().filter(|_| manifest.artifact_type.is_none());
                    layers.map(|layer| layer.media_type.as_str()).try_for_each(check_media_type)?;
                    let config = self.config(&manifest.config).await?;
                    let own = manifest.config.clone();
                    let detail = ImageDetail::new(descriptor, *manifest, &config)?;
                    blobs.push((own, config));
                    return Ok(Documents { blobs, detail: Arc::new(detail) });
                }
            }
        }
        Err(Error::invalid(format!("the image leads through more than {MAX_DEPTH} indexes")))
    }

    /// Writes the documents that this namespace does not have; `None` for those it has.
    pub(super) async fn store_documents(&self, documents: &Documents, known: &Known) -> Result<Vec<Option<Sealed>>> {
        let mut sealed = Vec::new();
        for (descriptor, bytes) in &documents.blobs {
            let new = if known.has(&descriptor.digest) { None } else { self.store(descriptor, bytes).await? };
            sealed.push(new);
        }
        Ok(sealed)
    }

    async fn store(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Option<Sealed>> {
        // Its own name for each pull: these are too small to wait for each other.
        let reference = format!("document-{}-{}", descriptor.digest, self.lease);
        let mut writer = match self.tenant.content().ingest(&reference, Some(descriptor), Some(&self.lease)).await {
            Err(error) if error.kind() == Kind::AlreadyExists => return Ok(None),
            writer => writer?,
        };
        if let Err(error) = writer.write(bytes).await {
            // Nobody would ever resume it.
            writer.abort().await?;
            return Err(error);
        }
        writer.seal(descriptor.size, &descriptor.digest).await.map(Some)
    }

    /// A document that this machine has, or the namespace that the image is taken over from.
    async fn here(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        match (self.tenant.content().read_shared(descriptor, limit).await, &self.from) {
            (Err(_), Some((from, _))) => from.content().read(&descriptor.digest, limit).await,
            (own, _) => own,
        }
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self.here(descriptor, MAX_MANIFEST).await {
            Ok(bytes) => Ok(bytes),
            Err(_) => self.session.manifest(descriptor).await,
        }
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > MAX_CONFIG {
            return Err(Error::invalid(format!(
                "the image's configuration has {} bytes; the limit is 4 MiB",
                descriptor.size
            )));
        }
        if let Ok(bytes) = self.here(descriptor, MAX_CONFIG).await {
            return Ok(bytes);
        }
        loop {
            let timeout = self.request.progress_timeout;
            let mut stream = BlobStream::new(self.session.clone(), descriptor.clone(), 0, timeout);
            let wrong = match self.whole(&mut stream).await {
                Ok(bytes) if Digest::of(&bytes) == descriptor.digest => return Ok(bytes),
                Ok(bytes) => {
                    let (digest, expected) = (Digest::of(&bytes), descriptor.digest);
                    Error::data_loss(format!("the image's configuration has digest {digest}, not {expected}"))
                }
                Err(error) if error.kind() == Kind::DataLoss => error,
                Err(error) => return Err(error),
            };
            if !stream.source().is_some_and(|host| self.session.distrust(host)) {
                return Err(wrong);
            }
        }
    }

    async fn whole(&self, stream: &mut BlobStream) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await.context(|| "get the image's configuration".into())? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// What a document calls itself, or what it was called, or what it must be.
fn media_type(bytes: &[u8], document: &Document, called: String) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Own {
        media_type: Option<String>,
    }
    let own = serde_json::from_slice::<Own>(bytes).ok().and_then(|own| own.media_type);
    match (own.filter(|own| !own.is_empty()), document) {
        (Some(own), _) => own,
        (None, _) if !called.is_empty() => called,
        (None, Document::Index(_)) => "application/vnd.oci.image.index.v1+json".into(),
        (None, Document::Manifest(_)) => "application/vnd.oci.image.manifest.v1+json".into(),
    }
}
