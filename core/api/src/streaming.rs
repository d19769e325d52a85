//! `containerd.services.streaming.v1.Streaming`: streams that a client opens, and that its transfer then uses.
//!
//! The first message of a stream is a `StreamInit` with an id of the client's choice; an empty message answers it. From
//! then on the stream waits under that id, in the namespace of its client, until a request takes it by its id: bytes one
//! way or the other ([`bytes`]), progress, questions about credentials. It ends when its taker lets it go. One that
//! nobody takes ends with its client or after a while, and a client may have only so many of them wait.

pub(crate) mod bytes;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::StreamInit;
use prost::{Message, Name};
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming as Incoming};
use windlass_engine::Core;
use windlass_model::{Error, Kind, Namespace, Result};

use crate::codes::status;
use crate::served::streaming_server::{Streaming, StreamingServer};
use crate::tenant;

/// How long a client may take for its first message.
const FIRST: Duration = Duration::from_secs(30);
/// How long a stream waits for somebody to take it.
const UNTAKEN: Duration = Duration::from_secs(300);
/// How many streams of one namespace may wait.
const MAX_WAITING: usize = 128;
/// The longest id, in bytes.
const MAX_ID: usize = 256;
/// How many messages to a client wait for it.
const QUEUE: usize = 16;

type Outgoing = Pin<Box<dyn futures::Stream<Item = std::result::Result<Any, Status>> + Send>>;
type Key = (Namespace, String);

/// A stream that was taken.
pub(crate) struct Stream {
    incoming: Incoming<Any>,
    outgoing: mpsc::Sender<std::result::Result<Any, Status>>,
}

/// The streams that wait; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<parking_lot::Mutex<HashMap<Key, Stream>>>);

struct Service {
    core: Core,
    streams: Streams,
}

pub(crate) fn service(core: Core, streams: Streams) -> StreamingServer<impl Streaming> {
    StreamingServer::new(Service { core, streams })
}

impl Streams {
    /// Takes the stream `id` of a namespace.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where none waits.
    pub(crate) fn take(&self, namespace: &Namespace, id: &str) -> Result<Stream> {
        let found = self.0.lock().remove(&(namespace.clone(), id.to_owned()));
        found.ok_or_else(|| Error::not_found(format!("stream {id:?} does not exist")))
    }

    fn put(&self, key: &Key, stream: Stream) -> Result<()> {
        let mut waiting = self.0.lock();
        if waiting.contains_key(key) {
            return Err(Error::already_exists(format!("stream {:?} exists already", key.1)));
        }
        if waiting.keys().filter(|(namespace, _)| *namespace == key.0).count() >= MAX_WAITING {
            let message = format!("{MAX_WAITING} streams wait already and are not used");
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        waiting.insert(key.clone(), stream);
        Ok(())
    }

    /// Lets a stream go that nobody took until its client went away, or for too long.
    async fn watch(self, key: Key, outgoing: mpsc::WeakSender<std::result::Result<Any, Status>>) {
        let begin = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gone = match outgoing.upgrade() {
                None => return,
                Some(outgoing) => outgoing.is_closed() || begin.elapsed() > UNTAKEN,
            };
            let mut waiting = self.0.lock();
            match waiting.get(&key) {
                Some(stream) if outgoing.upgrade().is_some_and(|own| own.same_channel(&stream.outgoing)) => {
                    if gone {
                        waiting.remove(&key);
                        return;
                    }
                }
                // It was taken.
                _ => return,
            }
        }
    }
}

impl Stream {
    /// The next message; `None` where the client sends no more.
    ///
    /// # Errors
    /// [`Kind::Canceled`] where the client went away.
    pub(crate) async fn receive(&mut self) -> Result<Option<Any>> {
        let gone =
            |status: Status| Error::new(Kind::Canceled, format!("the client's stream broke: {}", status.message()));
        self.incoming.message().await.map_err(gone)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`Kind::Canceled`] where the client went away.
    pub(crate) async fn send<M: Message + Name>(&self, message: &M) -> Result<()> {
        let sent = self.outgoing.send(Ok(any(message))).await;
        sent.map_err(|_| Error::new(Kind::Canceled, "the client's stream is closed"))
    }
}

/// A message with its type, as containerd writes it.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Reads a message of one type; `None` where it is of another.
///
/// # Errors
/// [`Kind::InvalidArgument`] where the bytes are not of the type they are said to be of.
pub(crate) fn read<M: Message + Name + Default>(any: &Any) -> Result<Option<M>> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    if name != M::full_name() {
        return Ok(None);
    }
    let broken = |error| Error::with_source(Kind::InvalidArgument, format!("a {name} cannot be read"), error);
    M::decode(any.value.as_slice()).map(Some).map_err(broken)
}

#[tonic::async_trait]
impl Streaming for Service {
    type StreamStream = Outgoing;

    async fn stream(
        &self,
        request: Request<Incoming<Any>>,
    ) -> std::result::Result<Response<Self::StreamStream>, Status> {
        let namespace = tenant::of(&self.core, &request)?.namespace().clone();
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(FIRST, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first message on the stream"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream ended before its first message"))?;
        let init: Option<StreamInit> = read(&first).map_err(status)?;
        let id = init.map(|init| init.id).unwrap_or_default();
        if id.is_empty() || id.len() > MAX_ID {
            return Err(Status::invalid_argument(format!(
                "a stream begins with a StreamInit and an id of 1 to {MAX_ID} bytes"
            )));
        }
        let (outgoing, messages) = mpsc::channel(QUEUE);
        // The answer to the first message; the queue has room for it.
        let _ = outgoing.try_send(Ok(Any { type_url: "google.protobuf.Empty".into(), value: Vec::new() }));
        let (key, weak) = ((namespace, id), outgoing.downgrade());
        self.streams.put(&key, Stream { incoming, outgoing }).map_err(status)?;
        tokio::spawn(self.streams.clone().watch(key, weak));
        let messages = futures::stream::unfold(messages, |mut messages| async move {
            let message = messages.recv().await?;
            Some((message, messages))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}
