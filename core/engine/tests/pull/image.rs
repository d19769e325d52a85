//! Images made by hand.

use std::io::Write;

use serde_json::json;
use windlass_model::{Digest, Platform, digest::chain_ids};

use crate::registry::Registry;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Clone, Copy)]
pub enum Packed {
    Plain,
    Gzip,
    Zstd,
}

impl Packed {
    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }
}

/// Bytes that no packer makes smaller, the same each time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A tar of files; a name that ends in `/` is a folder.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_600_000_000);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o1777);
            header.set_size(0);
            builder.append_data(&mut header, name, &[][..]).unwrap();
        } else {
            header.set_mode(0o4755);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// An image in the double.
pub struct Image {
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
    pub chain: Vec<Digest>,
}

pub fn parts(layers: &[(Vec<u8>, Packed)]) -> (Vec<u8>, Vec<u8>, Vec<Vec<u8>>, Vec<Digest>) {
    let diff_ids: Vec<Digest> = layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
    let host = Platform::host();
    let config = json!({"architecture": host.architecture, "os": "linux", "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = serde_json::to_vec(&config).unwrap();
    let blobs: Vec<Vec<u8>> = layers.iter().map(|(tar, packed)| packed.pack(tar)).collect();
    let described: Vec<_> = blobs.iter().zip(layers).map(|(blob, (_, packed))| {
        json!({"mediaType": packed.media_type(), "digest": Digest::of(blob), "size": blob.len()})
    }).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config":
        {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": described});
    (serde_json::to_vec(&manifest).unwrap(), config, blobs, chain_ids(&diff_ids))
}

impl Image {
    pub fn put(registry: &Registry, tag: &str, layers: &[(Vec<u8>, Packed)]) -> Self {
        let (manifest, config, blobs, chain) = parts(layers);
        let config = registry.add_blob(&config);
        let layers = blobs.iter().map(|blob| registry.add_blob(blob)).collect();
        Self { manifest: registry.add_manifest(tag, MANIFEST, &manifest), config, layers, chain }
    }

    /// Two layers of all kinds.
    pub fn simple(registry: &Registry, tag: &str) -> Self {
        let lower = tar(&[("etc/", b""), ("etc/passwd", b"root"), ("bin/sh", &[7; 300_000]), ("gone", b"x")]);
        let upper = tar(&[("etc/group", b"wheel"), (".wh.gone", b""), ("new", b"y")]);
        Self::put(registry, tag, &[(lower, Packed::Gzip), (upper, Packed::Zstd)])
    }
}
