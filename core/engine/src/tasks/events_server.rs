//! The ttrpc service that shims send their events to: containerd's `Events.Forward`.
//!
//! A shim keeps an event on its disk until this service has answered, so the answer comes only after the event stands in
//! the table of tasks, was published, and is kept for listeners that are away. An event that can never be taken (rubbish)
//! is acknowledged too, lest a shim sends it for ever.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixListener;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use windlass_model::event::{self, Event};
use windlass_model::{Context, Error, Kind, Namespace, Result, Timestamp};
use windlass_wire::events::{Envelope, Events, ForwardRequest, create_events};
use windlass_wire::task::Empty;
use windlass_wire::ttrpc::asynchronous::{Server, TtrpcContext, transport::Listener};
use windlass_wire::{convert, ttrpc};

use super::Roster;

/// How long requests in flight may take at the end.
const FAREWELL: Duration = Duration::from_millis(200);

struct Forward(Roster);

/// Serves the events of all shims on `listener` until `stop`.
///
/// # Errors
/// Where the server cannot be started.
pub async fn serve_events(roster: Roster, listener: UnixListener, stop: CancellationToken) -> Result<()> {
    let failed = |error: ttrpc::Error| Error::with_source(Kind::Internal, "serve shim events", error);
    let mut server = Server::new()
        .add_listener(Listener::new(UnixListenerStream::new(listener)))
        .register_service(create_events(Arc::new(Forward(roster))));
    server.start().await.map_err(failed)?;
    stop.cancelled().await;
    server.stop_listen().await;
    // Shims keep their connections open, and send again what was not acknowledged.
    let _ = timeout(FAREWELL, server.disconnect()).await;
    Ok(())
}

#[async_trait]
impl Events for Forward {
    async fn forward(&self, _context: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        match take(&self.0, &envelope) {
            // The shim sends again what is not kept.
            Ok(namespace) => self.0.settle(&namespace).await.map_err(|error| convert::error(&error))?,
            Err(error) => {
                let (namespace, topic) = (envelope.namespace, envelope.topic);
                tracing::warn!(namespace, topic, %error, "a shim's event is no event");
            }
        }
        Ok(Empty::default())
    }
}

fn take(roster: &Roster, envelope: &Envelope) -> Result<Namespace> {
    let namespace: Namespace = envelope.namespace.parse().context(|| "event of a shim".to_owned())?;
    let event = convert::from_event(&envelope.topic, &envelope.event)?;
    if matches!(event, Event::Opaque { .. }) {
        event::check_published(&envelope.topic, envelope.event.value.len())?;
    }
    // A shim of another's making may not say when.
    let told = convert::from_timestamp(&envelope.timestamp);
    let at = if envelope.timestamp.is_some() { told } else { Timestamp::now() };
    roster.take(&namespace, event, at);
    Ok(namespace)
}
