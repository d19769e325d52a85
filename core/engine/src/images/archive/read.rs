//! The reading of an archive, front to back and once: its documents are kept in memory, all other files become blobs.

use std::collections::{BTreeMap, HashMap};
use std::io::BufReader;
use std::io::Read;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, LeaseId, Result};

use super::format::{self, MAX_DOCUMENT};
use crate::Tenant;
use crate::content::{Sealed, Writer};
use crate::layer::tar::{Archive, Entry, EntryKind};

/// How much of the archive is read at once.
const READ: usize = 256 << 10;
/// How many entries an archive may have.
const MAX_ENTRIES: usize = 1 << 16;

/// A blob that came in an archive, or was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// What an archive holds.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) layout: Option<Vec<u8>>,
    pub(super) index: Option<Vec<u8>>,
    pub(super) docker: Option<Vec<u8>>,
    /// Files by their names.
    pub(super) files: HashMap<String, Stored>,
    /// Links by their names, and where they lead.
    pub(super) links: HashMap<String, String>,
    /// Blobs that wait for their record; dropped, they go away.
    pub(super) sealed: BTreeMap<Digest, Sealed>,
}

/// A reading under way, on a thread that may block.
pub(super) struct Reading {
    pub(super) tenant: Tenant,
    pub(super) runtime: Handle,
    /// Holds blobs that are known already.
    pub(super) lease: LeaseId,
    pub(super) stop: CancellationToken,
}

impl Parts {
    /// The blob that is called `name`.
    pub(super) fn file(&self, name: &str) -> Result<Stored> {
        let plain = format::plain(name.as_bytes())?;
        let found = self.files.get(format::follow(&plain, &self.links)?);
        found.copied().ok_or_else(|| Error::data_loss(format!("the archive has no file {name:?}")))
    }
}

impl Reading {
    pub(super) fn run(&self, source: impl Read) -> Result<Parts> {
        let mut archive = Archive::new(BufReader::with_capacity(READ, source));
        let mut parts = Parts::default();
        let mut entries = 0;
        while let Some(entry) = archive.next()? {
            entries += 1;
            if entries > MAX_ENTRIES {
                let message = format!("the archive has more than {MAX_ENTRIES} entries");
                return Err(Error::new(Kind::ResourceExhausted, message));
            }
            self.entry(&mut archive, &entry, &mut parts)?;
        }
        if entries == 0 {
            return Err(Error::data_loss("the archive is empty"));
        }
        Ok(parts)
    }

    fn entry<R: std::io::BufRead>(&self, archive: &mut Archive<R>, entry: &Entry, parts: &mut Parts) -> Result<()> {
        let path = format::plain(&entry.path)?;
        match entry.kind {
            EntryKind::File if entry.sparse.is_none() => {}
            EntryKind::File => return Err(Error::unimplemented(format!("{path:?} of the archive is a sparse file"))),
            EntryKind::Symlink | EntryKind::HardLink => {
                let target = match entry.kind {
                    EntryKind::Symlink => format::link(&path, &entry.link),
                    _ => format::plain(&entry.link),
                };
                // What nothing refers to may lead anywhere.
                if let Ok(target) = target {
                    parts.links.insert(path, target);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        match path.as_str() {
            "oci-layout" => parts.layout = Some(self.document(archive, &path)?),
            "index.json" => parts.index = Some(self.document(archive, &path)?),
            "manifest.json" => parts.docker = Some(self.document(archive, &path)?),
            // What older versions of Docker want beside.
            "repositories" | "version" => {}
            _ if path.ends_with("/VERSION") || path.ends_with("/json") => {}
            _ => {
                let stored = self.blob(archive, &path, parts).context(|| format!("file {path:?} of the archive"))?;
                parts.files.insert(path, stored);
            }
        }
        Ok(())
    }

    fn document<R: std::io::BufRead>(&self, archive: &mut Archive<R>, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let piece = archive.fill()?;
            let length = piece.len();
            if length == 0 {
                return Ok(bytes);
            }
            if (bytes.len() + length) as u64 > MAX_DOCUMENT {
                return Err(Error::data_loss(format!("{path} of the archive is longer than {MAX_DOCUMENT} bytes")));
            }
            bytes.extend_from_slice(piece);
            archive.consume(length);
        }
    }

    /// Writes a file down. One that is named by its digest must have it, and is passed over where this machine has it.
    fn blob<R: std::io::BufRead>(&self, archive: &mut Archive<R>, path: &str, parts: &mut Parts) -> Result<Stored> {
        let size = archive.left();
        let named =
            path.strip_prefix("blobs/sha256/").map(|hex| format!("sha256:{hex}").parse::<Digest>()).transpose()?;
        if let Some(digest) = named {
            if parts.sealed.contains_key(&digest) {
                return Ok(Stored { digest, size });
            }
            if self.adopt(digest, size)? {
                return Ok(Stored { digest, size });
            }
        }
        self.ingest(parts, |writer| {
            self.copy(archive, writer)?;
            let digest = writer.digest()?;
            match named.filter(|named| *named != digest) {
                Some(named) => Err(Error::data_loss(format!("its digest is {digest}, not {named}"))),
                None => Ok(()),
            }
        })
    }

    /// Makes a blob of what `fill` writes; a part of one is thrown away, as nobody would ever resume it.
    pub(super) fn ingest(&self, parts: &mut Parts, fill: impl FnOnce(&mut Writer) -> Result<()>) -> Result<Stored> {
        let reference = format!("{}-{}", self.lease, uuid::Uuid::new_v4());
        let content = self.tenant.content();
        let mut writer = self.runtime.block_on(content.ingest(&reference, None, Some(&self.lease)))?;
        match fill(&mut writer).and_then(|()| Ok((writer.digest()?, writer.offset()))) {
            Ok((digest, size)) => {
                let sealed = self.runtime.block_on(writer.seal(size, &digest))?;
                parts.sealed.insert(digest, sealed);
                Ok(Stored { digest, size })
            }
            Err(error) => {
                self.runtime.block_on(writer.abort())?;
                Err(error)
            }
        }
    }

    fn copy<R: std::io::BufRead>(&self, archive: &mut Archive<R>, writer: &mut Writer) -> Result<()> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Error::new(Kind::Canceled, "the import was given up"));
            }
            let piece = archive.fill()?;
            let length = piece.len();
            if length == 0 {
                return Ok(());
            }
            writer.write_blocking(piece)?;
            archive.consume(length);
        }
    }

    /// True where this machine has the blob; the lease holds it then.
    fn adopt(&self, digest: Digest, size: u64) -> Result<bool> {
        let wanted = descriptor("", digest, size);
        match self.runtime.block_on(self.tenant.content().adopt(&wanted, Some(&self.lease))) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    let (annotations, urls) = Default::default();
    Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations, urls }
}
