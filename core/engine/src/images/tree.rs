//! All that an image is made of, read from the blobs of a namespace: indexes, manifests, configurations and layers.

use std::collections::HashSet;

use windlass_model::{Context, Descriptor, Digest, Error, Platform, Result};

use super::manifest::{Document, MAX_MANIFEST, Manifest};
use crate::content::Store;

/// How many indexes may point at each other before a manifest comes.
const MAX_DEPTH: usize = 4;
/// How many indexes and manifests one image may have.
const MAX_DOCUMENTS: usize = 4096;

/// An image, or what of it was chosen.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Indexes and manifests with their bytes: what is pointed at comes before what points, and the image itself last.
    pub(crate) documents: Vec<(Descriptor, Vec<u8>)>,
    /// The manifests among them.
    pub(crate) manifests: Vec<(Descriptor, Manifest)>,
}

/// What of an index is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// The machines; none means all.
    pub(crate) platforms: Vec<Platform>,
    /// Whether a manifest that is not here is passed over.
    pub(crate) skip_missing: bool,
}

enum Step {
    Read(Descriptor, usize),
    Done(Descriptor, Vec<u8>),
}

impl Choice {
    /// True for an entry of an index that is wanted. One that says no platform is everybody's.
    pub(crate) fn wants(&self, entry: &Descriptor) -> bool {
        let Some(offered) = &entry.platform else { return true };
        self.platforms.is_empty() || self.platforms.iter().any(|platform| platform.accepts(offered))
    }
}

impl Tree {
    /// Reads what `target` points at.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] for a document that is not here or where nothing was wanted;
    /// [`windlass_model::Kind::DataLoss`] for one that is none.
    pub(crate) async fn read(content: &Store, target: &Descriptor, choice: &Choice) -> Result<Self> {
        let mut tree = Self::default();
        let mut seen = HashSet::new();
        let mut steps = vec![Step::Read(target.clone(), 0)];
        while let Some(step) = steps.pop() {
            let (descriptor, depth) = match step {
                Step::Done(descriptor, bytes) => {
                    tree.documents.push((descriptor, bytes));
                    continue;
                }
                Step::Read(descriptor, depth) => (descriptor, depth),
            };
            if !seen.insert(descriptor.digest) {
                continue;
            }
            if seen.len() > MAX_DOCUMENTS || depth > MAX_DEPTH {
                return Err(Error::data_loss(format!("image {} has too many indexes", target.digest)));
            }
            let bytes = match content.read(&descriptor.digest, MAX_MANIFEST).await {
                Err(error) if error.is_not_found() && choice.skip_missing && depth > 0 => continue,
                bytes => bytes.context(|| describe(&descriptor))?,
            };
            match Document::parse(&bytes, &descriptor.media_type)? {
                Document::Index(entries) => {
                    steps.push(Step::Done(descriptor, bytes));
                    let wanted = entries.into_iter().filter(|entry| choice.wants(entry));
                    steps.extend(wanted.rev().map(|entry| Step::Read(entry, depth + 1)));
                }
                Document::Manifest(manifest) => {
                    tree.manifests.push((descriptor.clone(), *manifest));
                    tree.documents.push((descriptor, bytes));
                }
            }
        }
        if tree.manifests.is_empty() {
            return Err(Error::not_found(format!(
                "image {} has no manifest for the platforms asked for",
                target.digest
            )));
        }
        Ok(tree)
    }

    /// Configurations and layers, each once, without those that may not be distributed.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen: HashSet<Digest> = HashSet::new();
        let all = self.manifests.iter().flat_map(|(_, manifest)| manifest.layers.iter().chain([&manifest.config]));
        all.filter(|blob| may_be_distributed(&blob.media_type) && seen.insert(blob.digest)).collect()
    }
}

fn describe(descriptor: &Descriptor) -> String {
    match &descriptor.platform {
        Some(Platform { os, architecture, .. }) => format!("the manifest for {os}/{architecture}"),
        None => format!("manifest {}", descriptor.digest),
    }
}

/// False for layers whose owner lets nobody else hand them out.
pub(crate) fn may_be_distributed(media_type: &str) -> bool {
    !media_type.contains(".nondistributable.") && !media_type.contains(".foreign.")
}
