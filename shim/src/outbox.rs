//! Events on their way to the daemon: in order, kept on disk where they matter, tried again until acknowledged.
//!
//! The files are those of [`windlass_wire::outbox`]. Exits and kills for memory are kept; the rest are hints, which are
//! dropped while the daemon is away.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use windlass_model::event::Event;
use windlass_model::{Error, Namespace, Result, Timestamp};
use windlass_wire::events::{Envelope, EventsClient, ForwardRequest};
use windlass_wire::outbox::{self, Entry};
use windlass_wire::protobuf::MessageField;
use windlass_wire::ttrpc::r#async::Client;
use windlass_wire::ttrpc::r#async::transport::Socket;
use windlass_wire::ttrpc::context;
use windlass_wire::{convert, words};

/// How long the daemon may take to acknowledge.
const ANSWER: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// The sending side.
#[derive(Debug)]
pub struct Outbox {
    bundle: PathBuf,
    namespace: Namespace,
    sequence: u64,
    queue: mpsc::UnboundedSender<Item>,
}

/// The delivering side, to be run as a task.
#[derive(Debug)]
pub struct Delivery {
    daemon: PathBuf,
    queue: mpsc::UnboundedReceiver<Item>,
}

#[derive(Debug)]
struct Item {
    entry: Entry,
    kept: Option<PathBuf>,
}

/// An outbox in `bundle` for the daemon that serves events on the socket `daemon`.
pub fn open(bundle: PathBuf, namespace: Namespace, daemon: PathBuf) -> (Outbox, Delivery) {
    let (sender, queue) = mpsc::unbounded_channel();
    (Outbox { bundle, namespace, sequence: 0, queue: sender }, Delivery { daemon, queue })
}

impl Outbox {
    /// Hands an event over for delivery.
    pub fn publish(&mut self, event: Event) {
        let keep = matches!(event, Event::TaskExit { .. } | Event::TaskOom { .. });
        self.sequence += 1;
        let entry =
            Entry { sequence: self.sequence, timestamp: Timestamp::now(), namespace: self.namespace.clone(), event };
        let kept = keep.then(|| outbox::file(&self.bundle, self.sequence));
        if let Some(file) = &kept
            && let Err(error) = windlass_sys::fs::write_atomic(file, &outbox::encode(&entry))
        {
            // It is delivered from memory all the same.
            eprintln!("keep an event: {error}");
        }
        self.queue.send(Item { entry, kept }).ok();
    }
}

impl Delivery {
    /// Delivers until the outbox is dropped and empty.
    pub async fn run(mut self) {
        let mut connection = None;
        while let Some(item) = self.queue.recv().await {
            let mut pause = FIRST_PAUSE;
            while let Err(error) = self.deliver(&mut connection, &item.entry).await {
                connection = None;
                if item.kept.is_none() || self.daemon.as_os_str().is_empty() {
                    break;
                }
                if pause == FIRST_PAUSE {
                    eprintln!("an event waits for the daemon: {error}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            if let Some(file) = &item.kept {
                std::fs::remove_file(file).ok();
            }
        }
    }

    async fn deliver(&self, connection: &mut Option<EventsClient>, entry: &Entry) -> Result<()> {
        let Some(any) = convert::event(&entry.event)? else { return Ok(()) };
        let client = match connection {
            Some(client) => client,
            None => {
                let stream = tokio::time::timeout(ANSWER, UnixStream::connect(&self.daemon))
                    .await
                    .map_err(|_| Error::deadline("the daemon takes no connection"))??;
                connection.insert(EventsClient::new(Client::new(Socket::from(stream))))
            }
        };
        let envelope = Envelope {
            timestamp: convert::timestamp(entry.timestamp),
            namespace: entry.namespace.to_string(),
            topic: entry.event.topic().into(),
            event: MessageField::some(any),
            ..Envelope::default()
        };
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        client.forward(context::with_duration(ANSWER), &request).await.map_err(convert::from_error).map(drop)
    }
}

/// The socket that the daemon named in this process's environment; empty where it named none.
pub fn daemon_socket() -> PathBuf {
    let address = std::env::var(words::ENV_TTRPC_ADDRESS).unwrap_or_default();
    address.strip_prefix("unix://").unwrap_or(&address).into()
}
