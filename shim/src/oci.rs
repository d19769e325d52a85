//! Calls of OCI runtimes: the built-in one, which is this program run anew, and executables by path.
//!
//! A call is a child process. Whoever makes it goes on; when the child has ended, [`Call::outcome`] reads what came of it.
//! The built-in runtime answers through a pipe; others through their log file and pid file, as runc has them.

mod answer;
mod capabilities;
mod causes;
mod confinement;
pub mod console;
mod corrections;
mod devices;
mod exec;
mod hooks;
mod joined;
mod label;
mod limits;
mod program;
pub mod runtime;
mod seccomp;
mod shortcut;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::process;
use windlass_wire::words;

use crate::bundle::Bundle;
use crate::stdio::Ends;
pub use hooks::Moment;

/// The subcommand of this program that is the built-in runtime.
pub const SUBCOMMAND: &str = "oci";
/// The most that is read of a runtime's log, in bytes.
const LOG_LIMIT: u64 = 64 * 1024;

/// What is asked of a runtime.
#[derive(Clone, Debug)]
pub enum Verb {
    /// Make the container, its program not started.
    Create,
    /// Start the program. With the built-in runtime only where hooks are to run; see [`release`].
    Start {
        /// The container's first process.
        pid: u32,
    },
    /// Run another process in the container.
    Exec {
        /// Its name, unique in the container.
        id: String,
        /// The file with the OCI process.
        process: PathBuf,
        /// The container's first process.
        pid: u32,
        /// When that began; see [`windlass_sys::enter::birth`].
        birth: u64,
    },
    /// Change the limits to those in the file.
    Update {
        /// The file with OCI resources.
        resources: PathBuf,
    },
    /// Forget the container; the built-in runtime only runs its last hooks.
    Delete,
}

/// How runtimes are called; one for each shim.
#[derive(Debug)]
pub struct Caller {
    /// This program, through a mount that cannot be written.
    program: OwnedFd,
    /// The daemon's folder for compiled seccomp profiles.
    cache: Option<PathBuf>,
}

/// A call under way.
#[derive(Debug)]
pub struct Call {
    /// The runtime's process, a child of this one; it leads a group of its own.
    pub pid: u32,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Pipe(OwnedFd),
    Files { log: PathBuf, pid: Option<PathBuf> },
}

impl Verb {
    fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start { .. } => "start",
            Self::Exec { .. } => "exec",
            Self::Update { .. } => "update",
            Self::Delete => "delete",
        }
    }
}

impl Caller {
    /// Seals this program for the calls to come.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new() -> Result<Self> {
        let cache = std::env::var_os(words::ENV_SECCOMP_CACHE).map(PathBuf::from).filter(|folder| folder.is_absolute());
        Ok(Self { program: process::sealed_program(Path::new("/proc/self/exe"))?, cache })
    }

    /// The sealed handle.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// A command that runs this program through its sealed handle.
    pub fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.arg0("windlass-oci").env_clear();
        command
    }

    /// Starts a call. `ends` become the runtime's, and so the process's, standard descriptors.
    ///
    /// # Errors
    /// Where the child cannot be made.
    pub fn call(
        &self,
        bundle: &Bundle,
        verb: &Verb,
        systemd: bool,
        console: Option<&Path>,
        ends: Option<Ends>,
    ) -> Result<Call> {
        fs::create_dir_all(&bundle.state).context(|| format!("make {}", bundle.state.display()))?;
        let (mut command, answer, inherited) = match &bundle.runtime {
            None => self.built_in(bundle, verb, systemd, console)?,
            Some(binary) => by_path(binary, bundle, verb, systemd, console),
        };
        command.process_group(0);
        match ends {
            Some(ends) => command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr),
            None => command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()),
        };
        let child = command.spawn().context(|| format!("run the OCI runtime to {} {}", verb.name(), bundle.id))?;
        drop(inherited);
        Ok(Call { pid: child.id(), answer })
    }

    /// Has systemd make the scope `cgroup` (`slice:prefix:name`) with this process in it. Waits for it.
    ///
    /// # Errors
    /// What systemd says went wrong.
    pub fn scope(&self, id: &str, cgroup: &str) -> Result<()> {
        let (ours, theirs) =
            pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from).context(|| "make a pipe".into())?;
        process::set_inheritable(&theirs, true)?;
        let mut command = self.command();
        command.args([SUBCOMMAND, runtime::SCOPE, "--id", id, "--answer", &theirs.as_raw_fd().to_string()]);
        command.args(["--systemd", "--cgroup", cgroup]).stdin(Stdio::null()).stdout(Stdio::null());
        let ended = command.status().context(|| format!("have systemd make {cgroup}"))?;
        drop(theirs);
        let status = ended.code().map_or(u32::MAX, i32::cast_unsigned);
        Call { pid: 0, answer: Answer::Pipe(ours) }.outcome(status).map(drop)
    }

    fn built_in(
        &self,
        bundle: &Bundle,
        verb: &Verb,
        systemd: bool,
        console: Option<&Path>,
    ) -> Result<(Command, Answer, Option<OwnedFd>)> {
        let pipe = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from).context(|| "make a pipe".into())?;
        let (ours, theirs) = pipe;
        // This process has one thread and makes no other child before the descriptor is closed.
        process::set_inheritable(&theirs, true)?;
        let mut command = self.command();
        command.args([SUBCOMMAND, verb.name(), "--id", &bundle.id, "--answer", &theirs.as_raw_fd().to_string()]);
        command.arg("--root").arg(&bundle.state).arg("--bundle").arg(&bundle.path);
        command.arg("--cgroup").arg(&bundle.cgroup);
        if let Some(cache) = &self.cache {
            command.arg("--cache").arg(cache);
        }
        match verb {
            Verb::Exec { process, pid, birth, .. } => {
                command.arg("--process").arg(process);
                command.args(["--pid", &pid.to_string(), "--birth", &birth.to_string()]);
            }
            Verb::Update { resources } => {
                command.arg("--resources").arg(resources);
            }
            Verb::Start { pid } => {
                command.args(["--pid", &pid.to_string()]);
            }
            Verb::Create | Verb::Delete => {}
        }
        if !bundle.hooks.is_empty() {
            command.arg("--hooked");
        }
        if systemd {
            command.arg("--systemd");
        }
        if bundle.no_pivot {
            command.arg("--no-pivot");
        }
        if let Some(console) = console {
            command.arg("--console").arg(console);
        }
        Ok((command, Answer::Pipe(ours), Some(theirs)))
    }
}

/// The command line that runc and crun share.
fn by_path(
    binary: &Path,
    bundle: &Bundle,
    verb: &Verb,
    systemd: bool,
    console: Option<&Path>,
) -> (Command, Answer, Option<OwnedFd>) {
    let name = match verb {
        Verb::Exec { id, .. } => format!("exec-{id}"),
        verb => verb.name().to_owned(),
    };
    let log = bundle.state.join(format!("{name}.log"));
    let pid = matches!(verb, Verb::Create | Verb::Exec { .. }).then(|| bundle.state.join(format!("{name}.pid")));
    fs::remove_file(&log).ok();
    let mut command = Command::new(binary);
    command.arg("--root").arg(bundle.root()).arg("--log").arg(&log).args(["--log-format", "json"]);
    if systemd {
        command.arg("--systemd-cgroup");
    }
    command.arg(verb.name());
    if let Some(pid) = &pid {
        fs::remove_file(pid).ok();
        command.arg("--pid-file").arg(pid);
    }
    if let Some(console) = console {
        command.arg("--console-socket").arg(console);
    }
    match verb {
        Verb::Create => {
            command.arg("--bundle").arg(&bundle.path);
            command.args(bundle.no_pivot.then_some("--no-pivot")).args(bundle.no_keyring.then_some("--no-new-keyring"));
        }
        Verb::Exec { process, .. } => drop(command.arg("--detach").arg("--process").arg(process)),
        Verb::Update { resources } => drop(command.arg("--resources").arg(resources)),
        Verb::Delete => drop(command.arg("--force")),
        Verb::Start { .. } => {}
    }
    command.arg(&bundle.id);
    (command, Answer::Files { log, pid }, None)
}

impl Call {
    /// What came of a call whose process ended with `status`: the id of the process that it made, or 0.
    ///
    /// # Errors
    /// What the runtime says went wrong.
    pub fn outcome(self, status: u32) -> Result<u32> {
        match self.answer {
            Answer::Pipe(pipe) => {
                let mut text = String::new();
                // Others may hold the other end still, so this reads what is there and not to the end.
                rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK).ok();
                File::from(pipe).take(LOG_LIMIT).read_to_string(&mut text).ok();
                answer::parse(&text)
                    .unwrap_or_else(|| Err(Error::internal(format!("the OCI runtime ended with status {status}"))))
            }
            Answer::Files { log, pid } => {
                let outcome = if status == 0 {
                    pid.as_deref().map_or(Ok(0), read_pid)
                } else {
                    let said = last_error(&log);
                    let said = said.unwrap_or_else(|| format!("it ended with status {status} and said nothing"));
                    Err(Error::new(kind(&said), format!("OCI runtime: {said}")))
                };
                fs::remove_file(log).ok();
                pid.map(fs::remove_file);
                outcome
            }
        }
    }

    /// Ends a call that takes too long, with all that it started and that did not leave its group.
    pub fn abort(&self) {
        process::kill_group(self.pid);
    }
}

/// Starts the program of a container that the built-in runtime made: its first process waits on a socket.
///
/// # Errors
/// Where that process is gone.
pub fn release(bundle: &Bundle) -> Result<()> {
    release_in(&bundle.state, &bundle.id)
}

fn release_in(root: &Path, id: &str) -> Result<()> {
    let folder = root.join(id);
    // The path may be longer than a socket's address may be; a folder's handle makes it short.
    let handle = windlass_sys::fs::open_folder(&folder)?;
    let socket = format!("/proc/self/fd/{}/notify.sock", handle.as_raw_fd());
    let doing = || format!("start container {id}");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).context(doing)?;
    std::io::Write::write_all(&mut stream, b"start").context(doing)
}

fn read_pid(file: &Path) -> Result<u32> {
    let text = fs::read_to_string(file).context(|| "read the OCI runtime's pid file".into())?;
    text.trim().parse().map_err(|_| Error::internal(format!("the OCI runtime's pid file says {text:?}")))
}

/// The last error in a log of JSON lines; where there is none that can be read, the end of the log.
fn last_error(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: Option<String>,
        msg: Option<String>,
    }
    let mut bytes = Vec::new();
    File::open(log).ok()?.take(LOG_LIMIT).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let error = text.lines().rev().find_map(|line| {
        let line: Line = serde_json::from_str(line).ok()?;
        line.msg.filter(|_| line.level.as_deref() == Some("error"))
    });
    let tail = || text.lines().last().map(|line| line.chars().take(300).collect::<String>());
    error.or_else(tail).filter(|said| !said.trim().is_empty())
}

/// What an error that only has words means to a client.
fn kind(said: &str) -> Kind {
    if said.contains("executable file not found") || said.contains("no such file or directory") {
        return Kind::NotFound;
    }
    Kind::Internal
}

/// An argument as the command line of the built-in runtime has it.
pub type Arguments = std::iter::Skip<std::env::ArgsOs>;

/// The text of an argument.
///
/// # Errors
/// Where it is missing or not UTF-8.
pub fn text(argument: Option<OsString>) -> Result<String> {
    argument.and_then(|text| text.into_string().ok()).ok_or_else(|| Error::invalid("a missing argument"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_told_and_rubbish_is_cut() {
        let file = std::env::temp_dir().join(format!("w-oci-{}", std::process::id()));
        let told = |text: &[u8]| {
            fs::write(&file, text).unwrap();
            last_error(&file)
        };
        let log = b"{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n{\"level\":\"info\",\"msg\":\"x\"}\n";
        assert_eq!(told(log).unwrap(), "second");
        assert_eq!(told(b"").as_deref(), None);
        assert_eq!(told(&[0xff; 5000]).unwrap().chars().count(), 300);
        fs::remove_file(&file).unwrap();
        assert_eq!(last_error(&file), None);
    }
}
