//! One WebSocket connection: frames put together to messages, pings answered, the close handshake.

use std::io;
use std::time::Duration;

use tokio::io::AsyncRead;

use super::super::outbox::Outbox;
use super::super::pipe::Feeder;
use super::super::source::Source;
use super::channels::Channels;
use super::frame::{self, Control, Data, HEAD, Head, LONGEST_HEAD, MAX_MESSAGE, OpCode, Violation};

/// How often a client hears of us while it is held back: the Kubernetes client gives a connection up when no pong came
/// for a minute, and its pings wait behind the bytes that nobody reads.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Who gets the messages.
pub(super) enum Messages {
    /// The streams of a command or of forwarded ports.
    Channels(Channels),
    /// A SPDY connection, whose bytes the messages are.
    Tunnel(Feeder),
}

/// Why reading ended before the client's orderly end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the client is gone: {0}")]
    Gone(#[from] io::Error),
    #[error("the client broke the protocol: {0}")]
    Violation(#[from] Violation),
}

impl Messages {
    async fn payload(&mut self, piece: &[u8]) -> Result<(), Violation> {
        match self {
            Self::Channels(channels) => channels.payload(piece).await,
            Self::Tunnel(feeder) => {
                feeder.feed(piece).await;
                Ok(())
            }
        }
    }

    fn begin(&self, kind: Data) -> Result<(), Violation> {
        match self {
            Self::Tunnel(_) if kind != Data::Binary => Err(Violation::Message),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), Violation> {
        match self {
            Self::Channels(channels) => channels.end(),
            Self::Tunnel(_) => Ok(()),
        }
    }

    /// The client is gone.
    pub(super) fn gone(&mut self) {
        match self {
            Self::Channels(channels) => channels.gone(),
            Self::Tunnel(feeder) => feeder.end(),
        }
    }
}

/// Reads frames until the client closes.
///
/// # Errors
/// [`Broken`] on the first frame that breaks the protocol.
pub(super) async fn read(
    source: &mut Source<impl AsyncRead + Unpin>,
    outbox: &Outbox,
    messages: &mut Messages,
) -> Result<(), Broken> {
    // How much of a message in pieces has been read; `None` between messages.
    let mut open: Option<u64> = None;
    loop {
        outbox.room().await;
        let Some(first) = source.head::<HEAD>().await? else { return Ok(()) };
        let mut bytes = [0; LONGEST_HEAD];
        let length = HEAD + frame::rest_of_head(first);
        bytes[..HEAD].copy_from_slice(&first);
        source.exact(&mut bytes[HEAD..length]).await?;
        let head = frame::head(&bytes[..length])?;
        match head.code {
            OpCode::Data(kind) => {
                let read = match (kind, open) {
                    (Data::Continue, Some(read)) => read,
                    (Data::Text | Data::Binary, None) => {
                        messages.begin(kind)?;
                        0
                    }
                    _ => return Err(Violation::Order.into()),
                };
                let read = read + head.length;
                if read > MAX_MESSAGE {
                    return Err(Violation::Oversized.into());
                }
                payload(source, outbox, messages, head).await?;
                open = if head.last { None } else { Some(read) };
                if head.last {
                    messages.end()?;
                }
            }
            OpCode::Control(kind) => {
                let mut payload = vec![0; head.length as usize];
                source.exact(&mut payload).await?;
                frame::unmask(&mut payload, head.mask, 0);
                match kind {
                    Control::Ping => outbox.push(|out| frame::put(out, OpCode::Control(Control::Pong), &[&payload])),
                    Control::Close => {
                        let code = payload.first_chunk().map_or(&[][..], |code: &[u8; 2]| code);
                        outbox.push(|out| frame::put(out, OpCode::Control(Control::Close), &[code]));
                        return Ok(());
                    }
                    Control::Pong | Control::Reserved(_) => {}
                }
            }
        }
    }
}

async fn payload(
    source: &mut Source<impl AsyncRead + Unpin>,
    outbox: &Outbox,
    messages: &mut Messages,
    head: Head,
) -> Result<(), Broken> {
    let mut at = 0;
    while at < head.length {
        let mut piece = source.chunk(head.length - at).await?.to_vec();
        source.consume(piece.len());
        frame::unmask(&mut piece, head.mask, at);
        at += piece.len() as u64;
        let mut taken = std::pin::pin!(messages.payload(&piece));
        loop {
            match tokio::time::timeout(SIGN_OF_LIFE, &mut taken).await {
                Ok(done) => break done?,
                Err(_) => outbox.push(|out| frame::put(out, OpCode::Control(Control::Pong), &[])),
            }
        }
    }
    Ok(())
}
