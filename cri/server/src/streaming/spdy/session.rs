//! The streams of one connection: ids, windows, and the reader that deals frames out to them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use futures::future::poll_fn;
use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::super::outbox::Outbox;
use super::super::pipe::{Feeder, pipe};
use super::super::source::Source;
use super::frame::{self, Control, GoAway, HEAD, Head, Reset, Violation};
use super::headers::{Deflater, Headers, Inflater};
use super::stream::{Opened, Outlet};

/// The most streams that are open at once; a forwarded connection has two.
const MAX_STREAMS: usize = 1000;

/// The bytes of one stream that wait for their reader; the protocol's first window.
const STREAM_LIMIT: usize = 64 * 1024;

/// The bytes of all streams together that wait for their readers.
const SESSION_LIMIT: usize = 1024 * 1024;

/// The window that a client has before it says otherwise.
const FIRST_WINDOW: i64 = 64 * 1024;

/// From how many bytes on a window update is worth a frame.
const UPDATE: u32 = 32 * 1024;

/// The largest window.
const MAX_WINDOW: i64 = 0x7fff_ffff;

/// One connection's streams.
#[derive(Clone)]
pub(super) struct Session(Arc<Shared>);

pub(super) struct Shared {
    outbox: Outbox,
    state: Mutex<State>,
}

struct State {
    streams: HashMap<u32, Stream>,
    deflater: Deflater,
    /// The newest stream's id.
    newest: u32,
    /// The client has spoken of windows, so it means them.
    windowed: bool,
    /// The window that new streams have.
    first_window: i64,
    /// What the client's session window still lets through.
    window: i64,
    /// Bytes read since the last update of our session window.
    owed: u32,
    /// Bytes that wait for their readers.
    waiting: usize,
    reader: Option<Waker>,
}

struct Stream {
    feeder: Arc<Feeder>,
    /// The client may still send.
    receiving: bool,
    /// We may still send.
    sending: bool,
    window: i64,
    owed: u32,
    writer: Option<Waker>,
}

/// Why reading ended before the client's orderly end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the client is gone: {0}")]
    Gone(#[from] io::Error),
    #[error("the client broke the protocol: {0}")]
    Violation(#[from] Violation),
}

impl Session {
    /// A session without streams, whose frames go to `outbox`.
    pub(super) fn new(outbox: Outbox) -> Self {
        Self(Arc::new(Shared {
            outbox,
            state: Mutex::new(State {
                streams: HashMap::new(),
                deflater: Deflater::default(),
                newest: 0,
                windowed: false,
                first_window: FIRST_WINDOW,
                window: FIRST_WINDOW,
                owed: 0,
                waiting: 0,
                reader: None,
            }),
        }))
    }

    /// Reads frames until the client ends. New streams go to `opened`; once nobody listens there they are refused.
    ///
    /// # Errors
    /// [`Broken`] on the first frame that breaks the protocol.
    pub(super) async fn read(
        &self,
        source: &mut Source<impl AsyncRead + Unpin>,
        opened: mpsc::Sender<Opened>,
    ) -> Result<(), Broken> {
        // A session whose streams stall is held back by each stream's limit, not by the protocol's small session window.
        self.0.outbox.push(|out| frame::put_window_update(out, 0, SESSION_LIMIT as u32 - FIRST_WINDOW as u32));
        let mut inflater = Inflater::default();
        loop {
            self.0.outbox.room().await;
            let Some(head) = source.head::<HEAD>().await? else { return Ok(()) };
            match frame::head(head)? {
                Head::Data { stream, fin, length } => self.data(source, stream, fin, length).await?,
                Head::Control { kind, flags, length } => {
                    let mut payload = vec![0; length as usize];
                    source.exact(&mut payload).await?;
                    let control = frame::control(kind, flags, &payload)?;
                    if let Some(stream) = self.control(control, &mut inflater)?
                        && let Err(refused) = opened.send(stream).await
                    {
                        refused.0.refuse();
                    }
                }
            }
        }
    }

    async fn data(
        &self,
        source: &mut Source<impl AsyncRead + Unpin>,
        id: u32,
        fin: bool,
        length: u32,
    ) -> Result<(), Broken> {
        let feeder = {
            let state = self.0.state.lock();
            if id.is_multiple_of(2) || id > state.newest {
                return Err(Violation::StreamId(id).into());
            }
            // A stream that has ended on our side may still get what was on its way.
            state.streams.get(&id).map(|stream| (stream.feeder.clone(), stream.receiving))
        };
        if let Some((_, false)) = feeder {
            self.reset(id, Reset::AlreadyClosed);
        }
        let feeder = feeder.filter(|(_, receiving)| *receiving).map(|(feeder, _)| feeder);
        let mut left = length;
        while left > 0 {
            poll_fn(|context| self.poll_room(context)).await;
            let chunk = source.chunk(u64::from(left)).await?;
            let count = chunk.len();
            match &feeder {
                Some(feeder) => {
                    self.0.state.lock().waiting += count;
                    feeder.feed(chunk).await;
                }
                None => self.0.owe(None, count),
            }
            source.consume(count);
            left -= count as u32;
        }
        if fin && feeder.is_some() {
            self.0.received_all(id);
        }
        Ok(())
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state.lock();
        if state.waiting < SESSION_LIMIT {
            return Poll::Ready(());
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn control(&self, control: Control<'_>, inflater: &mut Inflater) -> Result<Option<Opened>, Violation> {
        match control {
            Control::SynStream { stream, fin, unidirectional, block } => {
                let headers = inflater.read(block)?;
                return self.open(stream, fin, unidirectional, headers);
            }
            Control::Headers { stream, fin, block } => {
                inflater.read(block)?;
                if fin {
                    self.0.received_all(stream);
                }
            }
            // We open no streams, so nothing can be a reply.
            Control::SynReply { stream, .. } => return Err(Violation::StreamId(stream)),
            Control::RstStream { stream } => self.0.forget(stream),
            Control::Settings { initial_window: Some(size) } => self.0.first_window(i64::from(size))?,
            Control::WindowUpdate { stream, delta } => self.0.window(stream, i64::from(delta))?,
            // Even ids are answers to pings of ours, and we send none.
            Control::Ping { id } if !id.is_multiple_of(2) => self.0.outbox.push(|out| frame::put_ping(out, id)),
            // After a GOAWAY the client closes when its streams have ended.
            Control::Settings { .. } | Control::Ping { .. } | Control::GoAway | Control::Unknown => {}
        }
        Ok(None)
    }

    fn open(&self, id: u32, fin: bool, unidirectional: bool, headers: Headers) -> Result<Option<Opened>, Violation> {
        let mut state = self.0.state.lock();
        if id.is_multiple_of(2) || id <= state.newest {
            return Err(Violation::StreamId(id));
        }
        state.newest = id;
        if state.streams.len() >= MAX_STREAMS {
            drop(state);
            self.0.outbox.push(|out| frame::put_rst_stream(out, id, Reset::Refused));
            return Ok(None);
        }
        let shared = Arc::downgrade(&self.0);
        let (feeder, inlet) = pipe(STREAM_LIMIT, Box::new(move |count| Shared::taken(&shared, id, count)));
        if fin {
            feeder.end();
        }
        let window = state.first_window;
        state.streams.insert(
            id,
            Stream {
                feeder: Arc::new(feeder),
                receiving: !fin,
                sending: !unidirectional,
                window,
                owed: 0,
                writer: None,
            },
        );
        drop(state);
        Ok(Some(Opened { id, headers, inlet, outlet: Outlet { shared: self.0.clone(), id }, session: self.clone() }))
    }

    /// Accepts a stream.
    pub(super) fn reply(&self, id: u32) {
        // In one lock, because the blocks must go out in the order in which they were made.
        let mut state = self.0.state.lock();
        let block = state.deflater.empty_block();
        self.0.outbox.push(|out| frame::put_syn_reply(out, id, &block));
    }

    /// Ends a stream early, if it has not ended.
    pub(super) fn reset(&self, id: u32, why: Reset) {
        if self.0.state.lock().streams.contains_key(&id) {
            self.0.outbox.push(|out| frame::put_rst_stream(out, id, why));
            self.0.forget(id);
        }
    }

    /// The client is gone: inputs end, in good order if `whole`, and outputs break.
    pub(super) fn gone(&self, whole: bool) {
        let streams = std::mem::take(&mut self.0.state.lock().streams);
        for (_, stream) in streams {
            if whole {
                stream.feeder.end();
            }
            stream.close();
        }
    }

    /// Says that no more streams are served.
    pub(super) fn goaway(&self, why: GoAway) {
        let newest = self.0.state.lock().newest;
        self.0.outbox.push(|out| frame::put_goaway(out, newest, why));
    }
}

impl Stream {
    fn close(self) {
        self.feeder.fail();
        self.writer.into_iter().for_each(Waker::wake);
    }
}

impl Shared {
    /// Queues data of a stream, as much as its windows and the queue let through.
    pub(super) fn poll_data(&self, context: &mut Context<'_>, id: u32, bytes: &[u8]) -> Poll<io::Result<usize>> {
        /// How much goes into one frame, so that streams take turns.
        const LONGEST: usize = 32 * 1024;
        let mut state = self.state.lock();
        let State { streams, windowed, window: session, .. } = &mut *state;
        let Some(stream) = streams.get_mut(&id).filter(|stream| stream.sending) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let mut count = bytes.len().min(LONGEST);
        if *windowed {
            let window = usize::try_from(stream.window.min(*session)).unwrap_or(0);
            if window == 0 && count > 0 {
                stream.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            count = count.min(window);
        }
        std::task::ready!(self.outbox.poll_push(context, |out| frame::put_data(out, id, false, &bytes[..count])))?;
        stream.window -= count as i64;
        *session -= count as i64;
        Poll::Ready(Ok(count))
    }

    /// Ends our half of a stream, if it has not ended.
    pub(super) fn sent_all(&self, id: u32) {
        let ended = {
            let mut state = self.state.lock();
            let Some(stream) = state.streams.get_mut(&id).filter(|stream| stream.sending) else { return };
            stream.sending = false;
            self.outbox.push(|out| frame::put_data(out, id, true, &[]));
            if stream.receiving { None } else { state.streams.remove(&id) }
        };
        ended.into_iter().for_each(Stream::close);
    }

    /// The client has ended its half of a stream.
    fn received_all(&self, id: u32) {
        let ended = {
            let mut state = self.state.lock();
            let Some(stream) = state.streams.get_mut(&id) else { return };
            stream.receiving = false;
            stream.feeder.end();
            if stream.sending { None } else { state.streams.remove(&id) }
        };
        ended.into_iter().for_each(Stream::close);
    }

    fn forget(&self, id: u32) {
        let ended = self.state.lock().streams.remove(&id);
        ended.into_iter().for_each(Stream::close);
    }

    /// A stream's reader took `count` bytes.
    fn taken(shared: &Weak<Self>, id: u32, count: usize) {
        let Some(shared) = shared.upgrade() else { return };
        let reader = {
            let mut state = shared.state.lock();
            state.waiting = state.waiting.saturating_sub(count);
            state.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
        shared.owe(Some(id), count);
    }

    /// Gives the client its windows back, now and then.
    fn owe(&self, id: Option<u32>, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut state = self.state.lock();
        let update = |owed: &mut u32, id: u32| {
            *owed = owed.saturating_add(count);
            if *owed >= UPDATE {
                let delta = std::mem::take(owed);
                self.outbox.push(|out| frame::put_window_update(out, id, delta));
            }
        };
        update(&mut state.owed, 0);
        if let Some(id) = id
            && let Some(stream) = state.streams.get_mut(&id).filter(|stream| stream.receiving)
        {
            update(&mut stream.owed, id);
        }
    }

    fn first_window(&self, size: i64) -> Result<(), Violation> {
        let mut state = self.state.lock();
        let change = size - state.first_window;
        state.first_window = size;
        state.windowed = true;
        for stream in state.streams.values_mut() {
            stream.window += change;
            if stream.window > MAX_WINDOW {
                return Err(Violation::Window);
            }
            stream.writer.take().into_iter().for_each(Waker::wake);
        }
        Ok(())
    }

    fn window(&self, id: u32, delta: i64) -> Result<(), Violation> {
        let mut state = self.state.lock();
        state.windowed = true;
        if id == 0 {
            state.window += delta;
            state.streams.values_mut().filter_map(|stream| stream.writer.take()).for_each(Waker::wake);
            return if state.window > MAX_WINDOW { Err(Violation::Window) } else { Ok(()) };
        }
        // An update may be on its way while its stream ends.
        let Some(stream) = state.streams.get_mut(&id) else { return Ok(()) };
        stream.window += delta;
        stream.writer.take().into_iter().for_each(Waker::wake);
        if stream.window > MAX_WINDOW { Err(Violation::Window) } else { Ok(()) }
    }
}
