//! Exec, attach and port-forward over HTTP: what a one-time URL stands for, and the bytes of its session.
//!
//! The RPC checks its request and mints a URL ([`Streaming::url`]); the kubelet dials it and the server here turns the
//! connection, SPDY/3.1 or WebSocket, into [`Streams`] for the verb's file. Clients that go away end their [`Input`]s
//! and break their [`Output`]s.

mod attach;
mod carry;
mod exec;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handshake;
mod idle;
mod link;
mod outbox;
mod pipe;
mod port_forward;
mod remote_command;
mod resize;
mod server;
mod socket;
mod source;
mod spdy;
mod status;
#[cfg(any(test, fuzzing))]
mod testing;
mod tls;
mod tokens;
mod websocket;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use windlass_model::{Error, Id, Result};

use self::remote_command::Host;
pub use self::server::Listener;
use self::tokens::Tokens;
use crate::Server;

/// How the streaming server is told to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamingConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// How long a connection may be still before it is closed.
    pub idle: Duration,
    /// Whether its connections are encrypted.
    pub tls: Tls,
}

/// The certificate of the streaming server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Plain HTTP.
    Off,
    /// One that it makes at each start and that nobody vouches for.
    SelfSigned,
    /// One from files.
    Files {
        /// The chain in PEM, the server's own certificate first.
        cert: PathBuf,
        /// Its private key in PEM.
        key: PathBuf,
    },
}

impl Default for StreamingConfig {
    /// Loopback, a free port, four hours, no TLS: as containerd and the kubelet have it.
    fn default() -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, 0).into(), idle: Duration::from_secs(4 * 3600), tls: Tls::Off }
    }
}

/// Bytes from the client; it ends when the client has closed its half, or is gone. Where a forwarded port's client is
/// gone it ends with an error, so that a peer is not told of an orderly end.
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

/// The one-time URLs of a [`crate::Server`] and where they lead.
#[derive(Clone, Default)]
pub(crate) struct Streaming(Arc<Urls>);

#[derive(Default)]
struct Urls {
    tokens: Tokens,
    /// `http://host:port`, once the server is bound.
    base: OnceLock<String>,
    /// What does the handshakes, once the server is bound; nothing without TLS.
    certificate: OnceLock<Certificate>,
}

/// A certificate that may be renewed.
type Certificate = Arc<RwLock<TlsAcceptor>>;

impl Streaming {
    /// A URL that works once, within a minute, and leads to `session`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::ResourceExhausted`] when too many URLs wait to be used, and
    /// [`windlass_model::Kind::Unavailable`] before the server listens.
    pub(crate) fn url(&self, session: Session) -> Result<String> {
        let base = self.0.base.get().ok_or_else(|| Error::unavailable("the streaming server does not listen yet"))?;
        let place = match session {
            Session::Exec(_) => "exec",
            Session::Attach(_) => "attach",
            Session::PortForward(_) => "portforward",
        };
        Ok(format!("{base}/{place}/{}", self.0.tokens.mint(session)?))
    }

    /// Reads a certificate from files again, for the connections from now on. Blocks.
    ///
    /// # Errors
    /// Where it is of no use; then the one before stays.
    pub(crate) fn renew(&self, config: &StreamingConfig) -> Result<()> {
        let Some(certificate) = self.0.certificate.get().filter(|_| matches!(config.tls, Tls::Files { .. })) else {
            return Ok(());
        };
        if let Some(renewed) = tls::acceptor(&config.tls, config.address.ip())? {
            *certificate.write() = renewed;
        }
        Ok(())
    }

    /// The session that a URL leads to, which does so no second time.
    fn redeem(&self, token: &str) -> Option<Session> {
        self.0.tokens.redeem(token)
    }
}

impl Server {
    /// Binds the streaming server; from now on there are URLs.
    ///
    /// # Errors
    /// Where its address is taken, its certificate is of no use, or it is bound already.
    pub async fn bind_streaming(&self) -> Result<Listener> {
        let (listener, base) = Listener::bind(&self.config.streaming).await?;
        tracing::debug!(base, "the streaming server is bound");
        let again = |_| Error::precondition("the streaming server is bound already");
        self.streaming.0.base.set(base).map_err(again)?;
        if let Some(certificate) = listener.certificate() {
            let _ = self.streaming.0.certificate.set(certificate);
        }
        Ok(listener)
    }

    /// Serves exec, attach and port-forward until `stop`.
    pub async fn serve_streaming(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        let streaming = self.streaming.clone();
        listener.serve(self, streaming, stop).await;
    }
}

#[async_trait]
impl Host for Server {
    async fn exec(&self, session: ExecSession, streams: Streams) -> Result<i32> {
        self.serve_exec(session, streams).await
    }

    async fn attach(&self, session: AttachSession, streams: Streams) -> Result<()> {
        self.serve_attach(session, streams).await
    }

    async fn port(&self, session: &PortForwardSession, port: u16, input: Input, output: Output) -> Result<()> {
        self.serve_port(session, port, input, output).await
    }
}
