//! A plugin of the Node Resource Interface, written against the wire alone: for tests, in the test's own process, and for a
//! program that the daemon starts.
//!
//! One socket carries two connections in frames (number, length, bytes; big-endian): in the first the runtime calls us, in
//! the second we call it. Each carries messages of ttrpc (length, call, kind, flags, bytes).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use prost::Message;

/// Numbers of events, for masks ([`mask`]) and for changes of state.
pub mod event {
    #![allow(missing_docs, reason = "the protocol's own words")]
    pub const RUN_POD: i32 = 1;
    pub const STOP_POD: i32 = 2;
    pub const REMOVE_POD: i32 = 3;
    pub const CREATE: i32 = 4;
    pub const POST_CREATE: i32 = 5;
    pub const START: i32 = 6;
    pub const POST_START: i32 = 7;
    pub const UPDATE: i32 = 8;
    pub const POST_UPDATE: i32 = 9;
    pub const STOP: i32 = 10;
    pub const REMOVE: i32 = 11;
    pub const VALIDATE: i32 = 14;
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field:meta])* $key:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        #[allow(missing_docs, reason = "the protocol's own words")]
        pub struct $name { $($(#[$field])* pub $key: $type,)* }
    )*};
}

messages! {
    /// A call of ttrpc.
    Request {
        #[prost(string, tag = "1")] service: String,
        #[prost(string, tag = "2")] method: String,
        #[prost(bytes = "vec", tag = "3")] payload: Vec<u8>,
    }
    /// Its answer.
    Response {
        #[prost(message, optional, tag = "1")] status: Option<Status>,
        #[prost(bytes = "vec", tag = "2")] payload: Vec<u8>,
    }
    /// Why there is none.
    Status {
        #[prost(int32, tag = "1")] code: i32,
        #[prost(string, tag = "2")] message: String,
    }
    /// `RegisterPluginRequest`.
    Register {
        #[prost(string, tag = "1")] name: String,
        #[prost(string, tag = "2")] index: String,
    }
    /// `ConfigureRequest`, as far as tests look at it.
    Configure {
        #[prost(string, tag = "1")] config: String,
        #[prost(string, tag = "2")] runtime_name: String,
        #[prost(int64, tag = "5")] request_timeout: i64,
    }
    /// `ConfigureResponse`.
    Configured { #[prost(int32, tag = "2")] events: i32, }
    /// `SynchronizeRequest`.
    Synchronize {
        #[prost(message, repeated, tag = "1")] pods: Vec<Pod>,
        #[prost(message, repeated, tag = "2")] containers: Vec<Container>,
        #[prost(bool, tag = "3")] more: bool,
    }
    /// `SynchronizeResponse`.
    Synchronized {
        #[prost(message, repeated, tag = "1")] update: Vec<Update>,
        #[prost(bool, tag = "2")] more: bool,
    }
    /// A pod, as far as tests look at it.
    Pod {
        #[prost(string, tag = "1")] id: String,
        #[prost(string, tag = "2")] name: String,
        #[prost(string, tag = "3")] uid: String,
        #[prost(string, tag = "4")] namespace: String,
        #[prost(uint32, tag = "9")] pid: u32,
        #[prost(string, repeated, tag = "10")] ips: Vec<String>,
    }
    /// A container, as far as tests look at it.
    Container {
        #[prost(string, tag = "1")] id: String,
        #[prost(string, tag = "2")] pod: String,
        #[prost(string, tag = "3")] name: String,
        #[prost(int32, tag = "4")] state: i32,
        #[prost(map = "string, string", tag = "5")] labels: HashMap<String, String>,
        #[prost(string, repeated, tag = "7")] args: Vec<String>,
        #[prost(string, repeated, tag = "8")] env: Vec<String>,
        #[prost(message, repeated, tag = "9")] mounts: Vec<Mount>,
        #[prost(uint32, tag = "12")] pid: u32,
        #[prost(int32, tag = "17")] exit_code: i32,
    }
    /// The request of everything that is about a pod or a container.
    About {
        #[prost(message, optional, tag = "1")] pod: Option<Pod>,
        #[prost(message, optional, tag = "2")] container: Option<Container>,
    }
    /// `ValidateContainerAdjustmentRequest`, as far as tests look at it.
    Judged { #[prost(message, optional, tag = "3")] adjust: Option<Adjustment>, }
    /// `UpdateContainerRequest`.
    UpdateRequest {
        #[prost(message, optional, tag = "2")] container: Option<Container>,
        #[prost(message, optional, tag = "3")] resources: Option<Resources>,
    }
    /// `CreateContainerResponse`.
    Created {
        #[prost(message, optional, tag = "1")] adjust: Option<Adjustment>,
        #[prost(message, repeated, tag = "2")] update: Vec<Update>,
    }
    /// `UpdateContainerResponse`, `UpdateContainersRequest` and `UpdateContainersResponse`: their first field.
    Updates { #[prost(message, repeated, tag = "1")] update: Vec<Update>, }
    /// `ContainerAdjustment`.
    Adjustment {
        #[prost(map = "string, string", tag = "2")] annotations: HashMap<String, String>,
        #[prost(message, repeated, tag = "3")] mounts: Vec<Mount>,
        #[prost(message, repeated, tag = "4")] env: Vec<Variable>,
        #[prost(message, optional, tag = "5")] hooks: Option<Hooks>,
        #[prost(message, optional, tag = "6")] linux: Option<Linux>,
        #[prost(message, repeated, tag = "7")] rlimits: Vec<Rlimit>,
        #[prost(string, repeated, tag = "9")] args: Vec<String>,
    }
    /// A mount.
    Mount {
        #[prost(string, tag = "1")] destination: String,
        #[prost(string, tag = "2")] kind: String,
        #[prost(string, tag = "3")] source: String,
        #[prost(string, repeated, tag = "4")] options: Vec<String>,
    }
    /// A variable.
    Variable {
        #[prost(string, tag = "1")] key: String,
        #[prost(string, tag = "2")] value: String,
    }
    /// Hooks, as far as tests use them.
    Hooks { #[prost(message, repeated, tag = "2")] create_runtime: Vec<Hook>, }
    /// A hook.
    Hook {
        #[prost(string, tag = "1")] path: String,
        #[prost(string, repeated, tag = "2")] args: Vec<String>,
    }
    /// `LinuxContainerAdjustment`.
    Linux {
        #[prost(message, repeated, tag = "1")] devices: Vec<Device>,
        #[prost(message, optional, tag = "2")] resources: Option<Resources>,
        #[prost(message, optional, tag = "4")] oom_score_adj: Option<Int>,
        #[prost(map = "string, string", tag = "8")] sysctl: HashMap<String, String>,
    }
    /// A device.
    Device {
        #[prost(string, tag = "1")] path: String,
        #[prost(string, tag = "2")] kind: String,
        #[prost(int64, tag = "3")] major: i64,
        #[prost(int64, tag = "4")] minor: i64,
    }
    /// Resources, as far as tests use them.
    Resources {
        #[prost(message, optional, tag = "1")] memory: Option<Memory>,
        #[prost(message, optional, tag = "2")] cpu: Option<Cpu>,
        #[prost(message, optional, tag = "8")] pids: Option<Int>,
    }
    /// Memory.
    Memory { #[prost(message, optional, tag = "1")] limit: Option<Int>, }
    /// Processors.
    Cpu { #[prost(message, optional, tag = "1")] shares: Option<Int>, }
    /// Any optional number, and the limit of processes.
    Int { #[prost(int64, tag = "1")] value: i64, }
    /// A limit of a process.
    Rlimit {
        #[prost(string, tag = "1")] kind: String,
        #[prost(uint64, tag = "2")] hard: u64,
        #[prost(uint64, tag = "3")] soft: u64,
    }
    /// `ContainerUpdate`.
    Update {
        #[prost(string, tag = "1")] id: String,
        #[prost(message, optional, tag = "2")] linux: Option<UpdateLinux>,
        #[prost(bool, tag = "3")] ignore_failure: bool,
    }
    /// `LinuxContainerUpdate`.
    UpdateLinux { #[prost(message, optional, tag = "1")] resources: Option<Resources>, }
    /// `ValidateContainerAdjustmentResponse`.
    Judgement {
        #[prost(bool, tag = "1")] reject: bool,
        #[prost(string, tag = "2")] reason: String,
    }
    /// A message without fields.
    Empty {}
}

/// What a plugin does with a question: answers, refuses with words, or (nothing) never answers.
pub type Answer = Option<Result<Vec<u8>, String>>;

/// Decides what to answer to a method and its message.
pub type Decide = Box<dyn FnMut(&str, &[u8]) -> Answer + Send>;

/// A question of the runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The method.
    pub method: String,
    /// The message.
    pub payload: Vec<u8>,
}

/// A plugin that runs in a thread of this process; it leaves when it is dropped.
#[derive(Debug)]
pub struct Plugin {
    socket: UnixStream,
    heard: Arc<Mutex<Vec<Heard>>>,
    answers: Mutex<Receiver<Response>>,
    calls: Mutex<u32>,
}

/// A descriptor as a socket, without owning it.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor(pub RawFd);

/// A mask of events.
pub fn mask(events: &[i32]) -> i32 {
    events.iter().fold(0, |mask, event| mask | 1 << (event - 1))
}

/// An answer of a message.
pub fn yes(message: &impl Message) -> Answer {
    Some(Ok(message.encode_to_vec()))
}

/// An optional number.
pub fn int(value: i64) -> Option<Int> {
    Some(Int { value })
}

impl Read for Descriptor {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        Ok(nix::sys::socket::recv(self.0, into, nix::sys::socket::MsgFlags::empty())?)
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(nix::sys::socket::send(self.0, bytes, nix::sys::socket::MsgFlags::MSG_NOSIGNAL)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes one message of ttrpc in one frame, or in two where it is long.
fn send(socket: &mut impl Write, connection: u32, call: u32, kind: u8, payload: &[u8]) -> Result<()> {
    let mut message = Vec::new();
    message.extend((payload.len() as u32).to_be_bytes());
    message.extend(call.to_be_bytes());
    message.extend([kind, 0]);
    message.extend_from_slice(payload);
    let mut bytes = Vec::new();
    for piece in message.chunks(4096) {
        bytes.extend(connection.to_be_bytes());
        bytes.extend((piece.len() as u32).to_be_bytes());
        bytes.extend_from_slice(piece);
    }
    Ok(socket.write_all(&bytes)?)
}

/// Serves the runtime's questions until the connection ends; answers to our own calls go to `answers`.
fn serve(
    mut reader: impl Read,
    mut writer: impl Write,
    events: i32,
    mut decide: Decide,
    heard: &Mutex<Vec<Heard>>,
    answers: &Sender<Response>,
) -> Result<()> {
    let mut streams: [Vec<u8>; 2] = Default::default();
    loop {
        let mut header = [0u8; 8];
        reader.read_exact(&mut header)?;
        let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut piece = vec![0; number(4) as usize];
        reader.read_exact(&mut piece)?;
        let connection = number(0);
        let stream = streams.get_mut(connection as usize - 1).context("an unknown connection")?;
        stream.extend(piece);
        while stream.len() >= 10 {
            let length = u32::from_be_bytes([stream[0], stream[1], stream[2], stream[3]]) as usize;
            if stream.len() < 10 + length {
                break;
            }
            let message: Vec<u8> = stream.drain(..10 + length).collect();
            let call = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
            if connection == 2 {
                answers.send(Response::decode(&message[10..])?).ok();
                continue;
            }
            let Request { method, payload, .. } = Request::decode(&message[10..])?;
            if let Ok(mut heard) = heard.lock() {
                heard.push(Heard { method: method.clone(), payload: payload.clone() });
            }
            let answer = match decide(&method, &payload) {
                None => continue,
                Some(answer) => answer,
            };
            let response = match answer {
                // A plugin without an opinion on the configuration wants its events.
                Ok(payload) if method == "Configure" && payload.is_empty() => {
                    Response { payload: Configured { events }.encode_to_vec(), status: None }
                }
                Ok(payload) => Response { payload, status: None },
                Err(message) => Response { payload: vec![], status: Some(Status { code: 2, message }) },
            };
            send(&mut writer, 1, call, 2, &response.encode_to_vec())?;
        }
    }
}

/// Registers and serves, for a program of its own.
pub fn run(socket: Descriptor, index: &str, name: &str, events: i32, decide: Decide) -> Result<()> {
    let register = Register { name: name.to_owned(), index: index.to_owned() };
    let mut writer = socket;
    send(&mut writer, 2, 1, 1, &request("RegisterPlugin", &register).encode_to_vec())?;
    let (answers, _received) = channel();
    serve(socket, writer, events, decide, &Mutex::default(), &answers)
}

fn request(method: &str, message: &impl Message) -> Request {
    Request {
        service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
        method: method.to_owned(),
        payload: message.encode_to_vec(),
    }
}

impl Plugin {
    /// Connects and registers. Questions are answered with nothing unless `decide` says otherwise.
    pub fn connect(socket: &Path, index: &str, name: &str, events: i32, decide: Decide) -> Result<Self> {
        let socket = UnixStream::connect(socket).context("connect to the daemon's plugin socket")?;
        let (sender, answers) = channel();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (reader, writer, noted) = (socket.try_clone()?, socket.try_clone()?, heard.clone());
        std::thread::spawn(move || serve(reader, writer, events, decide, &noted, &sender).ok());
        let plugin = Self { socket, heard, answers: Mutex::new(answers), calls: Mutex::new(0) };
        plugin.call::<Empty>("RegisterPlugin", &Register { name: name.to_owned(), index: index.to_owned() })?;
        Ok(plugin)
    }

    /// Calls the runtime.
    pub fn call<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A> {
        let mut calls = self.calls.lock().map_err(|_| anyhow!("poisoned"))?;
        let mut socket = self.socket.try_clone()?;
        send(&mut socket, 2, *calls * 2 + 1, 1, &request(method, message).encode_to_vec())?;
        *calls += 1;
        let answers = self.answers.lock().map_err(|_| anyhow!("poisoned"))?;
        let response = answers.recv_timeout(Duration::from_secs(20)).context("no answer")?;
        if let Some(status) = response.status.filter(|status| status.code != 0) {
            bail!("{method}: {} ({})", status.message, status.code);
        }
        Ok(A::decode(response.payload.as_slice())?)
    }

    /// Everything that was asked so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().map(|heard| heard.clone()).unwrap_or_default()
    }

    /// The methods that were asked about a container, in order.
    pub fn steps_of(&self, container: &str) -> Vec<String> {
        let about = |heard: &Heard| {
            let about = About::decode(heard.payload.as_slice()).ok()?;
            (about.container?.id == container).then(|| heard.method.clone())
        };
        self.heard().iter().filter(|heard| heard.method != "Synchronize").filter_map(about).collect()
    }

    /// The methods that were asked about a pod and no container, in order.
    pub fn steps_of_pod(&self, pod: &str) -> Vec<String> {
        let about = |heard: &Heard| {
            let about = About::decode(heard.payload.as_slice()).ok()?;
            (about.container.is_none() && about.pod?.id == pod).then(|| heard.method.clone())
        };
        self.heard().iter().filter(|heard| heard.method != "Synchronize").filter_map(about).collect()
    }

    /// Waits until the runtime has told everything that there is.
    pub async fn joined(&self) -> Result<Synchronize> {
        let heard = crate::eventually("the plugin joins", Duration::from_secs(20), async || {
            self.heard().into_iter().find(|heard| heard.method == "Synchronize")
        });
        Ok(Synchronize::decode(heard.await?.payload.as_slice())?)
    }

    /// Whether the runtime has closed the connection.
    pub fn is_cut_off(&self) -> bool {
        let mut byte = [0];
        let flags = nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT;
        matches!(nix::sys::socket::recv(std::os::fd::AsRawFd::as_raw_fd(&self.socket), &mut byte, flags), Ok(0))
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Both).ok();
    }
}
