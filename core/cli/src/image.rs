//! What an image is made of: its record, and the manifest and configuration for this machine, read from the content store.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{GetImageRequest, Image, ReadContentRequest};
use serde::Deserialize;
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;
use windlass_model::digest::chain_ids;
use windlass_model::{Descriptor, Digest, Platform, Reference};

use crate::client::{Daemon, answered, api};

/// The largest manifest or configuration that is read.
const LARGEST: usize = 8 << 20;

/// How many indexes may stand inside each other.
const DEPTH: usize = 4;

/// The manifest of an image for one platform, and what it names.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The manifest itself.
    pub manifest: Descriptor,
    /// The configuration's blob.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// What an image's configuration says to whoever runs it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    config: Option<Defaults>,
    rootfs: RootFs,
}

/// How the image's program wants to be run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Defaults {
    pub user: Option<String>,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub stop_signal: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// A name with host and tag, as records have it.
pub(crate) fn full(name: &str) -> Result<String> {
    Ok(name.parse::<Reference>()?.to_string())
}

/// The image of a name, which may be a short one.
pub(crate) async fn find(name: &str, daemon: &Daemon, channel: &Channel) -> Result<Image> {
    let mut client = api!(ImagesClient<_>, channel.clone());
    let mut names = vec![name.to_owned()];
    names.extend(full(name).ok().filter(|full| full != name));
    for one in names {
        match client.get(daemon.request(GetImageRequest { name: one })).await {
            Ok(answer) => return answer.into_inner().image.context("the daemon answers without an image"),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(answered(status)).with_context(|| format!("look for {name}")),
        }
    }
    bail!("there is no image {name:?} in the namespace {}", daemon.namespace())
}

/// A whole blob, which must be a small one.
pub(crate) async fn blob(digest: &str, daemon: &Daemon, channel: &Channel) -> Result<Vec<u8>> {
    let mut client = api!(ContentClient<_>, channel.clone());
    let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let doing = || format!("read {digest}");
    let mut stream = client.read(daemon.request(request)).await.map_err(answered).with_context(doing)?.into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.map_err(answered).with_context(doing)? {
        bytes.extend(part.data);
        if bytes.len() > LARGEST {
            bail!("{digest} is larger than {LARGEST} bytes, which no manifest or configuration is");
        }
    }
    Ok(bytes)
}

/// A blob that is JSON.
pub(crate) async fn json(digest: &str, daemon: &Daemon, channel: &Channel) -> Result<Value> {
    let bytes = blob(digest, daemon, channel).await?;
    serde_json::from_slice(&bytes).with_context(|| format!("{digest} is not JSON"))
}

impl Contents {
    /// What `image` is made of on this machine.
    ///
    /// # Errors
    /// Where a manifest is not here, or none is for this machine.
    pub async fn of(image: &Image, daemon: &Daemon, channel: &Channel) -> Result<Self> {
        let target = image.target.clone().unwrap_or_default();
        let mut next = Descriptor {
            media_type: target.media_type,
            digest: target.digest.parse()?,
            size: u64::try_from(target.size).unwrap_or(0),
            platform: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
        };
        for _ in 0..DEPTH {
            let bytes = blob(&next.digest.to_string(), daemon, channel).await?;
            let document: Document =
                serde_json::from_slice(&bytes).with_context(|| format!("{} is no manifest", next.digest))?;
            match document {
                Document { manifests: Some(manifests), .. } => next = choose(manifests, &image.name)?,
                Document { config: Some(config), layers: Some(layers), .. } => {
                    return Ok(Self { manifest: next, config, layers });
                }
                _ => bail!("{} is neither a manifest nor an index", next.digest),
            }
        }
        bail!("{}: more than {DEPTH} indexes inside each other", image.name)
    }

    /// The bytes of all blobs.
    pub fn size(&self) -> u64 {
        let blobs = [&self.manifest, &self.config].into_iter().chain(&self.layers);
        blobs.fold(0, |sum, blob| sum.saturating_add(blob.size))
    }

    /// The configuration.
    pub async fn config(&self, daemon: &Daemon, channel: &Channel) -> Result<Config> {
        let digest = self.config.digest.to_string();
        let bytes = blob(&digest, daemon, channel).await?;
        let config: Config =
            serde_json::from_slice(&bytes).with_context(|| format!("{digest} is no image configuration"))?;
        if config.rootfs.diff_ids.len() != self.layers.len() {
            let (ids, layers) = (config.rootfs.diff_ids.len(), self.layers.len());
            bail!("{digest} tells of {ids} layers where the manifest has {layers}");
        }
        Ok(config)
    }
}

impl Config {
    /// How the image wants to be run.
    pub fn defaults(&self) -> Defaults {
        self.config.clone().unwrap_or_default()
    }

    /// The layers' digests when unpacked, lowest first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.rootfs.diff_ids
    }

    /// The snapshots' names, lowest first.
    pub fn chain(&self) -> Vec<Digest> {
        chain_ids(&self.rootfs.diff_ids)
    }
}

/// The manifest for this machine; where an index tells of no platforms, its only one.
fn choose(manifests: Vec<Descriptor>, name: &str) -> Result<Descriptor> {
    let host = Platform::host();
    let only = manifests.len() == 1;
    let fits = |one: &Descriptor| one.platform.as_ref().map_or(only, |offered| host.accepts(offered));
    let found = manifests.into_iter().find(fits);
    found.with_context(|| format!("{name} is not for {}/{}", host.os, host.architecture))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(name: &str, architecture: Option<&str>) -> Descriptor {
        let platform =
            architecture.map(|architecture| Platform { architecture: architecture.into(), ..Platform::host() });
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            platform,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
        }
    }

    #[test]
    fn an_index_gives_what_runs_here() {
        let host = Platform::host().architecture;
        let all = vec![descriptor("other", Some("s390x")), descriptor("ours", Some(&host))];
        assert_eq!(choose(all, "a").expect("ours").digest, Digest::of(b"ours"));
        assert_eq!(choose(vec![descriptor("only", None)], "a").expect("only").digest, Digest::of(b"only"));
        assert!(choose(vec![descriptor("other", Some("s390x"))], "a").is_err());
        assert!(choose(vec![descriptor("one", None), descriptor("two", None)], "a").is_err());
    }

    #[test]
    fn configurations_may_leave_out_or_null_what_they_like() {
        let text = r#"{"config": {"Env": null, "Cmd": ["sh"], "Labels": null}, "rootfs": {"diff_ids": []}}"#;
        let config: Config = serde_json::from_str(text).expect("good");
        assert_eq!(config.defaults().cmd, Some(vec!["sh".to_owned()]));
        assert!(config.defaults().env.is_none());
        let bare: Config = serde_json::from_str(r#"{"rootfs": {"diff_ids": []}}"#).expect("good");
        assert!(bare.defaults().cmd.is_none());
        assert!(serde_json::from_str::<Config>(r#"{"rootfs": {"diff_ids": ["sha256:1"]}}"#).is_err());
    }

    #[test]
    fn short_names_are_completed() {
        assert_eq!(full("localhost:5000/app").expect("good"), "localhost:5000/app:latest");
        assert!(full("UPPER").is_err());
    }
}
