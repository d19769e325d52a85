//! A tenant that asks for too much: many writers and many streams at once, until it is told to stop.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest, WriteAction, WriteContentRequest};
use prost_types::Any;
use tokio::task::JoinSet;
use tonic::Request;

use crate::tenant::Tenant;

/// How many connections the flood comes through.
const CONNECTIONS: usize = 8;

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    workers: JoinSet<()>,
    /// The streams that are held open.
    pub streams: usize,
}

/// What a flood did.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Blobs written and events published.
    pub writes: usize,
    /// Calls that were refused.
    pub refused: usize,
    /// Streams that were held open.
    pub streams: usize,
}

impl Flood {
    /// Begins with `writers` of blobs and `publishers` of events, as fast as they can, and as many of
    /// `streams` that nobody reads as it is given.
    pub async fn begin(
        socket: &Path,
        namespace: &'static str,
        (writers, publishers): (usize, usize),
        streams: usize,
    ) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Tenant::connect(socket, Some(namespace)).await?);
        }
        let mut flood = Self {
            stop: Arc::default(),
            done: Arc::default(),
            refused: Arc::default(),
            workers: JoinSet::new(),
            streams: 0,
        };
        for (number, client) in (0..streams).zip(clients.iter().cycle()) {
            let filters = vec![format!("topic==\"/never/{number}\"")];
            let subscribed = EventsClient::new(client.channel.clone()).subscribe(SubscribeRequest { filters }).await;
            let Ok(subscription) = subscribed else { continue };
            flood.streams += 1;
            flood.workers.spawn(async move {
                let _held = subscription;
                std::future::pending::<()>().await;
            });
        }
        for (number, client) in (0..writers + publishers).zip(clients.iter().cycle()) {
            let (client, stop) = (client.clone(), flood.stop.clone());
            let (done, refused) = (flood.done.clone(), flood.refused.clone());
            flood.workers.spawn(async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let text = format!("{number} {round} of {namespace}");
                    let good = if number < writers {
                        write(&client, namespace, text).await
                    } else {
                        publish(&client, text).await
                    };
                    if good { &done } else { &refused }.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Ok(flood)
    }

    /// Ends it.
    pub async fn end(mut self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        self.workers.shutdown().await;
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Done { writes: count(&self.done), refused: count(&self.refused), streams: self.streams }
    }
}

async fn publish(client: &Tenant, text: String) -> bool {
    let event = Some(Any { type_url: "example.com/Text".into(), value: text.into() });
    client.ask::<()>("events.v1.Events", "Publish", &PublishRequest { topic: "/flood".into(), event }).await.is_ok()
}

async fn write(client: &Tenant, namespace: &'static str, text: String) -> bool {
    let message = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: text.clone(),
        data: text.into(),
        ..Default::default()
    };
    let mut request = Request::new(futures::stream::iter([message]));
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(namespace));
    match ContentClient::new(client.channel.clone()).write(request).await {
        Ok(answer) => answer.into_inner().message().await.is_ok(),
        Err(_) => false,
    }
}
