//! Attach: a client sees what a container's first process writes from now on, and may type to it.
//!
//! The bytes are those of the container's log, given by the shim to as many clients as come. None of them can hold up the
//! container: what a client does not read in time it misses, and is told so. A client that goes changes nothing for the
//! container, but for the end of an input that was for one client only (`stdin_once`).

use windlass_cri_api::v1;
use windlass_engine::tasks::AttachTask;
use windlass_model::{Error, Kind, Result};

use super::{AttachSession, Session, Streams, carry};
use crate::Server;

impl Server {
    /// Answers the URL on which a client will be attached.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] naming the field; [`Kind::FailedPrecondition`] where the container does not run.
    pub(crate) async fn attach(&self, request: v1::AttachRequest) -> Result<v1::AttachResponse> {
        let v1::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        carry::check_streams(tty, stdin, stdout, stderr)?;
        let container = self.running_container(&container_id)?;
        if tty != container.config.tty {
            let has = if container.config.tty { "has a terminal" } else { "has no terminal" };
            return Err(Error::invalid(format!("tty: container {} {has}", container.id)));
        }
        if stdin && !container.config.stdin {
            return Err(Error::invalid(format!("stdin: container {} was made without an input", container.id)));
        }
        let session = AttachSession { container: container.id.clone(), tty, stdin, stdout, stderr };
        Ok(v1::AttachResponse { url: self.streaming.url(Session::Attach(session))? })
    }

    /// Carries a session's streams until the container has ended or the client is gone.
    ///
    /// # Errors
    /// Where the client cannot be attached.
    pub(crate) async fn serve_attach(&self, session: AttachSession, streams: Streams) -> Result<()> {
        let AttachSession { container, stdin, stdout, stderr, .. } = session;
        let Streams { stdin: from, stdout: to_out, stderr: to_err, resize } = streams;
        let request = AttachTask { container, stdin: stdin && from.is_some(), stdout, stderr };
        let (task, attached) = self.tenant.tasks().attach(request).await?;
        let looks_on = stdout || stderr;
        let outputs = async {
            if looks_on {
                tokio::try_join!(carry::output(task.stdout, to_out), carry::output(task.stderr, to_err)).map(drop)
            } else {
                attached.ended().await;
                Ok(())
            }
        };
        let inputs = async {
            carry::input(from, task.stdin).await;
            if looks_on {
                std::future::pending::<()>().await;
            }
        };
        let sizes = async {
            carry::sizes(resize, |size| attached.resize(size.width, size.height)).await;
            std::future::pending::<()>().await;
        };
        let done = tokio::select! {
            biased;
            done = outputs => done,
            () = inputs => Ok(()),
            () = sizes => Ok(()),
        };
        match done {
            // Nobody is left who could be told.
            Err(error) if error.kind() == Kind::Canceled => Ok(()),
            done => done,
        }
    }
}
