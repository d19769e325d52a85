//! The pod itself: its namespaces, its cgroup and its shared memory.
//!
//! The shim joins the pod's namespaces itself and so holds them open; there is no pause process. Only a shared pid namespace
//! needs a process 1, which is this program again (`init`).

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, geteuid, seteuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use windlass_model::{Context, Error, Mount, Result, Timestamp};
use windlass_sys::{mount, netns, process as kernel, userns};
use windlass_wire::extension::PodOptions;
use windlass_wire::sandbox::{CreateSandboxRequest, CreateSandboxResponse, StartSandboxResponse};
use windlass_wire::{convert, words};

use super::Pod;
use super::plan::{Plan, plan};
use super::stop::End;
use crate::exits::Owner;
use crate::home::{self, Home};

/// How long process 1 of a shared pid namespace may take before the pod does not start.
const READY: Duration = Duration::from_secs(10);

/// The pod that this shim is for; a shim for one container of another tenant has none.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    pub(super) wish: Option<Plan>,
    pub(super) started: Option<Timestamp>,
    /// The OCI runtime's executable for containers that name none; empty for the one built in.
    pub(super) runtime: String,
    pub(super) init_pid: Option<u32>,
    pub(super) home: Option<Home>,
    pub(super) end: End,
}

impl Sandbox {
    /// True where a pod was asked for.
    pub(super) fn is_pod(&self) -> bool {
        self.wish.is_some()
    }

    /// Refuses where a pod was asked for that does not run, not yet or not any more.
    pub(super) fn check_running(&self) -> Result<()> {
        match (self.is_pod(), self.started, self.end.exit()) {
            (false, ..) | (true, Some(_), None) => Ok(()),
            (true, None, _) => Err(Error::precondition("the sandbox was not started")),
            (true, _, Some(_)) => Err(Error::precondition("the sandbox has ended")),
        }
    }
}

impl Pod {
    pub(super) fn create_sandbox(&mut self, request: CreateSandboxRequest) -> Result<CreateSandboxResponse> {
        self.check_id(&request.sandbox_id)?;
        if self.sandbox.is_pod() {
            return Err(Error::already_exists(format!("sandbox {}", self.id)));
        }
        let plan = plan(&request, &self.bundle)?;
        self.sandbox.runtime = plan.options.runtime_binary.clone();
        if plan.options.runtime_timeout_seconds > 0 {
            self.call_limit = Duration::from_secs(plan.options.runtime_timeout_seconds.into());
        }
        self.sandbox.wish = Some(plan);
        Ok(CreateSandboxResponse::default())
    }

    /// Refuses requests that are meant for another pod.
    pub(super) fn check_id(&self, id: &str) -> Result<()> {
        if id == self.id.as_str() { Ok(()) } else { Err(Error::not_found(format!("sandbox {id}"))) }
    }

    pub(super) fn start_sandbox(&mut self, id: &str) -> Result<StartSandboxResponse> {
        self.check_id(id)?;
        let missing = || Error::precondition("the sandbox was not created");
        let Plan { netns, options } = self.sandbox.wish.clone().ok_or_else(missing)?;
        if self.sandbox.started.is_some() {
            return Err(Error::precondition("the sandbox was started before"));
        }
        if self.sandbox.end.exit().is_some() {
            return Err(Error::precondition("the sandbox has ended"));
        }
        if !options.cgroup.is_empty() {
            // With version 1 systemd leaves the hierarchies of the controllers to others.
            let scope = self.limits.layout.is_v2() && !options.cgroup.starts_with('/');
            self.sandbox.home = Some(match scope {
                true => home::move_into_scope(&self.caller, id, &options.cgroup)?,
                false => home::move_in(&self.limits.layout, &options.cgroup, &self.bundle)?,
            });
        }
        if options.oom_score_adj != 0 {
            let score = kernel::adjust_oom_score(options.oom_score_adj)?;
            if score != options.oom_score_adj {
                eprintln!("oom_score_adj {} is not allowed here, it stays {score}", options.oom_score_adj);
            }
        }
        enter(&netns, &options)?;
        if options.shm_bytes > 0 {
            mount_shm(&self.bundle.join(words::SHM_DIR), &options)?;
        }
        if options.shared_pid {
            self.start_pid_init(&options)?;
        }
        let created = Timestamp::now();
        self.sandbox.started = Some(created);
        Ok(StartSandboxResponse {
            pid: self.sandbox_pid(),
            created_at: convert::timestamp(created),
            ..StartSandboxResponse::default()
        })
    }

    pub(super) fn sandbox_pid(&self) -> u32 {
        self.sandbox.init_pid.unwrap_or_else(std::process::id)
    }

    /// Makes the shared pid namespace by its process 1; later children of the shim are outside again.
    fn start_pid_init(&mut self, options: &PodOptions) -> Result<()> {
        let pipe = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from).context(|| "make a pipe".into());
        let (ready, theirs) = pipe?;
        kernel::set_inheritable(&theirs, true)?;
        let pid = self.spawn_pid_init(options, &theirs.as_raw_fd().to_string())?;
        drop(theirs);
        self.sandbox.init_pid = Some(pid);
        self.exits.claim(pid, Owner::Init);
        // Until then it shows the host's files to whoever shares its namespace.
        let limit = Timespec { tv_sec: READY.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&limit)) {
            Ok(0) => Err(Error::deadline("process 1 of the pod does not become ready")),
            _ => Ok(()),
        }
    }

    /// Starts process 1 of the pod, which has the descriptor of number `ready`.
    fn spawn_pid_init(&self, options: &PodOptions, ready: &str) -> Result<u32> {
        if !options.userns_path.is_empty() {
            let owner = userns::pinned(Path::new(&options.userns_path))?;
            let ready = CString::new(ready).unwrap_or_default();
            return userns::spawn_first(owner.as_fd(), self.caller.program(), &[c"windlass-oci", c"init", &ready]);
        }
        let own = File::open("/proc/self/ns/pid").context(|| "open the pid namespace".into())?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(std::io::Error::from).context(|| "make a pid namespace".into())?;
        let child = self.caller.command().args(["init", ready]).spawn().context(|| "start process 1 of the pod".into());
        setns(&own, CloneFlags::CLONE_NEWPID)
            .map_err(std::io::Error::from)
            .context(|| "return to the pid namespace".into())?;
        Ok(child?.id())
    }
}

/// Joins and makes the pod's namespaces, and sets what is to be set inside them.
fn enter(network: &str, options: &PodOptions) -> Result<()> {
    if !network.is_empty() {
        let file = File::open(network).context(|| format!("open {network}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from).context(|| format!("join {network}"))?;
    }
    let mut own = CloneFlags::empty();
    own.set(CloneFlags::CLONE_NEWIPC, options.new_ipc);
    own.set(CloneFlags::CLONE_NEWUTS, options.new_uts);
    own.set(CloneFlags::CLONE_NEWNET, options.new_net && network.is_empty());
    let root = if options.userns_path.is_empty() {
        unshare(own).map_err(std::io::Error::from).context(|| "make the pod's namespaces".into())?;
        None
    } else {
        userns::enter_new(userns::pinned(Path::new(&options.userns_path))?.as_fd(), own)?;
        Some(Uid::from_raw(options.shm_uid))
    };
    if own.contains(CloneFlags::CLONE_NEWNET) {
        netns::raise_own()?;
    }
    if options.new_uts && !options.hostname.is_empty() {
        nix::unistd::sethostname(&options.hostname)
            .map_err(std::io::Error::from)
            .context(|| format!("set host name {:?}", options.hostname))?;
    }
    for (name, value) in &options.sysctls {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        // Those of an ipc namespace are set by the root of its user namespace only, whatever else a process may.
        let root = root.filter(|_| !name.starts_with("net."));
        as_user(root, || fs::write(&file, value)).context(|| format!("set sysctl {name}={value}"))?;
    }
    Ok(())
}

/// Does `work` with the rights of another user, where one is named; this process has one thread.
fn as_user(user: Option<Uid>, work: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    let Some(user) = user else { return work() };
    let own = geteuid();
    seteuid(user)?;
    let done = work();
    seteuid(own)?;
    done
}

fn mount_shm(target: &Path, asked: &PodOptions) -> Result<()> {
    fs::create_dir_all(target).context(|| format!("make {}", target.display()))?;
    let options = ["nosuid", "noexec", "nodev", "mode=1777"].map(str::to_owned);
    let PodOptions { shm_bytes, shm_uid, shm_gid, .. } = asked;
    let own = [format!("size={shm_bytes}"), format!("uid={shm_uid}"), format!("gid={shm_gid}")];
    let shm = Mount {
        kind: "tmpfs".into(),
        source: "shm".into(),
        options: options.into_iter().chain(own).collect(),
        ..Mount::default()
    };
    mount::mount_all(&[shm], target)
}
