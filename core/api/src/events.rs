//! `containerd.services.events.v1.Events`: what happens, for whoever listens, and what clients publish themselves.
//!
//! Two things are more than containerd has. Each envelope carries the event's number in a field that other clients pass
//! over, and a client that names the last number it has had in the header [`AFTER`] gets everything after it. And a client
//! that names none, but was cut off by the end of the daemon or because it read too slowly, gets what happened since when
//! it asks for the same again (within ten minutes): that is how dockerd, which learns of ends only here, misses none.

use std::pin::Pin;

use containerd_client::services::v1::{ForwardRequest, PublishRequest, SubscribeRequest};
use futures::Stream;
use prost_types::{Any, Timestamp as Moment};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::events::{Watch, Watcher};
use windlass_model::event::{self, Event};
use windlass_model::{Digest, Namespace, Timestamp, TypedBytes};

use crate::access::Access;
use crate::codes::status;
use crate::served::events_server::{Events, EventsServer};
use crate::{tenant, words};

mod payload;

/// The request header with the number of the last event that a client has had.
const AFTER: &str = "windlass-events-after";

/// The response header with the number of the last event before those that follow as they happen.
const SEQUENCE: &str = "windlass-events-sequence";

/// containerd's envelope, and the number of the event.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Envelope {
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Moment>,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub topic: String,
    #[prost(message, optional, tag = "4")]
    pub event: Option<Any>,
    /// Far from the numbers that containerd may give out.
    #[prost(uint64, tag = "10001")]
    pub sequence: u64,
}

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> EventsServer<impl Events> {
    EventsServer::new(Service { core })
}

impl Service {
    async fn take(&self, namespace: &Namespace, topic: String, any: Option<Any>, at: Timestamp) -> Result<(), Status> {
        let any = any.unwrap_or_default();
        event::check_published(&topic, any.type_url.len() + any.value.len()).map_err(status)?;
        // Whatever it says, it comes from a client: nothing here takes it for the truth.
        let message = TypedBytes { type_url: any.type_url, value: any.value };
        let events = self.core.events();
        events.publish_at(namespace, Event::Opaque { topic, message }, at);
        events.settle().await.map_err(status)
    }
}

#[tonic::async_trait]
impl Events for Service {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Envelope, Status>> + Send>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<()>, Status> {
        let namespace = tenant::of(&self.core, &request)?.namespace().clone();
        let PublishRequest { topic, event } = request.into_inner();
        self.take(&namespace, topic, event, Timestamp::now()).await?;
        Ok(Response::new(()))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<()>, Status> {
        let access = Access::of(&request);
        let envelope = request.into_inner().envelope.unwrap_or_default();
        let namespace: Namespace = envelope.namespace.parse().map_err(status)?;
        access.change(&namespace)?;
        let at = envelope.timestamp.ok_or_else(|| Status::invalid_argument("a forwarded event has a timestamp"))?;
        self.take(&namespace, envelope.topic, envelope.event, Timestamp::from_parts(at.seconds, at.nanos)).await?;
        Ok(Response::new(()))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let access = Access::of(&request);
        let filters = &request.get_ref().filters;
        let filter = words::filter(filters)?;
        let who = Digest::of(format!("{access}\n{}", filters.join("\n")).as_bytes()).to_string();
        let after = after(&request)?;
        let namespaces = access.only();
        let wanted = Box::new(move |envelope: &event::Envelope| {
            access.sees(&envelope.namespace) && filter.matches(|path| payload::field(envelope, path))
        });
        let watcher = self.core.watch(Watch { namespaces, wanted, after, who }).await.map_err(status)?;
        let position = watcher.position();
        let stream = futures::stream::unfold(Some(watcher), next);
        let mut response: Response<Self::SubscribeStream> = Response::new(Box::pin(stream));
        response.metadata_mut().insert(SEQUENCE, MetadataValue::from(position));
        Ok(response)
    }
}

/// The next message of a subscription; an error is the last.
async fn next(watcher: Option<Watcher>) -> Option<(Result<Envelope, Status>, Option<Watcher>)> {
    let mut watcher = watcher?;
    Some(match watcher.next().await {
        Ok(envelope) => (Ok(word(&envelope)), Some(watcher)),
        Err(error) => (Err(status(error)), None),
    })
}

fn after<T>(request: &Request<T>) -> Result<Option<u64>, Status> {
    let Some(value) = request.metadata().get(AFTER) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Status::invalid_argument(format!("{AFTER} is not a number")))
}

fn word(envelope: &event::Envelope) -> Envelope {
    let (seconds, nanos) = envelope.timestamp.parts();
    Envelope {
        timestamp: Some(Moment { seconds, nanos }),
        namespace: envelope.namespace.to_string(),
        topic: envelope.event.topic().to_owned(),
        event: Some(payload::any(&envelope.event)),
        sequence: envelope.sequence,
    }
}
