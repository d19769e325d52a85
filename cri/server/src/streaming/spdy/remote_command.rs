//! Exec and attach over SPDY: the client opens one stream for each of its `streamtype`s.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::link::{Link, Terms};
use super::super::pipe::Inlet;
use super::super::remote_command::{Command, Host, Wanted};
use super::super::status::Report;
use super::super::{Streams, resize};
use super::stream::{Opened, Outlet};

/// How long the client may take to open all streams.
const OPENING: Duration = Duration::from_secs(30);

/// A version of the subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Version {
    /// `channel.k8s.io`
    V1,
    /// `v2.channel.k8s.io`
    V2,
    /// `v3.channel.k8s.io`: with resize.
    V3,
    /// `v4.channel.k8s.io`: with exit codes.
    V4,
}

/// The streams as they come.
#[derive(Default)]
struct Collected {
    errors: Option<Outlet>,
    stdin: Option<(Inlet, Outlet)>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    resize: Option<(Inlet, Outlet)>,
}

/// Serves a command over an upgraded connection.
pub(in super::super) async fn serve(
    client: impl AsyncRead + AsyncWrite + Send,
    version: Version,
    command: Command,
    host: &dyn Host,
    terms: Terms,
) {
    let link = Link::new(&terms);
    super::connection(client, link, true, |opened| async move {
        let collected = terms.stop.run_until_cancelled(collect(opened, command.wanted(), version)).await.flatten();
        let Some(Collected { errors: Some(errors), stdin, stdout, stderr, resize }) = collected else { return };
        let (sizes, receiver) = resize::channel();
        // Our halves of stdin and resize stay open, unused, until the end, as the client's library expects.
        let (stdin, _stdin_back) = stdin.unzip();
        let (resize, _resize_back) = resize.unzip();
        let streams = Streams {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout: stdout.map(|stdout| Box::new(stdout) as _),
            stderr: stderr.map(|stderr| Box::new(stderr) as _),
            resize: receiver,
        };
        let report = if version >= Version::V4 { Report::Json } else { Report::Text };
        let run = command.run(host, streams, Box::new(errors), report, &terms.stop);
        let resizing = async {
            if let Some(resize) = resize {
                resize::pump(resize, sizes).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = run => {}
            () = resizing => {}
        }
    })
    .await;
}

/// Waits for the streams that belong to `wanted`; `None` where the client does not bring them. Later ones are refused,
/// because nobody looks at them any more.
async fn collect(mut opened: mpsc::Receiver<Opened>, wanted: Wanted, version: Version) -> Option<Collected> {
    let mut collected = Collected::default();
    let all = async {
        while !collected.complete(wanted, version) {
            collected.add(opened.recv().await?, wanted);
        }
        Some(())
    };
    match tokio::time::timeout(OPENING, all).await {
        Ok(Some(())) => Some(collected),
        Ok(None) => None,
        Err(_) => {
            if let Some(mut errors) = collected.errors {
                let _ = errors.write_all(b"timed out waiting for the client to open its streams").await;
            }
            None
        }
    }
}

impl Collected {
    fn complete(&self, wanted: Wanted, version: Version) -> bool {
        self.errors.is_some()
            && (self.stdin.is_some() || !wanted.stdin)
            && (self.stdout.is_some() || !wanted.stdout)
            && (self.stderr.is_some() || !wanted.stderr)
            && (self.resize.is_some() || !wanted.tty || version < Version::V3)
    }

    fn add(&mut self, opened: Opened, wanted: Wanted) {
        let kind = opened.headers.get("streamtype").unwrap_or_default();
        // What was not asked for is refused, and so is a second of a kind.
        match kind {
            "error" if self.errors.is_none() => self.errors = Some(opened.accept().1),
            "stdin" if self.stdin.is_none() && wanted.stdin => self.stdin = Some(opened.accept()),
            "stdout" if self.stdout.is_none() && wanted.stdout => self.stdout = Some(opened.accept().1),
            "stderr" if self.stderr.is_none() && wanted.stderr => self.stderr = Some(opened.accept().1),
            "resize" if self.resize.is_none() && wanted.tty => self.resize = Some(opened.accept()),
            _ => opened.refuse(),
        }
    }
}
