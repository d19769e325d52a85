//! Streams beside a call (`containerd.services.streaming.v1`): bytes in windows, progress, and questions of the daemon.
//!
//! The first message names the stream and is acknowledged by an empty one; from then on the stream's name may stand in a
//! request. Bytes travel as `Data` of at most 32 KiB, and whoever sends them waits until the other side has opened a
//! window for them with `WindowUpdate`.

use anyhow::{Context, Result, anyhow, bail};
use containerd_client::services::v1::StreamInit;
use containerd_client::services::v1::streaming_client::StreamingClient;
use containerd_client::to_any;
use containerd_client::types::transfer::{Data, WindowUpdate};
use prost::{Message, Name};
use prost_types::Any;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};

/// The most bytes in one message.
const PIECE: usize = 32 << 10;

/// How many bytes may come before we open the window again.
const WINDOW: i32 = 64 << 10;

/// How many of our messages may wait to be sent.
const QUEUE: usize = 4;

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    id: String,
    to: mpsc::Sender<Any>,
    from: Streaming<Any>,
}

impl Stream {
    /// Opens a stream whose name begins with `purpose`.
    pub async fn open(daemon: &Daemon, channel: &Channel, purpose: &str) -> Result<Self> {
        let id = format!("{purpose}-{}", uuid::Uuid::new_v4());
        let (to, messages) = mpsc::channel(QUEUE);
        // The answer's head comes with its first message, so ours has to be on its way before.
        to.send(to_any(&StreamInit { id: id.clone() })).await?;
        let mut client = api!(StreamingClient<_>, channel.clone());
        let opened = client.stream(daemon.request(ReceiverStream::new(messages))).await.map_err(answered);
        let mut from = opened.with_context(|| format!("open the stream for {purpose}"))?.into_inner();
        from.message().await.map_err(answered)?.context("the daemon closed a stream at once")?;
        Ok(Self { id, to, from })
    }

    /// The stream's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next message; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Any>> {
        self.from.message().await.map_err(answered)
    }

    /// Sends a message.
    pub async fn say(&self, message: &impl Name) -> Result<()> {
        self.to.send(to_any(message)).await.map_err(|_| anyhow!("the daemon closed a stream"))
    }

    /// Sends all bytes of `reader`, and waits until the daemon ends the stream.
    pub async fn feed(mut self, mut reader: impl AsyncRead + Unpin) -> Result<()> {
        let mut window = 0_usize;
        let mut piece = vec![0; PIECE];
        loop {
            while window == 0 {
                match self.next().await? {
                    Some(message) => window += opened(&message)?,
                    None => bail!("the daemon closed a stream before it had everything"),
                }
            }
            let length = reader.read(&mut piece[..window.min(PIECE)]).await.context("read what is to be sent")?;
            if length == 0 {
                break;
            }
            self.say(&Data { data: piece[..length].to_vec() }).await?;
            window -= length;
        }
        let Self { to, mut from, .. } = self;
        drop(to);
        // Letting go of the stream now would take back what is on its way.
        while from.message().await.map_err(answered)?.is_some() {}
        Ok(())
    }

    /// Writes all bytes that come to `writer`; gives their number.
    pub async fn drain(mut self, mut writer: impl AsyncWrite + Unpin) -> Result<u64> {
        let mut window = 0_i32;
        let mut total = 0;
        loop {
            if window <= WINDOW / 2 {
                // Where all has been sent, nobody takes this any more; what comes next tells.
                drop(self.say(&WindowUpdate { update: WINDOW }).await);
                window += WINDOW;
            }
            let Some(message) = self.next().await? else { break };
            let data = read::<Data>(&message)?.data;
            window = window.saturating_sub(i32::try_from(data.len()).unwrap_or(i32::MAX));
            total += data.len() as u64;
            writer.write_all(&data).await.context("write what has come")?;
        }
        writer.flush().await.context("write what has come")?;
        Ok(total)
    }
}

/// How far a message opens our window.
fn opened(message: &Any) -> Result<usize> {
    Ok(usize::try_from(read::<WindowUpdate>(message)?.update).unwrap_or(0))
}

/// The message of a type, whose name may stand behind a host's.
pub(crate) fn read<M: Message + Name + Default>(any: &Any) -> Result<M> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    if name != M::full_name() {
        bail!("the daemon sent {name:?} where {} was to come", M::full_name());
    }
    M::decode(any.value.as_slice()).with_context(|| format!("the daemon sent a broken {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_by_name() {
        let mut any = to_any(&WindowUpdate { update: 7 });
        assert_eq!(any.type_url, "containerd.types.transfer.WindowUpdate");
        assert_eq!(opened(&any).expect("good"), 7);
        any.type_url.insert_str(0, "type.googleapis.com/");
        assert_eq!(opened(&any).expect("good"), 7);
        assert!(read::<Data>(&any).is_err());
        assert_eq!(opened(&to_any(&WindowUpdate { update: -7 })).expect("good"), 0);
        any.value = vec![0xff];
        assert!(opened(&any).is_err());
    }
}
