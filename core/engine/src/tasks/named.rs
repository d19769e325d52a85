//! What other tenants ask of tasks: execs under names of their own, which they look after themselves, and what processes
//! are. The shim has the truth, so that nothing has to be remembered here.

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use windlass_model::process::{Exit, State};
use windlass_model::{Error, Id, Result};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::task::ExecProcessRequest;
use windlass_wire::words;

use super::client::Client;
use super::exec::PREFIX;
use super::task::Tasks;
use super::{AddExec, ProcessInfo, TaskState};

impl Tasks {
    /// Adds an exec, which [`Tasks::start_exec`] starts.
    ///
    /// # Errors
    /// `AlreadyExists` where the container has one of that name; `FailedPrecondition` where it does not run.
    pub async fn add_exec(&self, request: AddExec) -> Result<()> {
        let AddExec { container, id, process, terminal, stdin, stdout, stderr } = request;
        // Execs of these names are the daemon's, which ends them when it returns.
        if id.as_str().starts_with(PREFIX) {
            return Err(Error::invalid(format!("names of execs do not begin with {PREFIX}")));
        }
        let spec = Any { type_url: words::TYPE_PROCESS.into(), value: process, ..Any::default() };
        let request = ExecProcessRequest {
            id: container.to_string(),
            exec_id: id.to_string(),
            terminal,
            stdin,
            stdout,
            stderr,
            spec: MessageField::some(spec),
            ..ExecProcessRequest::default()
        };
        self.line(&container).await?.exec(&request).await
    }

    /// Starts an exec; answers its process.
    ///
    /// # Errors
    /// `NotFound`; what the OCI runtime said where the program cannot be started.
    pub async fn start_exec(&self, container: &Id, exec: &Id) -> Result<u32> {
        self.line(container).await?.start(container, exec.as_str()).await
    }

    /// Sends a signal to an exec.
    ///
    /// # Errors
    /// `NotFound` where there is none or it has ended.
    pub async fn kill_exec(&self, container: &Id, exec: &Id, signal: u32) -> Result<()> {
        self.line(container).await?.kill(container, exec.as_str(), signal, false).await
    }

    /// Waits for the end of an exec, however long that takes.
    ///
    /// # Errors
    /// `NotFound` where there is none; `Unavailable` where its shim is lost.
    pub async fn wait_exec(&self, container: &Id, exec: &Id) -> Result<Exit> {
        self.line(container).await?.wait_exec(container, exec.as_str()).await
    }

    /// Forgets an exec that has ended or was not started; answers its process and how it ended.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` where it runs.
    pub async fn delete_exec(&self, container: &Id, exec: &Id) -> Result<(u32, Exit)> {
        self.line(container).await?.delete(container, exec.as_str()).await
    }

    /// Changes the size of a terminal's window, in characters: of the container's, or of an exec's.
    ///
    /// # Errors
    /// `FailedPrecondition` where it has no terminal.
    pub async fn resize(&self, container: &Id, exec: Option<&Id>, width: u16, height: u16) -> Result<()> {
        self.line(container).await?.resize(container, name(exec), width, height).await
    }

    /// Lets the container's first process, or an exec, see the end of its input once clients have closed theirs.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub async fn close_stdin(&self, container: &Id, exec: Option<&Id>) -> Result<()> {
        self.line(container).await?.close_stdin(container, name(exec)).await
    }

    /// What a container's first process is, or an exec. One whose shim is dead is stopped.
    ///
    /// # Errors
    /// `NotFound` where there is none; `Unavailable` where its shim does not answer.
    pub async fn describe(&self, container: &Id, exec: Option<&Id>) -> Result<ProcessInfo> {
        let entry = self.entry(container)?;
        let error = match self.line(container).await {
            Ok(client) => return client.describe(container, name(exec)).await,
            Err(error) => error,
        };
        match (entry.exit(), exec) {
            (Some(exit), None) => {
                let state = TaskState { state: State::Stopped, pid: entry.pid(), exit: Some(exit) };
                Ok(ProcessInfo { id: container.to_string(), state, ..ProcessInfo::default() })
            }
            _ => Err(error),
        }
    }

    /// What the first processes of all containers are, in the order of their ids. Of one whose shim does not answer only
    /// the name is told; one that is deleted meanwhile is left out.
    pub async fn describe_all(&self) -> Vec<ProcessInfo> {
        let mut ids = self.list();
        ids.sort();
        let mut found: FuturesOrdered<_> = ids
            .iter()
            .map(async |id| match self.describe(id, None).await {
                Err(error) if error.is_not_found() => None,
                Err(_) => Some(ProcessInfo { id: id.to_string(), ..ProcessInfo::default() }),
                Ok(info) => Some(info),
            })
            .collect();
        let mut all = Vec::with_capacity(ids.len());
        while let Some(one) = found.next().await {
            all.extend(one);
        }
        all
    }

    async fn line(&self, container: &Id) -> Result<Client> {
        self.reach(container).await.map(|(_, client)| client)
    }
}

fn name(exec: Option<&Id>) -> &str {
    exec.map(Id::as_str).unwrap_or_default()
}
