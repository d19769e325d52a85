//! One namespace's verbs on tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use windlass_model::process::{Exit, State};
use windlass_model::{Error, Id, Kind, Namespace, Result, Timestamp};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::task::{CreateTaskRequest, Options};
use windlass_wire::{convert, words};

use super::bundle::Bundle;
use super::client::Client;
use super::exec::Running;
use super::owner::Birth;
use super::roster::Roster;
use super::streams::TaskStreams;
use super::table::{Entry, Key};
use super::{
    AttachTask, Attached, CreateTask, ExecOutput, ExecSync, Member, StartExec, TaskRuntime, TaskState, attach, exec,
    exec_sync,
};
use crate::{Tenant, TypedBytes, blocking};

/// How often a waiter asks the shim itself, should its event be lost.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long a shim's word of a task's end may be behind its answer that the task is deleted.
const LAST_WORD: Duration = Duration::from_secs(2);

/// How long the owner of a shim may take to notice that the connection is broken.
const LOST: Duration = Duration::from_secs(1);

/// How long execs that end with their task may take to be answered before it is deleted.
const LAST_EXECS: Duration = Duration::from_secs(2);

/// The sandboxes and tasks of one namespace.
#[derive(Clone)]
pub struct Tasks {
    roster: Roster,
    namespace: Namespace,
}

impl Tasks {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { roster: tenant.core().roster().clone(), namespace: tenant.namespace().clone() }
    }

    #[cfg(test)]
    pub(super) fn of(roster: Roster, namespace: Namespace) -> Self {
        Self { roster, namespace }
    }

    pub(super) fn key(&self, id: &Id) -> Key {
        (self.namespace.clone(), id.clone())
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    pub(super) fn bundle(&self, id: &Id) -> Bundle {
        self.roster.inner().bundles.of(&self.namespace, id)
    }

    /// Makes a task: its bundle, its root file system and its first process, which waits for [`Tasks::start`]. Answers
    /// that process. Where it fails nothing is left.
    ///
    /// # Errors
    /// `AlreadyExists` where the container has a task or there is a sandbox of its name; `NotFound` where its sandbox has
    /// no shim; `FailedPrecondition` where its sandbox does not run.
    pub async fn create(&self, request: CreateTask) -> Result<u32> {
        let shim = request.sandbox.clone().unwrap_or_else(|| request.id.clone());
        let entry = Entry::new(self.namespace.clone(), request.id.clone(), shim, self.bundle(&request.id), None);
        if let Some(sandbox) = &request.sandbox
            && self.entry(sandbox).is_ok()
        {
            return Err(Error::not_found(format!("{sandbox} is a container and no sandbox")));
        }
        self.roster.add_task(entry.clone())?;
        match self.make(&entry, request).await {
            Ok(pid) => Ok(pid),
            Err(error) => {
                if let Err(left) = self.unmake(&entry).await {
                    tracing::warn!(container = %entry.id, error = %left, "a task that was not made left something behind");
                }
                Err(error)
            }
        }
    }

    async fn make(&self, entry: &Arc<Entry>, request: CreateTask) -> Result<u32> {
        let CreateTask { id, sandbox, spec, rootfs, terminal, stdin, stdout, stderr, runtime } = request;
        let (bundle, shim) = (entry.bundle.clone(), entry.shim.clone());
        blocking(move || bundle.fill(&shim, &spec)).await?;
        let key = self.key(&entry.shim);
        if sandbox.is_none() {
            let shim = runtime.shim.clone();
            self.roster.boot_task(key.clone(), |reply| Birth::Task(shim, reply)).await?;
        }
        let options = options(runtime)?;
        let request = CreateTaskRequest {
            id: id.to_string(),
            bundle: entry.bundle.path().display().to_string(),
            rootfs: rootfs.iter().map(convert::mount).collect(),
            terminal,
            stdin,
            stdout,
            stderr,
            options,
            ..CreateTaskRequest::default()
        };
        let pid = self.roster.client(&key).await?.create(&request).await?;
        entry.set_pid(pid);
        Ok(pid)
    }

    /// Takes away what is left of a task that was not made.
    async fn unmake(&self, entry: &Arc<Entry>) -> Result<()> {
        let key = self.key(&entry.shim);
        // Nobody was told of its making, so nobody is to hear of its end.
        entry.end(Exit { status: 255, at: Timestamp::now() });
        if entry.shim == entry.id {
            self.roster.down(key).await?;
        } else if let Ok(client) = self.roster.client(&key).await {
            // Mostly the shim has undone its part; after a time-out it may still be at it.
            let _ = client.kill(&entry.id, "", 9, true).await;
            match client.delete(&entry.id, "").await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::debug!(container = %entry.id, %error, "delete of a task that was not made"),
            }
        }
        self.forget(entry).await
    }

    /// Removes the bundle of a container that a daemon died over before it was whole.
    async fn sweep(&self, id: &Id) -> Result<()> {
        if self.has_sandbox(id) {
            return Ok(());
        }
        let bundle = self.bundle(id);
        blocking(move || if bundle.has_shim() { Ok(()) } else { bundle.remove() }).await
    }

    /// Removes the last trace of a task.
    async fn forget(&self, entry: &Arc<Entry>) -> Result<()> {
        let doomed = entry.clone();
        blocking(move || doomed.remove_bundle()).await?;
        self.roster.inner().tasks.remove(&entry.namespace, &entry.id);
        Ok(())
    }

    /// Starts the user's program; answers its process.
    ///
    /// # Errors
    /// `FailedPrecondition` where it was started already, and what the OCI runtime said where it fails.
    pub async fn start(&self, id: &Id) -> Result<u32> {
        let (entry, client) = self.reach(id).await?;
        let pid = client.start(id, "").await?;
        entry.set_pid(pid);
        Ok(pid)
    }

    /// Sends a signal to the task's first process, or to all its processes.
    ///
    /// # Errors
    /// `NotFound` where there is no task or it has ended.
    pub async fn kill(&self, id: &Id, signal: u32, all: bool) -> Result<()> {
        let (entry, client) = self.reach(id).await?;
        match client.kill(id, "", signal, all).await {
            // A shim that dies just now: its owner is about to notice, and then it is known what became of the task.
            Err(error) if error.kind() == Kind::Unavailable => {
                self.roster.lost(&self.key(&entry.shim), LOST).await;
                let (_, client) = self.reach(id).await?;
                client.kill(id, "", signal, all).await
            }
            done => done,
        }
    }

    /// Where a task is. One whose shim is dead is stopped until it is deleted.
    ///
    /// # Errors
    /// `NotFound` where there is no task; `Unavailable` where its shim does not answer.
    pub async fn state(&self, id: &Id) -> Result<TaskState> {
        let entry = self.entry(id)?;
        match self.roster.client(&self.key(&entry.shim)).await {
            Ok(client) => client.state(id).await,
            Err(error) => match entry.exit() {
                Some(exit) => Ok(TaskState { state: State::Stopped, pid: entry.pid(), exit: Some(exit) }),
                None => Err(error),
            },
        }
    }

    /// Waits for the end of a task.
    ///
    /// # Errors
    /// `NotFound` where there is no task, or its shim does not know it.
    pub async fn wait(&self, id: &Id) -> Result<Exit> {
        let entry = self.entry(id)?;
        loop {
            if let Ok(exit) = timeout(ASK_AGAIN, entry.wait()).await {
                return Ok(exit);
            }
            match self.state(id).await {
                Ok(TaskState { state: State::Stopped, exit: Some(exit), .. }) => {
                    self.roster.inner().take_exit(&entry, exit);
                }
                Err(error) if error.is_not_found() && entry.exit().is_none() => return Err(error),
                _ => {}
            }
        }
    }

    /// Forgets an ended task: its mounts and its bundle go. A task whose shim is dead is forgotten too.
    ///
    /// # Errors
    /// `NotFound` where there is no task (it may have been deleted before); `FailedPrecondition` where it has not ended.
    pub async fn delete(&self, id: &Id) -> Result<Exit> {
        let entry = match self.entry(id) {
            Err(error) if error.is_not_found() => {
                self.sweep(id).await?;
                return Err(error);
            }
            found => found?,
        };
        let key = self.key(&entry.shim);
        if entry.exit().is_some() {
            let _ = timeout(LAST_EXECS, entry.execs_ended()).await;
        }
        let exit = match self.roster.client(&key).await {
            Ok(client) => match client.delete(id, "").await {
                Ok((_, exit)) => {
                    // What the shim tells in order (the start, the end) is not to be overtaken by what is told here.
                    let _ = timeout(LAST_WORD, entry.wait()).await;
                    Some(exit)
                }
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            },
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        // A shim tells of what it deletes; a dead one does not.
        let told = exit.is_some();
        let exit = exit.or(entry.exit()).unwrap_or(Exit { status: 255, at: Timestamp::now() });
        if entry.shim == entry.id {
            self.roster.down(key).await?;
        }
        self.forget(&entry).await?;
        self.roster.inner().take_exit(&entry, exit);
        if !told {
            self.roster.inner().tell_deletion(&entry, exit);
        }
        Ok(exit)
    }

    /// Runs a program in a container to its end. Where the future is dropped the program is killed.
    ///
    /// # Errors
    /// `NotFound` where there is no task; `DeadlineExceeded` after the time-out, with the program killed; what the OCI
    /// runtime said where the program cannot be started.
    pub async fn exec_sync(&self, request: ExecSync) -> Result<ExecOutput> {
        let (entry, client) = self.reach(&request.container).await?;
        exec_sync::run(client, entry, request).await
    }

    /// Runs a program in a container with streams to the caller. Where the future or the [`Running`] is dropped, the
    /// program is told to hang up, and killed after its grace.
    ///
    /// # Errors
    /// `NotFound` where there is no task; what the OCI runtime said where the program cannot be started.
    pub async fn exec(&self, request: StartExec) -> Result<(TaskStreams, Running)> {
        let (entry, client) = self.reach(&request.container).await?;
        exec::start(client, entry, request).await
    }

    /// Gives copies of what a container's first process writes from now on, and a way to its input. They end with the
    /// container; a client ends by dropping them.
    ///
    /// # Errors
    /// `NotFound` where there is no task; `FailedPrecondition` where it has ended or has no input to share;
    /// `ResourceExhausted` where too many are attached.
    pub async fn attach(&self, request: AttachTask) -> Result<(TaskStreams, Attached)> {
        let (entry, client) = self.reach(&request.container).await?;
        attach::attach(client, entry, request).await
    }

    /// Opens the container's log file anew, after somebody renamed the old one.
    pub async fn reopen_log(&self, id: &Id) -> Result<()> {
        let (_, client) = self.reach(id).await?;
        client.reopen_log(id).await
    }

    /// The processes of a task.
    pub async fn pids(&self, id: &Id) -> Result<Vec<Member>> {
        let (_, client) = self.reach(id).await?;
        client.pids(id).await
    }

    /// What a task has used: `io.containerd.cgroups.v1.Metrics`, or version 2's, or what its shim has instead.
    pub async fn stats(&self, id: &Id) -> Result<TypedBytes> {
        let (_, client) = self.reach(id).await?;
        client.stats(id).await
    }

    /// Changes the limits of a task; `resources` is OCI's `LinuxResources`, JSON.
    pub async fn update(&self, id: &Id, resources: Vec<u8>) -> Result<()> {
        let (_, client) = self.reach(id).await?;
        client.update(id, resources).await
    }

    /// Freezes a task.
    pub async fn pause(&self, id: &Id) -> Result<()> {
        let (_, client) = self.reach(id).await?;
        client.pause(id).await
    }

    /// Thaws a task.
    pub async fn resume(&self, id: &Id) -> Result<()> {
        let (_, client) = self.reach(id).await?;
        client.resume(id).await
    }

    /// A task's first process; 0 where there is no task or that is not known.
    pub fn pid(&self, id: &Id) -> u32 {
        self.entry(id).map_or(0, |entry| entry.pid())
    }

    /// The containers that have a task, in any state.
    pub fn list(&self) -> Vec<Id> {
        self.roster.inner().tasks.of_namespace(&self.namespace).iter().map(|entry| entry.id.clone()).collect()
    }

    pub(super) fn entry(&self, id: &Id) -> Result<Arc<Entry>> {
        let found = self.roster.inner().tasks.get(&self.namespace, id);
        found.ok_or_else(|| Error::not_found(format!("container {id} has no task")))
    }

    pub(super) async fn reach(&self, id: &Id) -> Result<(Arc<Entry>, Client)> {
        let entry = self.entry(id)?;
        let client = self.roster.client(&self.key(&entry.shim)).await?;
        Ok((entry, client))
    }
}

/// What the shim is told of the OCI runtime.
fn options(runtime: TaskRuntime) -> Result<MessageField<Any>> {
    if let Some(TypedBytes { type_url, value }) = runtime.options {
        return Ok(MessageField::some(Any { type_url, value, ..Any::default() }));
    }
    if runtime.binary.is_none() && !runtime.systemd_cgroup {
        // A shim of another's making may know no options of runc.
        return Ok(MessageField::none());
    }
    let options = Options {
        binary_name: runtime.binary.map(|path| path.display().to_string()).unwrap_or_default(),
        systemd_cgroup: runtime.systemd_cgroup,
        ..Options::default()
    };
    convert::any(words::TYPE_RUNC_OPTIONS, &options).map(MessageField::some)
}
