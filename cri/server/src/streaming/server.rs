//! The HTTP server behind the one-time URLs: it upgrades connections and keeps their sessions.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_model::{Context, Result};

use super::handshake::{self, Ports, Refusal, Speaks};
use super::link::Terms;
use super::remote_command::{Command, Host};
use super::socket::Socket;
use super::{Certificate, Session, Streaming, StreamingConfig, spdy, tls, websocket};

/// The most connections at once; more wait until one ends.
const CONNECTIONS: usize = 2000;

/// How long a client may take for its TLS handshake, and again for its request's head.
const HEAD: Duration = Duration::from_secs(10);

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// How long sessions get to say good-bye when the daemon stops.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// The server, bound and not yet serving.
pub struct Listener {
    listener: TcpListener,
    tls: Option<Certificate>,
    idle: Duration,
}

/// What each connection needs.
struct Shared {
    host: Arc<dyn Host>,
    streaming: Streaming,
    idle: Duration,
    stop: CancellationToken,
    sessions: TaskTracker,
}

impl Listener {
    /// Binds the address, and reads or makes the certificate. Answers the base of the URLs too.
    ///
    /// # Errors
    /// Where the address is taken or not ours, or the certificate is of no use.
    pub(super) async fn bind(config: &StreamingConfig) -> Result<(Self, String)> {
        let tls = tls::acceptor(&config.tls, reachable(config.address).ip())?;
        let listener = TcpListener::bind(config.address)
            .await
            .context(|| format!("bind the streaming server to {}", config.address))?;
        let address = listener.local_addr().context(|| "ask for the streaming server's address".to_owned())?;
        if tls.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "the streaming server is open to the network without TLS");
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", reachable(address));
        let tls = tls.map(|acceptor| Arc::new(RwLock::new(acceptor)));
        Ok((Self { listener, tls, idle: config.idle }, base))
    }

    /// What does the handshakes; `None` without TLS.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        self.tls.clone()
    }

    /// Serves until `stop`; then sessions end with a word to their clients, and those that take long are cut off.
    pub(super) async fn serve(self, host: Arc<dyn Host>, streaming: Streaming, stop: CancellationToken) {
        let Self { listener, tls, idle } = self;
        let sessions = TaskTracker::new();
        let cut_off = CancellationToken::new();
        let shared = Arc::new(Shared { host, streaming, idle, stop: stop.clone(), sessions: sessions.clone() });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let accepting = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let tls = tls.as_ref().map(|certificate| certificate.read().clone());
                        let connection = connection(shared.clone(), stream, tls, place, cut_off.clone());
                        let over = cut_off.clone();
                        sessions.spawn(async move { over.run_until_cancelled_owned(connection).await });
                    }
                    // Out of descriptors, or a client that was gone at once: neither ends the server.
                    Err(error) => {
                        tracing::warn!(%error, "accept a streaming connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        let _: Option<()> = stop.run_until_cancelled(accepting).await;
        sessions.close();
        if tokio::time::timeout(GOOD_BYE, sessions.wait()).await.is_err() {
            tracing::info!(sessions = sessions.len(), "streaming sessions are cut off");
            cut_off.cancel();
            sessions.wait().await;
        }
    }
}

/// An address that a client on this node can dial: a server on all addresses is also on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    place: OwnedSemaphorePermit,
    cut_off: CancellationToken,
) {
    // Keystrokes are small and should go at once; a client that lost its power should be noticed some day.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let (stream, watch) = Socket::new(stream);
    let terms = Terms { idle: shared.idle, stop: shared.stop.clone(), watch: Some(watch) };
    let place = (place, cut_off, terms);
    match tls {
        None => http(shared, stream, place).await,
        Some(acceptor) => match tokio::time::timeout(HEAD, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => http(shared, stream, place).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

/// Answers the one request of a connection. An upgraded one goes on in a task of its own, so that nothing of HTTP stays.
async fn http<S>(shared: Arc<Shared>, stream: S, place: Place)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let place = parking_lot::Mutex::new(Some(place));
    let service = service_fn(|request| {
        let answer = answer(&shared, request, &place);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a streaming request failed");
    }
}

/// What a connection is given once, and its session keeps.
type Place = (OwnedSemaphorePermit, CancellationToken, Terms);

fn answer(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
    place: &parking_lot::Mutex<Option<Place>>,
) -> Response<Full<Bytes>> {
    let answer = match agreed(shared, &request) {
        Err(refusal) => *refusal,
        Ok((session, speaks, answer)) => match place.lock().take() {
            // The connection takes one request.
            None => status(StatusCode::SERVICE_UNAVAILABLE),
            Some((place, cut_off, terms)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                let host = shared.host.clone();
                shared.sessions.spawn(async move {
                    let whole = async {
                        match upgrade.await {
                            Ok(client) => serve(host.as_ref(), TokioIo::new(client), session, speaks, terms).await,
                            Err(error) => tracing::debug!(%error, "a streaming upgrade failed"),
                        }
                    };
                    cut_off.run_until_cancelled(whole).await;
                    drop(place);
                });
                answer
            }
        },
    };
    answer.map(|text| Full::new(Bytes::from(text)))
}

fn status(code: StatusCode) -> Response<String> {
    let mut answer = Response::new(String::new());
    *answer.status_mut() = code;
    answer
}

fn agreed(shared: &Shared, request: &Request<Incoming>) -> Result<(Session, Speaks, Response<String>), Refusal> {
    let (place, token) = handshake::route(request.method(), request.uri().path())?;
    let session = shared
        .streaming
        .redeem(token)
        .filter(|session| handshake::belongs(place, session))
        .ok_or_else(handshake::unknown_token)?;
    let (speaks, answer) = handshake::agree(&session, request.headers())?;
    Ok((session, speaks, answer))
}

async fn serve(
    host: &dyn Host,
    client: impl AsyncRead + AsyncWrite + Send + Unpin,
    session: Session,
    speaks: Speaks,
    terms: Terms,
) {
    let command = match session {
        Session::Exec(exec) => Command::Exec(exec),
        Session::Attach(attach) => Command::Attach(attach),
        Session::PortForward(ports) => {
            return match speaks {
                Speaks::PortsOverSpdy => spdy::port_forward::serve(client, ports, host, terms).await,
                Speaks::PortsOverWebSocket(Ports::Tunnel) => {
                    websocket::port_forward::serve_tunnel(client, ports, host, terms).await;
                }
                Speaks::PortsOverWebSocket(Ports::Channels(codec)) => {
                    websocket::port_forward::serve(client, codec, ports, host, terms).await;
                }
                Speaks::CommandOverSpdy(_) | Speaks::CommandOverWebSocket(_) => {}
            };
        }
    };
    match speaks {
        Speaks::CommandOverSpdy(version) => {
            spdy::remote_command::serve(client, version, command, host, terms).await;
        }
        Speaks::CommandOverWebSocket(subprotocol) => {
            websocket::remote_command::serve(client, subprotocol, command, host, terms).await;
        }
        Speaks::PortsOverSpdy | Speaks::PortsOverWebSocket(_) => {}
    }
}

#[cfg(test)]
mod tests;
