//! Frames of WebSocket (RFC 6455) as a server reads and writes them; payloads are not kept, but passed on as they come.

use std::io::Cursor;

use bytes::{BufMut, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
pub(super) use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The bytes that every head has.
pub(super) const HEAD: usize = 2;

/// The longest head, in bytes.
pub(super) const LONGEST_HEAD: usize = 14;

/// The longest payload of a control frame, in bytes.
pub(super) const MAX_CONTROL: u64 = 125;

/// The longest message, in bytes: the limit of the library that the kubelet serves with.
pub(super) const MAX_MESSAGE: u64 = 32 * 1024 * 1024;

/// What a client did that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a malformed frame")]
    Malformed,
    #[error("a frame that is not masked")]
    Unmasked,
    #[error("reserved bits or a reserved type of frame")]
    Reserved,
    #[error("a control frame in pieces or of more than 125 bytes")]
    Control,
    #[error("pieces of messages out of order")]
    Order,
    #[error("a message of more than 32 MiB")]
    Oversized,
    #[error("a malformed message of the subprotocol")]
    Message,
}

impl Violation {
    /// The reason that a close frame gives.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Oversized => 1009,
            Self::Message => 1007,
            Self::Malformed | Self::Unmasked | Self::Reserved | Self::Control | Self::Order => 1002,
        }
    }
}

/// A head, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub code: OpCode,
    /// The message ends with this frame.
    pub last: bool,
    pub length: u64,
    pub mask: [u8; 4],
}

/// How many bytes of head follow the first two.
pub(super) fn rest_of_head([_, second]: [u8; HEAD]) -> usize {
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if second & 0x80 == 0 { length } else { length + 4 }
}

/// Reads a whole head.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Violation> {
    let (header, length) =
        FrameHeader::parse(&mut Cursor::new(bytes)).map_err(|_| Violation::Reserved)?.ok_or(Violation::Malformed)?;
    let FrameHeader { is_final, rsv1, rsv2, rsv3, opcode, mask } = header;
    if rsv1 || rsv2 || rsv3 || matches!(opcode, OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)))
    {
        return Err(Violation::Reserved);
    }
    let mask = mask.ok_or(Violation::Unmasked)?;
    if matches!(opcode, OpCode::Control(_)) && (!is_final || length > MAX_CONTROL) {
        return Err(Violation::Control);
    }
    if length > MAX_MESSAGE {
        return Err(Violation::Oversized);
    }
    Ok(Head { code: opcode, last: is_final, length, mask })
}

/// Takes the mask off, `bytes` beginning at the byte `at` of their frame.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4], at: u64) {
    let mut mask = mask;
    mask.rotate_left((at % 4) as usize);
    for (byte, key) in bytes.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Writes a whole message, or control frame, made of `parts`.
pub(super) fn put(out: &mut BytesMut, code: OpCode, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let header = FrameHeader { opcode: code, ..FrameHeader::default() };
    // Memory takes whatever is written to it.
    let _ = header.format(length as u64, &mut out.writer());
    parts.iter().for_each(|part| out.put_slice(part));
}

/// Writes the end of the connection.
pub(super) fn put_close(out: &mut BytesMut, code: u16) {
    put(out, OpCode::Control(Control::Close), &[&code.to_be_bytes()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        assert_eq!(
            head(&[0x82, 0x85, 1, 2, 3, 4]),
            Ok(Head { code: OpCode::Data(Data::Binary), last: true, length: 5, mask: [1, 2, 3, 4] })
        );
        assert_eq!(
            head(&[0x01, 0xfe, 0x01, 0x00, 9, 9, 9, 9]),
            Ok(Head { code: OpCode::Data(Data::Text), last: false, length: 256, mask: [9; 4] })
        );
        assert_eq!(
            [rest_of_head([0, 5]), rest_of_head([0, 0x85]), rest_of_head([0, 126]), rest_of_head([0, 255])],
            [0, 4, 2, 12]
        );
    }

    #[test]
    fn heads_that_a_client_may_not_send_are_violations() {
        assert_eq!(head(&[0x82, 0x05]), Err(Violation::Unmasked));
        assert_eq!(head(&[0xc2, 0x85, 1, 2, 3, 4]), Err(Violation::Reserved));
        assert_eq!(head(&[0x83, 0x85, 1, 2, 3, 4]), Err(Violation::Reserved));
        assert_eq!(head(&[0x09, 0x80, 1, 2, 3, 4]), Err(Violation::Control), "a ping in pieces");
        assert_eq!(head(&[0x89, 0xfe, 0, 126, 1, 2, 3, 4]), Err(Violation::Control), "a long ping");
        assert_eq!(head(&[0x82, 0xff, 0, 0, 0, 0, 2, 0, 0, 1, 1, 2, 3, 4]), Err(Violation::Oversized));
        assert_eq!(head(&[0x82, 0xff, 0]), Err(Violation::Malformed));
    }

    #[test]
    fn a_mask_goes_on_where_it_was() {
        let mut all = *b"\x01\x02\x03\x04\x05\x06\x07";
        let mut pieces = all;
        unmask(&mut all, [1, 2, 3, 4], 0);
        unmask(&mut pieces[..3], [1, 2, 3, 4], 0);
        unmask(&mut pieces[3..], [1, 2, 3, 4], 3);
        assert_eq!(all, *b"\0\0\0\0\x04\x04\x04");
        assert_eq!(pieces, all);
    }

    #[test]
    fn what_is_written_is_what_the_protocol_says() {
        let mut out = BytesMut::new();
        put(&mut out, OpCode::Data(Data::Binary), &[&[1], b"hi"]);
        put(&mut out, OpCode::Data(Data::Text), &[&[b'x'; 200]]);
        put_close(&mut out, 1000);
        assert_eq!(out[..5], *b"\x82\x03\x01hi");
        assert_eq!(out[5..9], *b"\x81\x7e\x00\xc8");
        assert_eq!(out[209..], *b"\x88\x02\x03\xe8");
    }
}
