//! Bytes that came for one stream and wait for their reader: bounded, so that a reader that stalls stalls its client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use futures::future::poll_fn;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};

/// Told how many bytes the reader has taken.
pub(super) type Taken = Box<dyn Fn(usize) + Send + Sync>;

/// The side that the connection fills.
pub(super) struct Feeder(Arc<Pipe>);

/// The side that is read; dropping it lets everything that still comes go nowhere.
pub(super) struct Inlet(Arc<Pipe>);

struct Pipe {
    limit: usize,
    taken: Taken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: BytesMut,
    end: Option<End>,
    unread: bool,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    Broken,
}

/// A pipe that holds at most `limit` bytes and says what is read from it.
pub(super) fn pipe(limit: usize, taken: Taken) -> (Feeder, Inlet) {
    let pipe = Arc::new(Pipe { limit, taken, state: Mutex::default() });
    (Feeder(pipe.clone()), Inlet(pipe))
}

impl Feeder {
    /// Puts all of `chunk` in, waiting for room where there is none.
    pub(super) async fn feed(&self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            let fed = poll_fn(|context| self.poll_feed(context, chunk)).await;
            chunk = &chunk[fed..];
        }
    }

    fn poll_feed(&self, context: &mut Context<'_>, chunk: &[u8]) -> Poll<usize> {
        let (fed, waker) = {
            let mut state = self.0.state.lock();
            if state.unread || state.end.is_some() {
                drop(state);
                (self.0.taken)(chunk.len());
                return Poll::Ready(chunk.len());
            }
            let room = self.0.limit.saturating_sub(state.bytes.len());
            if room == 0 {
                state.feeder = Some(context.waker().clone());
                return Poll::Pending;
            }
            let fed = room.min(chunk.len());
            state.bytes.extend_from_slice(&chunk[..fed]);
            (fed, state.reader.take())
        };
        wake(waker);
        Poll::Ready(fed)
    }

    /// No more comes: the client has closed its half.
    pub(super) fn end(&self) {
        self.close(End::Whole);
    }

    /// No more comes, and what came may not be all.
    pub(super) fn fail(&self) {
        self.close(End::Broken);
    }

    fn close(&self, end: End) {
        let wakers = {
            let mut state = self.0.state.lock();
            state.end.get_or_insert(end);
            [state.reader.take(), state.feeder.take()]
        };
        wakers.into_iter().for_each(wake);
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.fail();
    }
}

impl AsyncRead for Inlet {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (count, feeder) = {
            let mut state = self.0.state.lock();
            let count = state.bytes.len().min(buffer.remaining());
            if count == 0 && buffer.remaining() > 0 {
                return match state.end {
                    Some(End::Whole) => Poll::Ready(Ok(())),
                    Some(End::Broken) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                    None => {
                        state.reader = Some(context.waker().clone());
                        Poll::Pending
                    }
                };
            }
            buffer.put_slice(&state.bytes[..count]);
            state.bytes.advance(count);
            if state.bytes.is_empty() {
                // An idle session holds no buffer.
                state.bytes = BytesMut::new();
            }
            (count, state.feeder.take())
        };
        wake(feeder);
        (self.0.taken)(count);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let (left, feeder) = {
            let mut state = self.0.state.lock();
            state.unread = true;
            (std::mem::take(&mut state.bytes).len(), state.feeder.take())
        };
        wake(feeder);
        if left > 0 {
            (self.0.taken)(left);
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn counted(limit: usize) -> (Feeder, Inlet, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let taken = count.clone();
        let (feeder, inlet) = pipe(
            limit,
            Box::new(move |bytes| {
                taken.fetch_add(bytes, Ordering::Relaxed);
            }),
        );
        (feeder, inlet, count)
    }

    #[tokio::test]
    async fn a_full_pipe_waits_for_its_reader() {
        let (feeder, mut inlet, taken) = counted(4);
        assert!(feeder.feed(b"abcd").now_or_never().is_some());
        let mut more = Box::pin(feeder.feed(b"ef"));
        assert!(more.as_mut().now_or_never().is_none());
        let mut buffer = [0; 3];
        inlet.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"abc");
        assert_eq!(taken.load(Ordering::Relaxed), 3);
        more.await;
        feeder.end();
        let mut rest = Vec::new();
        inlet.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"def");
    }

    #[tokio::test]
    async fn a_pipe_without_a_reader_swallows_and_counts() {
        let (feeder, inlet, taken) = counted(4);
        feeder.feed(b"abcd").await;
        drop(inlet);
        feeder.feed(b"0123456789").await;
        assert_eq!(taken.load(Ordering::Relaxed), 14);
    }

    #[tokio::test]
    async fn a_broken_pipe_gives_what_it_has_and_then_an_error() {
        let (feeder, mut inlet, _) = counted(4);
        feeder.feed(b"ab").await;
        drop(feeder);
        let mut all = Vec::new();
        let error = inlet.read_to_end(&mut all).await.unwrap_err();
        assert_eq!((all.as_slice(), error.kind()), (&b"ab"[..], io::ErrorKind::ConnectionAborted));
    }
}
