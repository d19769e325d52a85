//! Which layers may be unpacked where image verifiers are asked: those of an image that they allow.
//!
//! A client that unpacks by itself names a blob and not an image. So the manifests that this namespace holds and that list
//! the blob are looked for, and the indexes that list those; the verifiers are asked about each under the names by which
//! records and the labels of its origin know it, until one is allowed. Names are the client's word, digests are not: what
//! a verifier says of a digest holds whatever the image is called.

use std::collections::BTreeSet;

use windlass_model::{Descriptor, Digest, Error, Kind, Result};

use super::image::Images;
use super::manifest::{Document, MAX_MANIFEST};
use crate::content::Info;

/// By which labels a document refers to others.
const REFERS_TO_CONTENT: &str = "containerd.io/gc.ref.content";
/// Where a blob says from which repositories of a registry it came.
const SOURCE: &str = "containerd.io/distribution.source.";
/// How many documents that lead to a layer are looked at.
const MAX_DOCUMENTS: usize = 64;

impl Images {
    /// Asks the image verifiers, if there are any, about the images that the layer `digest` is of.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] where none of them is allowed.
    pub(crate) async fn may_unpack(&self, digest: &Digest) -> Result<()> {
        let verifiers = &self.tenant.core.0.verifiers;
        if !verifiers.are_asked() {
            return Ok(());
        }
        let mut refused: Option<Error> = None;
        for (document, info) in self.leading_to(digest).await? {
            for name in self.names_of(&document, &info).await? {
                match verifiers.judge_again(&name, &document).await {
                    Ok(()) => return Ok(()),
                    Err(error) => refused = Some(error),
                }
            }
        }
        Err(refused.unwrap_or_else(|| {
            let message = format!("images are verified here, and blob {digest} is a layer of none that is known");
            Error::new(Kind::PermissionDenied, message)
        }))
    }

    /// The manifests that list the layer, and the indexes that list those, with what is recorded of them.
    async fn leading_to(&self, digest: &Digest) -> Result<Vec<(Descriptor, Info)>> {
        let content = self.tenant.content();
        let all = content.list().await?;
        let mut found: Vec<(Descriptor, Info)> = Vec::new();
        let mut wanted = vec![*digest];
        while let Some(wanted_digest) = wanted.pop() {
            let text = wanted_digest.to_string();
            // Labels only say where to look; what counts is what the document says.
            let refers = |info: &&Info| {
                info.size <= MAX_MANIFEST
                    && info.labels.iter().any(|(key, value)| key.starts_with(REFERS_TO_CONTENT) && *value == text)
            };
            for info in all.iter().filter(refers) {
                if found.len() >= MAX_DOCUMENTS || found.iter().any(|(known, _)| known.digest == info.digest) {
                    continue;
                }
                let Ok(bytes) = content.read(&info.digest, MAX_MANIFEST).await else { continue };
                let (parts, fallback) = match Document::parse(&bytes, "") {
                    Ok(Document::Manifest(manifest)) => (manifest.layers, "application/vnd.oci.image.manifest.v1+json"),
                    Ok(Document::Index(entries)) => (entries, "application/vnd.oci.image.index.v1+json"),
                    Err(_) => continue,
                };
                if !parts.iter().any(|part| part.digest == wanted_digest) {
                    continue;
                }
                let own = serde_json::from_slice::<MediaType>(&bytes).ok().and_then(|own| own.media_type);
                let (media_type, digest, size) = (own.unwrap_or_else(|| fallback.into()), info.digest, info.size);
                let (annotations, urls) = Default::default();
                found.push((Descriptor { media_type, digest, size, platform: None, annotations, urls }, info.clone()));
                wanted.push(info.digest);
            }
        }
        // What an image's name points at is mostly the index.
        found.reverse();
        Ok(found)
    }

    /// The names under which an image is known here: its records', or those of where it came from.
    async fn names_of(&self, document: &Descriptor, info: &Info) -> Result<BTreeSet<String>> {
        let records = self.list().await?.into_iter();
        let mut names: BTreeSet<String> =
            records.filter(|record| record.target.digest == document.digest).map(|record| record.name).collect();
        if names.is_empty() {
            for (label, repositories) in &info.labels {
                let Some(host) = label.strip_prefix(SOURCE) else { continue };
                let repositories = repositories.split(',').filter(|repository| !repository.is_empty());
                names.extend(repositories.map(|repository| format!("{host}/{repository}@{}", document.digest)));
            }
        }
        if names.is_empty() {
            names.insert(document.digest.to_string());
        }
        Ok(names)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaType {
    media_type: Option<String>,
}
