//! One namespace's verbs on sandboxes.
//!
//! The CRI boots a sandbox in one step; clients of the containerd API create it and start it in two. The shim has the
//! truth about both, and only that it has ended is remembered here, so that its end is told once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use windlass_model::event::Event;
use windlass_model::process::Exit;
use windlass_model::{Error, Id, Kind, Platform, Result};

use super::client::{Client, QUICK};
use super::owner::Birth;
use super::table::Ending;
use super::task::Tasks;
use super::{BootSandbox, Booted, CreateSandbox, SandboxInfo};
use crate::{TypedBytes, blocking};

/// How long a waiter whose connection broke leaves the shim's owner to find out why.
const PAUSE: Duration = Duration::from_millis(50);

impl Tasks {
    /// Starts the shim of a sandbox and has it make what its containers share. Where that fails nothing is left.
    ///
    /// # Errors
    /// `AlreadyExists` where the sandbox has a shim; `DeadlineExceeded` where the shim hangs; otherwise what it said.
    pub async fn boot(&self, request: BootSandbox) -> Result<Booted> {
        let key = self.key(&request.id);
        self.roster().boot_sandbox(key, |reply| Birth::Boot(Box::new(request), reply)).await
    }

    /// Starts the shim of a sandbox and says what that is to be; [`Tasks::start_sandbox`] has it made. Where it fails
    /// nothing is left.
    ///
    /// # Errors
    /// `AlreadyExists` where a sandbox or a task has the id; `Unimplemented` where the shim knows no sandboxes; otherwise
    /// what it said.
    pub async fn create_sandbox(&self, request: CreateSandbox) -> Result<()> {
        let key = self.key(&request.id);
        if self.roster().is_leftover(&key) {
            // A daemon died over it before it could be found again.
            self.roster().down(key.clone()).await?;
        }
        let told = Event::SandboxCreate { id: request.id.to_string() };
        self.roster().boot_sandbox(key.clone(), |reply| Birth::Sandbox(Box::new(request), reply)).await?;
        self.roster().inner().publish(&key.0, told);
        Ok(())
    }

    /// Has a sandbox made that was created. Where that fails the sandbox is gone, but for one that runs or has ended.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` where it was started before; `Unavailable` where its shim does not answer;
    /// otherwise what that said.
    pub async fn start_sandbox(&self, id: &Id) -> Result<Booted> {
        let started = self.sandbox_line(id).await?.start_sandbox(id).await;
        match &started {
            Ok(_) => {
                let (namespace, id) = self.key(id);
                self.roster().inner().publish(&namespace, Event::SandboxStart { id: id.into() });
            }
            Err(error) if matches!(error.kind(), Kind::FailedPrecondition | Kind::Unavailable) => {}
            Err(_) => {
                if let Err(left) = self.down(id).await {
                    tracing::warn!(sandbox = %id, error = %left, "a sandbox that was not started left something behind");
                }
            }
        }
        started
    }

    /// Ends every process of a sandbox; its shim and what is known of its tasks stay. Nothing there is success.
    ///
    /// # Errors
    /// `DeadlineExceeded` where processes do not end within `limit`, in whole seconds; `Unavailable` where the shim does
    /// not answer.
    pub async fn stop_sandbox(&self, id: &Id, limit: Option<Duration>) -> Result<()> {
        let Ok(ending) = self.sandbox_ending(id) else { return Ok(()) };
        let client = match self.sandbox_line(id).await {
            Err(error) if error.is_not_found() => return Ok(()),
            found => found?,
        };
        client.stop(id, limit).await?;
        if ending.exit().is_none()
            && let Ok(Ok(exit)) = timeout(QUICK, client.wait_sandbox(id)).await
        {
            self.roster().inner().end_sandbox(&self.key(id), &ending, exit);
        }
        Ok(())
    }

    /// Waits for the end of a sandbox. One whose shim was killed was killed with it.
    ///
    /// # Errors
    /// `NotFound` where there is no such sandbox; what its shim says where that knows no sandboxes.
    pub async fn wait_sandbox(&self, id: &Id) -> Result<Exit> {
        let ending = self.sandbox_ending(id)?;
        loop {
            let told = async { self.sandbox_line(id).await?.wait_sandbox(id).await };
            tokio::select! {
                biased;
                exit = ending.wait() => return Ok(exit),
                told = told => match told {
                    Ok(exit) => self.roster().inner().end_sandbox(&self.key(id), &ending, exit),
                    // Lost or silent: its owner looks after it.
                    Err(error) if error.kind() == Kind::Unavailable => sleep(PAUSE).await,
                    // The owners leave with the daemon, the shims stay.
                    Err(_) if self.roster().inner().stop.is_cancelled() => {
                        return Err(Error::unavailable("the daemon is stopping"));
                    }
                    Err(error) => return ending.exit().ok_or(error),
                },
            }
        }
    }

    /// Where a sandbox is in its life, as its shim says; with `verbose` also what helps to find a fault.
    ///
    /// # Errors
    /// `NotFound` where it has no shim, `Unavailable` where that does not answer.
    pub async fn sandbox_status(&self, id: &Id, verbose: bool) -> Result<SandboxInfo> {
        self.sandbox_line(id).await?.sandbox_status(id, verbose).await
    }

    /// The platform that a sandbox's containers are for.
    ///
    /// # Errors
    /// `NotFound` where it has no shim, `Unavailable` where that does not answer.
    pub async fn sandbox_platform(&self, id: &Id) -> Result<Platform> {
        self.sandbox_line(id).await?.platform(id).await
    }

    /// What a sandbox has used, in the words of its shim; nothing where that tells nothing.
    ///
    /// # Errors
    /// `NotFound` where it has no shim, `Unavailable` where that does not answer.
    pub async fn sandbox_metrics(&self, id: &Id) -> Result<Option<TypedBytes>> {
        self.sandbox_line(id).await?.sandbox_metrics(id).await
    }

    /// How a sandbox's shim is reached: `ttrpc+unix:///…`, and the version of its task service.
    ///
    /// # Errors
    /// `NotFound` where it has none.
    pub async fn sandbox_endpoint(&self, id: &Id) -> Result<(String, u32)> {
        self.sandbox_ending(id)?;
        let bundle = self.bundle(id);
        let bootstrap = blocking(move || bundle.bootstrap()).await?;
        Ok((format!("{}+{}", bootstrap.protocol, bootstrap.address), bootstrap.version))
    }

    /// The process whose namespaces are the sandbox's.
    ///
    /// # Errors
    /// `NotFound` where the sandbox has no shim, `Unavailable` where that does not answer.
    pub async fn sandbox_pid(&self, id: &Id) -> Result<u32> {
        self.roster().client(&self.key(id)).await?.sandbox_pid(id).await
    }

    /// True where the sandbox has a shim that is not known to be dead. Waits for one that is being reconnected.
    pub async fn sandbox_alive(&self, id: &Id) -> bool {
        !matches!(self.roster().client(&self.key(id)).await, Err(error) if error.is_not_found())
    }

    /// True where there is a sandbox, whether or not its shim answers.
    pub fn has_sandbox(&self, id: &Id) -> bool {
        self.roster().ending(&self.key(id)).is_some()
    }

    /// The connection to a sandbox's shim; that of a single container is none.
    async fn sandbox_line(&self, id: &Id) -> Result<Client> {
        self.sandbox_ending(id)?;
        self.roster().client(&self.key(id)).await
    }

    fn sandbox_ending(&self, id: &Id) -> Result<Arc<Ending>> {
        let ending = self.roster().ending(&self.key(id));
        ending.ok_or_else(|| Error::not_found(format!("sandbox {id} does not run")))
    }

    /// Takes a sandbox down as [`Tasks::down`] does.
    ///
    /// # Errors
    /// `NotFound` where there is none; otherwise as for [`Tasks::down`].
    pub async fn shutdown_sandbox(&self, id: &Id) -> Result<()> {
        self.sandbox_ending(id)?;
        self.down(id).await
    }

    /// Takes a sandbox down, whatever state it is in: ends its processes, its shim, its mounts and its bundle. Its tasks'
    /// exits are published, and stay known until each is deleted. Nothing there is success.
    ///
    /// # Errors
    /// Where a mount or a folder cannot be removed; it may be tried again.
    pub async fn down(&self, id: &Id) -> Result<()> {
        self.roster().down(self.key(id)).await
    }
}
