//! The connection to one plugin: calls in both directions over its socket, and its end.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use windlass_cri_api::ttrpc::{Request, Response, Status};
use windlass_model::{Error, Kind, Result};

use super::frame::{self, Frames, Incoming};

/// The plugin's service.
const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// Our service.
pub(super) const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";
/// How many messages may wait to be written.
const WAITING: usize = 16;
/// How many calls of the plugin may wait for us; one that sends more is cut off.
const CALLS: usize = 64;

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The plugin answered with an error.
    Refused {
        /// gRPC's number.
        code: i32,
        /// The plugin's words.
        message: String,
    },
    /// The plugin did not answer in time, or does not speak the protocol, or is gone.
    Lost(Error),
}

/// A call of the plugin.
pub(super) struct Call {
    /// The method of our service, or why it is none.
    pub(super) method: Result<String>,
    /// The message.
    pub(super) payload: Vec<u8>,
    number: u32,
}

/// A connection. It ends when it is closed, by either side.
pub(super) struct Link {
    outgoing: mpsc::Sender<Vec<u8>>,
    pending: Mutex<Pending>,
    ended: CancellationToken,
}

#[derive(Default)]
struct Pending {
    /// Callers' numbers are odd.
    calls: u32,
    waiting: HashMap<u32, oneshot::Sender<Response>>,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { message, .. } => out.write_str(message),
            Self::Lost(error) => error.fmt(out),
        }
    }
}

impl Link {
    /// Speaks with the plugin at the other end of `socket`; gives its calls, too.
    pub(super) fn open(socket: UnixStream) -> (Arc<Self>, mpsc::Receiver<Call>) {
        let (reader, writer) = socket.into_split();
        let (outgoing, to_write) = mpsc::channel(WAITING);
        let (calls, incoming) = mpsc::channel(CALLS);
        let link = Arc::new(Self { outgoing, pending: Mutex::default(), ended: CancellationToken::new() });
        // Both end with the connection.
        tokio::spawn(read(reader, Arc::clone(&link), calls));
        tokio::spawn(write(writer, to_write, link.ended.clone()));
        (link, incoming)
    }

    /// Calls a method of the plugin.
    pub(super) async fn call<A: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
        patience: Duration,
    ) -> Result<A, Failure> {
        let request = Request {
            service: PLUGIN.into(),
            method: method.into(),
            payload: message.encode_to_vec(),
            timeout_nano: i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let (answer, number) = self.expect();
        let talk = async {
            let bytes = frame::request(number, &request)?;
            self.outgoing.send(bytes).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())
        };
        let response = tokio::select! {
            biased;
            response = talk => response,
            () = self.ended.cancelled() => Err(gone()),
            () = tokio::time::sleep(patience) => {
                Err(Error::new(Kind::DeadlineExceeded, format!("no answer to {method} within {patience:?}")))
            }
        };
        self.pending.lock().waiting.remove(&number);
        let response = response.map_err(Failure::Lost)?;
        if let Some(Status { code, message }) = response.status.filter(|status| status.code != 0) {
            return Err(Failure::Refused { code, message });
        }
        A::decode(response.payload.as_slice())
            .map_err(|error| Failure::Lost(Error::invalid(format!("the answer to {method}: {error}"))))
    }

    /// Answers a call of the plugin.
    pub(super) async fn answer(&self, call: &Call, answer: Result<Vec<u8>>) {
        let response = match answer {
            Ok(payload) => Response { status: None, payload },
            Err(error) => {
                let status = Status { code: error.kind().code(), message: error.to_string() };
                Response { status: Some(status), payload: Vec::new() }
            }
        };
        match frame::response(call.number, &response) {
            // Where the connection has ended nobody waits for it.
            Ok(bytes) => drop(self.outgoing.send(bytes).await),
            Err(_) => self.close(),
        }
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        self.ended.cancel();
    }

    /// True after the end.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    fn expect(&self) -> (oneshot::Receiver<Response>, u32) {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.pending.lock();
        let number = pending.calls.wrapping_mul(2) | 1;
        pending.calls = pending.calls.wrapping_add(1);
        pending.waiting.insert(number, sender);
        (receiver, number)
    }
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "the plugin is gone")
}

async fn read(mut socket: OwnedReadHalf, link: Arc<Link>, calls: mpsc::Sender<Call>) {
    let mut frames = Frames::default();
    let mut buffer = vec![0; 16 << 10];
    let error = loop {
        let length = tokio::select! {
            length = socket.read(&mut buffer) => length,
            () = link.ended.cancelled() => return,
        };
        let taken = match length {
            Ok(0) => break None,
            Ok(length) => frames.take(&buffer[..length]),
            Err(error) => break Some(Error::from(error)),
        };
        match taken.and_then(|incoming| incoming.into_iter().try_for_each(|one| link.take(one, &calls))) {
            Ok(()) => {}
            Err(error) => break Some(error),
        }
    };
    if let Some(error) = error {
        tracing::warn!(%error, "a plugin is cut off");
    }
    link.close();
}

impl Link {
    fn take(&self, incoming: Incoming, calls: &mpsc::Sender<Call>) -> Result<()> {
        match incoming {
            Incoming::Response(number, response) => {
                // An answer that came too late has nobody who waits.
                if let Some(waiting) = self.pending.lock().waiting.remove(&number) {
                    let _ = waiting.send(response);
                }
                Ok(())
            }
            Incoming::Request(number, request) => {
                let method = match request.service.as_str() {
                    RUNTIME => Ok(request.method),
                    other => Err(Error::unimplemented(format!("there is no service {other:?}"))),
                };
                let call = Call { method, payload: request.payload, number };
                calls.try_send(call).map_err(|_| {
                    Error::new(Kind::ResourceExhausted, format!("more than {CALLS} calls of a plugin wait"))
                })
            }
        }
    }
}

async fn write(mut socket: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Vec<u8>>, ended: CancellationToken) {
    loop {
        let bytes = tokio::select! {
            bytes = outgoing.recv() => bytes,
            () = ended.cancelled() => None,
        };
        let Some(bytes) = bytes else { return };
        let written = tokio::select! {
            written = socket.write_all(&bytes) => written,
            () = ended.cancelled() => return,
        };
        if written.is_err() {
            ended.cancel();
            return;
        }
    }
}
