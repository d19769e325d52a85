//! Encoded frames on their way to one client: a bounded queue with one writer.
//!
//! Data waits while [`DATA`] bytes are queued, so a client that does not read stops the processes that write to it.
//! Control frames never wait, because their makers must not; instead the connection's reader stops asking for more of
//! them while [`CONTROL`] bytes are queued ([`Outbox::room`]), so that a client cannot fill memory with pings.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use futures::future::poll_fn;
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::idle::Clock;

/// From how many queued bytes on data waits.
const DATA: usize = 64 * 1024;

/// From how many queued bytes on the reader waits.
const CONTROL: usize = 2 * DATA;

/// A handle on the queue.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Shared>);

struct Shared {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: BytesMut,
    /// No frames are taken any more; the writer ends with the queue.
    finished: bool,
    /// The client is gone.
    broken: bool,
    writer: Option<Waker>,
    waiting: Vec<Waker>,
}

impl Outbox {
    /// An empty queue; its writer tells `clock` that bytes go.
    pub(super) fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared { clock, state: Mutex::default() }))
    }

    /// Queues a control frame. What comes after the end goes nowhere.
    pub(super) fn push(&self, encode: impl FnOnce(&mut BytesMut)) {
        let writer = {
            let mut state = self.0.state.lock();
            if state.finished || state.broken {
                return;
            }
            encode(&mut state.queue);
            state.writer.take()
        };
        writer.into_iter().for_each(Waker::wake);
    }

    /// Queues a data frame once there is room.
    ///
    /// # Errors
    /// `BrokenPipe` after the end.
    pub(super) fn poll_push<T>(
        &self,
        context: &mut Context<'_>,
        encode: impl FnOnce(&mut BytesMut) -> T,
    ) -> Poll<io::Result<T>> {
        let (encoded, writer) = {
            let mut state = self.0.state.lock();
            if state.finished || state.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if state.queue.len() >= DATA {
                state.wait(context);
                return Poll::Pending;
            }
            (encode(&mut state.queue), state.writer.take())
        };
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(encoded))
    }

    /// Waits until control frames may be caused again.
    pub(super) async fn room(&self) {
        poll_fn(|context| {
            let mut state = self.0.state.lock();
            if state.queue.len() < CONTROL || state.finished || state.broken {
                return Poll::Ready(());
            }
            state.wait(context);
            Poll::Pending
        })
        .await;
    }

    /// Takes no more frames; what is queued is still written.
    pub(super) fn finish(&self) {
        self.end(|state| state.finished = true);
    }

    /// Forgets what is queued: the client is gone.
    pub(super) fn fail(&self) {
        self.end(|state| {
            state.broken = true;
            state.queue = BytesMut::new();
        });
    }

    fn end(&self, change: impl FnOnce(&mut State)) {
        let (writer, waiting) = {
            let mut state = self.0.state.lock();
            change(&mut state);
            (state.writer.take(), std::mem::take(&mut state.waiting))
        };
        writer.into_iter().chain(waiting).for_each(Waker::wake);
    }

    /// Writes the queue to the client until it is finished and empty, then closes this direction.
    ///
    /// # Errors
    /// Where the client cannot be written to; then the queue is broken.
    pub(super) async fn write_to(&self, mut client: impl AsyncWrite + Unpin) -> io::Result<()> {
        let written = async {
            while let Some(chunk) = poll_fn(|context| self.poll_take(context)).await {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let count = client.write(rest).await?;
                    if count == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    self.0.clock.touch();
                    rest = &rest[count..];
                }
                client.flush().await?;
            }
            client.shutdown().await
        }
        .await;
        self.fail();
        written
    }

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Option<BytesMut>> {
        let (chunk, waiting) = {
            let mut state = self.0.state.lock();
            if state.queue.is_empty() {
                if state.finished || state.broken {
                    return Poll::Ready(None);
                }
                state.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.waiting))
        };
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(chunk))
    }
}

impl State {
    fn wait(&mut self, context: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn put(outbox: &Outbox, bytes: &[u8]) -> Option<io::Result<()>> {
        poll_fn(|context| outbox.poll_push(context, |queue| queue.extend_from_slice(bytes))).now_or_never()
    }

    #[tokio::test]
    async fn data_waits_while_control_passes() {
        let outbox = Outbox::new(Clock::new());
        assert!(put(&outbox, &[0; DATA]).unwrap().is_ok());
        assert!(put(&outbox, &[0; 1]).is_none(), "the queue is full");
        outbox.push(|queue| queue.extend_from_slice(&[1; DATA]));
        assert!(outbox.room().now_or_never().is_none(), "full of control frames too");
        outbox.finish();
        assert!(put(&outbox, &[0; 1]).unwrap().is_err(), "nothing comes after the end");
        let mut written = Vec::new();
        outbox.write_to(&mut written).await.unwrap();
        assert_eq!(written.len(), 2 * DATA);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_breaks_the_queue() {
        let outbox = Outbox::new(Clock::new());
        let (ours, theirs) = tokio::io::duplex(16);
        drop(theirs);
        put(&outbox, b"never read").unwrap().unwrap();
        outbox.write_to(ours).await.unwrap_err();
        assert_eq!(put(&outbox, b"x").unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
