//! A client of a container's own streams: copies of what its first process writes from now on, and a way to its input.
//!
//! The shim gives copies to as many as ask and waits for none: one that does not read misses bytes and is told how many.
//! A client is forgotten when its [`TaskStreams`] are dropped, and so is one whose daemon dies.

use std::sync::Arc;

use windlass_model::process::Exit;
use windlass_model::{Id, Result};
use windlass_wire::extension::AttachRequest;

use super::AttachTask;
use super::client::Client;
use super::streams::{Fifos, Offered, TaskStreams};
use super::table::Entry;

/// A container that a client is attached to.
pub struct Attached {
    client: Client,
    entry: Arc<Entry>,
}

/// Attaches to a container of the shim behind `client`.
pub(super) async fn attach(client: Client, entry: Arc<Entry>, request: AttachTask) -> Result<(TaskStreams, Attached)> {
    let id = format!("attach-{}", uuid::Uuid::new_v4().simple());
    let mut fifos = Fifos::new(&entry.bundle.streams(), &id)?;
    let (stdin, offered) = fifos.input(request.stdin)?;
    let (stdout, out) = fifos.output("out", request.stdout, None)?;
    let (stderr, err) = fifos.output("err", request.stderr, None)?;
    let container_id = request.container.to_string();
    let request = AttachRequest { container_id, stdin, stdout, stderr, ..AttachRequest::default() };
    client.attach(&request).await?;
    let stdin = offered.map(Offered::settle).transpose()?;
    Ok((TaskStreams { stdin, stdout: out, stderr: err }, Attached { client, entry }))
}

impl Attached {
    /// The container.
    pub fn container(&self) -> &Id {
        &self.entry.id
    }

    /// Changes the size of the container's terminal's window, in characters.
    ///
    /// # Errors
    /// `FailedPrecondition` where it has no terminal.
    pub async fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.client.resize(&self.entry.id, "", width, height).await
    }

    /// Waits for the container's end. Cancel safe.
    pub async fn ended(&self) -> Exit {
        self.entry.wait().await
    }
}
