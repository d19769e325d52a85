//! WebSocket as Kubernetes uses it: channels of a command, channels of forwarded ports, or a tunnel for SPDY.

mod channels;
mod frame;
pub(super) mod port_forward;
pub(super) mod remote_command;
mod session;
#[cfg(test)]
mod tests;
mod tunnel;

use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::channels::Codec;
use self::session::{Broken, Messages};
use super::link::Link;
use super::source::Source;

/// The connection was of use.
const NORMAL: u16 = 1000;

/// Runs one connection whose messages go to `messages`, while `serve` answers.
async fn connection(
    client: impl AsyncRead + AsyncWrite + Send,
    link: Link,
    messages: Messages,
    serve: impl Future<Output = ()>,
) {
    let (input, output) = tokio::io::split(client);
    let outbox = link.outbox.clone();
    let mut source = Source::new(input, link.clock.clone());
    // The reader alone owns the messages: when it ends, or is dropped, they end.
    let mut messages = Gone(messages);
    let read = async {
        match session::read(&mut source, &outbox, &mut messages.0).await {
            Err(Broken::Violation(violation)) => {
                tracing::debug!(%violation, "a WebSocket client broke the protocol");
                outbox.push(|out| frame::put_close(out, violation.code()));
            }
            Err(Broken::Gone(_)) | Ok(()) => {}
        }
        drop(messages);
    };
    let farewell = || outbox.push(|out| frame::put_close(out, NORMAL));
    link.run(read, outbox.write_to(output), serve, || (), farewell).await;
}

/// Messages that end with their reader.
struct Gone(Messages);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone();
    }
}
