//! Frames of SPDY/3: eight bytes of head, then the payload.
//!
//! ```text
//! control  1 | version 15 | type 16 | flags 8 | length 24 | payload
//! data     0 | stream 31            | flags 8 | length 24 | payload
//! ```

use bytes::{BufMut, BytesMut};

/// The bytes of a head.
pub(super) const HEAD: usize = 8;

/// The longest control frame that is read, in bytes; those of Kubernetes have hundreds.
pub(super) const MAX_CONTROL: u32 = 64 * 1024;

const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
/// Stream ids and windows have 31 bits.
const LOW: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The setting that says how many bytes each stream may send at first.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Why a stream ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Reset {
    /// The stream was not wanted.
    Refused = 3,
    /// Nobody needs it any more.
    Cancel = 5,
    /// Data came after the client's end of the stream.
    AlreadyClosed = 9,
}

/// Why the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum GoAway {
    /// It is no longer needed.
    Ok = 0,
    /// The client broke the rules.
    ProtocolError = 1,
}

/// What a client did that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("version {0} instead of 3")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    Oversized(u32),
    #[error("a frame that is too short for its type, {0}")]
    Truncated(u16),
    #[error("stream id {0} out of order")]
    StreamId(u32),
    #[error("a header block that cannot be decompressed")]
    Compression,
    #[error("a header block of more than {0} bytes")]
    Bomb(usize),
    #[error("a malformed header block")]
    HeaderBlock,
    #[error("a window beyond 31 bits")]
    Window,
}

/// The first eight bytes of a frame, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A control frame follows.
    Control { kind: u16, flags: u8, length: u32 },
    /// Bytes of a stream follow.
    Data { stream: u32, fin: bool, length: u32 },
}

/// A control frame, read; header blocks are still compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    SynStream {
        stream: u32,
        fin: bool,
        unidirectional: bool,
        block: &'a [u8],
    },
    SynReply {
        stream: u32,
        block: &'a [u8],
    },
    RstStream {
        stream: u32,
    },
    Settings {
        initial_window: Option<u32>,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Headers {
        stream: u32,
        fin: bool,
        block: &'a [u8],
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A type that the protocol does not know, to be ignored.
    Unknown,
}

/// Reads a head.
pub(super) fn head(bytes: [u8; HEAD]) -> Result<Head, Violation> {
    let [a, b, c, d, flags, x, y, z] = bytes;
    let length = u32::from_be_bytes([0, x, y, z]);
    let first = u32::from_be_bytes([a, b, c, d]);
    if first & !LOW == 0 {
        return Ok(Head::Data { stream: first, fin: flags & FIN != 0, length });
    }
    let version = u16::from_be_bytes([a & 0x7f, b]);
    if version != VERSION {
        return Err(Violation::Version(version));
    }
    if length > MAX_CONTROL {
        return Err(Violation::Oversized(length));
    }
    Ok(Head::Control { kind: u16::from_be_bytes([c, d]), flags, length })
}

/// Reads a control frame's payload.
pub(super) fn control(kind: u16, flags: u8, payload: &[u8]) -> Result<Control<'_>, Violation> {
    let word = |at: usize| match payload.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(Violation::Truncated(kind)),
    };
    let rest = |at: usize| payload.get(at..).ok_or(Violation::Truncated(kind));
    let fin = flags & FIN != 0;
    Ok(match kind {
        // Behind the two stream ids stand a priority and a slot for credentials; neither is used.
        SYN_STREAM => Control::SynStream {
            stream: word(0)? & LOW,
            fin,
            unidirectional: flags & UNIDIRECTIONAL != 0,
            block: rest(10)?,
        },
        SYN_REPLY => Control::SynReply { stream: word(0)? & LOW, block: rest(4)? },
        RST_STREAM => {
            word(4)?;
            Control::RstStream { stream: word(0)? & LOW }
        }
        SETTINGS => Control::Settings { initial_window: initial_window(word(0)?, rest(4)?, kind)? },
        PING => Control::Ping { id: word(0)? },
        GOAWAY => {
            word(4)?;
            Control::GoAway
        }
        HEADERS => Control::Headers { stream: word(0)? & LOW, fin, block: rest(4)? },
        WINDOW_UPDATE => Control::WindowUpdate { stream: word(0)? & LOW, delta: word(4)? & LOW },
        _ => Control::Unknown,
    })
}

fn initial_window(count: u32, entries: &[u8], kind: u16) -> Result<Option<u32>, Violation> {
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() || usize::try_from(count) != Ok(entries.len()) {
        return Err(Violation::Truncated(kind));
    }
    let mut window = None;
    for &[_flags, b, c, d, e, f, g, h] in entries {
        if u32::from_be_bytes([0, b, c, d]) == INITIAL_WINDOW_SIZE {
            let size = u32::from_be_bytes([e, f, g, h]);
            if size > LOW {
                return Err(Violation::Window);
            }
            window = Some(size);
        }
    }
    Ok(window)
}

fn put_control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u8(flags);
    // Every control frame that is written here has a fixed, small length.
    out.put_uint(length as u64, 3);
}

/// Writes data of a stream; `bytes` has less than 16 MiB.
pub(super) fn put_data(out: &mut BytesMut, stream: u32, fin: bool, bytes: &[u8]) {
    out.put_u32(stream & LOW);
    out.put_u8(if fin { FIN } else { 0 });
    out.put_uint(bytes.len() as u64, 3);
    out.put_slice(bytes);
}

/// Writes the acceptance of a stream; `block` is compressed.
pub(super) fn put_syn_reply(out: &mut BytesMut, stream: u32, block: &[u8]) {
    put_control(out, SYN_REPLY, 0, 4 + block.len());
    out.put_u32(stream & LOW);
    out.put_slice(block);
}

/// Writes the early end of a stream.
pub(super) fn put_rst_stream(out: &mut BytesMut, stream: u32, why: Reset) {
    put_control(out, RST_STREAM, 0, 8);
    out.put_u32(stream & LOW);
    out.put_u32(why as u32);
}

/// Writes a ping, or the answer to one, which is the same.
pub(super) fn put_ping(out: &mut BytesMut, id: u32) {
    put_control(out, PING, 0, 4);
    out.put_u32(id);
}

/// Writes the end of the connection; `last` is the newest stream that was served.
pub(super) fn put_goaway(out: &mut BytesMut, last: u32, why: GoAway) {
    put_control(out, GOAWAY, 0, 8);
    out.put_u32(last & LOW);
    out.put_u32(why as u32);
}

/// Writes room for `delta` more bytes of a stream, or of the session where `stream` is 0.
pub(super) fn put_window_update(out: &mut BytesMut, stream: u32, delta: u32) {
    put_control(out, WINDOW_UPDATE, 0, 8);
    out.put_u32(stream & LOW);
    out.put_u32(delta & LOW);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_bit_by_bit() {
        assert_eq!(head([0x80, 3, 0, 1, 1, 0, 1, 2]), Ok(Head::Control { kind: SYN_STREAM, flags: 1, length: 0x0102 }));
        assert_eq!(head([0, 0, 0, 5, 1, 0xff, 0xff, 0xff]), Ok(Head::Data { stream: 5, fin: true, length: 0xff_ffff }));
        assert_eq!(head([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(Violation::Version(2)));
        assert_eq!(head([0x80, 3, 0, 1, 0, 1, 0, 1]), Err(Violation::Oversized(0x1_0001)));
    }

    #[test]
    fn control_frames_are_read() {
        let syn = [0x80, 0, 0, 3, 0, 0, 0, 0, 0xe0, 0, b'x'];
        assert_eq!(
            control(SYN_STREAM, 3, &syn),
            Ok(Control::SynStream { stream: 3, fin: true, unidirectional: true, block: b"x" })
        );
        assert_eq!(control(RST_STREAM, 0, &[0, 0, 0, 3, 0, 0, 0, 5]), Ok(Control::RstStream { stream: 3 }));
        assert_eq!(control(PING, 0, &[0, 0, 0, 7]), Ok(Control::Ping { id: 7 }));
        assert_eq!(
            control(WINDOW_UPDATE, 0, &[0, 0, 0, 0, 0x80, 0, 0, 9]),
            Ok(Control::WindowUpdate { stream: 0, delta: 9 })
        );
        assert_eq!(
            control(SETTINGS, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]),
            Ok(Control::Settings { initial_window: Some(65536) })
        );
        assert_eq!(control(77, 0, &[]), Ok(Control::Unknown));
    }

    #[test]
    fn frames_too_short_for_their_type_are_violations() {
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE] {
            assert_eq!(control(kind, 0, &[0, 0, 0]), Err(Violation::Truncated(kind)), "{kind}");
        }
        assert_eq!(control(SYN_STREAM, 0, &[0; 9]), Err(Violation::Truncated(SYN_STREAM)));
        // More settings promised than there are.
        assert_eq!(control(SETTINGS, 0, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]), Err(Violation::Truncated(SETTINGS)));
    }

    #[test]
    fn what_is_written_is_what_the_protocol_says() {
        let mut out = BytesMut::new();
        put_data(&mut out, 5, true, b"hi");
        put_syn_reply(&mut out, 1, &[0xaa]);
        put_rst_stream(&mut out, 3, Reset::Cancel);
        put_ping(&mut out, 9);
        put_goaway(&mut out, 7, GoAway::ProtocolError);
        put_window_update(&mut out, 0, 32768);
        let expected: [&[u8]; 6] = [
            &[0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i'],
            &[0x80, 3, 0, 2, 0, 0, 0, 5, 0, 0, 0, 1, 0xaa],
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5],
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9],
            &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 1],
            &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x80, 0],
        ];
        assert_eq!(out.to_vec(), expected.concat());
    }
}
