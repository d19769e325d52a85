//! Serves the gRPC connections of a Unix socket, each on the runtime of whom it turns out to be of: the CRI, or a tenant.
//!
//! Nobody can tell by a connection's begin who talks there. So one of the main socket begins with the CRI, and with its first
//! call that is not the CRI's it moves to the tenants' runtime and stays there: what a tenant sends is read, decoded, worked
//! on and answered by threads that the CRI does not wait for. A call of the CRI is worked on by the CRI's threads wherever it
//! comes in.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Service, ServiceExt as _};

use crate::tenants::Guest;

/// How many calls one connection may have under way, with those that wait for a task.
const MAX_STREAMS: u32 = 4096;
/// How long a socket rests that cannot take connections in, as where there are no more descriptors.
const REST: Duration = Duration::from_millis(100);

/// The paths of the CRI's services.
const CRI: &str = "/runtime.v1.";
/// How long a client waits at most.
const TIMEOUT: &str = "grpc-timeout";

/// Where work is done.
#[derive(Clone, Debug)]
pub struct Homes {
    /// The CRI's runtime.
    pub cri: Handle,
    /// The tenants'.
    pub tenants: Handle,
}

/// What is known of who talks on a connection; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Side(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Somebody asked for something that is not the CRI's.
    tenants: AtomicBool,
    /// The last call was the CRI's.
    cri_calls: AtomicBool,
    /// The connection is driven by the tenants' runtime.
    moved: AtomicBool,
}

/// Starts the work on a call where it belongs.
#[derive(Clone, Debug)]
struct Spread {
    homes: Homes,
    side: Side,
}

/// All services of a socket, as one connection sees them.
#[derive(Clone)]
struct Desk<S> {
    services: S,
    side: Side,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Connection<S> = Pin<Box<http2::Connection<TokioIo<Guest>, Desk<S>, Spread>>>;

/// Serves those who come in until `drain` begins and the calls under way are answered.
pub async fn serve<S>(
    services: S,
    incoming: impl Stream<Item = std::io::Result<Guest>>,
    homes: Homes,
    drain: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let connections = TaskTracker::new();
    // The socket is closed before the wait for those who are in: nobody is to wait in front of it.
    let mut incoming = Box::pin(incoming);
    while let Some(Some(guest)) = drain.run_until_cancelled(incoming.next()).await {
        let guest = match guest {
            Ok(guest) => guest,
            Err(error) => {
                tracing::debug!(%error, "nobody can be let in");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let side = guest.side();
        let spread = Spread { homes: homes.clone(), side: side.clone() };
        let desk = Desk { services: services.clone(), side: side.clone() };
        let mut builder = http2::Builder::new(spread);
        builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
        let connection = Box::pin(builder.serve_connection(TokioIo::new(guest), desk));
        let (homes, drain, movers) = (homes.clone(), drain.clone(), connections.clone());
        connections.spawn(async move {
            if let Some(connection) = drive(connection, &drain, || side.is_tenants()).await {
                side.0.moved.store(true, Ordering::Relaxed);
                let rest = async move { drop(drive(connection, &drain, || false).await) };
                movers.spawn_on(rest, &homes.tenants);
            }
        });
    }
    drop(incoming);
    connections.close();
    connections.wait().await;
}

/// Moves a connection on until it ends, or gives it back once `enough`.
async fn drive<S>(
    mut connection: Connection<S>,
    drain: &CancellationToken,
    enough: impl Fn() -> bool,
) -> Option<Connection<S>>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut draining = pin!(drain.cancelled());
    let mut told = false;
    let ended = poll_fn(|context| {
        if !told && draining.as_mut().poll(context).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if enough() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    match ended.await {
        None => return Some(connection),
        Some(Err(error)) => tracing::debug!(%error, "a connection ended badly"),
        Some(Ok(())) => {}
    }
    None
}

impl Side {
    /// True where the tenants' runtime drives the connection.
    pub fn has_moved(&self) -> bool {
        self.0.moved.load(Ordering::Relaxed)
    }

    fn is_tenants(&self) -> bool {
        self.0.tenants.load(Ordering::Relaxed)
    }

    /// Takes note of a call.
    fn calls(&self, path: &str) {
        let cri = path.starts_with(CRI);
        self.0.cri_calls.store(cri, Ordering::Relaxed);
        if !cri {
            self.0.tenants.store(true, Ordering::Relaxed);
        }
    }
}

impl<F> hyper::rt::Executor<F> for Spread
where
    F: Future<Output: Send> + Send + 'static,
{
    /// The connection has just handed a call to its [`Desk`], and no other since.
    fn execute(&self, work: F) {
        let cri = self.side.0.cri_calls.load(Ordering::Relaxed);
        let home = if cri { &self.homes.cri } else { &self.homes.tenants };
        drop(home.spawn(work));
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for Desk<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.side.calls(request.uri().path());
        let limit = patience(request.headers());
        let answer = self.services.clone().oneshot(request.map(Body::new));
        Box::pin(async move {
            let Some(limit) = limit else { return answer.await };
            let late = || Status::deadline_exceeded(format!("no answer within {limit:?}, which the client set"));
            tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Ok(late().into_http()))
        })
    }
}

/// How long the client waits, as gRPC writes it: up to eight digits and a unit. What is not so written is no limit.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
