//! Bytes as they come from a client, in the pieces that frames are read by.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::idle::Clock;

/// How much is read at once, in bytes.
const BUFFER: usize = 16 * 1024;

/// The reading half of a connection.
pub(super) struct Source<R> {
    reader: BufReader<R>,
    clock: Clock,
}

impl<R: AsyncRead + Unpin> Source<R> {
    /// Reads `client` and tells `clock` that bytes come.
    pub(super) fn new(client: R, clock: Clock) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, client), clock }
    }

    /// The next `N` bytes, or `None` where the client ended before the first of them.
    ///
    /// # Errors
    /// `UnexpectedEof` where it ended between them, and what reading says.
    pub(super) async fn head<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.reader.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        self.clock.touch();
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).await?;
        Ok(Some(bytes))
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the client ended before, and what reading says.
    pub(super) async fn exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(bytes).await?;
        self.clock.touch();
        Ok(())
    }

    /// At least one and at most `most` bytes; [`Source::consume`] takes them.
    ///
    /// # Errors
    /// `UnexpectedEof` where the client ended, and what reading says.
    pub(super) async fn chunk(&mut self, most: u64) -> io::Result<&[u8]> {
        self.clock.touch();
        let chunk = self.reader.fill_buf().await?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(chunk.len());
        Ok(&chunk[..length])
    }

    /// Takes `count` bytes of the last chunk.
    pub(super) fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }
}
