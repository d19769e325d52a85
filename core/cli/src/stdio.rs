//! The streams of a program between a shim and us: named pipes in a folder of our own.
//!
//! Our end of an output is opened before the shim hears of it, and without waiting: it is not at its end until somebody
//! has opened the other one and closed it. An input is opened for both, so that neither side finds the other missing;
//! once the shim has its end, ours becomes one for writing only, and closing it ends the input.
//!
//! An output need not end with its program: a process left behind may hold it open. So from the program's end on only what
//! comes without a pause is taken.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes read at once: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// How long an output may be quiet after its program's end before it is taken to be held by somebody else.
const PAUSE: Duration = Duration::from_millis(500);

/// How many bytes are taken after the program's end. All that it can have left is in pipes, which hold less.
const REST: usize = 8 << 20;

/// The streams' names as a message has them; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// The streams of a program that we watch.
#[derive(Debug)]
pub(crate) struct Pipes {
    names: Names,
    pub stdin: Option<pipe::Sender>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
    /// The pipes' folder; it and they go when this goes.
    _folder: Option<tempfile::TempDir>,
}

impl Names {
    /// All output to a place that the shim knows by a URI; nowhere where that is empty.
    pub fn elsewhere(uri: &str, terminal: bool) -> Self {
        // A terminal has one output.
        let stderr = if terminal { String::new() } else { uri.to_owned() };
        Self { stdin: String::new(), stdout: uri.to_owned(), stderr, terminal }
    }
}

impl Pipes {
    /// Pipes for a program that nobody has made yet.
    pub fn make(stdin: bool, terminal: bool) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("windlass-io-");
        // The daemon's /tmp may be its own.
        let folder = builder.tempdir_in("/run").or_else(|_| builder.tempdir()).context("make a folder for pipes")?;
        let make = |name: &str| -> Result<PathBuf> {
            let path = folder.path().join(name);
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, &path, FileType::Fifo, mode, 0).with_context(|| format!("make {}", path.display()))?;
            Ok(path)
        };
        let mut pipes = Self {
            names: Names { terminal, ..Default::default() },
            stdin: None,
            stdout: None,
            stderr: None,
            _folder: None,
        };
        if stdin {
            let path = make("stdin")?;
            let both = pipe::OpenOptions::new().read_write(true).open_sender(&path);
            pipes.stdin = Some(both.with_context(|| format!("open {}", path.display()))?);
            pipes.names.stdin = path.display().to_string();
        }
        let path = make("stdout")?;
        pipes.stdout = Some(output(&path)?);
        pipes.names.stdout = path.display().to_string();
        if !terminal {
            let path = make("stderr")?;
            pipes.stderr = Some(output(&path)?);
            pipes.names.stderr = path.display().to_string();
        }
        pipes._folder = Some(folder);
        Ok(pipes)
    }

    /// The pipes of a program that was left by whoever made them.
    ///
    /// # Errors
    /// Where its streams are no pipes.
    pub fn of(names: Names) -> Result<Self> {
        let fifo = |name: &str| -> Result<Option<PathBuf>> {
            if name.is_empty() {
                return Ok(None);
            }
            let path = PathBuf::from(name.strip_prefix("fifo://").unwrap_or(name));
            let kind = std::fs::metadata(&path).with_context(|| format!("its output is {name}"))?.file_type();
            if !kind.is_fifo() {
                bail!("{name} is no pipe");
            }
            Ok(Some(path))
        };
        let stdout = fifo(&names.stdout)?.map(|path| output(&path)).transpose()?;
        let stderr = fifo(&names.stderr)?.map(|path| output(&path)).transpose()?;
        if stdout.is_none() && stderr.is_none() {
            bail!("its output goes nowhere");
        }
        let open = |path: PathBuf| {
            pipe::OpenOptions::new().open_sender(&path).with_context(|| format!("open {}", path.display()))
        };
        let stdin = fifo(&names.stdin)?.map(open).transpose()?;
        Ok(Self { names, stdin, stdout, stderr, _folder: None })
    }

    /// No pipes: the program's streams are `names`, which are elsewhere.
    pub fn none(names: Names) -> Self {
        Self { names, stdin: None, stdout: None, stderr: None, _folder: None }
    }

    /// The streams' names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The shim has its ends: from now on closing the input ends it.
    pub fn settle(&mut self) -> Result<()> {
        if self.stdin.is_some() {
            let sender = pipe::OpenOptions::new().open_sender(&self.names.stdin);
            self.stdin = Some(sender.with_context(|| format!("open {}", self.names.stdin))?);
        }
        Ok(())
    }
}

fn output(path: &Path) -> Result<pipe::Receiver> {
    pipe::OpenOptions::new().open_receiver(path).with_context(|| format!("open {}", path.display()))
}

/// Writes all that comes from `from` to `to`, until its end; `over` says that its program has ended.
pub(crate) async fn pour(mut from: pipe::Receiver, mut to: impl AsyncWrite + Unpin, mut over: watch::Receiver<bool>) {
    let mut piece = vec![0; CHUNK];
    let mut rest = REST;
    loop {
        let read = if *over.borrow_and_update() {
            if rest == 0 {
                break;
            }
            match timeout(PAUSE, from.read(&mut piece)).await {
                Ok(read) => read,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                biased;
                read = from.read(&mut piece) => read,
                _ = over.changed() => continue,
            }
        };
        let Ok(length @ 1..) = read else { break };
        if *over.borrow() {
            rest = rest.saturating_sub(length);
        }
        // Who does not read what we write has read enough; the program is told by its own pipe's end.
        if to.write_all(&piece[..length]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn writer(name: &str) -> std::fs::File {
        std::fs::File::options().write(true).open(name).expect("a pipe")
    }

    #[tokio::test]
    async fn outputs_come_whole_and_end_with_their_writer() {
        let pipes = Pipes::make(false, false).expect("pipes");
        let names = pipes.names().clone();
        assert!(names.stdin.is_empty() && !names.stderr.is_empty());
        let (_over, ending) = watch::channel(false);
        let Pipes { stdout, .. } = pipes;
        let mut written = Vec::new();
        let held = writer(&names.stdout);
        let thread = std::thread::spawn(move || (&held).write_all(&[7; 200_000]));
        pour(stdout.expect("stdout"), &mut written, ending).await;
        thread.join().expect("joins").expect("writes");
        assert_eq!(written.len(), 200_000);
    }

    #[tokio::test]
    async fn who_holds_a_pipe_delays_its_end_for_a_moment_only() {
        let mut pipes = Pipes::make(false, true).expect("pipes");
        assert!(pipes.names().stderr.is_empty(), "a terminal has one output");
        let mut held = writer(&pipes.names().stdout);
        held.write_all(b"last").expect("writes");
        let (over, ending) = watch::channel(false);
        over.send_replace(true);
        let mut written = Vec::new();
        let stdout = pipes.stdout.take().expect("stdout");
        timeout(Duration::from_secs(10), pour(stdout, &mut written, ending)).await.expect("ends");
        assert_eq!(written, b"last");
    }

    #[tokio::test]
    async fn an_input_ends_with_us() {
        let mut pipes = Pipes::make(true, false).expect("pipes");
        let folder = PathBuf::from(&pipes.names().stdin).parent().expect("a folder").to_owned();
        let mut reader = std::fs::File::open(&pipes.names().stdin).expect("a pipe");
        pipes.settle().expect("settles");
        let mut stdin = pipes.stdin.take().expect("stdin");
        stdin.write_all(b"hello").await.expect("writes");
        drop(stdin);
        let mut all = String::new();
        reader.read_to_string(&mut all).expect("reads");
        assert_eq!(all, "hello");
        drop(pipes);
        assert!(!folder.exists(), "nothing stays");
    }

    #[tokio::test]
    async fn only_pipes_are_taken_over() {
        let made = Pipes::make(true, false).expect("pipes");
        let _reader = pipe::OpenOptions::new().open_receiver(&made.names().stdin).expect("a reader");
        assert!(Pipes::of(made.names().clone()).is_ok());
        assert!(Pipes::of(Names::elsewhere("file:///var/log/x", false)).is_err());
        assert!(Pipes::of(Names::elsewhere("/etc/passwd", false)).is_err());
        assert!(Pipes::of(Names::elsewhere("", false)).is_err());
    }
}
