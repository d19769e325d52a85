//! The verbs that change a container: create, start, exec, kill, update, pause, resume, its input and terminal.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::task::JoinSet;
use windlass_model::event::Event;
use windlass_model::process::{State, Verb};
use windlass_model::{Context, Error, Id, Kind, Result};
use windlass_sys::process as kernel;
use windlass_wire::extension::ReopenLogResponse;
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::task::{
    CloseIORequest, CreateTaskRequest, CreateTaskResponse, Empty, ExecProcessRequest, KillRequest, Options,
    ResizePtyRequest, StartRequest, StartResponse, UpdateTaskRequest,
};
use windlass_wire::{convert, words};

use super::{Container, Exec, Pod, Purpose, answer};
use crate::bundle::{self, Bundle};
use crate::oci::console::Console;
use crate::oci::{self, Call, Moment};
use crate::process::Process;
use crate::serve::Reply;
use crate::stdio::logger::Whose;
use crate::stdio::{Io, Wish};

impl Pod {
    pub(super) fn create(&mut self, request: CreateTaskRequest, reply: Reply<CreateTaskResponse>) {
        let id = request.id.clone();
        match self.prepare(request) {
            Ok((call, console, ready)) => {
                self.follow(call, ready, Purpose::Create { container: id, console, reply });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn prepare(&mut self, request: CreateTaskRequest) -> Result<(Call, Option<Console>, Option<OwnedFd>)> {
        let id: Id = request.id.parse()?;
        self.sandbox.check_running()?;
        if self.containers.contains_key(id.as_str()) {
            return Err(Error::already_exists(format!("container {id}")));
        }
        if !request.checkpoint.is_empty() {
            return Err(Error::unimplemented("restoring a checkpoint"));
        }
        let options = options(&request.options)?;
        let runtime =
            runtime(if options.binary_name.is_empty() { &self.sandbox.runtime } else { &options.binary_name });
        let path = Path::new(&request.bundle);
        let mut bundle = Bundle::load(id.as_str(), path, request.terminal, runtime, &self.limits)?;
        bundle.heed(&options, self.namespace.as_str());
        if !options.shim_cgroup.is_empty() && !self.sandbox.is_pod() {
            self.limits.layout.create(&options.shim_cgroup)?;
            self.limits.layout.enter(&options.shim_cgroup)?;
        }
        let wish =
            Wish { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let mounts: Vec<_> = request.rootfs.into_iter().map(convert::from_mount).collect();
        bundle.note(&self.bundle)?;
        let begun = bundle.mount(&mounts).and_then(|()| {
            let whose = Whose { id: id.as_str(), namespace: self.namespace.as_str() };
            let (io, ends) = Io::prepare(&wish, bundle.owner, whose)?;
            let console = wish.terminal.then(|| Console::listen(&bundle.path, "tty.sock")).transpose()?;
            let path = console.as_ref().map(Console::path);
            let call = self.caller.call(&bundle, &oci::Verb::Create, options.systemd_cgroup, path, Some(ends))?;
            Ok((io, console, call))
        });
        let (mut io, console, call) = begun.inspect_err(|_| {
            bundle.clear().ok();
            bundle.forget(&self.bundle);
        })?;
        let ready = io.take_ready();
        let mut init = Process::new(wish);
        init.io = Some(io);
        init.busy = true;
        let container = Container {
            bundle,
            systemd: options.systemd_cgroup,
            init,
            rootfs: mounts,
            execs: Default::default(),
            oom: None,
            loggers: JoinSet::new(),
            removal: None,
        };
        self.containers.insert(request.id, container);
        Ok((call, console, ready))
    }

    pub(super) fn start(&mut self, request: StartRequest, reply: Reply<StartResponse>) {
        let begun = if request.exec_id.is_empty() {
            self.start_init(&request.id)
        } else {
            self.start_exec(&request.id, &request.exec_id)
        };
        match begun {
            Ok(Begun::Running(pid)) => {
                answer(reply, Ok(StartResponse { pid, ..StartResponse::default() }));
                self.outbox.publish(Event::TaskStart { container: request.id, pid });
            }
            Ok(Begun::Init(call)) => self.follow(call, None, Purpose::Start { container: request.id, reply }),
            Ok(Begun::Exec(call, console, file)) => {
                let (container, exec) = (request.id, request.exec_id);
                let io = self.process(&container, &exec).ok().and_then(|process| process.io.as_mut());
                let ready = io.and_then(Io::take_ready);
                self.follow(call, ready, Purpose::Exec { container, exec, console, file, reply });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn start_init(&mut self, id: &str) -> Result<Begun> {
        let container = self.containers.get_mut(id).ok_or_else(|| Error::not_found(format!("container {id}")))?;
        container.init.after(Verb::Start)?;
        let bundle = &container.bundle;
        if bundle.runtime.is_none()
            && ![Moment::StartContainer, Moment::Poststart].into_iter().any(|moment| bundle.calls_hooks(moment))
        {
            oci::release(bundle)?;
            container.init.step(Verb::Start)?;
            return Ok(Begun::Running(container.init.pid));
        }
        let verb = oci::Verb::Start { pid: container.init.pid };
        let call = self.caller.call(bundle, &verb, container.systemd, None, None)?;
        container.init.busy = true;
        Ok(Begun::Init(call))
    }

    fn start_exec(&mut self, id: &str, name: &str) -> Result<Begun> {
        let container = self.containers.get_mut(id).ok_or_else(|| Error::not_found(format!("container {id}")))?;
        container.init.after(Verb::Exec)?;
        let found = container.execs.get_mut(name);
        let exec = found.ok_or_else(|| Error::not_found(format!("exec {name} of container {id}")))?;
        if exec.process.busy || exec.process.state() != State::Unknown {
            return Err(Error::precondition(format!("exec {name} was started before")));
        }
        let bundle = &container.bundle;
        fs::create_dir_all(&bundle.state).context(|| format!("make {}", bundle.state.display()))?;
        let file = bundle.state.join(format!("exec-{name}.json"));
        let owner = bundle::write_process(&file, &exec.spec, exec.process.wish.terminal, &self.limits)?;
        let owner = bundle.outside(owner);
        let whose = Whose { id: name, namespace: self.namespace.as_str() };
        let (io, ends) = Io::prepare(&exec.process.wish, owner, whose)?;
        let socket = format!("tty-{name}.sock");
        let terminal = exec.process.wish.terminal;
        let console = terminal.then(|| Console::listen(&bundle.path, &socket)).transpose()?;
        let (pid, birth) = (container.init.pid, container.init.birth);
        let verb = oci::Verb::Exec { id: name.into(), process: file.clone(), pid, birth };
        let path = console.as_ref().map(Console::path);
        let call = self.caller.call(bundle, &verb, container.systemd, path, Some(ends))?;
        exec.process.io = Some(io);
        exec.process.busy = true;
        exec.spec = Vec::new();
        Ok(Begun::Exec(call, console, file))
    }

    pub(super) fn exec(&mut self, request: ExecProcessRequest) -> Result<Empty> {
        let id: Id = request.exec_id.parse()?;
        let container = self.container(&request.id)?;
        container.init.after(Verb::Exec)?;
        if container.execs.contains_key(id.as_str()) {
            return Err(Error::already_exists(format!("exec {id} of container {}", request.id)));
        }
        let wish =
            Wish { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let spec = request.spec.into_option().map(|any| any.value).unwrap_or_default();
        container.execs.insert(request.exec_id.clone(), Exec { process: Process::new(wish), spec, doomed: None });
        self.outbox.publish(Event::TaskExecAdded { container: request.id, exec: request.exec_id });
        Ok(Empty::default())
    }

    pub(super) fn kill(&mut self, request: &KillRequest) -> Result<Empty> {
        let layout = self.limits.layout.clone();
        let container = self.container(&request.id)?;
        if !request.exec_id.is_empty() {
            let exec = container.execs.get(&request.exec_id);
            let exec = exec.ok_or_else(|| Error::not_found(format!("exec {}", request.exec_id)))?;
            return exec.process.signal(request.signal).map(|()| Empty::default());
        }
        let cgroup = &container.bundle.cgroup;
        if !request.all {
            container.init.signal(request.signal)?;
            // A frozen process does not die.
            if request.signal == 9 && container.init.state() == State::Paused {
                layout.thaw(cgroup)?;
            }
        } else if request.signal == 9 {
            layout.kill(cgroup)?;
        } else {
            for pid in layout.processes(cgroup)? {
                kernel::signal(pid, request.signal).ok();
            }
        }
        Ok(Empty::default())
    }

    pub(super) fn update(&mut self, request: UpdateTaskRequest, reply: Reply<Empty>) {
        match self.begin_update(&request) {
            Ok((call, file)) => self.follow(call, None, Purpose::Update { file, reply }),
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn begin_update(&mut self, request: &UpdateTaskRequest) -> Result<(Call, PathBuf)> {
        let resources = request.resources.as_ref().ok_or_else(|| Error::invalid("no resources to update"))?;
        let found = self.containers.get(&request.id);
        let container = found.ok_or_else(|| Error::not_found(format!("container {}", request.id)))?;
        if container.init.state() == State::Stopped {
            return Err(Error::precondition("cannot update a process that is stopped"));
        }
        let file = container.bundle.state.join("resources.json");
        fs::write(&file, &resources.value).context(|| format!("write {}", file.display()))?;
        let verb = oci::Verb::Update { resources: file.clone() };
        let call = self.caller.call(&container.bundle, &verb, container.systemd, None, None)?;
        Ok((call, file))
    }

    pub(super) fn pause(&mut self, id: &str) -> Result<Empty> {
        let layout = self.limits.layout.clone();
        let container = self.container(id)?;
        container.init.after(Verb::Pause)?;
        layout.freeze(&container.bundle.cgroup)?;
        container.init.step(Verb::Pause)?;
        self.outbox.publish(Event::TaskPaused { container: id.into() });
        Ok(Empty::default())
    }

    pub(super) fn resume(&mut self, id: &str) -> Result<Empty> {
        let layout = self.limits.layout.clone();
        let container = self.container(id)?;
        container.init.after(Verb::Resume)?;
        layout.thaw(&container.bundle.cgroup)?;
        container.init.step(Verb::Resume)?;
        self.outbox.publish(Event::TaskResumed { container: id.into() });
        Ok(Empty::default())
    }

    pub(super) fn close_io(&mut self, request: &CloseIORequest) -> Result<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        if let Some(io) = process.io.as_mut().filter(|_| request.stdin) {
            io.close_input();
        }
        Ok(Empty::default())
    }

    pub(super) fn resize(&mut self, request: &ResizePtyRequest) -> Result<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        let io = process.io.as_ref().ok_or_else(|| Error::precondition("the process was not started"))?;
        io.resize(request.width, request.height).map(|()| Empty::default())
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<ReopenLogResponse> {
        let process = self.process(id, "")?;
        match &process.io {
            Some(io) => io.reopen_log().map(|()| ReopenLogResponse::default()),
            None => Err(Error::precondition("the container was not started")),
        }
    }
}

/// How far a start has come.
enum Begun {
    /// The program runs.
    Running(u32),
    /// A runtime was called for a first process.
    Init(Call),
    /// A runtime was called for an exec.
    Exec(Call, Option<Console>, PathBuf),
}

/// The OCI runtime that a client names: an executable by path, or by a name that is looked for. Nothing is the one built in,
/// and so is plain `runc`, which Docker says for every container whose user chose none.
fn runtime(name: &str) -> Option<PathBuf> {
    (!matches!(name, "" | "runc")).then(|| PathBuf::from(name))
}

/// What the client says about the runtime; nothing said is all defaults.
fn options(any: &MessageField<Any>) -> Result<Options> {
    match any.as_ref().filter(|any| !any.value.is_empty()) {
        None => Ok(Options::default()),
        Some(any) if words::message_name(&any.type_url) == words::TYPE_RUNC_OPTIONS => convert::from_any(any),
        Some(any) => Err(Error::new(Kind::InvalidArgument, format!("runtime options of type {}", any.type_url))),
    }
}
