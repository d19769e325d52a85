//! The inputs and outputs of one process: pipes that the shim owns, and where their bytes go.
//!
//! A process gets ordinary pipes (or a terminal); tasks of the shim carry bytes between them and named pipes, files and
//! the CRI log, and to whoever is attached. When the process has ended, [`Io::drain`] says when all that it wrote has been
//! carried.

mod attach;
mod copy;
pub mod logger;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use windlass_model::{Context, Error, Result};
use windlass_sys::tty;
use windlass_wire::Stdio;

use crate::log::{Lines, Log, Stream};
use attach::{Input, Viewers};
use copy::Sink;
use logger::{Logger, Whose};

/// How long an ended process's output may take to be carried before its exit is told nevertheless.
const DRAIN: Duration = Duration::from_secs(5);

/// What a client asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Where input comes from.
    pub stdin: String,
    /// Where output goes.
    pub stdout: String,
    /// Where errors go; unused with a terminal.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

/// The ends that the process gets; closed in the shim as soon as it has them.
#[derive(Debug)]
pub struct Ends {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// The shim's side. Dropping it ends the carrying.
#[derive(Debug)]
pub struct Io {
    input: Option<OwnedFd>,
    input_to: Option<OwnedFd>,
    /// Holds the named pipe for input open, so that a client may go and another come.
    input_held: Option<OwnedFd>,
    /// The input is shared by those who attach, and this says whether it is for the first of them only.
    input_once: Option<bool>,
    shared: Option<Input>,
    outputs: Vec<(Option<OwnedFd>, Sink, Arc<Viewers>)>,
    stdout_viewers: Arc<Viewers>,
    stderr_viewers: Arc<Viewers>,
    console: Option<Arc<AsyncFd<OwnedFd>>>,
    log: Option<Arc<Mutex<Log>>>,
    logger: Option<Logger>,
    ended: watch::Sender<bool>,
    drained: Vec<oneshot::Receiver<()>>,
    carriers: JoinSet<()>,
}

impl Io {
    /// Opens what `wish` names, and makes the pipes between it and a process that runs as `owner` (user, group). A
    /// logging program is started and told whose output it gets.
    ///
    /// # Errors
    /// Where something cannot be opened or started.
    pub fn prepare(wish: &Wish, owner: (u32, u32), whose: Whose<'_>) -> Result<(Self, Ends)> {
        let mut io = Self {
            input: None,
            input_to: None,
            input_held: None,
            input_once: None,
            shared: None,
            outputs: Vec::new(),
            stdout_viewers: Viewers::new(),
            stderr_viewers: Viewers::new(),
            console: None,
            log: None,
            logger: None,
            ended: watch::Sender::new(false),
            drained: Vec::new(),
            carriers: JoinSet::new(),
        };
        let stdin = io.prepare_input(wish, owner)?;
        let mut output = |stream, wished: &str| io.prepare_output(stream, wished, wish.terminal, owner, whose);
        let stdout = output(Stream::Stdout, &wish.stdout)?;
        let stderr = if wish.terminal {
            null()?
        } else if wish.stderr.is_empty() && wish.stdout.starts_with("binary://") {
            // A logging program gets both, whether or not they are named.
            output(Stream::Stderr, &wish.stdout)?
        } else {
            output(Stream::Stderr, &wish.stderr)?
        };
        if wish.terminal {
            io.stderr_viewers.close();
        }
        if let Some(logger) = &mut io.logger {
            logger.settle();
        }
        Ok((io, Ends { stdin, stdout, stderr }))
    }

    fn prepare_input(&mut self, wish: &Wish, owner: (u32, u32)) -> Result<OwnedFd> {
        match wish.stdin.parse()? {
            Stdio::Null => return null(),
            Stdio::File(path) => {
                return File::open(&path).map(Into::into).context(|| format!("open {}", path.display()));
            }
            Stdio::Fifo(path) => {
                self.input = Some(open(&path, OFlags::RDONLY)?);
                self.input_held = Some(open(&path, OFlags::WRONLY)?);
            }
            Stdio::Attach { once } => self.input_once = Some(once),
            Stdio::Binary(_) | Stdio::CriLog { .. } => return Err(Error::invalid("stdin cannot be a log")),
        }
        if wish.terminal {
            return null();
        }
        let (process, ours) = pipe()?;
        give(&process, owner)?;
        nonblocking(&ours)?;
        self.input_to = Some(ours);
        Ok(process)
    }

    fn prepare_output(
        &mut self,
        stream: Stream,
        wish: &str,
        terminal: bool,
        owner: (u32, u32),
        whose: Whose<'_>,
    ) -> Result<OwnedFd> {
        let viewers = Arc::clone(match stream {
            Stream::Stdout => &self.stdout_viewers,
            Stream::Stderr => &self.stderr_viewers,
        });
        let sink = match wish.parse()? {
            // A terminal has to be read even where nobody wants to know.
            Stdio::Null if terminal => Sink::Nowhere,
            Stdio::Null => {
                viewers.close();
                return null();
            }
            Stdio::Attach { .. } => Sink::Nowhere,
            Stdio::Binary(uri) => {
                let logger = match &mut self.logger {
                    Some(logger) => logger,
                    None => self.logger.insert(Logger::start(&uri, whose)?),
                };
                let end = logger.take(stream)?;
                if !terminal {
                    viewers.close();
                    give(&end, owner)?;
                    return Ok(end);
                }
                nonblocking(&end)?;
                Sink::pipe(end)?
            }
            Stdio::File(path) => {
                let file = append(&path)?;
                if !terminal {
                    viewers.close();
                    return Ok(file.into());
                }
                Sink::File(file)
            }
            Stdio::Fifo(path) => {
                // Open for both: what nobody reads waits for a reader that comes back.
                let end = open(&path, OFlags::RDWR)?;
                if is_fifo(&end)? { Sink::pipe(end)? } else { Sink::File(append(&path)?) }
            }
            Stdio::CriLog { path, max_line } => {
                let log = match &self.log {
                    Some(log) => Arc::clone(log),
                    None => Arc::clone(self.log.insert(Arc::new(Mutex::new(Log::open(&path)?)))),
                };
                Sink::Log { lines: Lines::new(stream, max_line), log }
            }
        };
        if terminal {
            self.outputs.push((None, sink, viewers));
            return null();
        }
        let (ours, process) = pipe()?;
        give(&process, owner)?;
        nonblocking(&ours)?;
        self.outputs.push((Some(ours), sink, viewers));
        Ok(process)
    }

    /// Starts the carrying; `console` is the terminal of a process that has one.
    ///
    /// # Errors
    /// Where a descriptor cannot be watched.
    pub fn start(&mut self, console: Option<OwnedFd>) -> Result<()> {
        if let Some(console) = console {
            nonblocking(&console)?;
            self.console = Some(Arc::new(watched(console)?));
        }
        for (source, sink, viewers) in std::mem::take(&mut self.outputs) {
            let source = match source {
                Some(source) => Arc::new(watched(source)?),
                None => Arc::clone(self.console.as_ref().ok_or_else(|| Error::internal("a terminal did not come"))?),
            };
            let (drained, receiver) = oneshot::channel();
            self.drained.push(receiver);
            self.carriers.spawn(copy::output(source, sink, viewers, self.ended.subscribe(), drained));
        }
        let sink = match self.input_to.take() {
            Some(sink) => Some(Arc::new(watched(sink)?)),
            None => self.console.clone(),
        };
        let terminal = self.console.is_some();
        match (self.input.take(), self.input_once, sink) {
            (Some(input), _, Some(sink)) => {
                self.carriers.spawn(copy::input(watched(input)?, sink, terminal));
            }
            (None, Some(once), Some(sink)) => self.shared = Some(Input::new(sink, terminal, once)),
            _ => {}
        }
        Ok(())
    }

    /// What becomes readable when the logging program is ready, where there is one; see [`logger::ready`].
    pub fn take_ready(&mut self) -> Option<OwnedFd> {
        self.logger.as_mut().and_then(Logger::take_ready)
    }

    /// Lets go of everything but the logging program, which has to write what it has read.
    pub fn into_logger(self) -> Option<Logger> {
        self.logger
    }

    /// True where there is a logging program.
    pub fn has_logger(&self) -> bool {
        self.logger.is_some()
    }

    /// Attaches a client that has the other ends of the named pipes in `wish` open.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] where input is wanted and the process has none to share; otherwise
    /// where a pipe cannot be opened, or there are too many clients.
    pub fn attach(&mut self, wish: &Wish) -> Result<()> {
        // The set remembers those who are through until it is asked.
        while self.carriers.try_join_next().is_some() {}
        let end = |path: &str, access| (!path.is_empty()).then(|| open(Path::new(path), access)).transpose();
        let stdin = end(&wish.stdin, OFlags::RDONLY)?;
        if stdin.is_some() && self.shared.is_none() {
            return Err(Error::precondition("the process was made without an input to share"));
        }
        let (present, gone) = mpsc::channel(1);
        let mut looks_on = false;
        for (path, viewers) in [(&wish.stdout, &self.stdout_viewers), (&wish.stderr, &self.stderr_viewers)] {
            if let Some(pipe) = end(path, OFlags::WRONLY)? {
                viewers.add(pipe, present.clone())?;
                looks_on = true;
            }
        }
        if let (Some(stdin), Some(shared)) = (stdin, &self.shared) {
            self.carriers.spawn(shared.clone().carry(watched(stdin)?, looks_on.then_some(gone)));
        }
        Ok(())
    }

    /// The process has ended: the returned future ends when its output has been carried, or after 5 s.
    pub fn drain(&mut self) -> impl Future<Output = ()> + Send + 'static {
        self.ended.send_replace(true);
        let drained = std::mem::take(&mut self.drained);
        async move {
            let all = async {
                for one in drained {
                    one.await.ok();
                }
            };
            tokio::time::timeout(DRAIN, all).await.ok();
        }
    }

    /// Lets the process see the end of its input once clients have closed theirs.
    pub fn close_input(&mut self) {
        self.input_held = None;
        if let Some(shared) = &self.shared {
            shared.close();
        }
    }

    /// Opens the log file anew; without a log there is nothing to do.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn reopen_log(&self) -> Result<()> {
        match &self.log {
            Some(log) => log.lock().unwrap_or_else(PoisonError::into_inner).reopen(),
            None => Ok(()),
        }
    }

    /// Changes the size of the terminal's window.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] where the process has none.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let console = self.console.as_ref().ok_or_else(|| Error::precondition("the process has no terminal"))?;
        let clamp = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
        tty::resize(console.get_ref(), clamp(width), clamp(height))
    }
}

/// Registers a descriptor, which is non-blocking, with the runtime.
///
/// # Errors
/// Where the runtime takes no more.
// What is deprecated is that any type may stand in for a descriptor; this one owns it.
#[allow(deprecated)]
pub fn watched(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd).context(|| "watch a descriptor".into())
}

fn null() -> Result<OwnedFd> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    null.map(Into::into).context(|| "open /dev/null".into())
}

/// Opens a file to append to; it and the folders above it are made where they are missing.
fn append(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    file.context(|| format!("open {}", path.display()))
}

/// Opens a named pipe without waiting for its other side.
fn open(path: &Path, access: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY, rustix::fs::Mode::empty())
        .map_err(std::io::Error::from)
        .context(|| format!("open {}", path.display()))
}

fn is_fifo(end: &OwnedFd) -> Result<bool> {
    let found = rustix::fs::fstat(end).map_err(std::io::Error::from).context(|| "look at an output".into())?;
    Ok(rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Fifo)
}

/// A pipe: the end to read from, the end to write to.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from).context(|| "make a pipe".into())
}

/// Lets the process open its own `/dev/stdout` again, whoever it runs as.
fn give(end: &OwnedFd, (user, group): (u32, u32)) -> Result<()> {
    if (user, group) == (0, 0) {
        return Ok(());
    }
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    rustix::fs::fchown(end, Some(user), Some(group)).map_err(std::io::Error::from).context(|| "give a pipe away".into())
}

fn nonblocking(fd: &impl AsFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK));
    flags.map_err(std::io::Error::from).context(|| "make a descriptor non-blocking".into())
}
