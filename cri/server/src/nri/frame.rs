//! The bytes on a plugin's socket: frames of two connections, and in each of them messages of ttrpc.
//!
//! The Node Resource Interface carries several connections over one socket. A frame is the connection's number, the length
//! (both 32 bits, big-endian) and that many bytes. In connection 1 the runtime calls the plugin, in connection 2 the plugin
//! calls the runtime. Frames are pieces of a stream: a message may be cut anywhere.
//!
//! A message of ttrpc is its length, the number of the call (both as above), its kind, its flags (a byte each) and that
//! many bytes of a `Request` or a `Response`.

use prost::Message as _;
use windlass_cri_api::ttrpc::{Request, Response};
use windlass_model::{Error, Kind, Result};

/// The connection in which the runtime calls the plugin.
pub(super) const TO_PLUGIN: u32 = 1;
/// The connection in which the plugin calls the runtime.
pub(super) const TO_RUNTIME: u32 = 2;
/// The longest message of ttrpc, in bytes.
pub(super) const MAX_MESSAGE: usize = 4 << 20;
/// A message's own header, and a frame's, in bytes.
const HEADER: usize = 10;
const FRAME_HEADER: usize = 8;
/// Plugins' readers have a buffer of so many bytes at a message's beginning, and drop a frame that does not fit.
const FIRST_FRAME: usize = 4096;

/// What ttrpc calls the kinds of messages.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Incoming {
    /// The plugin calls.
    Request(u32, Request),
    /// The plugin answers.
    Response(u32, Response),
}

/// Takes bytes as they come and gives the messages in them.
#[derive(Debug, Default)]
pub(super) struct Frames {
    socket: Vec<u8>,
    to_plugin: Vec<u8>,
    to_runtime: Vec<u8>,
}

impl Frames {
    /// Takes further bytes. After an error the socket is of no more use.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for what is no message, [`Kind::ResourceExhausted`] for one that is too long.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Incoming>> {
        self.socket.extend_from_slice(bytes);
        let mut incoming = Vec::new();
        let mut rest = self.socket.as_slice();
        while let Some((header, after)) = rest.split_first_chunk::<FRAME_HEADER>() {
            let (connection, length) = (number(header, 0), number(header, 4) as usize);
            if length > MAX_MESSAGE + HEADER {
                return Err(too_long(length));
            }
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            rest = after;
            let stream = match connection {
                TO_PLUGIN => &mut self.to_plugin,
                TO_RUNTIME => &mut self.to_runtime,
                // Nobody has opened it.
                _ => continue,
            };
            stream.extend_from_slice(payload);
            while let Some(message) = message(stream, connection)? {
                incoming.push(message);
            }
        }
        let left = rest.len();
        self.socket.drain(..self.socket.len() - left);
        Ok(incoming)
    }
}

/// The first message of a stream, cut off from it.
fn message(stream: &mut Vec<u8>, connection: u32) -> Result<Option<Incoming>> {
    let Some((header, _)) = stream.split_first_chunk::<HEADER>() else { return Ok(None) };
    let (length, call, kind) = (number(header, 0) as usize, number(header, 4), header[8]);
    if length > MAX_MESSAGE {
        return Err(too_long(length));
    }
    let Some(payload) = stream.get(HEADER..HEADER + length) else { return Ok(None) };
    let broken = |error: prost::DecodeError| Error::invalid(format!("a message of a plugin: {error}"));
    let message = match (connection, kind) {
        (TO_RUNTIME, REQUEST) => Incoming::Request(call, Request::decode(payload).map_err(broken)?),
        (TO_PLUGIN, RESPONSE) => Incoming::Response(call, Response::decode(payload).map_err(broken)?),
        _ => return Err(Error::invalid(format!("a plugin sends a message of kind {kind} in connection {connection}"))),
    };
    stream.drain(..HEADER + length);
    Ok(Some(message))
}

/// The frames of a request to the plugin.
///
/// # Errors
/// [`Kind::ResourceExhausted`] where it is too long.
pub(super) fn request(call: u32, request: &Request) -> Result<Vec<u8>> {
    frames(TO_PLUGIN, call, REQUEST, &request.encode_to_vec())
}

/// The frames of an answer to the plugin. Errors as [`request`].
pub(super) fn response(call: u32, response: &Response) -> Result<Vec<u8>> {
    frames(TO_RUNTIME, call, RESPONSE, &response.encode_to_vec())
}

fn frames(connection: u32, call: u32, kind: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= MAX_MESSAGE);
    let length = length.ok_or_else(|| too_long(payload.len()))?;
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.extend(length.to_be_bytes());
    message.extend(call.to_be_bytes());
    message.extend([kind, 0]);
    message.extend_from_slice(payload);
    let mut frames = Vec::with_capacity(message.len() + 2 * FRAME_HEADER);
    let (first, rest) = message.split_at(message.len().min(FIRST_FRAME));
    for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()) {
        frames.extend(connection.to_be_bytes());
        // A piece is no longer than the message, whose length was checked.
        frames.extend((piece.len() as u32).to_be_bytes());
        frames.extend_from_slice(piece);
    }
    Ok(frames)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn too_long(length: usize) -> Error {
    Error::new(Kind::ResourceExhausted, format!("a message of {length} bytes is longer than {MAX_MESSAGE}"))
}

/// Takes the bytes in two pieces.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_frames(bytes: &[u8]) {
    let mut frames = Frames::default();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let _ = frames.take(first).and_then(|_| frames.take(second));
}

#[cfg(test)]
mod tests {
    use windlass_cri_api::ttrpc::Status;

    use super::*;

    fn call(payload: usize) -> Request {
        Request { service: "s".into(), method: "m".into(), payload: vec![7; payload], ..Default::default() }
    }

    /// As the plugin writes a call to us.
    fn theirs(number: u32, request: &Request) -> Vec<u8> {
        frames(TO_RUNTIME, number, REQUEST, &request.encode_to_vec()).unwrap()
    }

    #[test]
    fn messages_come_back_however_they_are_cut() {
        let (one, two) = (call(3), call(10_000));
        let answer = Response { status: Some(Status { code: 5, message: "no".into() }), payload: vec![] };
        let mut bytes = theirs(1, &one);
        bytes.extend([0, 0, 0, 9, 0, 0, 0, 2, 1, 1]);
        bytes.extend(theirs(3, &two));
        bytes.extend(frames(TO_PLUGIN, 5, RESPONSE, &answer.encode_to_vec()).unwrap());
        let expected = [Incoming::Request(1, one), Incoming::Request(3, two), Incoming::Response(5, answer)];
        for step in [1, 7, 4096, bytes.len()] {
            let mut frames = Frames::default();
            let found: Vec<_> = bytes.chunks(step).flat_map(|piece| frames.take(piece).unwrap()).collect();
            assert_eq!(found, expected, "{step}");
        }
    }

    #[test]
    fn a_long_message_begins_with_a_short_frame() {
        let bytes = request(1, &call(5000)).unwrap();
        assert_eq!(number(&bytes, 4) as usize, FIRST_FRAME);
        let next = FRAME_HEADER + FIRST_FRAME;
        assert_eq!(number(&bytes, next), TO_PLUGIN);
        assert_eq!(number(&bytes, next + 4) as usize, bytes.len() - next - FRAME_HEADER);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = [theirs(1, &call(40)), theirs(3, &call(5000))].concat();
        let mut state = 7u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..3000 {
            let mut bytes = good.clone();
            for _ in 0..=random(6) {
                let at = random(64.min(bytes.len()));
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(random(bytes.len()) + 1);
            let mut frames = Frames::default();
            let _ = bytes.chunks(random(900) + 1).try_for_each(|piece| frames.take(piece).map(drop));
        }
    }

    #[test]
    fn rubbish_is_refused() {
        let refused = |bytes: &[u8]| Frames::default().take(bytes).unwrap_err().kind();
        assert_eq!(refused(&[0, 0, 0, 1, 0xff, 0, 0, 0]), Kind::ResourceExhausted);
        let mut long = vec![0, 0, 0, 1, 0, 0, 0, 10];
        long.extend([0xff, 0, 0, 0, 0, 0, 0, 1, 2, 0]);
        assert_eq!(refused(&long), Kind::ResourceExhausted);
        // A request where only answers may come.
        assert_eq!(refused(&frames(TO_PLUGIN, 1, REQUEST, &[]).unwrap()), Kind::InvalidArgument);
        assert_eq!(refused(&frames(TO_RUNTIME, 1, 3, &[]).unwrap()), Kind::InvalidArgument);
        assert_eq!(refused(&frames(TO_RUNTIME, 1, REQUEST, &[0xff]).unwrap()), Kind::InvalidArgument);
        assert!(request(1, &call(MAX_MESSAGE)).is_err());
    }
}
