//! A program of a task that we start and watch: its streams are ours, our signals are its, and its status is ours.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    CloseIoRequest, KillRequest, ResizePtyRequest, StartRequest, WaitRequest, WaitResponse,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::{Daemon, answered};
use crate::signals::{Signals, is_resize};
use crate::stdio::{Pipes, pour};
use crate::tasks::note;
use crate::terminal;

/// How long a daemon may be away, as it is while it is started anew; its programs run on.
const AWAY: Duration = Duration::from_secs(60);

/// How often one that is away is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// Bytes read from standard input at once.
const CHUNK: usize = 16 << 10;

/// The first process of a container, or an exec's where `exec` is not empty.
#[derive(Clone, Debug)]
pub(crate) struct Program<'a> {
    pub daemon: &'a Daemon,
    pub client: TasksClient<Channel>,
    pub container: String,
    pub exec: String,
}

impl Program<'_> {
    /// Starts it; gives its process id.
    pub async fn start(&mut self) -> Result<u32> {
        let request = StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let started = self.client.start(self.daemon.request(request)).await;
        Ok(started.map_err(answered).with_context(|| format!("start {}", self.name()))?.into_inner().pid)
    }

    /// Starts it with its streams on ours, and stays until its end; gives its exit status. Its process id is written to
    /// `pid_file`.
    pub async fn start_and_watch(
        &mut self,
        mut pipes: Pipes,
        signals: Signals,
        pid_file: Option<&Path>,
    ) -> Result<u32> {
        // Before the start, so that no key is lost or shown twice.
        let raw = if pipes.stdin.is_some() && pipes.names().terminal { terminal::Raw::enter()? } else { None };
        if pipes.names().terminal {
            // A program may look at once; a shim that has no terminal yet gets the size after the start.
            self.resize().await;
        }
        let pid = self.start().await?;
        note(pid_file, pid)?;
        pipes.settle()?;
        let status = self.watch(pipes, signals).await;
        drop(raw);
        status
    }

    /// Stays with one that runs already; gives its exit status.
    pub async fn attach(&mut self, pipes: Pipes, signals: Signals) -> Result<u32> {
        let raw = if pipes.stdin.is_some() && pipes.names().terminal { terminal::Raw::enter()? } else { None };
        let status = self.watch(pipes, signals).await;
        drop(raw);
        status
    }

    async fn watch(&mut self, mut pipes: Pipes, mut signals: Signals) -> Result<u32> {
        let has_terminal = pipes.names().terminal;
        let (over, ending) = watch::channel(false);
        let mut outputs = JoinSet::new();
        if let Some(from) = pipes.stdout.take() {
            outputs.spawn(pour(from, tokio::io::stdout(), ending.clone()));
        }
        if let Some(from) = pipes.stderr.take() {
            outputs.spawn(pour(from, tokio::io::stderr(), ending));
        }
        // It ends with this set, whether or not anybody types.
        let mut input = JoinSet::new();
        if let Some(to) = pipes.stdin.take() {
            input.spawn(type_into(to, self.client.clone(), self.close_request()));
        }
        if has_terminal {
            self.resize().await;
        }
        let waiting = self.clone();
        let end = waiting.wait();
        tokio::pin!(end);
        let status = loop {
            tokio::select! {
                status = &mut end => break status,
                number = signals.next() => match is_resize(number) {
                    true if has_terminal => self.resize().await,
                    true => {}
                    false => self.pass_on(number).await,
                },
            }
        };
        over.send_replace(true);
        while outputs.join_next().await.is_some() {}
        status
    }

    /// Waits for its end, also while the daemon is started anew; gives its exit status.
    pub async fn wait(mut self) -> Result<u32> {
        Ok(self.wait_for_answer().await?.exit_status)
    }

    async fn wait_for_answer(&mut self) -> Result<WaitResponse> {
        let mut away: Option<Instant> = None;
        loop {
            let request = WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
            let begun = Instant::now();
            match self.client.wait(self.daemon.request(request)).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if is_away(&status) => {
                    // A wait that lasted has found the daemon there.
                    if begun.elapsed() > LOOK {
                        away = None;
                    }
                    if away.get_or_insert_with(Instant::now).elapsed() > AWAY {
                        return Err(answered(status)).with_context(|| format!("wait for {}", self.name()));
                    }
                    tokio::time::sleep(LOOK).await;
                }
                Err(status) => return Err(answered(status)).with_context(|| format!("wait for {}", self.name())),
            }
        }
    }

    /// A signal that came to us is meant for it. One that has ended needs none.
    async fn pass_on(&mut self, signal: u32) {
        let (container_id, exec_id) = (self.container.clone(), self.exec.clone());
        let request = KillRequest { container_id, exec_id, signal, all: false };
        drop(self.client.kill(self.daemon.request(request)).await);
    }

    /// Its terminal gets the size of ours.
    async fn resize(&mut self) {
        let Some((width, height)) = terminal::size() else { return };
        let (container_id, exec_id) = (self.container.clone(), self.exec.clone());
        let request = ResizePtyRequest { container_id, exec_id, width, height };
        drop(self.client.resize_pty(self.daemon.request(request)).await);
    }

    fn close_request(&self) -> tonic::Request<CloseIoRequest> {
        let (container_id, exec_id) = (self.container.clone(), self.exec.clone());
        self.daemon.request(CloseIoRequest { container_id, exec_id, stdin: true })
    }

    fn name(&self) -> String {
        if self.exec.is_empty() { self.container.clone() } else { format!("{} in {}", self.exec, self.container) }
    }
}

/// Our standard input, until its end, which is told to the shim too: it may hold the pipe open itself.
async fn type_into(mut to: pipe::Sender, mut client: TasksClient<Channel>, close: tonic::Request<CloseIoRequest>) {
    let mut from = tokio::io::stdin();
    let mut piece = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    drop(to);
    drop(client.close_io(close).await);
}

/// True where the connection broke, and not the program.
fn is_away(status: &Status) -> bool {
    // Only an error of the connection has a cause; what a daemon answers is words.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}
