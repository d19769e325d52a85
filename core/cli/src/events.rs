//! `windlass events`: what has happened and what happens, each event with its number.

mod payload;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::SubscribeRequest;
use prost_types::{Any, Timestamp};
use serde::Serialize;
use serde_json::Value;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic_prost::ProstCodec;

use crate::client::{Daemon, LARGEST, answered};
use crate::human;
use crate::output::Output;

/// The request header with the number of the last event that a client has had.
const AFTER: &str = "windlass-events-after";

/// The answer's header with the number of the last event before those that follow as they happen.
const SEQUENCE: &str = "windlass-events-sequence";

/// How long the past may take between two of its events: its last may not be one that is told.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Begin after the event of this number; with --follow alone the past is left out
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
    /// Only those that match one of these (containerd's filter language): topic~=|^/tasks/|, event.container_id==web, topic=="/tasks/exit"
    filters: Vec<String>,
}

/// containerd's envelope, with the number that Windlass gives an event.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
    #[prost(uint64, tag = "10001")]
    sequence: u64,
}

#[derive(Debug, Serialize)]
struct Event {
    sequence: u64,
    timestamp: String,
    namespace: String,
    topic: String,
    event: Value,
}

pub(crate) async fn run(arguments: Arguments, daemon: &Daemon, output: &Output) -> Result<()> {
    let Arguments { follow, since, filters } = arguments;
    let after = if follow { since } else { Some(since.unwrap_or(0)) };
    let mut client = Grpc::new(daemon.connect().await?).max_decoding_message_size(LARGEST);
    client.ready().await.context("speak gRPC")?;
    let filters = within(daemon.named(), filters);
    let mut request = daemon.request(SubscribeRequest { filters });
    if let Some(after) = after {
        request.metadata_mut().insert(AFTER, MetadataValue::from(after));
    }
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let codec: ProstCodec<SubscribeRequest, Envelope> = ProstCodec::default();
    let answer = client.server_streaming(request, path, codec).await.map_err(answered)?;
    // A daemon that does not number its events has no past to tell of.
    let position = number(answer.metadata().get(SEQUENCE));
    let mut stream = answer.into_inner();
    if !follow && position.is_none_or(|position| position <= after.unwrap_or(0)) {
        return Ok(());
    }
    loop {
        let next = if follow {
            stream.message().await
        } else {
            match tokio::time::timeout(PAUSE, stream.message()).await {
                Ok(next) => next,
                Err(_) => return Ok(()),
            }
        };
        let Some(envelope) = next.map_err(answered)? else { return Ok(()) };
        let is_last = !follow && position.is_some_and(|position| envelope.sequence >= position);
        tell(event(envelope), output)?;
        if is_last {
            return Ok(());
        }
    }
}

fn number(value: Option<&MetadataValue<Ascii>>) -> Option<u64> {
    value?.to_str().ok()?.parse().ok()
}

/// The filters, each of them within a namespace where one is named.
fn within(namespace: Option<&str>, filters: Vec<String>) -> Vec<String> {
    let Some(namespace) = namespace else { return filters };
    let own = format!("namespace=={namespace:?}");
    if filters.is_empty() {
        return vec![own];
    }
    filters.into_iter().map(|filter| if filter.is_empty() { own.clone() } else { format!("{own},{filter}") }).collect()
}

fn event(envelope: Envelope) -> Event {
    Event {
        sequence: envelope.sequence,
        timestamp: human::moment(envelope.timestamp.as_ref()),
        namespace: envelope.namespace,
        topic: envelope.topic,
        event: envelope.event.as_ref().map_or(Value::Null, payload::read),
    }
}

/// One line for each, also as JSON: whoever reads along wants it now.
fn tell(event: Event, output: &Output) -> Result<()> {
    let line = if output.is_json() {
        serde_json::to_string(&event)?
    } else {
        let Event { sequence, timestamp, namespace, topic, event } = event;
        format!("{sequence} {timestamp} {namespace} {topic} {event}")
    };
    output.lines(&[line])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_stays_within_the_namespace() {
        assert_eq!(within(None, vec!["topic==/a".into()]), ["topic==/a"]);
        assert_eq!(within(Some("a"), Vec::new()), ["namespace==\"a\""]);
        let both = within(Some("a"), vec!["topic==/a".into(), String::new()]);
        assert_eq!(both, ["namespace==\"a\",topic==/a", "namespace==\"a\""]);
    }

    #[test]
    fn numbers_are_read_from_headers() {
        assert_eq!(number(Some(&MetadataValue::from(7_u64))), Some(7));
        assert_eq!(number(Some(&MetadataValue::from_static("x"))), None);
        assert_eq!(number(None), None);
    }
}
