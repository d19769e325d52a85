//! Runs a program in a container to its end and collects what it says.
//!
//! The program's output comes through two FIFOs of our own. What it says beyond the limit is read and dropped, so that it
//! never blocks. A process that it left behind may hold the FIFOs open for ever: after the program's end only what comes
//! without a pause is still taken. Nobody can leave the program running: neither by a time-out nor by hanging up.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use windlass_model::process::Exit;
use windlass_model::{Context, Error, Id, Result};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::task::ExecProcessRequest;
use windlass_wire::words;

use super::bundle::Bundle;
use super::client::{Client, QUICK};
use super::table::Entry;
use super::{ExecOutput, ExecSync};

/// How long the FIFOs may be quiet after the program's end before they are taken to be held by somebody else.
const PAUSE: Duration = Duration::from_millis(250);
/// How long output may come after the program's end, however busy it is.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Bytes read at once: what a FIFO holds.
const CHUNK: usize = 64 * 1024;
/// SIGKILL.
const KILL: u32 = 9;

/// The two FIFOs of an exec; their names go when this goes.
struct Fifos {
    stdout: PathBuf,
    stderr: PathBuf,
}

/// One stream of output.
struct Stream {
    pipe: Option<pipe::Receiver>,
    kept: Vec<u8>,
    limit: usize,
}

/// How waiting for a program ended.
enum Outcome {
    Ended(Exit),
    TimedOut,
    Abandoned,
}

/// Runs `request` in a container of the shim behind `client`; where the returned future is dropped, the program is killed.
pub(super) async fn run(client: Client, entry: Arc<Entry>, request: ExecSync) -> Result<ExecOutput> {
    let caller = CancellationToken::new();
    let hung_up = caller.clone();
    // In a task of its own: a caller that hangs up must not leave the program, nor the shim's memory of it, behind.
    let work = tokio::spawn(async move {
        // An ended task is not deleted while its shim still owes us the exec's end.
        let _underway = entry.begin_exec();
        Exec::new(client, request).run(&entry.bundle, hung_up).await
    });
    let _guard = caller.drop_guard();
    work.await
        .unwrap_or_else(|error| Err(Error::with_source(windlass_model::Kind::Internal, "exec was cut off", error)))
}

struct Exec {
    client: Client,
    request: ExecSync,
    id: String,
}

impl Exec {
    fn new(client: Client, request: ExecSync) -> Self {
        Self { client, request, id: format!("exec-{}", uuid::Uuid::new_v4().simple()) }
    }

    async fn run(mut self, bundle: &Bundle, hung_up: CancellationToken) -> Result<ExecOutput> {
        let fifos = Fifos::make(&bundle.path().join("exec"), &self.id)?;
        let mut stdout = Stream::open(&fifos.stdout, self.request.limit)?;
        let mut stderr = Stream::open(&fifos.stderr, self.request.limit)?;
        let deadline = self.request.timeout.map(|limit| Instant::now() + limit);
        self.add(&fifos).await?;
        let outcome = match self.client.start(&self.request.container, &self.id).await {
            Ok(_) => self.follow(&mut stdout, &mut stderr, deadline, hung_up).await,
            Err(error) => Err(error),
        };
        drop(fifos);
        let ended = self.finish(outcome).await;
        // Forgotten in any case, for a second exec must not find the memory full of dead ones.
        let deleted = self.client.delete(self.container(), &self.id).await;
        let exit = ended?;
        if let Err(error) = deleted {
            tracing::warn!(container = %self.container(), exec = self.id, %error, "an ended exec was not deleted");
        }
        Ok(ExecOutput { stdout: stdout.kept, stderr: stderr.kept, exit })
    }

    fn container(&self) -> &Id {
        &self.request.container
    }

    async fn add(&mut self, fifos: &Fifos) -> Result<()> {
        let process = std::mem::take(&mut self.request.process);
        let spec = Any { type_url: words::TYPE_PROCESS.into(), value: process, ..Any::default() };
        let request = ExecProcessRequest {
            id: self.container().to_string(),
            exec_id: self.id.clone(),
            stdout: fifos.stdout.display().to_string(),
            stderr: fifos.stderr.display().to_string(),
            spec: MessageField::some(spec),
            ..ExecProcessRequest::default()
        };
        self.client.exec(&request).await
    }

    /// Reads until the program has ended and its output too, or until the time is up.
    async fn follow(
        &self,
        stdout: &mut Stream,
        stderr: &mut Stream,
        deadline: Option<Instant>,
        hung_up: CancellationToken,
    ) -> Result<Outcome> {
        let mut exit = pin!(self.client.wait_exec(self.container(), &self.id));
        let mut time_out = pin!(async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        });
        let exit = loop {
            tokio::select! {
                biased;
                exit = &mut exit => break exit?,
                () = &mut time_out => return Ok(Outcome::TimedOut),
                () = hung_up.cancelled() => return Ok(Outcome::Abandoned),
                () = stdout.read(), if stdout.is_open() => {}
                () = stderr.read(), if stderr.is_open() => {}
            }
        };
        let last = Instant::now() + AFTERMATH;
        while stdout.is_open() || stderr.is_open() {
            tokio::select! {
                biased;
                () = stdout.read(), if stdout.is_open() => {}
                () = stderr.read(), if stderr.is_open() => {}
                () = sleep(PAUSE) => break,
                () = sleep_until(last) => break,
            }
            if Instant::now() >= last {
                break;
            }
        }
        Ok(Outcome::Ended(exit))
    }

    /// Turns the outcome into an exit; a program that did not end by itself is killed.
    async fn finish(&self, outcome: Result<Outcome>) -> Result<Exit> {
        let (why, limit) = match outcome? {
            Outcome::Ended(exit) => return Ok(exit),
            Outcome::TimedOut => ("did not end in time", self.request.timeout),
            Outcome::Abandoned => ("was given up by its caller", None),
        };
        if let Err(error) = self.client.kill(self.container(), &self.id, KILL, false).await
            && !error.is_not_found()
        {
            tracing::warn!(container = %self.container(), exec = self.id, %error, "an exec was not killed");
        }
        let _ = timeout(QUICK, self.client.wait_exec(self.container(), &self.id)).await;
        let limit = limit.map(|limit| format!(" ({} s)", limit.as_secs_f32())).unwrap_or_default();
        Err(Error::deadline(format!("the program in container {} {why}{limit} and was killed", self.container())))
    }
}

impl Fifos {
    /// Makes both. On a tmpfs this takes microseconds, so it is done on the spot.
    fn make(folder: &Path, id: &str) -> Result<Self> {
        let made = Self { stdout: folder.join(format!("{id}-out")), stderr: folder.join(format!("{id}-err")) };
        if let Err(error) = std::fs::create_dir(folder)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).context(|| format!("make {}", folder.display()));
        }
        for path in [&made.stdout, &made.stderr] {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .map_err(std::io::Error::from)
                .context(|| format!("make the FIFO {}", path.display()))?;
        }
        Ok(made)
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in [&self.stdout, &self.stderr] {
            // One that was never made, or whose bundle is gone, needs no removal.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Stream {
    fn open(path: &Path, limit: usize) -> Result<Self> {
        let pipe = pipe::OpenOptions::new().open_receiver(path).context(|| format!("open {}", path.display()))?;
        Ok(Self { pipe: Some(pipe), kept: Vec::new(), limit })
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Takes the next piece; at the end the pipe is closed. Cancel safe.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut piece = Vec::with_capacity(CHUNK);
        match pipe.read_buf(&mut piece).await {
            Ok(1..) => {
                let room = self.limit.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(piece.get(..room).unwrap_or(&piece));
            }
            Ok(0) => self.pipe = None,
            Err(error) => {
                tracing::warn!(%error, "the output of an exec ends early");
                self.pipe = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn fifos(folder: &Path) -> Fifos {
        Fifos::make(&folder.join("exec"), "e").unwrap()
    }

    #[tokio::test]
    async fn output_past_the_limit_is_dropped_and_the_writer_never_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let fifos = fifos(folder.path());
        let mut stream = Stream::open(&fifos.stdout, 1000).unwrap();
        let path = fifos.stdout.clone();
        let writer = std::thread::spawn(move || {
            let mut file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all(&[b'x'; 1 << 20]).unwrap();
        });
        while stream.is_open() {
            stream.read().await;
        }
        writer.join().unwrap();
        assert_eq!(stream.kept, [b'x'; 1000]);
    }

    #[tokio::test]
    async fn a_stream_that_nobody_opened_yet_is_not_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let fifos = fifos(folder.path());
        let mut stream = Stream::open(&fifos.stdout, 10).unwrap();
        assert!(timeout(Duration::from_millis(50), stream.read()).await.is_err());
        std::fs::File::options().write(true).open(&fifos.stdout).unwrap().write_all(b"hi").unwrap();
        while stream.is_open() {
            stream.read().await;
        }
        assert_eq!(stream.kept, b"hi");
    }

    #[test]
    fn fifos_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        drop(fifos(folder.path()));
        assert_eq!(std::fs::read_dir(folder.path().join("exec")).unwrap().count(), 0);
    }
}
