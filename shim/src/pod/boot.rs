//! The pod itself: its namespaces, its cgroup, its shared memory, and its end.
//!
//! The shim joins the pod's namespaces itself and so holds them open; there is no pause process. Only a shared pid namespace
//! needs a process 1, which is this program again (`init`).

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, geteuid, seteuid};
use windlass_model::process::{Exit, State};
use windlass_model::{Context, Error, Mount, Result, Timestamp};
use windlass_sys::{mount, process as kernel, userns};
use windlass_wire::extension::PodOptions;
use windlass_wire::sandbox::{
    CreateSandboxRequest, CreateSandboxResponse, SandboxStatusResponse, ShutdownSandboxResponse, StartSandboxResponse,
    StopSandboxRequest, StopSandboxResponse,
};
use windlass_wire::{convert, words};

use super::{Done, Pod, answer};
use crate::exits::Owner;
use crate::home::{self, Home};
use crate::serve::Reply;

/// How long stopping may take, where the daemon does not say.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The pod that this shim is for; a shim for one container of another tenant has none.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    wish: Option<(String, PodOptions)>,
    started: Option<Timestamp>,
    /// The OCI runtime's executable for containers that name none; empty for the one built in.
    pub(super) runtime: String,
    pub(super) init_pid: Option<u32>,
    home: Option<Home>,
    exit: Option<Exit>,
    stopping: Vec<Reply<StopSandboxResponse>>,
    waiting: Vec<Reply<Exit>>,
}

impl Sandbox {
    /// True where a pod was asked for.
    pub(super) fn is_pod(&self) -> bool {
        self.wish.is_some()
    }
}

impl Pod {
    pub(super) fn create_sandbox(&mut self, request: CreateSandboxRequest) -> Result<CreateSandboxResponse> {
        self.check_id(&request.sandbox_id)?;
        if self.sandbox.is_pod() {
            return Err(Error::already_exists(format!("sandbox {}", self.id)));
        }
        let options: PodOptions = match request.options.as_ref().filter(|any| !any.value.is_empty()) {
            Some(any) if words::message_name(&any.type_url) == words::TYPE_POD_OPTIONS => convert::from_any(any)?,
            Some(any) => return Err(Error::invalid(format!("sandbox options of type {}", any.type_url))),
            None => PodOptions::default(),
        };
        check_sysctls(&options, &request.netns_path)?;
        self.sandbox.runtime = options.runtime_binary.clone();
        if options.runtime_timeout_seconds > 0 {
            self.call_limit = Duration::from_secs(options.runtime_timeout_seconds.into());
        }
        self.sandbox.wish = Some((request.netns_path, options));
        Ok(CreateSandboxResponse::default())
    }

    /// Refuses requests that are meant for another pod.
    fn check_id(&self, id: &str) -> Result<()> {
        if id == self.id.as_str() { Ok(()) } else { Err(Error::not_found(format!("sandbox {id}"))) }
    }

    pub(super) fn start_sandbox(&mut self, id: &str) -> Result<StartSandboxResponse> {
        self.check_id(id)?;
        let missing = || Error::precondition("the sandbox was not created");
        let (netns, options) = self.sandbox.wish.clone().ok_or_else(missing)?;
        if self.sandbox.started.is_some() {
            return Err(Error::precondition("the sandbox was started before"));
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

    fn sandbox_pid(&self) -> u32 {
        self.sandbox.init_pid.unwrap_or_else(std::process::id)
    }

    /// Makes the shared pid namespace by its process 1; later children of the shim are outside again.
    fn start_pid_init(&mut self, options: &PodOptions) -> Result<()> {
        if !options.userns_path.is_empty() {
            let owner = userns::pinned(Path::new(&options.userns_path))?;
            let pid = userns::spawn_first(owner.as_fd(), self.caller.program(), &[c"windlass-oci", c"init"])?;
            self.sandbox.init_pid = Some(pid);
            self.exits.claim(pid, Owner::Init);
            return Ok(());
        }
        let own = File::open("/proc/self/ns/pid").context(|| "open the pid namespace".into())?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(std::io::Error::from).context(|| "make a pid namespace".into())?;
        let child = self.caller.command().arg("init").spawn().context(|| "start process 1 of the pod".into());
        setns(&own, CloneFlags::CLONE_NEWPID)
            .map_err(std::io::Error::from)
            .context(|| "return to the pid namespace".into())?;
        let pid = child?.id();
        self.sandbox.init_pid = Some(pid);
        self.exits.claim(pid, Owner::Init);
        Ok(())
    }

    /// Kills all that runs in the pod; the answer comes when every end is told.
    pub(super) fn stop_sandbox(&mut self, request: &StopSandboxRequest, reply: Reply<StopSandboxResponse>) {
        if let Err(error) = self.check_id(&request.sandbox_id) {
            return answer(reply, Err(error));
        }
        for container in self.containers.values() {
            if let Err(error) = self.limits.layout.kill(&container.bundle.cgroup) {
                eprintln!("kill container {}: {error}", container.bundle.id);
            }
        }
        let limit = match request.timeout_secs {
            0 => STOP_LIMIT,
            seconds => Duration::from_secs(seconds.into()),
        };
        self.sandbox.stopping.push(reply);
        self.work.spawn(async move {
            tokio::time::sleep(limit).await;
            Done::StopTimeout
        });
        self.check_stopped();
    }

    /// Ends the stopping when the last process has ended.
    pub(super) fn check_stopped(&mut self) {
        let alive = |state| !matches!(state, State::Unknown | State::Stopped);
        let busy = self.containers.values().any(|container| {
            container.init.busy
                || alive(container.init.state())
                || container.execs.values().any(|exec| alive(exec.process.state()))
        });
        if busy || self.sandbox.stopping.is_empty() {
            return;
        }
        if let Some(pid) = self.sandbox.init_pid {
            kernel::signal(pid, 9).ok();
        }
        let result = mount::unmount(&self.bundle.join(words::SHM_DIR));
        let exit = *self.sandbox.exit.get_or_insert(Exit { status: 0, at: Timestamp::now() });
        for reply in self.sandbox.waiting.drain(..) {
            answer(reply, Ok(exit));
        }
        for reply in self.sandbox.stopping.drain(..) {
            let result = result.as_ref().map(|()| StopSandboxResponse::default());
            answer(reply, result.map_err(Error::share));
        }
    }

    pub(super) fn stop_timeout(&mut self) {
        for reply in self.sandbox.stopping.drain(..) {
            answer(reply, Err(Error::deadline("processes of the pod do not end")));
        }
    }

    pub(super) fn wait_sandbox(&mut self, id: &str, reply: Reply<Exit>) {
        match (self.check_id(id), self.sandbox.exit) {
            (Err(error), _) => answer(reply, Err(error)),
            (_, Some(exit)) => answer(reply, Ok(exit)),
            (_, None) => self.sandbox.waiting.push(reply),
        }
    }

    pub(super) fn sandbox_status(&mut self, id: &str) -> Result<SandboxStatusResponse> {
        self.check_id(id)?;
        let started = self.sandbox.started;
        let ready = started.is_some() && self.sandbox.exit.is_none();
        Ok(SandboxStatusResponse {
            sandbox_id: self.id.to_string(),
            pid: self.sandbox_pid(),
            state: if ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.into(),
            created_at: started.map_or_else(Default::default, convert::timestamp),
            exited_at: self.sandbox.exit.map_or_else(Default::default, |exit| convert::timestamp(exit.at)),
            ..SandboxStatusResponse::default()
        })
    }

    pub(super) fn shutdown_sandbox(&mut self, id: &str) -> Result<ShutdownSandboxResponse> {
        self.check_id(id)?;
        self.over = true;
        Ok(ShutdownSandboxResponse::default())
    }

    /// What is left to do when the last letter is answered.
    pub fn leave(&mut self) {
        mount::unmount(&self.bundle.join(words::SHM_DIR)).ok();
        if let Some(home) = self.sandbox.home.take() {
            home.move_out(&self.limits.layout, &self.bundle);
        }
    }
}

/// Joins and makes the pod's namespaces, and sets what is to be set inside them.
fn enter(netns: &str, options: &PodOptions) -> Result<()> {
    if !netns.is_empty() {
        let file = File::open(netns).context(|| format!("open {netns}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from).context(|| format!("join {netns}"))?;
    }
    let mut own = CloneFlags::empty();
    own.set(CloneFlags::CLONE_NEWIPC, options.new_ipc);
    own.set(CloneFlags::CLONE_NEWUTS, options.new_uts);
    let root = if options.userns_path.is_empty() {
        unshare(own).map_err(std::io::Error::from).context(|| "make the pod's namespaces".into())?;
        None
    } else {
        userns::enter_new(userns::pinned(Path::new(&options.userns_path))?.as_fd(), own)?;
        Some(Uid::from_raw(options.shm_uid))
    };
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

/// Refuses kernel parameters that would be the host's.
fn check_sysctls(options: &PodOptions, netns: &str) -> Result<()> {
    for name in options.sysctls.keys() {
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|start| name.starts_with(start));
        let uts = matches!(name.as_str(), "kernel.hostname" | "kernel.domainname");
        let own =
            (name.starts_with("net.") && !netns.is_empty()) || (ipc && options.new_ipc) || (uts && options.new_uts);
        if !own || name.contains('/') || name.contains("..") {
            return Err(Error::invalid(format!("sysctl {name} is not one of the pod's own namespaces")));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_own_namespaces_are_set() {
        let check = |name: &str, netns: &str, own: bool| {
            let mut options = PodOptions { new_ipc: own, new_uts: own, ..PodOptions::default() };
            options.sysctls.insert(name.into(), "1".into());
            check_sysctls(&options, netns).is_ok()
        };
        assert!(check("net.core.somaxconn", "/run/netns/a", false));
        assert!(check("kernel.shmmax", "", true) && check("fs.mqueue.msg_max", "", true));
        for (name, netns, own) in [
            ("net.core.somaxconn", "", true),
            ("kernel.shmmax", "/a", false),
            ("vm.swappiness", "/a", true),
            ("net.../x", "/a", true),
            ("net/core", "/a", true),
        ] {
            assert!(!check(name, netns, own), "{name}");
        }
    }
}
