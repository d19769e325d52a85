//! The built-in OCI runtime: the crate `libcontainer` in a fresh, single-threaded process of this program.
//!
//! `oci create|start|exec|update|delete --id ID --root DIR --bundle DIR --answer FD …` does one thing and answers one line
//! on the descriptor: `ok <pid>` or `error <kind> <message>`. The container's processes become children of the shim, not
//! of this process.

use std::error::Error as StdError;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::cgroup::Layout;
use windlass_sys::process;

use super::causes::Causes;
use super::shortcut::{self, Shortcut};
use super::{Arguments, text};

/// The command line.
#[derive(Debug, Default)]
struct Options {
    id: String,
    root: PathBuf,
    bundle: PathBuf,
    cgroup: String,
    answer: i32,
    systemd: bool,
    console: Option<PathBuf>,
    process: Option<PathBuf>,
    resources: Option<PathBuf>,
}

/// Does what the arguments after `oci` ask, and answers on the descriptor that they name.
///
/// # Errors
/// Where the command line is wrong; all else is answered.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let verb = text(arguments.next())?;
    let options = Options::parse(arguments)?;
    let mut answer = File::from(process::inherited(options.answer)?);
    process::restore_sigpipe()?;
    let causes = Causes::listen()?;
    let outcome = match verb.as_str() {
        "create" => create(&options),
        "start" => load(&options).and_then(|mut container| container.start().map_err(refused)).map(|()| 0),
        "exec" => exec(&options),
        "update" => update(&options).map(|()| 0),
        "delete" => load(&options).and_then(|mut container| container.delete(true).map_err(refused)).map(|()| 0),
        other => Err(Error::unimplemented(format!("oci {other}"))),
    };
    let line = match &outcome {
        Ok(pid) => format!("ok {pid}\n"),
        Err(error) => {
            let message = causes.add(error.to_string()).replace('\n', " ");
            format!("error {} {message}\n", kind_word(error.kind()))
        }
    };
    answer.write_all(line.as_bytes()).context(|| "answer".into())
}

impl Options {
    fn parse(mut arguments: Arguments) -> Result<Self> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            match name.to_str() {
                Some("--systemd") => options.systemd = true,
                Some("--id") => options.id = text(arguments.next())?,
                Some("--cgroup") => options.cgroup = text(arguments.next())?,
                Some("--root") => options.root = text(arguments.next())?.into(),
                Some("--bundle") => options.bundle = text(arguments.next())?.into(),
                Some("--console") => options.console = Some(text(arguments.next())?.into()),
                Some("--process") => options.process = Some(text(arguments.next())?.into()),
                Some("--resources") => options.resources = Some(text(arguments.next())?.into()),
                Some("--answer") => {
                    let number = text(arguments.next())?;
                    options.answer = number.parse().map_err(|_| Error::invalid(format!("descriptor {number:?}")))?;
                }
                _ => return Err(Error::invalid(format!("unknown argument {name:?}"))),
            }
        }
        Ok(options)
    }

    /// What is read or written by path.
    fn paths(&self) -> Vec<&Path> {
        let console = self.console.as_deref().and_then(Path::parent);
        let process = self.process.as_deref().and_then(Path::parent);
        [Some(&*self.root), Some(&*self.bundle), console, process].into_iter().flatten().collect()
    }

    fn builder(&self) -> Result<ContainerBuilder> {
        ContainerBuilder::new(self.id.clone(), SyscallType::default())
            .with_console_socket(self.console.clone())
            .with_root_path(&self.root)
            .map_err(refused)
    }
}

fn create(options: &Options) -> Result<u32> {
    let layout = Layout::detect()?;
    let mut shortcut = None;
    if !layout.is_v2() {
        // Also for hierarchies that libcontainer does not know.
        layout.create(&options.cgroup)?;
        shortcut = Shortcut::take(&layout, &options.bundle, &options.cgroup, &options.paths())?;
    }
    let container = options
        .builder()?
        .as_init(shortcut.as_ref().map_or(&options.bundle, |shortcut| &shortcut.bundle))
        .with_systemd(options.systemd)
        .as_sibling(true)
        .with_detach(true)
        .build()
        .map_err(refused)?;
    if let Some(shortcut) = shortcut {
        shortcut.finish()?;
    }
    let pid = container.pid().ok_or_else(|| Error::internal("the container has no process"))?;
    Ok(pid.as_raw().unsigned_abs())
}

fn exec(options: &Options) -> Result<u32> {
    if let Ok(layout) = Layout::detect()
        && !layout.is_v2()
    {
        shortcut::enter(&layout, &options.cgroup, &options.paths())?;
    }
    let pid = options
        .builder()?
        .as_tenant()
        .with_process(options.process.as_ref())
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(refused)?;
    Ok(pid.as_raw().unsigned_abs())
}

fn load(options: &Options) -> Result<Container> {
    Container::load(options.root.join(&options.id)).map_err(refused)
}

fn update(options: &Options) -> Result<()> {
    let file = options.resources.as_ref().ok_or_else(|| Error::invalid("no resources"))?;
    let bytes = std::fs::read(file).context(|| format!("read {}", file.display()))?;
    let resources = serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::InvalidArgument, "resources of a container", error))?;
    shortcut::limit(&options.cgroup, &resources, &options.id, options.systemd)
}

/// An error of libcontainer with all its causes, which it does not print by itself.
pub fn refused(error: impl StdError) -> Error {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_message = inner.to_string();
        if !message.ends_with(&inner_message) {
            message = format!("{message}: {inner_message}");
        }
        cause = inner.source();
    }
    Error::new(super::kind(&message.to_lowercase()), format!("OCI runtime: {message}"))
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::NotFound => "not-found",
        Kind::InvalidArgument => "invalid",
        Kind::Unimplemented => "unimplemented",
        _ => "internal",
    }
}

/// The answer in a line, where it is one.
pub fn parse_answer(text: &str) -> Option<Result<u32>> {
    let (word, rest) = text.lines().next()?.split_once(' ')?;
    match word {
        "ok" => rest.parse().ok().map(Ok),
        "error" => {
            let (kind, message) = rest.split_once(' ')?;
            let kind = [Kind::NotFound, Kind::InvalidArgument, Kind::Unimplemented]
                .into_iter()
                .find(|known| kind_word(*known) == kind);
            Some(Err(Error::new(kind.unwrap_or(Kind::Internal), message)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_one_line() {
        assert_eq!(parse_answer("ok 7\n").unwrap().unwrap(), 7);
        let error = parse_answer("error not-found no such thing\n").unwrap().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NotFound, "no such thing"));
        for rubbish in ["", "ok", "ok x", "what 1", "\u{1}\u{2}"] {
            assert!(parse_answer(rubbish).is_none(), "{rubbish:?}");
        }
    }
}
