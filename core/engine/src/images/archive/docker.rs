//! Images of Docker's format as manifests: the archive has none, so they are written from its files.

use std::io::{BufReader, Read, Write};

use serde_json::json;
use windlass_model::{Context, Descriptor, Digest, Reference, Result};

use super::format::DockerImage;
use super::names::annotate;
use super::read::{Parts, Reading, Stored, descriptor};
use crate::content::Writer;
use crate::layer::{Compression, Packer};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

struct Ingest<'a>(&'a mut Writer);

impl Write for Ingest<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_blocking(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Reading {
    /// Writes the manifest of an image; gives an entry of an index for each of its names. With `compress`, layers that are
    /// bare archives are packed.
    pub(super) fn manifest(&self, parts: &mut Parts, image: &DockerImage, compress: bool) -> Result<Vec<Descriptor>> {
        let config = parts.file(&image.config)?;
        let config = descriptor(CONFIG, config.digest, config.size);
        let layers = image.layers.iter().map(|layer| self.layer(parts, layer, compress)).collect::<Result<Vec<_>>>()?;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let entry = self.keep(parts, MANIFEST, manifest.to_string().as_bytes())?;
        if image.repo_tags.is_empty() {
            return Ok(vec![entry]);
        }
        let named = |tag: &String| {
            let reference: Reference = tag.parse().context(|| "a name in manifest.json of the archive".into())?;
            let mut entry = entry.clone();
            annotate(&mut entry.annotations, &reference.to_string());
            Ok(entry)
        };
        image.repo_tags.iter().map(named).collect()
    }

    fn layer(&self, parts: &mut Parts, name: &str, compress: bool) -> Result<Descriptor> {
        let stored = parts.file(name)?;
        let file = std::fs::File::open(self.tenant.core.0.blobs.path(&stored.digest))?;
        let mut start = Vec::new();
        file.take(4).read_to_end(&mut start)?;
        Ok(match Compression::detect(&start) {
            Compression::Gzip => descriptor(&format!("{LAYER}.gzip"), stored.digest, stored.size),
            Compression::Zstd => descriptor(&format!("{LAYER}.zstd"), stored.digest, stored.size),
            Compression::None if compress => {
                let packed = self.pack(parts, stored).context(|| format!("pack layer {name:?}"))?;
                descriptor(&format!("{LAYER}.gzip"), packed.digest, packed.size)
            }
            Compression::None => descriptor(LAYER, stored.digest, stored.size),
        })
    }

    fn pack(&self, parts: &mut Parts, stored: Stored) -> Result<Stored> {
        let file = std::fs::File::open(self.tenant.core.0.blobs.path(&stored.digest))?;
        self.ingest(parts, |writer| {
            let mut packer = Packer::new(Compression::Gzip, Ingest(writer))?;
            std::io::copy(&mut BufReader::new(file), &mut packer)?;
            packer.finish().map(drop)
        })
    }

    /// Writes a document down.
    pub(super) fn keep(&self, parts: &mut Parts, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = Digest::of(bytes);
        if !parts.sealed.contains_key(&digest) {
            self.ingest(parts, |writer| writer.write_blocking(bytes))?;
        }
        Ok(descriptor(media_type, digest, bytes.len() as u64))
    }
}
