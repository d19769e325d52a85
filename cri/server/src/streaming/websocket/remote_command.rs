//! Exec and attach over WebSocket: the channels 0 to 2 are stdin, stdout and stderr, 3 reports errors, 4 resizes.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::link::{Link, Terms};
use super::super::pipe::pipe;
use super::super::remote_command::{Command, Host};
use super::super::status::Report;
use super::super::{Streams, resize};
use super::channels::{Channels, Codec, Outlet};
use super::session::Messages;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;

/// The bytes of stdin that wait for the process.
const STDIN_LIMIT: usize = 64 * 1024;

/// The bytes of sizes that wait for the terminal.
const RESIZE_LIMIT: usize = 4 * 1024;

/// What a client and we agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Subprotocol {
    pub codec: Codec,
    /// The client may end stdin: version 5.
    pub closing: bool,
    pub report: Report,
}

/// Serves a command over an upgraded connection.
pub(in super::super) async fn serve(
    client: impl AsyncRead + AsyncWrite + Send,
    subprotocol: Subprotocol,
    command: Command,
    host: &dyn Host,
    terms: Terms,
) {
    let Subprotocol { codec, closing, report } = subprotocol;
    let wanted = command.wanted();
    let link = Link::new(&terms);
    let outlet = |channel| Outlet::new(link.outbox.clone(), codec, channel);
    let (stdin_feeder, stdin) = wanted.stdin.then(|| pipe(STDIN_LIMIT, Box::new(|_| ()))).unzip();
    let (resize_feeder, resize) = pipe(RESIZE_LIMIT, Box::new(|_| ()));
    let stdout = wanted.stdout.then(|| outlet(STDOUT));
    let stderr = wanted.stderr.then(|| outlet(STDERR));
    let errors = outlet(ERROR);
    // Clients wait for a first message to know that the session stands.
    stdout.as_ref().or(stderr.as_ref()).unwrap_or(&errors).greet();
    let feeders = vec![stdin_feeder, None, None, None, Some(resize_feeder)];
    let (sizes, receiver) = resize::channel();
    let streams = Streams {
        stdin: stdin.map(|stdin| Box::new(stdin) as _),
        stdout: stdout.map(|stdout| Box::new(stdout) as _),
        stderr: stderr.map(|stderr| Box::new(stderr) as _),
        resize: receiver,
    };
    let serve = async {
        let run = command.run(host, streams, Box::new(errors), report, &terms.stop);
        let resizing = async {
            resize::pump(resize, sizes).await;
            std::future::pending().await
        };
        tokio::select! {
            () = run => {}
            () = resizing => {}
        }
    };
    let messages = Messages::Channels(Channels::new(codec, closing, feeders));
    super::connection(client, link, messages, serve).await;
}
