//! The `channel.k8s.io` subprotocols: each message begins with the number of its channel.
//!
//! Without a prefix or from `v1` to `v4` the number is a byte; version 5 adds the message `255 n`, with which the client
//! ends channel `n`. In the `base64.` variants the number is a digit and the rest is base64.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWrite;

use super::super::outbox::Outbox;
use super::super::pipe::Feeder;
use super::frame::{self, Data, OpCode, Violation};

/// The channel of version 5 that ends others.
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Codec {
    /// A byte, then bytes.
    Binary,
    /// A digit, then base64.
    Base64,
}

/// Deals messages out to their channels.
pub(super) struct Channels {
    codec: Codec,
    /// Version 5: the client may end a channel.
    closing: bool,
    /// By number; `None` where the client has nothing to say.
    feeders: Vec<Option<Feeder>>,
    message: Message,
}

/// What of a message has been read.
#[derive(Clone, Copy)]
enum Message {
    /// Nothing: the channel's number comes.
    Number,
    /// The number; with base64 also the letters that are no whole bytes yet.
    Body { channel: u8, carry: [u8; 4], carried: usize },
    /// A wish to end a channel, and which.
    Close(Option<u8>),
}

impl Channels {
    pub(super) fn new(codec: Codec, closing: bool, feeders: Vec<Option<Feeder>>) -> Self {
        Self { codec, closing, feeders, message: Message::Number }
    }

    /// Takes a piece of a message's payload.
    ///
    /// # Errors
    /// [`Violation::Message`] where it is no base64 or ends more than one channel.
    pub(super) async fn payload(&mut self, mut piece: &[u8]) -> Result<(), Violation> {
        if let Message::Number = self.message {
            let Some((&number, rest)) = piece.split_first() else { return Ok(()) };
            self.message = match self.codec {
                Codec::Binary if number == CLOSE && self.closing => Message::Close(None),
                Codec::Binary => Message::Body { channel: number, carry: [0; 4], carried: 0 },
                Codec::Base64 => Message::Body { channel: number.wrapping_sub(b'0'), carry: [0; 4], carried: 0 },
            };
            piece = rest;
        }
        match self.message {
            Message::Number => Ok(()),
            Message::Close(ref mut which) => {
                for &number in piece {
                    if which.replace(number).is_some() {
                        return Err(Violation::Message);
                    }
                }
                Ok(())
            }
            Message::Body { channel, carry, carried } => {
                let Some(Some(feeder)) = self.feeders.get(usize::from(channel)) else {
                    // What is said to nobody is not heard, as with the kubelet's library.
                    return Ok(());
                };
                match self.codec {
                    Codec::Binary => feeder.feed(piece).await,
                    Codec::Base64 => {
                        let letters = [&carry[..carried], piece].concat();
                        let (whole, rest) = letters.split_at(letters.len() / 4 * 4);
                        feeder.feed(&STANDARD.decode(whole).map_err(|_| Violation::Message)?).await;
                        let mut carry = [0; 4];
                        carry[..rest.len()].copy_from_slice(rest);
                        self.message = Message::Body { channel, carry, carried: rest.len() };
                    }
                }
                Ok(())
            }
        }
    }

    /// The message is whole.
    ///
    /// # Errors
    /// [`Violation::Message`] where it cannot be.
    pub(super) fn end(&mut self) -> Result<(), Violation> {
        match std::mem::replace(&mut self.message, Message::Number) {
            Message::Number | Message::Body { carried: 0, .. } => Ok(()),
            Message::Body { .. } | Message::Close(None) => Err(Violation::Message),
            Message::Close(Some(channel)) => {
                let feeder = self.feeders.get_mut(usize::from(channel)).ok_or(Violation::Message)?;
                feeder.take().iter().for_each(Feeder::end);
                Ok(())
            }
        }
    }

    /// The client is gone: what was not ended ends in good order, since before version 5 there is no other end.
    pub(super) fn gone(&mut self) {
        self.feeders.iter_mut().filter_map(Option::take).for_each(|feeder| feeder.end());
    }
}

/// Our half of a channel.
pub(super) struct Outlet {
    outbox: Outbox,
    codec: Codec,
    channel: u8,
    ended: bool,
}

impl Outlet {
    pub(super) fn new(outbox: Outbox, codec: Codec, channel: u8) -> Self {
        Self { outbox, codec, channel, ended: false }
    }

    /// Sends an empty message, which tells the client that the channel is open.
    pub(super) fn greet(&self) {
        self.outbox.push(|out| put(out, self.codec, self.channel, &[]));
    }
}

fn put(out: &mut bytes::BytesMut, codec: Codec, channel: u8, bytes: &[u8]) {
    match codec {
        Codec::Binary => frame::put(out, OpCode::Data(Data::Binary), &[&[channel], bytes]),
        Codec::Base64 => {
            let text = STANDARD.encode(bytes);
            frame::put(out, OpCode::Data(Data::Text), &[&[channel.wrapping_add(b'0')], text.as_bytes()]);
        }
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        /// How much goes into one message, so that channels take turns.
        const LONGEST: usize = 24 * 1024;
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        self.outbox.poll_push(context, |out| {
            put(out, self.codec, self.channel, bytes);
            bytes.len()
        })
    }

    /// The connection's writer needs no telling.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The protocol cannot say this to a client; its end is the connection's.
    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::super::pipe::pipe;
    use super::*;

    /// Feeds the pieces, each list of them a message, and answers what channel 0 got.
    async fn heard(codec: Codec, closing: bool, messages: &[&[&[u8]]]) -> Result<Vec<u8>, Violation> {
        let (feeder, mut inlet) = pipe(1024, Box::new(|_| ()));
        let mut channels = Channels::new(codec, closing, vec![Some(feeder), None]);
        for message in messages {
            for piece in *message {
                channels.payload(piece).await?;
            }
            channels.end()?;
        }
        channels.gone();
        let mut all = Vec::new();
        inlet.read_to_end(&mut all).await.unwrap();
        Ok(all)
    }

    #[tokio::test]
    async fn a_message_may_come_in_pieces() {
        let messages: [&[&[u8]]; 4] = [&[b"\0ab", b"c"], &[b"", b"\0", b"d"], &[b""], &[b"\x01ignored"]];
        assert_eq!(heard(Codec::Binary, false, &messages).await.unwrap(), b"abcd");
        let messages: [&[&[u8]]; 2] = [&[b"0Z", b"m9", b"vCg=", b"="], &[b"0"]];
        assert_eq!(heard(Codec::Base64, false, &messages).await.unwrap(), b"foo\n");
    }

    #[tokio::test]
    async fn only_version_5_ends_a_channel() {
        assert_eq!(heard(Codec::Binary, true, &[&[b"\0a"], &[b"\xff", b"\0"], &[b"\0b"]]).await.unwrap(), b"a");
        assert_eq!(heard(Codec::Binary, false, &[&[b"\0a"], &[b"\xff\0"], &[b"\0b"]]).await.unwrap(), b"ab");
        assert_eq!(heard(Codec::Binary, true, &[&[b"\xff\x01"], &[b"\0b"]]).await.unwrap(), b"b");
    }

    #[tokio::test]
    async fn nonsense_is_a_violation() {
        for message in [&b"\xff"[..], b"\xff\0\0", b"\xff\x09"] {
            assert_eq!(heard(Codec::Binary, true, &[&[message]]).await, Err(Violation::Message), "{message:?}");
        }
        for message in [&b"0Zm9"[..], b"0****"] {
            assert_eq!(heard(Codec::Base64, false, &[&[message]]).await, Err(Violation::Message), "{message:?}");
        }
    }
}
