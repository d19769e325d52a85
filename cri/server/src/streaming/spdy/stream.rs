//! One stream of a SPDY connection: offered by the client, then accepted or refused, then two independent halves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::super::pipe::Inlet;
use super::frame::Reset;
use super::headers::Headers;
use super::session::{Session, Shared};

/// A stream that the client asks for.
pub(super) struct Opened {
    pub id: u32,
    pub headers: Headers,
    pub inlet: Inlet,
    pub outlet: Outlet,
    pub session: Session,
}

/// Our half of a stream; dropping it ends the half.
pub(super) struct Outlet {
    pub shared: Arc<Shared>,
    pub id: u32,
}

impl Opened {
    /// Tells the client that the stream is served.
    pub(super) fn accept(self) -> (Inlet, Outlet) {
        self.session.reply(self.id);
        (self.inlet, self.outlet)
    }

    /// Tells the client that it is not.
    pub(super) fn refuse(self) {
        self.session.reset(self.id, Reset::Refused);
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.poll_data(context, self.id, bytes)
    }

    /// The connection's writer needs no telling.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.sent_all(self.id);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.shared.sent_all(self.id);
    }
}
