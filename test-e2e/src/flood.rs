//! A tenant that asks for too much: many writers and many streams at once, until it is told to stop.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest, WriteAction, WriteContentRequest};
use prost_types::Any;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::Request;

use crate::tenant::Tenant;

/// How many connections the flood comes through.
const CONNECTIONS: usize = 8;
/// How long listeners have to be refused. containerd answers one that it takes only with its first event.
const REFUSAL: Duration = Duration::from_secs(2);

/// How much is asked for at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Writers of blobs, each as fast as it can.
    pub writers: usize,
    /// Publishers of events, each as fast as it can.
    pub publishers: usize,
    /// Listeners to events that nobody reads.
    pub streams: usize,
    /// How far the flood's own threads step back for others on this machine: 19 is as far as it goes. What the daemon does for it
    /// is not meant.
    pub niceness: i32,
}

/// A flood under way, on threads of its own.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    counted: Arc<Counted>,
    runtime: Option<Runtime>,
    workers: JoinSet<()>,
    listeners: JoinSet<()>,
    /// The streams that are held open.
    pub streams: usize,
}

#[derive(Debug, Default)]
struct Counted {
    done: AtomicUsize,
    refused: AtomicUsize,
    /// Listeners that were answered, and those that were refused.
    heard: AtomicUsize,
    deaf: AtomicUsize,
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
    /// Begins with writers and publishers, as fast as they can, and as many of the streams as are given.
    pub async fn begin(socket: &Path, namespace: &'static str, size: Size) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            // Niceness is that of a thread. Where it is refused, the flood takes more.
            .on_thread_start(move || {
                let _ = rustix::process::nice(size.niceness);
            })
            .build()?;
        let threads = runtime.handle().clone();
        let mut flood = Self {
            stop: Arc::default(),
            counted: Arc::default(),
            runtime: Some(runtime),
            workers: JoinSet::new(),
            listeners: JoinSet::new(),
            streams: 0,
        };
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let socket = socket.to_owned();
            // A connection belongs to the threads that made it.
            clients.push(threads.spawn(async move { Tenant::connect(&socket, Some(namespace)).await }).await??);
        }
        for (number, client) in (0..size.streams).zip(clients.iter().cycle()) {
            let (client, counted) = (client.clone(), flood.counted.clone());
            let listener = async move {
                let filters = vec![format!("topic==\"/never/{number}\"")];
                match EventsClient::new(client.channel).subscribe(SubscribeRequest { filters }).await {
                    Ok(_held) => {
                        counted.heard.fetch_add(1, Ordering::Relaxed);
                        std::future::pending::<()>().await;
                    }
                    Err(_) => drop(counted.deaf.fetch_add(1, Ordering::Relaxed)),
                }
            };
            flood.listeners.spawn_on(listener, &threads);
        }
        let until = Instant::now() + REFUSAL;
        let answered = |counted: &Counted| read(&counted.heard) + read(&counted.deaf);
        while answered(&flood.counted) < size.streams && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        flood.streams = size.streams - read(&flood.counted.deaf);
        for (number, client) in (0..size.writers + size.publishers).zip(clients.iter().cycle()) {
            let (client, stop, counted) = (client.clone(), flood.stop.clone(), flood.counted.clone());
            let worker = async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let text = format!("{number} {round} of {namespace}");
                    let good = if number < size.writers {
                        write(&client, namespace, text).await
                    } else {
                        publish(&client, text).await
                    };
                    if good { &counted.done } else { &counted.refused }.fetch_add(1, Ordering::Relaxed);
                }
            };
            flood.workers.spawn_on(worker, &threads);
        }
        Ok(flood)
    }

    /// How many of its calls were answered so far.
    pub fn answered(&self) -> usize {
        read(&self.counted.done) + read(&self.counted.refused)
    }

    /// Ends it, with the answers to all that was asked: nothing of it comes later.
    pub async fn end(mut self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        while self.workers.join_next().await.is_some() {}
        self.listeners.shutdown().await;
        Done { writes: read(&self.counted.done), refused: read(&self.counted.refused), streams: self.streams }
    }
}

impl Drop for Flood {
    /// A runtime must not be waited for where others run.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn read(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
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
