//! Port-forward over WebSocket: two channels for each port, data and errors, which both begin with the port's number.

use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::super::link::{Link, Terms};
use super::super::pipe::{Inlet, pipe};
use super::super::remote_command::Host;
use super::super::{PortForwardSession, spdy};
use super::channels::{Channels, Codec, Outlet};
use super::session::Messages;
use super::tunnel;

/// The bytes of one connection that wait for its port.
const LIMIT: usize = 64 * 1024;

/// The most ports whose channels have numbers: 255 is none.
pub(in super::super) const MOST: usize = 127;

/// Serves the ports that the request named, one connection each.
pub(in super::super) async fn serve(
    client: impl AsyncRead + AsyncWrite + Send,
    codec: Codec,
    session: PortForwardSession,
    host: &dyn Host,
    terms: Terms,
) {
    let link = Link::new(&terms);
    let mut feeders = Vec::new();
    let mut forwards = Vec::new();
    for (&port, number) in session.ports.iter().take(MOST).zip((0..).step_by(2)) {
        let (feeder, input) = pipe(LIMIT, Box::new(|_| ()));
        feeders.extend([Some(feeder), None]);
        let [data, errors] = [number, number + 1].map(|channel| Outlet::new(link.outbox.clone(), codec, channel));
        forwards.push(forward(host, &session, port, input, data, errors));
    }
    let serve = async {
        let _ = terms.stop.run_until_cancelled(join_all(forwards)).await;
    };
    let messages = Messages::Channels(Channels::new(codec, false, feeders));
    super::connection(client, link, messages, serve).await;
}

async fn forward(
    host: &dyn Host,
    session: &PortForwardSession,
    port: u16,
    input: Inlet,
    mut data: Outlet,
    mut errors: Outlet,
) {
    let number = port.to_le_bytes();
    if data.write_all(&number).await.is_err() || errors.write_all(&number).await.is_err() {
        return;
    }
    if let Err(error) = host.port(session, port, Box::new(input), Box::new(data)).await {
        tracing::debug!(%error, port, "a forwarded connection failed");
        let text = format!("error forwarding port {port} to pod {}: {error}", session.pod);
        let _ = errors.write_all(text.as_bytes()).await;
    }
}

/// Serves SPDY that comes in WebSocket messages, as kubectl and crictl send it.
pub(in super::super) async fn serve_tunnel(
    client: impl AsyncRead + AsyncWrite + Send,
    session: PortForwardSession,
    host: &dyn Host,
    terms: Terms,
) {
    let link = Link::new(&terms);
    let (feeder, input) = pipe(LIMIT, Box::new(|_| ()));
    let spdy = tokio::io::join(input, tunnel::Outlet::new(link.outbox.clone()));
    let serve = spdy::port_forward::serve(spdy, session, host, Terms { watch: None, ..terms });
    super::connection(client, link, Messages::Tunnel(feeder), serve).await;
}
