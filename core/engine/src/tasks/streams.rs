//! The streams of an exec or of an attached client: named pipes that are opened here before a shim hears of them, and whose
//! names go as soon as it has opened its own ends.
//!
//! Reading does not end by itself where a process was left behind that holds a pipe open. So an [`Output`] knows of the
//! end of its program: from then on only what comes without a pause is taken, and not for ever.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use windlass_model::process::Exit;
use windlass_model::{Context, Result};

/// How long an output may be quiet after its program's end before it is taken to be held by somebody else.
const PAUSE: Duration = Duration::from_millis(250);
/// How long output is waited for, piece by piece, after the program's end.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How many bytes are taken after the program's end. All that it can have left is in pipes, which hold less.
const REST: u64 = 4 * 1024 * 1024;
/// Bytes read at once: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// The open streams of a process; those that were not asked for are `None`.
#[derive(Debug, Default)]
pub struct TaskStreams {
    /// What is written here is the process's input.
    pub stdin: Option<pipe::Sender>,
    /// What it writes.
    pub stdout: Option<Output>,
    /// What it complains.
    pub stderr: Option<Output>,
}

/// How a program ended, once it has; an error where that will never be known.
pub(super) type Ending = watch::Receiver<Option<Result<Exit>>>;

/// One output of a process.
#[derive(Debug)]
pub struct Output {
    pipe: Option<pipe::Receiver>,
    piece: Vec<u8>,
    /// For whose program's end it looks; `None`: only the pipe's end counts.
    ending: Option<Ending>,
    over: bool,
    waited: Duration,
    rest: u64,
}

/// Named pipes of one client; their names go when this goes.
#[derive(Debug)]
pub(super) struct Fifos {
    folder: PathBuf,
    id: String,
    made: Vec<PathBuf>,
}

/// An input that the shim may open to read.
#[derive(Debug)]
pub(super) struct Offered {
    path: PathBuf,
    both: pipe::Sender,
}

impl Output {
    fn new(pipe: pipe::Receiver, ending: Option<Ending>) -> Self {
        let piece = Vec::new();
        Self { pipe: Some(pipe), piece, ending, over: false, waited: Duration::ZERO, rest: REST }
    }

    /// The next piece of it, which is never empty; nothing at its end. Cancel safe: a piece is given or stays.
    pub async fn next(&mut self) -> Option<&[u8]> {
        // No memory is held while nothing comes.
        self.piece = Vec::new();
        if self.is_at_end().await {
            self.pipe = None;
            return None;
        }
        Some(&self.piece)
    }

    async fn is_at_end(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return true };
        if !self.over {
            let over = async {
                match &mut self.ending {
                    // An error says that nobody looks after the program any more.
                    Some(ending) => drop(ending.wait_for(Option::is_some).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = fill(pipe, &mut self.piece) => return end,
                () = over => self.over = true,
            }
        }
        let begin = Instant::now();
        if self.rest == 0 || self.waited >= AFTERMATH {
            return true;
        }
        let Ok(end) = timeout(PAUSE, fill(pipe, &mut self.piece)).await else { return true };
        self.waited += begin.elapsed();
        self.rest = self.rest.saturating_sub(self.piece.len() as u64);
        end
    }
}

/// Reads what is there, or waits for it; true at the end. Cancel safe.
async fn fill(pipe: &mut pipe::Receiver, piece: &mut Vec<u8>) -> bool {
    loop {
        if let Err(error) = pipe.readable().await {
            tracing::warn!(%error, "an output cannot be watched and ends early");
            return true;
        }
        piece.reserve_exact(CHUNK);
        match pipe.try_read_buf(piece) {
            Ok(count) => return count == 0,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => *piece = Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "an output ends early");
                return true;
            }
        }
    }
}

impl Fifos {
    /// None yet; they will be in `folder`, which is made, under names that begin with `id`. On a tmpfs all of this takes
    /// microseconds, so it is done on the spot.
    pub(super) fn new(folder: &Path, id: &str) -> Result<Self> {
        if let Err(error) = std::fs::create_dir(folder)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).context(|| format!("make {}", folder.display()));
        }
        Ok(Self { folder: folder.into(), id: id.into(), made: Vec::new() })
    }

    fn make(&mut self, stream: &str) -> Result<PathBuf> {
        let path = self.folder.join(format!("{}-{stream}", self.id));
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(std::io::Error::from)
            .context(|| format!("make the FIFO {}", path.display()))?;
        self.made.push(path.clone());
        Ok(path)
    }

    /// A pipe for the shim to write to, where it is `wanted`: its name, or an empty one, and our end.
    pub(super) fn output(
        &mut self,
        stream: &str,
        wanted: bool,
        ending: Option<&Ending>,
    ) -> Result<(String, Option<Output>)> {
        if !wanted {
            return Ok(Default::default());
        }
        let path = self.make(stream)?;
        let pipe = pipe::OpenOptions::new().open_receiver(&path).context(|| format!("open {}", path.display()))?;
        Ok((path.display().to_string(), Some(Output::new(pipe, ending.cloned()))))
    }

    /// A pipe for the shim to read from, where it is `wanted`: its name, or an empty one, and what becomes our end.
    pub(super) fn input(&mut self, wanted: bool) -> Result<(String, Option<Offered>)> {
        if !wanted {
            return Ok(Default::default());
        }
        let path = self.make("in")?;
        // Open for both, so that neither side finds the other missing.
        let both = pipe::OpenOptions::new().read_write(true).open_sender(&path);
        let both = both.context(|| format!("open {}", path.display()))?;
        Ok((path.display().to_string(), Some(Offered { path, both })))
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in &self.made {
            // One whose bundle is gone needs no removal.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Offered {
    /// The shim has its end: from now on the other one is for writing only, and writing fails when the shim has closed its.
    pub(super) fn settle(self) -> Result<pipe::Sender> {
        let sender = pipe::OpenOptions::new().open_sender(&self.path);
        let sender = sender.context(|| format!("open {}", self.path.display()))?;
        drop(self.both);
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use windlass_model::Timestamp;

    use super::*;

    fn fifos(folder: &Path) -> Fifos {
        Fifos::new(&folder.join("exec"), "e").unwrap()
    }

    fn writer(path: &str) -> std::fs::File {
        std::fs::File::options().write(true).open(path).unwrap()
    }

    #[tokio::test]
    async fn an_output_that_nobody_opened_yet_is_not_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (path, output) = fifos(folder.path()).output("out", true, None).map(|(p, o)| (p, o.unwrap())).unwrap();
        let mut output = output;
        assert!(!Path::new(&path).exists(), "the name goes with the FIFOs");
        assert!(timeout(Duration::from_millis(50), output.next()).await.is_err());
        let mut fifos = fifos(folder.path());
        let (path, output) = fifos.output("out", true, None).unwrap();
        let mut output = output.unwrap();
        writer(&path).write_all(b"hi").unwrap();
        assert_eq!(output.next().await, Some(&b"hi"[..]));
        assert_eq!(output.next().await, None);
        assert_eq!(output.next().await, None);
    }

    #[tokio::test]
    async fn who_holds_a_pipe_open_delays_its_end_for_a_moment_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut fifos = fifos(folder.path());
        let (ended, ending) = watch::channel(None);
        let (path, output) = fifos.output("out", true, Some(&ending)).unwrap();
        let mut output = output.unwrap();
        let mut held = writer(&path);
        held.write_all(b"last").unwrap();
        ended.send_replace(Some(Ok(Exit { status: 0, at: Timestamp(1) })));
        assert_eq!(output.next().await, Some(&b"last"[..]));
        assert_eq!(output.next().await, None);
        drop(held);
    }

    #[tokio::test]
    async fn who_writes_on_and_on_is_not_listened_to_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut fifos = fifos(folder.path());
        let (_ended, ending) = watch::channel(Some(Ok(Exit { status: 0, at: Timestamp(1) })));
        let (path, output) = fifos.output("out", true, Some(&ending)).unwrap();
        let mut held = writer(&path);
        let flood = std::thread::spawn(move || while held.write_all(&[0; 4096]).is_ok() {});
        let mut output = output.unwrap();
        let mut total = 0;
        while let Some(piece) = output.next().await {
            total += piece.len() as u64;
        }
        assert!(total >= REST, "{total}");
        flood.join().unwrap();
    }

    #[tokio::test]
    async fn an_input_waits_for_its_reader_and_ends_with_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let mut fifos = fifos(folder.path());
        let (path, offered) = fifos.input(true).unwrap();
        let mut reader = std::fs::File::open(path).unwrap();
        let sender = offered.unwrap().settle().unwrap();
        sender.writable().await.unwrap();
        assert_eq!(sender.try_write(b"hello").unwrap(), 5);
        drop(sender);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "hello");
    }

    #[test]
    fn what_is_not_wanted_is_not_made_and_nothing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut fifos = fifos(folder.path());
        assert!(matches!(fifos.output("out", false, None), Ok((path, None)) if path.is_empty()));
        assert!(matches!(fifos.input(false), Ok((path, None)) if path.is_empty()));
        fifos.make("in").unwrap();
        assert!(fifos.make("in").is_err(), "a name is taken once");
        drop(fifos);
        assert_eq!(std::fs::read_dir(folder.path().join("exec")).unwrap().count(), 0);
    }
}
