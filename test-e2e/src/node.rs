//! One node for one test: a temporary directory, a registry, a pod network and a daemon, and the cleaning after them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::asked::{self, CgroupDriver};
use crate::cni::Cni;
use crate::cri::{self, Cri, words};
use crate::daemon::{Daemon, Flavour, Setup};
use crate::image::Image;
use crate::kernel;
use crate::leaks::{self, Holdings};
use crate::registry::Registry;
use crate::systemd;

/// What a test wants otherwise than usual.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which daemon.
    pub flavour: Flavour,
    /// Handlers; the path may hold `{dir}`, the node's directory.
    pub handlers: Vec<(String, String)>,
    /// The default handler.
    pub default_handler: String,
    /// Words before the daemon's command; they may hold `{dir}`, and `{tag}`, its last part.
    pub wrap: Vec<String>,
    /// Lines of windlassd's `[cri]`; they may hold `{dir}`.
    pub more_cri: String,
    /// Lines at the end of the configuration.
    pub more_config: String,
}

/// A node with a running daemon.
#[derive(Debug)]
pub struct Node {
    /// The client.
    pub cri: Cri,
    /// The daemon.
    pub daemon: Daemon,
    /// What the daemon was started with.
    pub setup: Setup,
    /// The pod network.
    pub cni: Cni,
    /// The registry.
    pub registry: Registry,
    parents: Mutex<Vec<String>>,
    clean: Holdings,
    finished: bool,
    dir: PathBuf,
}

/// A pod that runs, with one container.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The sandbox.
    pub id: String,
    /// The container; empty if there is none.
    pub container: String,
    /// What the sandbox was made of.
    pub config: words::PodSandboxConfig,
}

impl Default for Plan {
    fn default() -> Self {
        let empty = Vec::new;
        Self {
            flavour: Flavour::of_environment(),
            handlers: empty(),
            default_handler: asked::handler().map(|(name, _)| name).unwrap_or_default(),
            wrap: Vec::new(),
            more_cri: String::new(),
            more_config: String::new(),
        }
    }
}

impl Node {
    /// A node as most tests want it.
    pub async fn start() -> Result<Self> {
        Self::start_with(Plan::default()).await
    }

    /// A node after a plan.
    pub async fn start_with(plan: Plan) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("w-").rand_bytes(6).tempdir_in("/tmp")?.keep();
        let tag = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default().replace("w-", "");
        let registry = Registry::start(&dir.join("registry"))?;
        let cni = Cni::create(&dir.join("cni"), &tag)?;
        let setup = Self::setup(&dir, &cni, &registry, &plan)?;
        let (daemon, cri) = setup.start().await?;
        let parents = Mutex::new(Vec::new());
        let mut node =
            Self { cri, daemon, setup, cni, registry, parents, clean: Holdings::default(), finished: false, dir };
        if !node.setup.pause.is_empty() {
            node.cri.pull(&node.setup.pause).await.context("pull of containerd's pause image")?;
        }
        node.mark().await;
        Ok(node)
    }

    fn setup(dir: &Path, cni: &Cni, registry: &Registry, plan: &Plan) -> Result<Setup> {
        let tag = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let here = |text: &String| text.replace("{dir}", &dir.to_string_lossy()).replace("{tag}", &tag);
        let pause = match plan.flavour {
            Flavour::Windlass => String::new(),
            Flavour::Containerd => registry.push("pause", "1", &Image::busybox()?)?,
        };
        for sub in ["state", "certs", "logs", "root"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let mut handlers: Vec<_> =
            plan.handlers.iter().map(|(name, path)| (name.clone(), PathBuf::from(here(path)))).collect();
        handlers.extend(asked::handler().filter(|(name, _)| plan.handlers.iter().all(|(known, _)| known != name)));
        let setup = Setup {
            flavour: plan.flavour,
            root: dir.join("root"),
            state: dir.join("state"),
            socket: dir.join("s.sock"),
            config: dir.join("config.toml"),
            log: dir.join("daemon.log"),
            cni_conf: cni.conf_dir.clone(),
            cni_bin: cni.bin_dir.clone(),
            certs: dir.join("certs"),
            handlers,
            default_handler: plan.default_handler.clone(),
            cgroup_driver: CgroupDriver::of_environment(),
            pause,
            wrap: plan.wrap.iter().map(here).collect(),
            more_cri: here(&plan.more_cri),
            more_config: here(&plan.more_config),
        };
        setup.write_config()?;
        Ok(setup)
    }

    /// The node's directory, short and under `/tmp`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A word that stands in everything of this node: `w-` and six characters.
    pub fn tag(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The cgroups made for pods, as the kubelet makes them.
    pub fn cgroup_parents(&self) -> Vec<String> {
        self.parents.lock().map(|parents| parents.clone()).unwrap_or_default()
    }

    /// Pushes busybox and pulls it; what is held afterwards counts as clean.
    pub async fn busybox(&mut self) -> Result<String> {
        let reference = self.registry.push("busybox", "1", &Image::busybox()?)?;
        self.cri.pull(&reference).await.context("pull of busybox")?;
        self.mark().await;
        Ok(reference)
    }

    /// What is held now counts as clean.
    pub async fn mark(&mut self) {
        self.clean = Holdings::of(self).await;
    }

    /// The words for a pod with a network of its own. Its cgroup and log directory are made, as the kubelet does.
    pub fn pod(&self, name: &str) -> words::PodSandboxConfig {
        let uid = format!("uid-{name}");
        let parent = self.make_parent(name);
        let logs = self.dir.join("logs").join(name);
        fs::create_dir_all(&logs).ok();
        let labels = HashMap::from([
            ("io.kubernetes.pod.name".to_owned(), name.to_owned()),
            ("io.kubernetes.pod.namespace".to_owned(), "e2e".to_owned()),
            ("io.kubernetes.pod.uid".to_owned(), uid.clone()),
        ]);
        words::PodSandboxConfig {
            metadata: Some(words::PodSandboxMetadata {
                name: name.to_owned(),
                uid,
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.to_string_lossy().into_owned(),
            labels,
            linux: Some(words::LinuxPodSandboxConfig {
                cgroup_parent: parent,
                security_context: Some(words::LinuxSandboxSecurityContext {
                    namespace_options: Some(words::NamespaceOption {
                        pid: words::NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Makes the cgroup of a pod, as the kubelet does; gives its name as the kubelet sends it.
    fn make_parent(&self, name: &str) -> String {
        let systemd = self.setup.cgroup_driver == CgroupDriver::Systemd;
        let parent = match systemd {
            true => systemd::slice(&self.tag(), name),
            false => format!("/{}/pod-{name}", self.tag()),
        };
        if let Ok(mut parents) = self.parents.lock()
            && !parents.contains(&parent)
        {
            if systemd {
                systemd::make_slice(&parent)
            } else {
                kernel::make_cgroup(&parent)
            }
            parents.push(parent.clone());
        }
        parent
    }

    /// The words for a pod on the host's network.
    pub fn host_pod(&self, name: &str) -> words::PodSandboxConfig {
        let mut config = self.pod(name);
        config.hostname.clear();
        if let Some(linux) = &mut config.linux
            && let Some(context) = &mut linux.security_context
        {
            context.namespace_options = Some(words::NamespaceOption {
                network: words::NamespaceMode::Node as i32,
                pid: words::NamespaceMode::Container as i32,
                ..Default::default()
            });
        }
        config
    }

    /// A pod that runs one container with a command.
    pub async fn run(&self, config: words::PodSandboxConfig, reference: &str, command: &[&str]) -> Result<Pod> {
        let id = self.cri.run_pod(&config).await.context("RunPodSandbox")?;
        let container = self.add(&id, &config, cri::container("main", reference, command)).await?;
        Ok(Pod { id, container, config })
    }

    /// Creates and starts a container in a pod.
    pub async fn add(
        &self,
        pod: &str,
        config: &words::PodSandboxConfig,
        mut what: words::ContainerConfig,
    ) -> Result<String> {
        host_namespaces(config, &mut what);
        let id = self.cri.create(pod, &what, config).await.context("CreateContainer")?;
        self.cri.start(&id).await.context("StartContainer")?;
        Ok(id)
    }

    /// The state of a container, when it has one.
    pub async fn state(&self, container: &str) -> Option<words::ContainerState> {
        let status = self.cri.container_status(container).await.ok()?;
        words::ContainerState::try_from(status.state).ok()
    }

    /// Waits for the end of a container and returns its status.
    pub async fn exited(&self, container: &str) -> Result<words::ContainerStatus> {
        crate::eventually("the container ends", Duration::from_secs(20), async || {
            let status = self.cri.container_status(container).await.ok()?;
            (status.state == words::ContainerState::ContainerExited as i32).then_some(status)
        })
        .await
    }

    /// The lines of a container's log file, as they stand.
    pub fn raw_log(&self, pod: &str, file: &str) -> Vec<String> {
        let path = self.dir.join("logs").join(pod).join(file);
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// SIGKILL and a new start of the daemon.
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon.kill();
        self.resume().await
    }

    /// Starts the daemon again after its end.
    pub async fn resume(&mut self) -> Result<()> {
        (self.daemon, self.cri) = self.setup.start().await?;
        Ok(())
    }

    /// Whether containerd is being judged.
    pub fn is_reference(&self) -> bool {
        self.setup.flavour == Flavour::Containerd
    }

    /// True on containerd, where the story is known to fail for a reason of its own; says why, and nothing more is judged.
    pub fn excused(&mut self, why: &str) -> bool {
        if self.is_reference() {
            println!("not judged on containerd: {why}");
            self.finished = true;
        }
        self.is_reference()
    }

    /// Fails if anything is held that was not held when the node was marked.
    pub async fn assert_clean(&self) -> Result<()> {
        leaks::assert_none(self, &self.clean, Duration::from_secs(15)).await
    }

    /// As [`Node::finish`], after a measurement: what the reference leaves behind is told and is no failure.
    pub async fn finish_measured(mut self) -> Result<()> {
        if !self.is_reference() {
            return self.finish().await;
        }
        self.cri.remove_everything().await?;
        if let Err(left) = self.assert_clean().await {
            println!("containerd: {left}");
        }
        self.finished = true;
        Ok(())
    }

    /// Removes all pods, and fails if anything is left.
    pub async fn finish(mut self) -> Result<()> {
        self.cri.remove_everything().await?;
        self.assert_clean().await?;
        self.finished = true;
        Ok(())
    }
}

/// A container shares its pod's choice of the network.
fn host_namespaces(config: &words::PodSandboxConfig, what: &mut words::ContainerConfig) {
    let pod = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let Some(options) = pod.and_then(|context| context.namespace_options.as_ref()) else { return };
    if let Some(context) = what.linux.as_mut().and_then(|linux| linux.security_context.as_mut())
        && let Some(own) = &mut context.namespace_options
    {
        own.network = options.network;
        own.ipc = options.ipc;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!("--- the end of the daemon's log ---\n{}", self.setup.log_tail());
        }
        self.daemon.kill();
        let tag = self.tag();
        for _ in 0..20 {
            let left: Vec<_> =
                kernel::processes_of(&tag).into_iter().filter(|(pid, _)| *pid != self.registry.pid()).collect();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                kill(Pid::from_raw(pid as i32), Signal::SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for point in kernel::mounts_below(&self.dir).iter().rev() {
            nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH).ok();
        }
        match self.setup.cgroup_driver {
            CgroupDriver::Systemd => systemd::remove_slices(&tag),
            CgroupDriver::Cgroupfs => kernel::remove_cgroup(&tag),
        }
        if std::env::var_os("WINDLASS_E2E_KEEP").is_none() {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}
