//! Manifests and indexes: what they point at (OCI image spec 1.1 `manifest.md` and `image-index.md`, Docker schema 2).
//!
//! They come from strangers. A document is either kind only by its own fields: one that has the fields of both is refused,
//! because two readers could see two images in it, and so is one whose kind is not the one it was announced as.

use std::collections::BTreeMap;

use serde::Deserialize;
use windlass_model::{Descriptor, Error, Kind, Platform, Result};

/// The largest manifest or index that is read, in bytes.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The largest image configuration that is read, in bytes.
pub const MAX_CONFIG: u64 = 4 << 20;
/// The most layers an image may have; overlayfs stops at 500 and nobody comes near.
const MAX_LAYERS: usize = 512;

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// What configurations of images are called. Old registries gave Docker's the type of any bytes, or none.
const CONFIGS: [&str; 4] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "",
];

/// A parsed manifest or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// One image for each platform.
    Index(Vec<Descriptor>),
}

/// One image, or one artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration, whose digest is an image's id.
    pub config: Descriptor,
    /// The layers, lowest first; the files of an artifact.
    pub layers: Vec<Descriptor>,
    /// What an artifact calls itself; `None` for an image.
    pub artifact_type: Option<String>,
    /// What its maker wrote on it.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Parses and checks a document. `media_type` is what the descriptor or the registry called it; empty where nobody
    /// said.
    ///
    /// # Errors
    /// [`Kind::DataLoss`] for what is no manifest or index, [`Kind::Unimplemented`] for Docker's schema 1.
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| Error::with_source(Kind::DataLoss, "a manifest cannot be parsed", error))?;
        if raw.schema_version == 1 {
            return Err(Error::unimplemented("manifests of Docker's schema 1 are not supported"));
        }
        let wrong = |why: &str| Err(Error::data_loss(format!("a manifest {why}")));
        let names = [Some(media_type), raw.media_type.as_deref()];
        let called = |kinds: &[&str; 2]| names.iter().flatten().any(|name| kinds.contains(name));
        match (raw.manifests, raw.config, raw.layers) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => wrong("has the fields of an index, too"),
            (Some(manifests), None, None) if !called(&MANIFESTS) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) if !called(&INDEXES) => {
                if layers.len() > MAX_LAYERS {
                    return wrong(&format!("has {} layers, at most {MAX_LAYERS} are supported", layers.len()));
                }
                let artifact_type = (!CONFIGS.contains(&config.media_type.as_str())).then(|| {
                    let own = raw.artifact_type.filter(|own| !own.is_empty());
                    own.unwrap_or_else(|| config.media_type.clone())
                });
                Ok(Self::Manifest(Box::new(Manifest {
                    config,
                    layers,
                    artifact_type,
                    annotations: raw.annotations.unwrap_or_default(),
                })))
            }
            (None, _, _) => wrong("has no config, no layers, or is called an index"),
            (Some(_), ..) => wrong("is called a manifest but has the fields of an index"),
        }
    }
}

/// The entry of an index for `platform`: one of exactly its variant before one of any, and one without a platform last.
///
/// # Errors
/// [`Kind::NotFound`] where the index has none.
pub fn choose<'a>(entries: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor> {
    let is_image = |entry: &&Descriptor| {
        entry.media_type.is_empty()
            || MANIFESTS.contains(&entry.media_type.as_str())
            || INDEXES.contains(&entry.media_type.as_str())
    };
    let find = |fits: &dyn Fn(Option<&Platform>) -> bool| {
        entries.iter().filter(is_image).find(|entry| fits(entry.platform.as_ref()))
    };
    find(&|offered| offered == Some(platform))
        .or_else(|| find(&|offered| offered.is_some_and(|offered| platform.accepts(offered))))
        .or_else(|| find(&|offered| offered.is_none()))
        .ok_or_else(|| {
            let Platform { os, architecture, variant } = platform;
            let offered: Vec<_> = entries
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(|offered| format!("{}/{}", offered.os, offered.architecture))
                .collect();
            Error::not_found(format!(
                "the image is not made for {os}/{architecture} {variant}, but for {}",
                offered.join(", ")
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_model::Digest;

    fn entry(name: &str, platform: Option<(&str, &str)>) -> Descriptor {
        Descriptor {
            media_type: MANIFESTS[0].into(),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            platform: platform.map(|(architecture, variant)| Platform {
                os: "linux".into(),
                architecture: architecture.into(),
                variant: variant.into(),
            }),
            annotations: Default::default(),
            urls: Vec::new(),
        }
    }

    fn json(value: serde_json::Value) -> Vec<u8> {
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn documents_are_told_apart_by_their_fields() {
        let (config, layer) = (entry("config", None), entry("layer", None));
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        assert!(matches!(Document::parse(&json(manifest.clone()), "").unwrap(), Document::Manifest(_)));
        assert!(Document::parse(&json(manifest.clone()), INDEXES[0]).is_err());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [layer]});
        assert!(matches!(Document::parse(&json(index.clone()), INDEXES[1]).unwrap(), Document::Index(_)));
        assert!(Document::parse(&json(index), MANIFESTS[1]).is_err());
        let mut both = manifest;
        both["manifests"] = serde_json::json!([layer]);
        assert!(Document::parse(&json(both), "").is_err());
    }

    #[test]
    fn an_artifact_is_known_by_its_configuration() {
        let artifact_type = |config_type: &str, own: Option<&str>| {
            let config = Descriptor { media_type: config_type.into(), ..entry("config", None) };
            let manifest = serde_json::json!({"schemaVersion": 2, "artifactType": own, "config": config, "layers": []});
            match Document::parse(&json(manifest), "").unwrap() {
                Document::Manifest(manifest) => manifest.artifact_type,
                Document::Index(_) => panic!("an index"),
            }
        };
        assert_eq!(artifact_type(CONFIGS[0], Some("application/x")), None);
        assert_eq!(artifact_type(CONFIGS[1], None), None);
        assert_eq!(artifact_type("application/vnd.oci.empty.v1+json", Some("text/x")).unwrap(), "text/x");
        assert_eq!(artifact_type("application/vnd.helm", None).unwrap(), "application/vnd.helm");
    }

    #[test]
    fn rubbish_is_refused() {
        for bad in ["", "{}", "[]", "null", r#"{"schemaVersion":1}"#, r#"{"manifests":[{"size":-1}]}"#] {
            assert!(Document::parse(bad.as_bytes(), "").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_platform_wins() {
        let host = Platform { os: "linux".into(), architecture: "arm64".into(), variant: "v8".into() };
        let entries = [
            entry("none", None),
            entry("other", Some(("amd64", ""))),
            entry("any", Some(("arm64", ""))),
            entry("exact", Some(("arm64", "v8"))),
        ];
        assert_eq!(choose(&entries, &host).unwrap().digest, Digest::of(b"exact"));
        assert_eq!(choose(&entries[..3], &host).unwrap().digest, Digest::of(b"any"));
        assert_eq!(choose(&entries[..2], &host).unwrap().digest, Digest::of(b"none"));
        assert_eq!(choose(&entries[1..2], &host).unwrap_err().kind(), Kind::NotFound);
    }
}
