//! A host for tests of the wire: its program echoes, its ports do too.

use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use windlass_model::{Error, Result};

use super::link::Terms;
use super::remote_command::{Command, Host};
use super::{AttachSession, ExecSession, Input, Output, PortForwardSession, Streams};

/// The terms of a test's connection.
pub(super) fn terms(stop: &CancellationToken) -> Terms {
    Terms { idle: Duration::from_secs(3600), stop: stop.clone(), watch: None }
}

/// The port that nothing listens on.
pub(super) const CLOSED: u16 = 1;

/// Echoes stdin on stdout and complains on stderr; the command is the exit code, `fail` or `hang`.
pub(super) struct Echo;

#[async_trait]
impl Host for Echo {
    async fn exec(&self, session: ExecSession, streams: Streams) -> Result<i32> {
        let Streams { stdin, stdout, stderr, mut resize } = streams;
        if session.command == ["hang"] {
            std::future::pending::<()>().await;
        }
        if let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) {
            let sizes = async { while resize.recv().await.is_some() {} };
            let copied = async {
                tokio::io::copy(&mut stdin, &mut stdout).await.ok();
                stdout.shutdown().await.ok();
            };
            if session.tty {
                tokio::join!(copied, sizes);
            } else {
                copied.await;
            }
        }
        if let Some(mut stderr) = stderr {
            stderr.write_all(b"complaint").await.ok();
        }
        session.command[0].parse().map_err(|_| Error::internal("no such program"))
    }

    async fn attach(&self, session: AttachSession, streams: Streams) -> Result<()> {
        let AttachSession { container, tty, stdin, stdout, stderr } = session;
        self.exec(ExecSession { container, command: vec!["0".into()], tty, stdin, stdout, stderr }, streams)
            .await
            .map(drop)
    }

    async fn port(&self, _: &PortForwardSession, port: u16, mut input: Input, mut output: Output) -> Result<()> {
        if port == CLOSED {
            return Err(Error::unavailable("nobody listens"));
        }
        let mut all = Vec::new();
        input.read_to_end(&mut all).await.map_err(|error| Error::internal(error.to_string()))?;
        output.write_all(&all).await.map_err(|error| Error::internal(error.to_string()))?;
        output.shutdown().await.map_err(|error| Error::internal(error.to_string()))
    }
}

/// An exec of `command` with all streams that its kind can have.
pub(super) fn exec(command: &str, tty: bool) -> Command {
    let container = "c".parse().expect("one letter is an id");
    Command::Exec(ExecSession {
        container,
        command: vec![command.into()],
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    })
}

/// A session for the ports.
pub(super) fn ports(ports: &[u16]) -> PortForwardSession {
    PortForwardSession { pod: "p".parse().expect("one letter is an id"), ports: ports.to_vec() }
}
