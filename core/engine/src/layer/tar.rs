//! Tar archives as a stream of entries: POSIX ustar and PAX, GNU long names and numbers, and all forms of sparse files.
//!
//! An archive is a row of 512-byte blocks. A header block describes an entry, whose bytes follow, filled up to a block;
//! two blocks of zeros end the archive. Names or numbers that do not fit a header stand in entries before it: PAX records
//! (type `x`; POSIX.1-2001, pax) or GNU's `L` and `K`. A sparse file's map stands in the header (GNU `S`), in PAX
//! records (0.0 and 0.1), or before its bytes (1.0; GNU tar manual, "Sparse Formats"). Global PAX records are passed
//! over, as Go's archive/tar, with which the images of this world are made and read, does.
//!
//! Memory is bounded whatever the archive says: a special entry or a sparse map takes at most 1 MiB.

mod header;
mod pax;
mod sparse;
mod write;

use std::io::BufRead;

use windlass_model::{Error, Result};

use self::header::{BLOCK, Header};
use self::pax::Pax;
pub(super) use self::sparse::Extent;
pub(crate) use self::write::Builder;
use super::error_of;

/// The longest PAX header, long name or sparse map, in bytes.
const MAX_SPECIAL: u64 = 1 << 20;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// An entry, all its headers taken together. Names are bytes as they stand in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// What a link points at.
    pub(crate) link: Vec<u8>,
    /// Permissions and the set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file, its whole size and where its bytes belong, in order.
    pub(crate) sparse: Option<(u64, Vec<Extent>)>,
}

/// An archive being read.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    reader: R,
    /// Bytes of the present entry that were not read yet.
    left: u64,
    /// Bytes after them up to a whole block.
    padding: u64,
}

pub(super) fn damaged(why: impl Into<String>) -> Error {
    Error::data_loss(format!("the tar archive is damaged: {}", why.into()))
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, left: 0, padding: 0 }
    }

    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry; what was not read of the last one is passed over. `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.pass_over()?;
            let Some(block) = self.header_block()? else { return Ok(None) };
            let header = Header::new(&block)?;
            self.enter(header.size()?);
            match header.type_flag() {
                b'x' => pax = Pax::parse(&self.special()?)?,
                b'L' => long_name = Some(until_zero(self.special()?)),
                b'K' => long_link = Some(until_zero(self.special()?)),
                // Global records, volume labels and continued files.
                b'g' | b'V' | b'M' | b'N' => {}
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// Some of the present entry's bytes; empty after the last. What was used is to be [consumed](Self::consume).
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = self.reader.fill_buf().map_err(error_of)?;
        if bytes.is_empty() {
            return Err(damaged("it ends within an entry"));
        }
        Ok(&bytes[..bytes.len().min(left)])
    }

    /// How many of the present entry's bytes are still to be read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Marks bytes that [`Self::fill`] gave as read.
    pub(crate) fn consume(&mut self, amount: usize) {
        let amount = amount.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.reader.consume(amount);
        self.left -= amount as u64;
    }

    fn enter(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn pass_over(&mut self) -> Result<()> {
        self.left = self.left.checked_add(self.padding).ok_or_else(|| damaged("an entry has an impossible size"))?;
        self.padding = 0;
        loop {
            let length = self.fill()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    /// The next block that is not the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        // Two blocks of zeros end an archive; one and nothing after it, or nothing at all, is let pass.
        for _ in 0..2 {
            match self.block()? {
                Some(block) if block.iter().any(|byte| *byte != 0) => return Ok(Some(block)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = self.reader.fill_buf().map_err(error_of)?;
            if bytes.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(damaged("it ends within a header")) };
            }
            let length = bytes.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&bytes[..length]);
            self.reader.consume(length);
            filled += length;
        }
        Ok(Some(block))
    }

    /// The whole of a special entry.
    fn special(&mut self) -> Result<Vec<u8>> {
        if self.left > MAX_SPECIAL {
            return Err(damaged(format!("a special entry of {} bytes is longer than 1 MiB", self.left)));
        }
        let mut bytes = Vec::new();
        loop {
            let piece = self.fill()?;
            let length = piece.len();
            if length == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(piece);
            self.consume(length);
        }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let path = pax.path.take().or(long_name).unwrap_or_else(|| header.path());
        let kind = header.kind(&path)?;
        let payload = match kind {
            EntryKind::File => pax.size.unwrap_or(header.size()?),
            // Old archives give the size of the target with a link; no bytes follow.
            _ => 0,
        };
        self.enter(payload);
        let sparse = if kind == EntryKind::File { self.sparse(header, &pax)? } else { None };
        let device = matches!(kind, EntryKind::Character | EntryKind::Block);
        let entry = Entry {
            path: pax.sparse.name.take().unwrap_or(path),
            kind,
            link: pax.link.take().or(long_link).unwrap_or_else(|| header.link()),
            mode: header.mode()?,
            uid: owner(pax.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: owner(pax.gid.map_or_else(|| header.gid(), Ok)?)?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            device: if device { header.device()? } else { (0, 0) },
            xattrs: pax.xattrs,
            sparse,
        };
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(damaged("a name holds a zero byte"));
        }
        Ok(entry)
    }

    fn sparse(&mut self, header: &Header<'_>, pax: &Pax) -> Result<Option<(u64, Vec<Extent>)>> {
        let (size, extents) = if header.type_flag() == b'S' {
            // The map goes on in blocks between the header and the bytes; they are not part of the size.
            let mut map = header.sparse_map()?;
            let payload = self.left;
            while map.continues {
                let block = self.block()?.ok_or_else(|| damaged("it ends within a sparse map"))?;
                map.extend(&block)?;
            }
            self.enter(payload);
            (map.size, map.extents)
        } else if pax.sparse.has_map_in_data() {
            let size = pax.sparse.size.ok_or_else(|| damaged("a sparse file has no size"))?;
            (size, self.map_in_data()?)
        } else if let Some(size) = pax.sparse.size {
            (size, pax.sparse.extents()?)
        } else {
            return Ok(None);
        };
        sparse::check(size, &extents, self.left)?;
        Ok(Some((size, extents)))
    }

    /// Sparse format 1.0: decimal numbers, one on each line, filled up to a block.
    fn map_in_data(&mut self) -> Result<Vec<Extent>> {
        let mut text = Vec::new();
        let mut parser = sparse::TextMap::default();
        while !parser.is_complete() {
            if text.len() as u64 >= MAX_SPECIAL || self.left < BLOCK as u64 {
                return Err(damaged("a sparse map does not end"));
            }
            let block = self.block()?.ok_or_else(|| damaged("it ends within a sparse map"))?;
            self.left -= BLOCK as u64;
            text.extend_from_slice(&block);
            parser.feed(&block)?;
        }
        parser.extents()
    }
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// A user or group; the highest number means "nobody in particular" to chown and is no owner.
fn owner(number: u64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(owner) if owner != u32::MAX => Ok(owner),
        _ => Err(damaged(format!("{number} is no user or group"))),
    }
}
