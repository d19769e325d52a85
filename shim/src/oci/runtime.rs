//! The built-in OCI runtime: a fresh, single-threaded process of this program, with the crate `libcontainer` for all but
//! execs and the hooks of start and end.
//!
//! `oci create|start|exec|update|delete --id ID --root DIR --bundle DIR --answer FD …` does one thing and answers one line
//! on the descriptor, see [`super::answer`]. The container's processes become children of the shim, not of this process.

use std::error::Error as StdError;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcgroups::common::{CgroupConfig, CgroupManager, create_cgroup_manager};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use serde_json::Value;
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::cgroup::Layout;
use windlass_sys::process;
use windlass_wire::words;

use super::causes::Causes;
use super::confinement::Confinement;
use super::corrections::Corrected;
use super::exec::{self, Target};
use super::hooks::{self, AtStart, Hooks, Moment};
use super::joined::Joined;
use super::program::Program;
use super::shortcut::Shortcut;
use super::{Arguments, answer, devices, limits, text};

/// The verb that has systemd make a scope for the process that calls; no OCI runtime has it.
pub const SCOPE: &str = "scope";

/// The command line.
#[derive(Debug, Default)]
struct Options {
    id: String,
    root: PathBuf,
    bundle: PathBuf,
    cgroup: String,
    answer: i32,
    systemd: bool,
    no_pivot: bool,
    console: Option<PathBuf>,
    process: Option<PathBuf>,
    pid: u32,
    birth: u64,
    resources: Option<PathBuf>,
    cache: Option<PathBuf>,
    hooked: bool,
}

/// Does what the arguments after `oci` ask, and answers on the descriptor that they name.
///
/// # Errors
/// Where the command line is wrong; all else is answered.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let verb = text(arguments.next())?;
    let options = Options::parse(arguments)?;
    let mut answer = File::from(process::inherited(options.answer)?);
    // A hook that does not read the state must not end this process.
    if !options.hooked || verb == "exec" {
        process::restore_sigpipe()?;
    }
    if verb == "exec" {
        return answer::write(&mut answer, &execute(&options));
    }
    let causes = Causes::listen()?;
    let outcome = match verb.as_str() {
        "create" => create(&options),
        "start" => start(&options).map(|()| 0),
        "update" => update(&options).map(|()| 0),
        SCOPE => scope(&options).map(|()| 0),
        "delete" => Hooks::kept(&options.id, &options.bundle, &options.root)
            .and_then(|hooks| hooks.run(Moment::Poststop, None, &[]))
            .map(|()| 0),
        other => Err(Error::unimplemented(format!("oci {other}"))),
    };
    let outcome = outcome.map_err(|error| Error::new(error.kind(), causes.add(error.to_string())));
    let failed = outcome.is_err();
    answer::write(&mut answer, &outcome)?;
    if failed && options.hooked {
        // Hooks that were given up may have left children, which are all in the group that this process leads.
        process::kill_group(std::process::id());
    }
    Ok(())
}

impl Options {
    fn parse(mut arguments: Arguments) -> Result<Self> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            match name.to_str() {
                Some("--systemd") => options.systemd = true,
                Some("--no-pivot") => options.no_pivot = true,
                Some("--hooked") => options.hooked = true,
                Some("--id") => options.id = text(arguments.next())?,
                Some("--cgroup") => options.cgroup = text(arguments.next())?,
                Some("--root") => options.root = text(arguments.next())?.into(),
                Some("--bundle") => options.bundle = text(arguments.next())?.into(),
                Some("--console") => options.console = Some(text(arguments.next())?.into()),
                Some("--process") => options.process = Some(text(arguments.next())?.into()),
                Some("--cache") => options.cache = Some(text(arguments.next())?.into()),
                Some("--resources") => options.resources = Some(text(arguments.next())?.into()),
                Some("--answer") => options.answer = number(arguments.next())?,
                Some("--pid") => options.pid = number(arguments.next())?,
                Some("--birth") => options.birth = number(arguments.next())?,
                _ => return Err(Error::invalid(format!("unknown argument {name:?}"))),
            }
        }
        Ok(options)
    }

    /// What is read or written by path.
    fn paths(&self) -> Vec<&Path> {
        let console = self.console.as_deref().and_then(Path::parent);
        [Some(&*self.root), Some(&*self.bundle), console].into_iter().flatten().collect()
    }

    fn builder(&self, program: Program) -> Result<ContainerBuilder> {
        ContainerBuilder::new(self.id.clone(), SyscallType::default())
            .with_console_socket(self.console.clone())
            .with_executor(program)
            .with_root_path(&self.root)
            .map_err(refused)
    }
}

fn create(options: &Options) -> Result<u32> {
    let layout = Layout::detect()?;
    let confinement = Confinement::of(&options.bundle, options.cache.as_deref())?;
    let confined = confinement.is_some();
    let mut shortcut = None;
    if !layout.is_v2() {
        // Also for hierarchies that libcontainer does not know.
        layout.create(&options.cgroup)?;
        shortcut = Shortcut::take(&layout, &options.bundle, &options.cgroup, &options.paths(), confined)?;
    }
    let hooked = options.hooked;
    let hooks = hooked.then(|| Hooks::load(&options.id, &options.bundle)).transpose()?;
    hooks.as_ref().map_or(Ok(()), |hooks| hooks.keep(&options.root))?;
    let at_start = hooks.map(|hooks| AtStart::prepare(hooks, &options.root)).transpose()?.flatten();
    let mut joined = if shortcut.is_none() { Joined::take(&options.bundle, confined, hooked)? } else { None };
    let bundle = shortcut.as_ref().map(|shortcut| shortcut.bundle.clone());
    let bundle = bundle.or_else(|| joined.as_ref().and_then(|joined| joined.bundle.clone()));
    let corrected = match &mut joined {
        Some(joined) => joined.corrected.take(),
        None if bundle.is_none() => Corrected::take(&options.bundle, confined)?,
        None => None,
    };
    let program = Program { confinement: confinement.map(Arc::new), at_start: at_start.map(Arc::new), hooked };
    let container = options
        .builder(program)?
        .as_init(bundle.as_ref().unwrap_or(&options.bundle))
        .with_systemd(options.systemd)
        .with_no_pivot(options.no_pivot)
        .as_sibling(true)
        .with_detach(true)
        .build()
        .map_err(refused);
    corrected.map_or(Ok(()), Corrected::restore)?;
    let container = container?;
    match shortcut {
        Some(shortcut) => shortcut.finish()?,
        None => {
            let resources = resources_of(&options.bundle)?;
            limits::complete(&layout, &options.cgroup, &resources)?;
            devices::restrict(&layout, &options.cgroup, &resources)?;
        }
    }
    let pid = container.pid().ok_or_else(|| Error::internal("the container has no process"))?;
    Ok(pid.as_raw().unsigned_abs())
}

fn execute(options: &Options) -> Result<u32> {
    let target = Target {
        bundle: &options.bundle,
        state: &options.root.join(&options.id),
        cache: options.cache.as_deref(),
        cgroup: &options.cgroup,
        pid: options.pid,
        birth: options.birth,
        console: options.console.as_deref(),
    };
    let process = options.process.as_ref().ok_or_else(|| Error::invalid("no process"))?;
    exec::run(&target, process)
}

/// Has the first process execute the program, which it does after its hooks, and runs the hooks that follow.
fn start(options: &Options) -> Result<()> {
    let told = hooks::listen(&options.root)?;
    super::release_in(&options.root, &options.id)?;
    told.map_or(Ok(()), hooks::started)?;
    Hooks::kept(&options.id, &options.bundle, &options.root)?.run(Moment::Poststart, Some(options.pid), &[])
}

fn update(options: &Options) -> Result<()> {
    let file = options.resources.as_ref().ok_or_else(|| Error::invalid("no resources"))?;
    let bytes = std::fs::read(file).context(|| format!("read {}", file.display()))?;
    let resources = serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::InvalidArgument, "resources of a container", error))?;
    limits::change(&Layout::detect()?, &options.cgroup, &resources, &options.id, options.systemd)
}

fn scope(options: &Options) -> Result<()> {
    let manager = create_cgroup_manager(CgroupConfig {
        cgroup_path: (&options.cgroup).into(),
        systemd_cgroup: options.systemd,
        container_name: options.id.clone(),
    });
    manager.map_err(refused)?.add_task(nix_of_libcgroups::unistd::Pid::parent()).map_err(refused)
}

/// The limits in the bundle's specification.
fn resources_of(bundle: &Path) -> Result<Value> {
    let file = bundle.join(words::SPEC_FILE);
    let bytes = std::fs::read(&file).context(|| format!("read {}", file.display()))?;
    let mut spec: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error))?;
    Ok(spec.pointer_mut("/linux/resources").map(Value::take).unwrap_or_default())
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

fn number<N: std::str::FromStr>(argument: Option<std::ffi::OsString>) -> Result<N> {
    let word = text(argument)?;
    word.parse().map_err(|_| Error::invalid(format!("{word:?} is not a number")))
}
