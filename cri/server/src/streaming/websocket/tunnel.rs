//! A byte stream in binary messages, whose borders mean nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::super::outbox::Outbox;
use super::frame::{self, Data, OpCode};

/// Our direction of the tunnel.
pub(super) struct Outlet(Outbox);

impl Outlet {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self(outbox)
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        const LONGEST: usize = 32 * 1024;
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        self.0.poll_push(context, |out| {
            frame::put(out, OpCode::Data(Data::Binary), &[bytes]);
            bytes.len()
        })
    }

    /// The connection's writer needs no telling.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The tunnel ends with its connection.
    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
