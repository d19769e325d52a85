//! Layers: tar streams, compressed or not, that become folders.
//!
//! Everything here blocks and reads its input once, front to back, so that it can sit at the end of a download. Nothing
//! is believed: the stream has limits, each path is opened beneath the root, and the caller gets the digest of what was
//! unpacked, to be compared before the folder is used for anything.

mod apply;
mod compress;
pub(crate) mod diff;
mod inherit;
pub(crate) mod tar;

use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use windlass_model::snapshotter::LayerTarget;
use windlass_model::{Context, Digest, Error, Kind, Result};

pub(crate) use compress::{Compression, Packer, check_media_type};
pub(crate) use inherit::inherit;

/// How much is decompressed and hashed at once.
const BUFFER: usize = 256 << 10;

/// What a layer may grow to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the uncompressed stream.
    pub(crate) bytes: u64,
    /// Entries.
    pub(crate) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1 << 40, entries: 1 << 26 }
    }
}

/// A layer that became a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// The digest of the uncompressed stream.
    pub(crate) diff_id: Digest,
    /// Bytes of the uncompressed stream.
    pub(crate) size: u64,
    /// Folders that the stream only implied by what lies in them; see [`inherit`].
    pub(crate) implied: Vec<PathBuf>,
}

/// Decompressed bytes, hashed and counted as they are read.
struct Measured<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    hash: Sha256,
    size: u64,
    limit: u64,
}

impl<R: Read> Measured<R> {
    fn new(inner: R, limit: u64) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { inner, buffer, start: 0, end: 0, hash: Sha256::new(), size: 0, limit }
    }

    fn refill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        // Whole buffers hash faster than the bits that a decompressor likes to give.
        while self.end < self.buffer.len() {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.hash.update(&self.buffer[..self.end]);
        self.size += self.end as u64;
        if self.size > self.limit {
            let limit = self.limit;
            return Err(io::Error::other(Error::new(
                Kind::ResourceExhausted,
                format!("it unpacks to more than the limit of {limit} bytes"),
            )));
        }
        Ok(())
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: Read> BufRead for Measured<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.refill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}

/// Unpacks the layer that `source` holds into `target`.
///
/// # Errors
/// `InvalidArgument` and `DataLoss` for a stream that is no layer, `ResourceExhausted` past a limit or on a full disk,
/// and whatever `source` fails with, if it wraps an [`Error`]. The folder then holds a part of the layer.
pub(crate) fn unpack(
    source: impl BufRead,
    media_type: &str,
    target: &LayerTarget,
    limits: &Limits,
) -> Result<Unpacked> {
    let decoder = compress::decoder(source, media_type)?;
    let mut archive = tar::Archive::new(Measured::new(decoder, limits.bytes));
    let implied = apply::apply(&mut archive, target, limits).context(|| "unpack".into())?;
    let mut rest = archive.into_inner();
    // What follows the archive's end belongs to the digest.
    loop {
        let length = rest.fill_buf().map_err(error_of)?.len();
        if length == 0 {
            break;
        }
        rest.consume(length);
    }
    Ok(Unpacked { diff_id: Digest::from_bytes(rest.hash.finalize().into()), size: rest.size, implied })
}

/// What the kernel's refusal means.
fn os(error: rustix::io::Errno) -> Error {
    io::Error::from(error).into()
}

/// The [`Error`] that an I/O error carries, or what it means.
fn error_of(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        // A decompressor that meets rubbish says so in many kinds.
        Err(error) if error.raw_os_error().is_none() => {
            Error::with_source(Kind::DataLoss, "the stream is damaged", error)
        }
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests;
