//! Exec, attach and port-forward over HTTP: what a one-time URL stands for, and the bytes of its session.
//!
//! The RPC checks its request and mints a URL ([`Streaming::url`]); the kubelet dials it and the server here turns the
//! connection, SPDY/3.1 or WebSocket, into [`Streams`] for the verb's file. Clients that go away end their [`Input`]s
//! and break their [`Output`]s.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use windlass_model::{Error, Id, Result};

/// Bytes from the client; it ends when the client has closed its half, or is gone.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes to the client, with back-pressure; `shutdown` ends this stream alone. Writing fails once the client is gone.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The open streams of an exec or attach; those that were not asked for are `None`.
pub struct Streams {
    /// What the client types.
    pub stdin: Option<Input>,
    /// What the process writes.
    pub stdout: Option<Output>,
    /// What the process complains; never with a terminal.
    pub stderr: Option<Output>,
    /// Sizes of the client's window, newest last; closed when the client sends no more.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// A program to run beside a container's first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSession {
    /// Whose namespaces it runs in.
    pub container: Id,
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal; then there is no stderr.
    pub tty: bool,
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether the client reads the output.
    pub stdout: bool,
    /// Whether the client reads the errors.
    pub stderr: bool,
}

/// A container's own streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachSession {
    /// Whose streams.
    pub container: Id,
    /// The container has a terminal; then there is no stderr.
    pub tty: bool,
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether the client reads the output.
    pub stdout: bool,
    /// Whether the client reads the errors.
    pub stderr: bool,
}

/// Connections into a pod's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForwardSession {
    /// Whose network.
    pub pod: Id,
    /// The ports of the request, which only WebSocket's channel protocol needs: a pair of channels for each, in order.
    pub ports: Vec<u16>,
}

/// What a one-time URL stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// `/exec/T`.
    Exec(ExecSession),
    /// `/attach/T`.
    Attach(AttachSession),
    /// `/portforward/T`.
    PortForward(PortForwardSession),
}

/// The streaming server of a [`crate::Server`].
#[derive(Default)]
pub struct Streaming {}

impl Streaming {
    /// A URL that works once, within a minute, and leads to `session`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::ResourceExhausted`] when too many URLs wait to be used, and
    /// [`windlass_model::Kind::Unavailable`] before the server listens.
    pub fn url(&self, _session: Session) -> Result<String> {
        Err(Error::unavailable("the streaming server does not listen"))
    }
}
