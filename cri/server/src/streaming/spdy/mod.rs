//! SPDY/3.1 as Kubernetes uses it: a server for streams that the client opens.
//!
//! `frame` and `headers` read and write bytes, `session` keeps the streams of one connection, `stream` is one of them;
//! `remote_command` and `port_forward` give the streams their meaning.
//!
//! **Flow control.** SPDY/3.1 has windows for each stream and for the session, but the library that every Kubernetes
//! client uses ignores them in both directions. Bytes from the client are held back by reading no further while a
//! stream's 64 KiB are full, whatever window the client believes in; window updates are sent for what was read. Bytes
//! to the client are held back by its TCP window, and by its SPDY windows from the moment on when it first mentions one.

mod frame;
mod headers;
#[cfg(test)]
pub(super) mod peer;
pub(super) mod port_forward;
pub(super) mod remote_command;
mod session;
mod stream;
#[cfg(test)]
mod tests;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use self::frame::GoAway;
use self::session::{Broken, Session};
use self::stream::Opened;
use super::link::Link;
use super::source::Source;

/// How many new streams wait to be looked at.
const OPENING: usize = 16;

/// Runs one connection: `serve` gets its streams. `whole`: inputs of a client that is gone end in good order, because
/// the kind of session has no other end.
async fn connection<S: Future<Output = ()>>(
    client: impl AsyncRead + AsyncWrite + Send,
    link: Link,
    whole: bool,
    serve: impl FnOnce(mpsc::Receiver<Opened>) -> S,
) {
    let (input, output) = tokio::io::split(client);
    let outbox = link.outbox.clone();
    let session = Session::new(outbox.clone());
    let (sender, opened) = mpsc::channel(OPENING);
    let mut source = Source::new(input, link.clock.clone());
    let read = async {
        match session.read(&mut source, sender).await {
            Err(Broken::Violation(violation)) => {
                tracing::debug!(%violation, "a SPDY client broke the protocol");
                session.goaway(GoAway::ProtocolError);
            }
            // Who has gone without a word is as gone as who has said good-bye.
            Err(Broken::Gone(_)) | Ok(()) => {}
        }
    };
    let farewell = || session.goaway(GoAway::Ok);
    link.run(read, outbox.write_to(output), serve(opened), || session.gone(whole), farewell).await;
}

/// Reads a header block as it is, and `bytes` as two compressed ones.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz_headers(bytes: &[u8]) {
    let _ = headers::Headers::parse(bytes);
    let mut inflater = headers::Inflater::default();
    let (one, two) = bytes.split_at(bytes.len() / 2);
    let _ = inflater.read(one).and_then(|_| inflater.read(two));
}
