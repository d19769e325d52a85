//! An exec or attach whose streams are open: it runs, then the error stream says how it ended.

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use windlass_model::{Error, Result};

use super::status::Report;
use super::{AttachSession, ExecSession, Input, Output, PortForwardSession, Streams};

/// What the streaming server needs of the CRI server: the sessions themselves.
#[async_trait]
pub(crate) trait Host: Send + Sync + 'static {
    /// Runs a program over its streams and answers its exit code.
    async fn exec(&self, session: ExecSession, streams: Streams) -> Result<i32>;

    /// Joins a container's streams until either side has had enough.
    async fn attach(&self, session: AttachSession, streams: Streams) -> Result<()>;

    /// Carries one connection to a port of a pod.
    async fn port(&self, session: &PortForwardSession, port: u16, input: Input, output: Output) -> Result<()>;
}

/// An exec or an attach.
pub(super) enum Command {
    Exec(ExecSession),
    Attach(AttachSession),
}

/// Which streams a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Command {
    /// The streams that were asked for.
    pub(super) fn wanted(&self) -> Wanted {
        match self {
            Self::Exec(ExecSession { stdin, stdout, stderr, tty, .. })
            | Self::Attach(AttachSession { stdin, stdout, stderr, tty, .. }) => {
                Wanted { stdin: *stdin, stdout: *stdout, stderr: *stderr && !*tty, tty: *tty }
            }
        }
    }

    /// Runs to the end, or until the daemon stops, and says so on `errors`.
    pub(super) async fn run(
        self,
        host: &dyn Host,
        streams: Streams,
        mut errors: Output,
        report: Report,
        stop: &CancellationToken,
    ) {
        let running = async {
            match self {
                Self::Exec(session) => host.exec(session, streams).await,
                Self::Attach(session) => host.attach(session, streams).await.map(|()| 0),
            }
        };
        // An exec that is cut off must not look like one that ended well.
        let ended = match stop.run_until_cancelled(running).await {
            Some(ended) => ended,
            None => Err(Error::unavailable("windlassd stops")),
        };
        if let Err(error) = &ended {
            tracing::debug!(%error, "a streaming session failed");
        }
        // Who is gone needs no report.
        let _ = errors.write_all(&report.bytes(&ended)).await;
        let _ = errors.shutdown().await;
    }
}
