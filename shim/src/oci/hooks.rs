//! Hooks that are run here and not by libcontainer (0.7.0): those of the start and of the end.
//!
//! libcontainer says of a container whose `startContainer` hooks run that it is being created, and lets its start succeed
//! where one fails; it runs `poststart` hooks elsewhere than the others, and stops at the first `poststop` hook that fails.
//! The hooks of the creation (`prestart`, `createRuntime`, `createContainer`) stay with it.
//!
//! A `startContainer` hook runs in the container's first process, after the process that starts the container has gone
//! its way. What comes of it is told through a FIFO in the runtime's folder: a line where one failed, and the end of
//! the stream where the program was executed, because the descriptor goes then.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat, open};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_model::{Context, Error, Kind, Result};
use windlass_wire::words;

use super::answer;
use super::program::{self, Variable};

/// The FIFO through which a container's first process tells what came of its hooks.
const FIFO: &str = "start.fifo";
/// The file in the runtime's folder with the hooks as they were when the container was made.
const KEPT: &str = "hooks.json";
/// The most of what a hook complains that is told, in bytes.
const COMPLAINT: u64 = 1024;
/// How often it is looked whether a hook has ended.
const LOOK: Duration = Duration::from_millis(5);

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// In the container, when it is started, before its program.
    StartContainer,
    /// Outside, when the program runs.
    Poststart,
    /// Outside, when the container is gone.
    Poststop,
}

/// The hooks of a container, and what they are told of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    oci_version: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    hooks: BTreeMap<String, Option<Vec<Hook>>>,
    /// The container.
    #[serde(skip)]
    id: String,
    /// Its folder.
    #[serde(skip)]
    bundle: PathBuf,
}

/// A program to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hook {
    path: PathBuf,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    /// In seconds; nothing, or what is no time, is no limit of its own.
    timeout: Option<i64>,
}

/// What a container's first process is to do when it is started.
#[derive(Debug)]
pub struct AtStart {
    hooks: Hooks,
    told: File,
}

impl Moment {
    /// Its name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The state of a container whose hooks run.
    fn status(self) -> &'static str {
        match self {
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

impl Hooks {
    /// The hooks in the bundle's specification.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where it is none.
    pub fn load(id: &str, bundle: &Path) -> Result<Self> {
        Self::read(id, bundle, &bundle.join(words::SPEC_FILE))
    }

    fn read(id: &str, bundle: &Path, file: &Path) -> Result<Self> {
        let bytes = fs::read(file).context(|| format!("read {}", file.display()))?;
        let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error);
        let hooks: Self = serde_json::from_slice(&bytes).map_err(refuse)?;
        Ok(Self { id: id.into(), bundle: bundle.into(), ..hooks })
    }

    /// Keeps them in the runtime's folder: what the specification says later does not count.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).map_err(|error| Error::with_source(Kind::Internal, "hooks", error))?;
        windlass_sys::fs::write_atomic(&folder.join(KEPT), &bytes)
    }

    /// The hooks that were kept; those of the specification where the container was not made.
    ///
    /// # Errors
    /// As [`Hooks::load`].
    pub fn kept(id: &str, bundle: &Path, folder: &Path) -> Result<Self> {
        match Self::read(id, bundle, &folder.join(KEPT)) {
            Err(error) if error.is_not_found() => Self::load(id, bundle),
            read => read,
        }
    }

    fn of(&self, moment: Moment) -> &[Hook] {
        self.hooks.get(moment.name()).and_then(Option::as_deref).unwrap_or_default()
    }

    /// True where there is something to do.
    pub fn has(&self, moment: Moment) -> bool {
        !self.of(moment).is_empty()
    }

    /// Runs the hooks of a moment one after the other. The container's process is `pid` for whoever is where the hooks
    /// run; `env` is the environment of those that bring none.
    ///
    /// # Errors
    /// The first that failed, after which none is run; of the last moment all are run.
    pub fn run(&self, moment: Moment, pid: Option<u32>, env: &[Variable]) -> Result<()> {
        let mut state = json!({"ociVersion": self.oci_version, "id": self.id, "status": moment.status(),
            "bundle": self.bundle, "annotations": self.annotations.clone().unwrap_or_default()});
        if let Some(pid) = pid {
            state["pid"] = json!(pid);
        }
        let state = state.to_string();
        let folder = (moment != Moment::StartContainer).then_some(&*self.bundle);
        let mut failed = Vec::new();
        for hook in self.of(moment) {
            let Err(error) = hook.run(state.as_bytes(), folder, env) else { continue };
            let what = format!("{} hook {} of container {}", moment.name(), hook.path.display(), self.id);
            failed.push(Error::new(error.kind(), format!("{what}: {error}")));
            if moment != Moment::Poststop {
                break;
            }
        }
        let messages = || failed.iter().map(Error::to_string).collect::<Vec<_>>().join("; ");
        failed.first().map_or(Ok(()), |first| Err(Error::new(first.kind(), messages())))
    }
}

impl Hook {
    fn run(&self, state: &[u8], folder: Option<&Path>, env: &[Variable]) -> Result<()> {
        if !self.path.is_absolute() {
            return Err(Error::invalid("its path is not absolute"));
        }
        let mut command = Command::new(&self.path);
        if let Some((name, rest)) = self.args.as_deref().and_then(<[String]>::split_first) {
            command.arg0(name).args(rest);
        }
        let own = self.env.clone().map(program::environment).transpose()?;
        let variables = own.as_deref().unwrap_or(env).iter().filter_map(|variable| program::halves(variable));
        command.env_clear().envs(variables.map(|(name, value)| (bytes(name), bytes(value))));
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begin = Instant::now();
        let mut child = command.spawn().context(|| "run it".into())?;
        let limit = self.timeout.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        let deadline = limit.and_then(|seconds| begin.checked_add(Duration::from_secs(seconds)));
        attend(&mut child, state, deadline)
    }
}

fn bytes(text: &[u8]) -> std::ffi::OsString {
    std::ffi::OsString::from_vec(text.into())
}

/// Gives a hook the state, takes its complaints, and waits for its end, until the deadline.
fn attend(child: &mut Child, state: &[u8], deadline: Option<Instant>) -> Result<()> {
    let (mut input, mut output) = (child.stdin.take(), child.stderr.take());
    // A hook may neither read nor write, and still it must end in time.
    let ends = [input.as_ref().map(AsFd::as_fd), output.as_ref().map(AsFd::as_fd)];
    for end in ends.into_iter().flatten() {
        fcntl_setfl(end, OFlags::NONBLOCK).map_err(std::io::Error::from).context(|| "talk to it".into())?;
    }
    let (mut left, mut complaint) = (state, Vec::new());
    loop {
        left = input.as_mut().map_or(&[][..], |input| give(input, left));
        if left.is_empty() {
            input = None;
        }
        if output.as_mut().is_some_and(|output| take(output, &mut complaint)) {
            output = None;
        }
        if let Some(status) = child.try_wait().context(|| "wait for it".into())? {
            output.as_mut().map(|output| take(output, &mut complaint));
            let said = String::from_utf8_lossy(&complaint);
            let said = said.trim();
            let told = if said.is_empty() { String::new() } else { format!(": {said}") };
            return if status.success() { Ok(()) } else { Err(Error::internal(format!("{status}{told}"))) };
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            child.kill().ok();
            child.wait().ok();
            return Err(Error::deadline("it did not end in time"));
        }
        let input = input.as_ref().map(|input| PollFd::new(input, PollFlags::OUT));
        let output = output.as_ref().map(|output| PollFd::new(output, PollFlags::IN));
        let mut waited: Vec<PollFd<'_>> = input.into_iter().chain(output).collect();
        let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        // Whatever comes of it, all is looked at again.
        poll(&mut waited, Some(&look)).ok();
    }
}

/// Writes what can be written; gives what is left, which is nothing for somebody who does not read.
fn give<'a>(to: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return &[],
        }
    }
    bytes
}

/// Reads what is there and keeps the beginning of it; true at the end.
fn take(from: &mut impl Read, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) => {
                let room = usize::try_from(COMPLAINT).unwrap_or_default().saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..count.min(room)]);
                if room == 0 {
                    return false;
                }
            }
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Takes the hooks that are run here out of what libcontainer gets; false where there are none.
pub fn take_out(spec: &mut Value) -> bool {
    let hooks = spec.get_mut("hooks").and_then(Value::as_object_mut);
    hooks.is_some_and(|hooks| hooks.remove(Moment::StartContainer.name()).is_some())
}

impl AtStart {
    /// Prepares the way back from the container; to be called before its first process is made. Nothing where there is
    /// nothing to do.
    ///
    /// # Errors
    /// Where the FIFO cannot be made.
    pub fn prepare(hooks: Hooks, folder: &Path) -> Result<Option<Self>> {
        if !hooks.has(Moment::StartContainer) {
            return Ok(None);
        }
        let path = folder.join(FIFO);
        let mode = Mode::RUSR | Mode::WUSR;
        let told = mknodat(CWD, &path, FileType::Fifo, mode, 0)
            .and_then(|()| open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
            .map_err(std::io::Error::from)
            .context(|| format!("make {}", path.display()))?;
        Ok(Some(Self { hooks, told: told.into() }))
    }

    /// Runs the hooks; to be called in the container, where this process is the first and has become who it is to be.
    ///
    /// # Errors
    /// The first that failed, which is told outside, too.
    pub fn run(&self, env: &[Variable]) -> Result<()> {
        let outcome = self.hooks.run(Moment::StartContainer, Some(std::process::id()), env);
        if outcome.is_err() {
            answer::write(&mut &self.told, &outcome.as_ref().map(|()| 0).map_err(Error::share)).ok();
        }
        outcome
    }
}

/// The way on which a start is told, to be opened before it; nothing where no hook runs then.
///
/// # Errors
/// Where it cannot be opened.
pub fn listen(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(FIFO);
    match open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fifo) => Ok(Some(fifo.into())),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(std::io::Error::from(error)).context(|| format!("open {}", path.display())),
    }
}

/// Waits until the program runs, or its process has ended.
///
/// # Errors
/// What a hook is told to have failed for.
pub fn started(told: File) -> Result<()> {
    let doing = || "wait for the hooks of the start".to_owned();
    fcntl_setfl(&told, OFlags::empty()).map_err(std::io::Error::from).context(doing)?;
    let mut text = String::new();
    told.take(super::LOG_LIMIT).read_to_string(&mut text).context(doing)?;
    answer::parse(&text).unwrap_or(Ok(0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(list: Value) -> Hooks {
        let spec = json!({"ociVersion": "1.2.0", "annotations": {"a": "b"}, "hooks": list});
        let hooks: Hooks = serde_json::from_value(spec).unwrap();
        Hooks { id: "c".into(), bundle: "/".into(), ..hooks }
    }

    fn shell(script: &str) -> Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
    }

    #[test]
    fn hooks_are_told_the_state_and_fail_with_their_own_words() {
        let all = hooks(json!({"poststart": [shell("grep -q '\"status\":\"running\"' || exit 4"),
            shell("[ $0 = sh ] && [ -z \"$HOME\" ] && echo no >&2 && exit 3"), shell("touch /no/such")], "poststop": null}));
        assert!(all.has(Moment::Poststart) && !all.has(Moment::Poststop));
        let error = all.run(Moment::Poststart, Some(7), &[]).unwrap_err();
        assert_eq!(error.to_string(), "poststart hook /bin/sh of container c: exit status: 3: no");
        let all = hooks(json!({"poststop": [{"path": "sh"}, shell("exit 1"), {"path": "/no/such"}]}));
        let error = all.run(Moment::Poststop, None, &[]).unwrap_err().to_string();
        assert_eq!(error.matches("poststop hook").count(), 3, "{error}");
    }

    #[test]
    fn a_hook_that_neither_reads_nor_ends_is_ended_in_time() {
        let mut all = hooks(json!({"poststop": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}));
        all.annotations = Some([("large".to_owned(), "x".repeat(1 << 20))].into());
        let begin = Instant::now();
        let error = all.run(Moment::Poststop, None, &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert!(begin.elapsed() < Duration::from_secs(20));
        let chatty = hooks(json!({"poststop": [shell("head -c 1000000 /dev/zero >&2; exec >&-; exit 0")]}));
        chatty.run(Moment::Poststop, None, &[]).unwrap();
    }
}
