//! Where a layer's bytes go: into the content file, and from there on into the unpacking, on one thread that may block.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::Receiver;
use windlass_model::snapshotter::LayerTarget;
use windlass_model::{Error, Kind, Result};

use crate::content::Writer;
use crate::layer::{Limits, Unpacked, unpack};

/// What became of the bytes.
pub(super) struct Sunk {
    pub(super) writer: Writer,
    /// Whether all that came was written down.
    pub(super) written: Result<()>,
    /// The unpacking, where it was asked for.
    pub(super) unpacked: Option<Result<Unpacked>>,
}

/// The arriving bytes, each written down before it is read.
struct Arriving {
    writer: Writer,
    receiver: Receiver<Bytes>,
    piece: Bytes,
    failed: Option<Error>,
}

impl Arriving {
    fn refill(&mut self) -> io::Result<()> {
        while self.piece.is_empty() {
            let Some(piece) = self.receiver.blocking_recv() else { return Ok(()) };
            if let Err(error) = self.writer.write_blocking(&piece) {
                self.receiver.close();
                let told = io::Error::other(error.share());
                self.failed = Some(error);
                return Err(told);
            }
            self.piece = piece;
        }
        Ok(())
    }

    fn drain(&mut self) {
        loop {
            self.piece = Bytes::new();
            if self.refill().is_err() || self.piece.is_empty() {
                return;
            }
        }
    }
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Arriving {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.refill()?;
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount.min(self.piece.len()));
    }
}

/// Writes down what comes, and unpacks it into `target` on the way. Blocks until the sender is gone.
pub(super) fn sink(writer: Writer, receiver: Receiver<Bytes>, target: Option<(LayerTarget, String)>) -> Sunk {
    let mut arriving = Arriving { writer, receiver, piece: Bytes::new(), failed: None };
    let unpacked = target.map(|(target, media_type)| unpack(&mut arriving, &media_type, &target, &Limits::default()));
    match &unpacked {
        // No room for the layer is none for its blob.
        Some(Err(error)) if error.kind() == Kind::ResourceExhausted => {
            arriving.receiver.close();
            arriving.failed.get_or_insert_with(|| error.share());
        }
        // Bytes that are no layer may be wrong bytes, which only the digest of all of them can tell.
        _ => arriving.drain(),
    }
    let Arriving { writer, failed, .. } = arriving;
    Sunk { writer, written: failed.map_or(Ok(()), Err), unpacked }
}
