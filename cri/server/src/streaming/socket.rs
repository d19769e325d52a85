//! A client's TCP connection, and the eye on it that sees a client leave whose bytes nobody reads.
//!
//! Back-pressure means not to read, and who does not read does not see the end. The kernel tells it all the same.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::idle::Clock;

/// A connection that can be watched while it is used.
pub(super) struct Socket(Arc<TcpStream>);

/// The eye.
#[derive(Clone)]
pub(super) struct Watch(Arc<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> (Self, Watch) {
        let stream = Arc::new(stream);
        (Self(stream.clone()), Watch(stream))
    }
}

impl Watch {
    /// Ends when the client has closed and, for a while, nothing that it had still sent was taken from the connection.
    pub(super) async fn hung_up(&self, clock: &Clock) {
        const WHILE: Duration = Duration::from_secs(5);
        loop {
            clock.still_for(WHILE).await;
            match self.0.ready(Interest::READABLE).now_or_never() {
                Some(Ok(ready)) if ready.is_read_closed() => return,
                Some(Err(_)) => return,
                _ => tokio::time::sleep(WHILE).await,
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// A socket holds nothing back.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write).map_err(io::Error::from))
    }
}
