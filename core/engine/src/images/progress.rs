//! What is told of a transfer while it goes on, in the words that containerd's clients show.

use std::fmt;
use std::sync::Arc;

use windlass_model::Descriptor;

/// One step of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What happens: a sentence, or for a blob `waiting`, `downloading`, `uploading`, `already exists`, `complete`,
    /// `extracting`, `extracted`.
    pub event: String,
    /// What it happens to; empty for the whole transfer.
    pub name: String,
    /// The names of what refers to that.
    pub parents: Vec<String>,
    /// Bytes done.
    pub progress: u64,
    /// Bytes to be done.
    pub total: u64,
    /// The blob.
    pub descriptor: Option<Descriptor>,
}

/// Where steps are told; nowhere by default. Whoever listens must not block.
#[derive(Clone, Default)]
pub struct Reporter(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reporter" } else { "Reporter(nobody)" })
    }
}

impl Reporter {
    /// Tells every step to `listener`.
    pub fn new(listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Tells of the whole transfer.
    pub fn say(&self, event: impl Into<String>) {
        self.tell(|| Progress { event: event.into(), ..Progress::default() });
    }

    /// Tells of an image's name.
    pub fn name(&self, event: &str, name: &str, target: &Descriptor) {
        let (event, name, descriptor) = (event.into(), name.into(), Some(target.clone()));
        self.tell(|| Progress { event, name, descriptor, ..Progress::default() });
    }

    /// Tells of a blob of the image `name`, of which `progress` bytes are done.
    pub(crate) fn blob(&self, event: &str, name: &str, blob: &Descriptor, progress: u64) {
        self.tell(|| Progress {
            event: event.into(),
            name: key(blob),
            parents: vec![name.into()],
            progress,
            total: blob.size,
            descriptor: Some(blob.clone()),
        });
    }

    fn tell(&self, step: impl FnOnce() -> Progress) {
        if let Some(listener) = &self.0 {
            listener(step());
        }
    }
}

/// What a blob is called among the names of a transfer.
fn key(blob: &Descriptor) -> String {
    let kind = match blob.media_type.as_str() {
        kind if kind.contains(".manifest.list.") || kind.contains(".index.") => "index",
        kind if kind.contains(".manifest.") => "manifest",
        kind if kind.contains(".config.") || kind.ends_with(".image.v1+json") => "config",
        kind if kind.contains(".layer.") || kind.contains(".rootfs.") => "layer",
        _ => "unknown",
    };
    format!("{kind}-{}", blob.digest)
}
