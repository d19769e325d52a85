//! Exec: a program beside a container's first, with its streams to a client.
//!
//! The program lives as long as somebody wants it: a client that is gone has it told to hang up (`SIGHUP`, to it and its
//! group, and its terminal is closed), and it is killed where it has not ended [`GRACE`] later. containerd closes its input
//! and lets it run, so that a lost connection leaves a program behind that nobody sees any more. Whoever means to leave
//! one behind uses `nohup` or `setsid`, as with every remote shell.

use std::time::Duration;

use windlass_cri_api::v1;
use windlass_engine::tasks::StartExec;
use windlass_model::Result;

use super::{ExecSession, Session, Streams, carry};
use crate::Server;
use crate::container::exec::check_command;

/// How long a program may take to end by itself when its client is gone.
const GRACE: Duration = Duration::from_secs(5);

impl Server {
    /// Answers the URL on which the program will be run.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] naming the field; [`windlass_model::Kind::FailedPrecondition`] where
    /// the container does not run.
    pub(crate) async fn exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse> {
        let v1::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr } = request;
        check_command(&command)?;
        carry::check_streams(tty, stdin, stdout, stderr)?;
        let container = self.running_container(&container_id)?.id.clone();
        let session = ExecSession { container, command, tty, stdin, stdout, stderr };
        Ok(v1::ExecResponse { url: self.streaming.url(Session::Exec(session))? })
    }

    /// Runs the program of a session to its end; answers its exit code.
    ///
    /// # Errors
    /// Where it cannot be started, or the client or the shim is lost.
    pub(crate) async fn serve_exec(&self, session: ExecSession, streams: Streams) -> Result<i32> {
        let container = self.running_container(session.container.as_str())?;
        let process = self.exec_process(&container, session.command, session.tty)?;
        let request = StartExec {
            container: session.container,
            process,
            terminal: session.tty,
            stdin: session.stdin && streams.stdin.is_some(),
            stdout: session.stdout,
            stderr: session.stderr,
            grace: GRACE,
        };
        let (task, running) = self.tenant.tasks().exec(request).await?;
        let Streams { stdin, stdout, stderr, resize } = streams;
        let outputs = async {
            tokio::try_join!(carry::output(task.stdout, stdout), carry::output(task.stderr, stderr))?;
            running.wait().await
        };
        let inputs = async {
            let typed = async {
                if task.stdin.is_some() {
                    carry::input(stdin, task.stdin).await;
                    running.close_stdin().await.unwrap_or_else(|error| tracing::debug!(%error, "its input stays open"));
                }
            };
            let sizes = carry::sizes(resize, |size| running.resize(size.width, size.height));
            tokio::join!(typed, sizes);
            std::future::pending().await
        };
        let exit = tokio::select! {
            biased;
            exit = outputs => exit?,
            exit = inputs => exit,
        };
        running.finish().await;
        Ok(i32::try_from(exit.status).unwrap_or(i32::MAX))
    }
}
