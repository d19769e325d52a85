//! Port-forward over SPDY: each forwarded connection is a pair of an error and a data stream with one `requestid`.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::PortForwardSession;
use super::super::link::{Link, Terms};
use super::super::pipe::Inlet;
use super::super::remote_command::Host;
use super::frame::Reset;
use super::session::Session;
use super::stream::{Opened, Outlet};

/// How long the second stream of a pair may take.
const PAIRING: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    Data,
}

/// A pair as it comes together.
#[derive(Default)]
struct Pair {
    errors: Option<(u32, Outlet)>,
    data: Option<(u32, u16, Inlet, Outlet)>,
}

/// A pair that is whole.
struct Forward {
    session: Session,
    port: u16,
    ids: [u32; 2],
    errors: Outlet,
    input: Inlet,
    output: Outlet,
}

/// Pairs that lack a stream, and when each of them began to.
#[derive(Default)]
struct Pairs {
    pairs: HashMap<String, Pair>,
    begun: VecDeque<(Instant, String)>,
}

/// Serves forwarded connections, many at once, until the client ends.
pub(in super::super) async fn serve(
    client: impl AsyncRead + AsyncWrite + Send,
    session: PortForwardSession,
    host: &dyn Host,
    terms: Terms,
) {
    let link = Link::new(&terms);
    super::connection(client, link, false, |opened| async move {
        let _ = terms.stop.run_until_cancelled(forward_all(opened, &session, host)).await;
    })
    .await;
}

async fn forward_all(mut opened: mpsc::Receiver<Opened>, session: &PortForwardSession, host: &dyn Host) {
    let mut pairs = Pairs::default();
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            stream = opened.recv() => match stream {
                Some(stream) => running.extend(pairs.add(stream).map(|forward| forward.run(session, host))),
                None => break,
            },
            Some(()) = running.next() => {}
            () = pairs.late() => pairs.drop_late().await,
        }
    }
    // The client is gone; the connections notice it themselves.
    while running.next().await.is_some() {}
}

impl Pairs {
    /// Files a stream, and answers its pair if that is whole now.
    fn add(&mut self, opened: Opened) -> Option<Forward> {
        let Some((request, kind, port)) = meaning(&opened) else {
            opened.refuse();
            return None;
        };
        let pair = self.pairs.entry(request.clone()).or_default();
        let new = pair.errors.is_none() && pair.data.is_none();
        let (id, session) = (opened.id, opened.session.clone());
        match kind {
            Kind::Error if pair.errors.is_none() => pair.errors = Some((id, opened.accept().1)),
            Kind::Data if pair.data.is_none() => {
                let (input, output) = opened.accept();
                pair.data = Some((id, port, input, output));
            }
            _ => opened.refuse(),
        }
        match self.pairs.remove(&request) {
            Some(Pair { errors: Some((error, errors)), data: Some((data, port, input, output)) }) => {
                self.begun.retain(|(_, late)| *late != request);
                Some(Forward { session, port, ids: [error, data], errors, input, output })
            }
            Some(half) => {
                self.pairs.insert(request.clone(), half);
                if new {
                    self.begun.push_back((Instant::now(), request));
                }
                None
            }
            None => None,
        }
    }

    /// Ends when the oldest half pair has waited long enough.
    async fn late(&self) {
        match self.begun.front() {
            Some((begun, _)) => tokio::time::sleep_until(*begun + PAIRING).await,
            None => std::future::pending().await,
        }
    }

    async fn drop_late(&mut self) {
        if let Some((_, request)) = self.begun.pop_front()
            && let Some(Pair { errors: Some((_, mut errors)), .. }) = self.pairs.remove(&request)
        {
            let _ = errors.write_all(b"timed out waiting for the data stream").await;
        }
    }
}

/// A stream's request id, kind and port; `None` where a header is missing or wrong.
fn meaning(opened: &Opened) -> Option<(String, Kind, u16)> {
    let kind = match opened.headers.get("streamtype")? {
        "error" => Kind::Error,
        "data" => Kind::Data,
        _ => return None,
    };
    let port = opened.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let request = match opened.headers.get("requestid") {
        Some(request) => request.to_owned(),
        // Clients from before 1.2 open the two streams of a pair right behind each other, the error stream first.
        None => match kind {
            Kind::Error => opened.id.to_string(),
            Kind::Data => opened.id.checked_sub(2)?.to_string(),
        },
    };
    Some((request, kind, port))
}

impl Forward {
    async fn run(self, session: &PortForwardSession, host: &dyn Host) {
        let Self { session: streams, port, ids, mut errors, input, output } = self;
        if let Err(error) = host.port(session, port, Box::new(input), Box::new(output)).await {
            tracing::debug!(%error, port, "a forwarded connection failed");
            let text = format!("error forwarding port {port} to pod {}: {error}", session.pod);
            let _ = errors.write_all(text.as_bytes()).await;
        }
        let _ = errors.shutdown().await;
        // A client that still sends has nobody to send to; its entry must not stay for the connection's life.
        for id in ids {
            streams.reset(id, Reset::Cancel);
        }
    }
}
