//! The documents of an archive: `oci-layout` and `index.json` (OCI image spec 1.1, `image-layout.md`), and Docker's
//! `manifest.json`, an array of images with the files they are made of.
//!
//! They come from strangers, and so do the names in them: a name is made plain, and one that leads out of the archive is
//! refused, though no file is ever made under it.

use serde::{Deserialize, Serialize};
use windlass_model::{Descriptor, Error, Kind, Result};

use crate::images::manifest::Document;

/// The longest of these documents that is read, in bytes.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;
/// How many images one archive may hold.
const MAX_IMAGES: usize = 4096;
/// The longest name of a file.
const MAX_PATH: usize = 4096;
/// How many links may lead to each other.
const MAX_LINKS: usize = 8;

/// The only version of the layout there is.
const VERSION: &str = "1.0.0";

/// `oci-layout`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layout {
    image_layout_version: String,
}

/// An image in Docker's `manifest.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    /// The file of its configuration.
    pub(crate) config: String,
    /// Its names.
    #[serde(default, deserialize_with = "or_nothing")]
    pub(crate) repo_tags: Vec<String>,
    /// The files of its layers, lowest first.
    #[serde(default, deserialize_with = "or_nothing")]
    pub(crate) layers: Vec<String>,
}

/// Go writes an empty list as `null`.
fn or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Layout {
    pub(crate) fn new() -> Self {
        Self { image_layout_version: VERSION.into() }
    }

    pub(crate) fn check(bytes: &[u8]) -> Result<()> {
        let layout: Self = serde_json::from_slice(bytes).map_err(|error| broken("oci-layout", error))?;
        if layout.image_layout_version == VERSION {
            return Ok(());
        }
        let version: String = layout.image_layout_version.chars().take(40).collect();
        Err(Error::unimplemented(format!("the archive has an OCI layout of version {version:?}, not {VERSION}")))
    }
}

/// The images of `index.json`.
pub(crate) fn index(bytes: &[u8]) -> Result<Vec<Descriptor>> {
    match Document::parse(bytes, "")? {
        Document::Index(entries) if entries.len() <= MAX_IMAGES => Ok(entries),
        Document::Index(entries) => Err(too_many(entries.len())),
        Document::Manifest(_) => Err(Error::data_loss("index.json of the archive is a manifest, not an index")),
    }
}

/// The images of Docker's `manifest.json`.
pub(crate) fn docker(bytes: &[u8]) -> Result<Vec<DockerImage>> {
    let images: Vec<DockerImage> = serde_json::from_slice(bytes).map_err(|error| broken("manifest.json", error))?;
    if images.len() > MAX_IMAGES { Err(too_many(images.len())) } else { Ok(images) }
}

/// The name of a file in the archive as others in it refer to it: without `.`, `..` and doubled slashes.
pub(crate) fn plain(name: &[u8]) -> Result<String> {
    let refuse = |why: &str| {
        let shown: String = String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
        Err(Error::invalid(format!("the archive names {shown:?}, which {why}")))
    };
    if name.len() > MAX_PATH {
        return refuse("is too long for a name");
    }
    let Ok(name) = std::str::from_utf8(name) else { return refuse("is not UTF-8") };
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return refuse("leads out of it"),
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Where the link at `path` leads.
pub(crate) fn link(path: &str, target: &[u8]) -> Result<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    plain(&[folder.as_bytes(), b"/", target].concat())
}

/// What `path` stands for after all links.
pub(crate) fn follow<'a>(mut path: &'a str, links: &'a std::collections::HashMap<String, String>) -> Result<&'a str> {
    for _ in 0..MAX_LINKS {
        match links.get(path) {
            Some(next) => path = next,
            None => return Ok(path),
        }
    }
    Err(Error::invalid(format!("the archive's links at {path:?} lead nowhere")))
}

fn broken(name: &str, error: serde_json::Error) -> Error {
    Error::with_source(Kind::DataLoss, format!("{name} of the archive cannot be read"), error)
}

fn too_many(count: usize) -> Error {
    Error::new(Kind::ResourceExhausted, format!("the archive holds {count} images, at most {MAX_IMAGES} are taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(plain(b"./blobs//sha256/x").unwrap(), "blobs/sha256/x");
        assert_eq!(plain(b"/a/../b").unwrap(), "b");
        assert_eq!(link("one/layer.tar", b"../two/layer.tar").unwrap(), "two/layer.tar");
        for bad in [&b"../x"[..], b"a/../../x", &[0xff], &[b'a'; 5000]] {
            assert_eq!(plain(bad).unwrap_err().kind(), Kind::InvalidArgument);
        }
        assert!(link("layer.tar", b"../../etc/passwd").is_err());
        let links = [("a", "b"), ("b", "a"), ("c", "d")].map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        assert!(follow("a", &links).is_err());
        assert_eq!(follow("c", &links).unwrap(), "d");
    }

    #[test]
    fn dockers_manifest_is_read_as_docker_writes_it() {
        let images = docker(br#"[{"Config":"c.json","RepoTags":null,"Layers":["a/layer.tar"],"Parent":"x"}]"#).unwrap();
        let expected = DockerImage { config: "c.json".into(), repo_tags: vec![], layers: vec!["a/layer.tar".into()] };
        assert_eq!(images, [expected]);
        for bad in [&b""[..], b"{}", b"[{}]", b"[1]", b"null"] {
            assert!(docker(bad).is_err());
        }
        assert!(Layout::check(br#"{"imageLayoutVersion":"2"}"#).is_err());
        Layout::check(&serde_json::to_vec(&Layout::new()).unwrap()).unwrap();
    }
}
