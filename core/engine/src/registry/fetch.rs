//! A blob as a stream of exactly as many bytes as its descriptor says, across broken connections and mirrors.
//!
//! The stream knows nothing of the digest: who writes the bytes down hashes them. One stream is one chain of ranges from
//! an offset to the end; several may run over disjoint ranges of one blob.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{Method, StatusCode};
use reqwest::Response;
use url::Url;
use windlass_model::{Context, Descriptor, Error, Kind, Result};

use super::client::{Ask, Endpoint, Session, next_piece};

/// How often in a row a connection may break without having brought a byte.
const MAX_BARREN: u32 = 4;
/// How often a connection may break at all.
const MAX_BREAKS: u32 = 64;

/// A blob on its way.
#[derive(Debug)]
pub(crate) struct BlobStream {
    session: Arc<Session>,
    descriptor: Descriptor,
    /// The next byte that is wanted.
    offset: u64,
    /// Without a byte for this long, the stream ends.
    idle: Duration,
    from: Option<Source>,
    last: Option<Url>,
    barren: u32,
    breaks: u32,
}

#[derive(Debug)]
struct Source {
    response: Response,
    base: Url,
    /// Bytes to drop, from a server that does not know ranges.
    skip: u64,
}

impl BlobStream {
    /// A stream from `offset`; asks for nothing yet.
    pub(crate) fn new(session: Arc<Session>, descriptor: Descriptor, offset: u64, idle: Duration) -> Self {
        Self { session, descriptor, offset, idle, from: None, last: None, barren: 0, breaks: 0 }
    }

    /// The host that gave the last bytes.
    pub(crate) fn source(&self) -> Option<&Url> {
        self.last.as_ref()
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// `DataLoss` where the registry has fewer or more bytes than the descriptor says, `DeadlineExceeded` where none
    /// come for too long, and as [`Session::ask`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let result = self.advance().await;
        result.context(|| format!("fetch blob {}", self.descriptor.digest))
    }

    async fn advance(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.offset == self.descriptor.size {
                return self.finish().await;
            }
            let source = match &mut self.from {
                Some(source) => source,
                None => {
                    let source = self.connect().await?;
                    self.last = Some(source.base.clone());
                    self.from.insert(source)
                }
            };
            let broken = match next_piece(&mut source.response, self.idle).await {
                Ok(Some(piece)) => match take(source, piece, self.descriptor.size - self.offset)? {
                    Some(piece) => {
                        self.offset += piece.len() as u64;
                        self.barren = 0;
                        return Ok(Some(piece));
                    }
                    None => continue,
                },
                Ok(None) => {
                    Error::data_loss(format!("it ends after {} of {} bytes", self.offset, self.descriptor.size))
                }
                Err(error) if error.kind() == Kind::Unavailable => error,
                Err(error) => return Err(error),
            };
            self.from = None;
            self.barren += 1;
            self.breaks += 1;
            if self.barren >= MAX_BARREN || self.breaks >= MAX_BREAKS {
                return Err(broken);
            }
            tracing::debug!(error = %broken, offset = self.offset, "a blob's connection broke");
            tokio::time::sleep(self.session.patience.back_off * self.barren).await;
        }
    }

    /// Sees that nothing follows the last byte.
    async fn finish(&mut self) -> Result<Option<Bytes>> {
        let Some(source) = &mut self.from else { return Ok(None) };
        // With a length in its head, an answer cannot be longer; and an end that does not come is not worth waiting for.
        if source.response.content_length().is_some() {
            return Ok(None);
        }
        match next_piece(&mut source.response, Duration::from_secs(1).min(self.idle)).await {
            Ok(Some(piece)) if !piece.is_empty() => Err(too_long(self.descriptor.size)),
            _ => Ok(None),
        }
    }

    async fn connect(&self) -> Result<Source> {
        self.session.first(|host| host.pull, |endpoint| Box::pin(self.connect_to(endpoint))).await
    }

    async fn connect_to(&self, endpoint: &Endpoint) -> Result<Source> {
        let path = format!("blobs/{}", self.descriptor.digest);
        let ask = Ask { from: self.offset, ..Ask::new(Method::GET, path, "application/octet-stream, */*") };
        let response = match self.session.ask(endpoint, &ask).await {
            // Nothing lies at an offset that must hold bytes.
            Err(error) if error.kind() == Kind::OutOfRange => {
                return Err(Error::with_source(Kind::DataLoss, "the registry's blob is too short", error));
            }
            result => result?,
        };
        let skip = self.check(&response)?;
        Ok(Source { response, base: endpoint.host.base.clone(), skip })
    }

    /// Looks at the head of an answer; gives the number of bytes to drop.
    fn check(&self, response: &Response) -> Result<u64> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if partial {
            let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let first =
                range.strip_prefix("bytes ").and_then(|range| range.split('-').next()).and_then(|n| n.parse().ok());
            if first != Some(self.offset) {
                return Err(Error::data_loss(format!("asked from byte {}, the registry sent {range:?}", self.offset)));
            }
        }
        let first = if partial { self.offset } else { 0 };
        if let Some(length) = response.content_length() {
            let size = first.saturating_add(length);
            if size > self.descriptor.size {
                return Err(too_long(self.descriptor.size));
            }
            if size < self.descriptor.size {
                let expected = self.descriptor.size;
                return Err(Error::data_loss(format!("the registry has {size} bytes, the manifest says {expected}")));
            }
        }
        Ok(self.offset - first)
    }
}

fn too_long(size: u64) -> Error {
    Error::data_loss(format!("the registry sends more than the {size} bytes that the manifest says"))
}

/// What of a piece is wanted; `None` where all of it is to be dropped.
fn take(source: &mut Source, mut piece: Bytes, wanted: u64) -> Result<Option<Bytes>> {
    let drop = source.skip.min(piece.len() as u64);
    source.skip -= drop;
    // `drop` is at most the piece's length.
    let piece = piece.split_off(drop as usize);
    if piece.len() as u64 > wanted {
        return Err(too_long(wanted));
    }
    Ok((!piece.is_empty()).then_some(piece))
}
