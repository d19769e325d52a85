//! The life of one upgraded connection: its reader, its writer and what it serves, in one task.
//!
//! Served to the end: the farewell goes out after all that was written, and the client gets a moment to close first, so
//! that nothing on its way is lost to a reset. Client gone (or idle, or breaking the rules): its socket is closed at
//! once, and what is served may end on its own, by its ended inputs and broken outputs, for [`PARTING`]; then it is
//! dropped, which has an exec's program hang up.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::idle::Clock;
use super::outbox::Outbox;
use super::socket::Watch;

/// How long a client may take to close after the farewell.
const LINGER: Duration = Duration::from_secs(5);

/// How long a session may take to notice that its client is gone; one that is silent never would.
const PARTING: Duration = Duration::from_secs(1);

/// How long a client that breaks the rules may take to be told so.
const REBUKE: Duration = Duration::from_secs(1);

/// When a connection ends that neither side ends.
#[derive(Clone)]
pub(super) struct Terms {
    /// How long it may be still.
    pub idle: Duration,
    /// The daemon stops.
    pub stop: CancellationToken,
    /// Sees a client leave whose bytes wait; `None` where another connection carries this one.
    pub watch: Option<Watch>,
}

/// What a connection consists of.
pub(super) struct Link {
    /// Frames to the client.
    pub outbox: Outbox,
    /// When it last moved.
    pub clock: Clock,
    idle: Duration,
    watch: Option<Watch>,
}

impl Link {
    /// A connection on these terms.
    pub(super) fn new(terms: &Terms) -> Self {
        let clock = Clock::new();
        Self { outbox: Outbox::new(clock.clone()), clock, idle: terms.idle, watch: terms.watch.clone() }
    }

    /// Runs until everything has ended. `read` ends with the client or its first violation, `write` drains the outbox,
    /// `serve` is the session; `gone` ends the session's inputs and `farewell` says good-bye.
    pub(super) async fn run(
        self,
        read: impl Future<Output = ()>,
        write: impl Future<Output = io::Result<()>>,
        serve: impl Future<Output = ()>,
        gone: impl FnOnce(),
        farewell: impl FnOnce(),
    ) {
        let Self { outbox, clock, idle, watch } = self;
        let hung_up = async {
            match &watch {
                Some(watch) => watch.hung_up(&clock).await,
                None => std::future::pending().await,
            }
        };
        // In boxes, because the socket must be closed while the session may still run.
        let (mut read, mut write) = (Box::pin(read), Box::pin(write));
        let mut serve = std::pin::pin!(serve);
        let served = tokio::select! {
            biased;
            () = &mut serve => true,
            () = &mut read => false,
            _ = &mut write => {
                gone();
                drop((read, write));
                let _ = tokio::time::timeout(PARTING, serve).await;
                return;
            }
            () = clock.still_for(idle) => false,
            () = hung_up => false,
        };
        if served {
            farewell();
            outbox.finish();
            let _ = tokio::select! {
                written = &mut write => written,
                // The client may still close, or break the rules, before it has read everything.
                () = &mut read => Ok(()),
                () = clock.still_for(idle) => Ok(()),
            };
            outbox.fail();
            let _ = tokio::time::timeout(LINGER, read).await;
            return;
        }
        gone();
        outbox.finish();
        let _ = tokio::time::timeout(REBUKE, &mut write).await;
        outbox.fail();
        drop((read, write));
        let _ = tokio::time::timeout(PARTING, serve).await;
    }
}
