//! Who comes in through a Unix socket of the daemon, and what for: the main one, and those of single tenants.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_api::Access;
use windlass_model::Namespace;

use crate::config::{Config, MainSocket, Tenant};
use crate::serve::Side;

/// How many connections one socket has at the same time; further ones wait.
const CONNECTIONS: usize = 1024;

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Users; with no groups either, whoever the socket's file lets in.
    uids: Vec<u32>,
    /// Groups, first or supplementary.
    gids: Vec<u32>,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Guest {
    stream: UnixStream,
    side: Side,
    /// The stream was given to the runtime that its connection moved to.
    settled: bool,
    _place: OwnedSemaphorePermit,
}

impl Door {
    /// The door of a tenant's socket.
    pub fn of(tenant: &Tenant) -> Self {
        Self { uids: tenant.uids.clone(), gids: tenant.gids.clone() }
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        if self.uids.is_empty() && self.gids.is_empty() {
            return true;
        }
        let Ok(peer) = stream.peer_cred() else { return false };
        let groups = || windlass_sys::peer::groups(stream).unwrap_or_default();
        let admitted = self.uids.contains(&peer.uid())
            || self.gids.contains(&peer.gid())
            || (!self.gids.is_empty() && groups().iter().any(|group| self.gids.contains(group)));
        if !admitted {
            tracing::warn!(uid = peer.uid(), gid = peer.gid(), pid = peer.pid(), "a client is not let in");
        }
        admitted
    }
}

/// What the main socket is open for.
pub fn main_access(config: &Config) -> Access {
    let cri: Namespace = config.cri.namespace.clone();
    match config.cri.main_socket {
        MainSocket::Full => Access::full(),
        MainSocket::ReadOnly => Access::guarded(cri, true),
        MainSocket::Hidden => Access::guarded(cri, false),
    }
}

/// What a tenant's socket is open for.
pub fn access(tenant: &Tenant) -> Access {
    Access::locked(tenant.namespace.clone(), tenant.also.iter().cloned())
}

/// Those who come and are let in; the others are hung up on.
pub fn guests(listener: UnixListener, door: Door) -> impl Stream<Item = io::Result<Guest>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    futures::stream::unfold((listener, door, places), |(listener, door, places)| async move {
        loop {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, _)) if door.admits(&stream) => {
                    return Some((Ok(Guest::new(stream, place)), (listener, door, places)));
                }
                Ok(_) => {}
                Err(error) => return Some((Err(error), (listener, door, places))),
            }
        }
    })
}

impl Guest {
    fn new(stream: UnixStream, place: OwnedSemaphorePermit) -> Self {
        Self { stream, side: Side::default(), settled: false, _place: place }
    }

    /// What is known of who it is.
    pub fn side(&self) -> Side {
        self.side.clone()
    }

    /// Once the connection has moved: has its new runtime tell of the stream, so that the old one is not woken for it.
    fn settle(&mut self) {
        if self.settled || !self.side.has_moved() {
            return;
        }
        self.settled = true;
        // Where that fails the old one goes on to tell.
        let again = self.stream.as_fd().try_clone_to_owned().and_then(|fd| UnixStream::from_std(fd.into()));
        match again {
            Ok(stream) => self.stream = stream,
            Err(error) => tracing::debug!(%error, "a connection stays with its first runtime"),
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.settle();
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_door_looks_at_user_and_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = one.peer_cred().unwrap();
        let door = |uids: &[u32], gids: &[u32]| Door { uids: uids.into(), gids: gids.into() };
        assert!(Door::default().admits(&one));
        assert!(door(&[peer.uid()], &[]).admits(&one));
        assert!(door(&[], &[peer.gid()]).admits(&one));
        assert!(!door(&[peer.uid() + 1], &[]).admits(&one));
        assert!(!door(&[peer.uid() + 1], &[987_654]).admits(&one));
    }
}
