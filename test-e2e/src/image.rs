//! Container images made on the spot: layers of busybox and of files, as OCI or Docker manifests and indexes.

use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The applets that get a link in the busybox layer.
const APPLETS: &[&str] = &[
    "sh", "ash", "cat", "echo", "sleep", "true", "false", "ls", "id", "env", "hostname", "mount", "ps", "head", "tail",
    "seq", "dd", "df", "mkdir", "rm", "touch", "nc", "httpd", "wget", "stat", "kill", "date", "yes", "test", "printf",
    "ip", "nslookup", "grep", "awk", "sed", "wc", "cut", "pwd", "whoami", "readlink", "usleep", "tr", "ping", "trap",
    "setsid", "nohup", "chmod",
];

/// How a layer's tar is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A bare tar.
    None,
    /// gzip, as most registries hold.
    Gzip,
    /// zstd, OCI only.
    Zstd,
}

/// Whose media types are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `application/vnd.oci.image.*`
    Oci,
    /// `application/vnd.docker.distribution.*`, schema 2.
    Docker,
}

/// Bytes in a registry, with the type they are served as.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The media type.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One layer: a tar, how it is packed, and nothing else.
#[derive(Clone, Debug)]
pub struct Layer {
    tar: Vec<u8>,
    compression: Compression,
}

/// An image ready to be pushed: its blobs, its manifests, and the one to be tagged (the last of `manifests`).
#[derive(Clone, Debug)]
pub struct Image {
    /// Config and layers.
    pub blobs: Vec<Blob>,
    /// Manifests, then the index if there is one. The last is what a tag names.
    pub manifests: Vec<Blob>,
    /// The digest of the config, which the CRI calls the image's id; of an artifact, that of the manifest.
    pub id: String,
    /// The layers' digests, lowest first.
    pub layers: Vec<String>,
}

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Recipe {
    family: Family,
    index: bool,
    layers: Vec<Layer>,
    config: Value,
}

/// Writes a layer's entries.
pub struct LayerWriter(tar::Builder<Vec<u8>>);

/// The `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Bytes that do not compress and do not repeat, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

impl Blob {
    /// The digest of the bytes.
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

impl LayerWriter {
    /// A directory.
    pub fn dir(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        self.entry(tar::EntryType::Directory, path, mode, &[])
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<&mut Self> {
        self.entry(tar::EntryType::Regular, path, mode, data)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// A hard link to a path of the same or a lower layer.
    pub fn hard_link(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = header(tar::EntryType::Link, 0o644, 0);
        self.0.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// An entry whose name goes into the header as it stands, `..` and all.
    pub fn raw(&mut self, path: &str, data: &[u8]) -> Result<&mut Self> {
        let mut header = header(tar::EntryType::Regular, 0o644, data.len() as u64);
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, data)?;
        Ok(self)
    }

    fn entry(&mut self, kind: tar::EntryType, path: &str, mode: u32, data: &[u8]) -> Result<&mut Self> {
        let mut header = header(kind, mode, data.len() as u64);
        self.0.append_data(&mut header, path, data)?;
        Ok(self)
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

impl Layer {
    /// A layer written by `fill`.
    pub fn write(compression: Compression, fill: impl FnOnce(&mut LayerWriter) -> Result<()>) -> Result<Self> {
        let mut writer = LayerWriter(tar::Builder::new(Vec::new()));
        fill(&mut writer)?;
        Ok(Self { tar: writer.0.into_inner()?, compression })
    }

    /// This machine's static busybox with its applets, and the few directories and files that programs expect.
    pub fn busybox(compression: Compression) -> Result<Self> {
        let busybox = std::fs::read("/bin/busybox")?;
        Self::write(compression, |layer| {
            for (path, mode) in
                [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("var", 0o755), ("www", 0o755)]
            {
                layer.dir(path, mode)?;
            }
            layer.file("bin/busybox", 0o755, &busybox)?;
            for applet in APPLETS {
                layer.symlink(&format!("bin/{applet}"), "busybox")?;
            }
            layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nwally:x:1000:1000::/:/bin/sh\n")?;
            layer.file("etc/group", 0o644, b"root:x:0:\nwally:x:1000:\nextra:x:1001:wally\n")?;
            Ok(())
        })
    }

    /// The archive as it is before compression.
    pub fn tar(&self) -> &[u8] {
        &self.tar
    }

    /// One file, for images of many layers.
    pub fn of_file(compression: Compression, path: &str, data: &[u8]) -> Result<Self> {
        Self::write(compression, |layer| layer.file(path, 0o644, data).map(|_| ()))
    }

    fn packed(&self, family: Family) -> Result<Blob> {
        let (suffix, bytes) = match self.compression {
            Compression::None => ("", self.tar.clone()),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&self.tar)?;
                ("gzip", encoder.finish()?)
            }
            Compression::Zstd => ("zstd", zstd::encode_all(self.tar.as_slice(), 1)?),
        };
        let media_type = match (family, suffix) {
            (Family::Oci, "") => "application/vnd.oci.image.layer.v1.tar".to_owned(),
            (Family::Oci, suffix) => format!("application/vnd.oci.image.layer.v1.tar+{suffix}"),
            (Family::Docker, "") => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
            (Family::Docker, suffix) => format!("application/vnd.docker.image.rootfs.diff.tar.{suffix}"),
        };
        Ok(Blob { media_type, bytes })
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Self::new()
    }
}

impl Recipe {
    /// An image without layers.
    pub fn new() -> Self {
        let config = json!({ "Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sleep", "3600"] });
        Self { family: Family::Oci, index: false, layers: Vec::new(), config }
    }

    /// The media types to use.
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Puts an index over the manifest, with another platform standing first.
    pub fn index(mut self) -> Self {
        self.index = true;
        self
    }

    /// One more layer on top.
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets a key of the image config, in Docker's spelling: `Cmd`, `Entrypoint`, `Env`, `User`, `WorkingDir`.
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Packs everything.
    pub fn build(self) -> Result<Image> {
        let (config_type, manifest_type, index_type) = match self.family {
            Family::Oci => (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.index.v1+json",
            ),
            Family::Docker => (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.distribution.manifest.list.v2+json",
            ),
        };
        let layers = self.layers.iter().map(|layer| layer.packed(self.family)).collect::<Result<Vec<_>>>()?;
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| digest(&layer.tar)).collect();
        let history: Vec<_> = diff_ids.iter().map(|_| json!({ "created_by": "windlass-test-e2e" })).collect();
        let config = Blob {
            media_type: config_type.to_owned(),
            bytes: serde_json::to_vec(&json!({
                "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": self.config,
                "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
            }))?,
        };
        let descriptors: Vec<_> = layers.iter().map(Blob::descriptor).collect();
        let manifest = Blob {
            media_type: manifest_type.to_owned(),
            bytes: serde_json::to_vec(&json!({
                "schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(), "layers": descriptors,
            }))?,
        };
        let mut image = Image {
            id: config.digest(),
            layers: layers.iter().map(Blob::digest).collect(),
            blobs: layers,
            manifests: vec![manifest.clone()],
        };
        image.blobs.push(config);
        if self.index {
            let entry = |blob: &Blob, architecture: &str| {
                let mut entry = blob.descriptor();
                entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
                entry
            };
            let mut foreign = manifest.clone();
            foreign.bytes.push(b'\n');
            let bytes = serde_json::to_vec(&json!({
                "schemaVersion": 2, "mediaType": index_type,
                "manifests": [entry(&foreign, "s390x"), entry(&manifest, "amd64")],
            }))?;
            image.manifests.insert(0, foreign);
            image.manifests.push(Blob { media_type: index_type.to_owned(), bytes });
        }
        Ok(image)
    }
}

impl Image {
    /// The plain busybox image: one gzip layer, OCI types.
    pub fn busybox() -> Result<Self> {
        Recipe::new().layer(Layer::busybox(Compression::Gzip)?).build()
    }

    /// Busybox under `extra` small layers.
    pub fn many_layers(extra: usize) -> Result<Self> {
        let mut recipe = Recipe::new().layer(Layer::busybox(Compression::Gzip)?);
        for n in 0..extra {
            recipe = recipe.layer(Layer::of_file(
                Compression::Gzip,
                &format!("layer-{n}"),
                format!("layer {n}\n").as_bytes(),
            )?);
        }
        recipe.build()
    }

    /// An artifact of some kind, each of whose files is named by its blob's title; no name: no title.
    pub fn artifact(kind: &str, files: &[(&str, &[u8])]) -> Result<Self> {
        let config = Blob { media_type: "application/vnd.oci.empty.v1+json".to_owned(), bytes: b"{}".to_vec() };
        let mut blobs = Vec::new();
        let mut descriptors = Vec::new();
        for (name, bytes) in files {
            let blob = Blob { media_type: "text/plain".to_owned(), bytes: bytes.to_vec() };
            let mut descriptor = blob.descriptor();
            if !name.is_empty() {
                descriptor["annotations"] = json!({ "org.opencontainers.image.title": name });
            }
            descriptors.push(descriptor);
            blobs.push(blob);
        }
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let bytes = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": media_type, "artifactType": kind, "config": config.descriptor(),
            "layers": descriptors, "annotations": { "org.example.made": "here" },
        }))?;
        let manifest = Blob { media_type: media_type.to_owned(), bytes };
        let layers = blobs.iter().map(Blob::digest).collect();
        blobs.push(config);
        Ok(Self { id: manifest.digest(), layers, blobs, manifests: vec![manifest] })
    }

    /// What a tag names: the index if there is one, else the manifest.
    pub fn top(&self) -> &Blob {
        &self.manifests[self.manifests.len() - 1]
    }
}
