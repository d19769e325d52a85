//! StartContainer: the specification, the log's folder, the task.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::Spec;
use serde_json::Value;
use windlass_cri_api::v1;
use windlass_engine::tasks::{CreateTask, TaskRuntime};
use windlass_model::{Context as _, Error, Id, Result, Timestamp};

use super::record::{Container, EXIT_NOT_STARTED, End, Rung, Step};
use super::spec::build::{self, Parts};
use super::spec::resources;
use super::spec::{Host, PodFacts, make_sources};
use super::{blocking, cdi, image_volume, labels, volume};
use crate::nri::{Skills, Told};
use crate::pod::{Pod, PodFiles, users};
use crate::{CgroupDriver, Server};

/// A stream of the task that leads to those who attach.
const ATTACH: &str = "attach://";
/// An input that ends with the first client's.
const ATTACH_ONCE: &str = "attach://once";

/// The machine, looked at once.
pub(crate) fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(Host::detect)
}

impl Server {
    /// Starts a container that was created.
    pub(crate) async fn start_container(
        self: &Arc<Self>,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse> {
        let container = self.containers.find(&request.container_id)?;
        let (server, id) = (self.clone(), container.id.clone());
        let start = async move { server.start(&id).await };
        self.verbs.join(super::subject(&container.id), "start", start).await?;
        Ok(v1::StartContainerResponse {})
    }

    async fn start(&self, id: &Id) -> Result<()> {
        let container = self.containers.find(id.as_str())?;
        if container.rung != Rung::Created {
            let state = format!("{:?}", container.rung).to_lowercase();
            return Err(Error::precondition(format!("container {id} cannot be started: it is {state}")));
        }
        let pod = self.ready_pod(container.pod.as_str()).await?;
        let container = self.step_container(id, Step::Start).await?;
        match self.run(&container, &pod).await {
            Ok((pid, at)) => {
                self.step_container(id, Step::Run { pid, at }).await?;
                self.nri_note(Told::Started, id).await;
                Ok(())
            }
            Err(error) => {
                let end = End {
                    code: EXIT_NOT_STARTED,
                    at: Timestamp::now(),
                    reason: "StartError".into(),
                    message: error.to_string(),
                };
                // Before the rest of the task is killed, whose end would look like the container's. It may have been
                // removed, or its end been recorded, meanwhile.
                let _ = self.step_container(id, Step::Exit(end)).await;
                if let Err(left) = self.end_task(id).await {
                    tracing::warn!(container = %id, error = %left, "a task that did not start left something behind");
                }
                self.nri_stop_container(id).await;
                Err(error)
            }
        }
    }

    /// Makes and starts the task; answers its process and a moment before that ran.
    async fn run(&self, container: &Arc<Container>, pod: &Arc<Pod>) -> Result<(u32, Timestamp)> {
        let tasks = self.tenant.tasks();
        let mut rootfs = self.tenant.snapshots(&container.snapshotter)?.mounts(container.id.as_str()).await?;
        if let Some(map) = pod.users() {
            rootfs.iter_mut().for_each(|mount| mount.options.extend(map.options()));
        }
        if let Some(known) = container.selinux.clone() {
            rootfs = blocking(move || labels::show(rootfs, &known)).await?;
        }
        let (timelines, id) = (&self.timelines, &container.id);
        let specified = async {
            match container.adjustment.as_str() {
                "" => Ok::<_, Error>(serde_json::to_vec(&self.specify(container).await?)),
                _ => Ok(serde_json::to_vec(&self.adjusted_spec(container).await?)),
            }
        };
        let spec = timelines.stage(id, "specification", specified).await?;
        let spec = spec.map_err(|error| Error::internal(format!("write the specification: {error}")))?;
        // Without a log the output is still there for those who attach.
        let log = container.log_path.as_deref();
        let log = log.map_or_else(|| ATTACH.to_owned(), |path| log_uri(path, self.live().max_log_line));
        let runtime = self.config.runtimes.get(&container.handler).cloned().unwrap_or_default();
        let request = CreateTask {
            id: container.id.clone(),
            sandbox: Some(pod.id.clone()),
            spec,
            rootfs,
            terminal: container.config.tty,
            stdin: input_uri(&container.config).to_owned(),
            stdout: log.clone(),
            stderr: if container.config.tty { String::new() } else { log },
            runtime: TaskRuntime {
                shim: None,
                binary: runtime.binary,
                systemd_cgroup: self.config.cgroup_driver == CgroupDriver::Systemd,
                options: None,
            },
        };
        timelines.stage(id, "task", tasks.create(request)).await?;
        self.nri_tell(Told::Starting, id).await?;
        let at = Timestamp::now();
        let pid = timelines.stage(id, "start", tasks.start(id)).await?;
        Ok((pid, at))
    }

    /// The specification with what plugins want.
    pub(crate) async fn adjusted_spec(&self, container: &Container) -> Result<Value> {
        let spec = self.specify(container).await?;
        let mut spec = serde_json::to_value(&spec)
            .map_err(|error| Error::internal(format!("write the specification: {error}")))?;
        if let Some(wanted) = container.adjustment()? {
            let oom_score = |score: i64| resources::oom_score(score, host());
            crate::nri::apply(&mut spec, &wanted, &Skills { cdi: &cdi::inject, oom_score: &oom_score })?;
        }
        Ok(spec)
    }

    /// The specification; makes the folders that it needs on the host.
    async fn specify(&self, container: &Container) -> Result<Spec> {
        let pod = self.pods.find(container.pod.as_str())?;
        let target = self.target_of(container)?;
        let facts = self.pod_facts(&pod, self.tenant.tasks().sandbox_pid(&pod.id).await?);
        let cgroup_parent = pod.cgroup_parent.clone();
        let sources = self.attach_image_volumes(container).await?;
        let (container, driver) = (image_volume::with_sources(container, sources), self.config.cgroup_driver);
        let volumes =
            volume::places(&self.container_folder(&container.id), &container.defaults.volumes, &container.config);
        blocking(move || {
            make_sources(&container.config)?;
            if let Some(folder) = container.log_path.as_ref().and_then(|path| path.parent()) {
                std::fs::create_dir_all(folder).context(|| format!("make the log folder {}", folder.display()))?;
            }
            let mut facts = facts;
            facts.files.retain(|(_, source)| source.exists());
            let parts =
                Parts { pod: &facts, host: host(), driver, cgroup_parent: &cgroup_parent, target, volumes: &volumes };
            labels::put(&container, &facts, &volumes)?;
            let spec = build::spec(&container, &parts)?;
            with_devices(spec, &cdi::requested(&container.config)?)
        })
        .await
    }

    /// The process of the container whose pid namespace `container` asks to join.
    fn target_of(&self, container: &Container) -> Result<Option<u32>> {
        let context = container.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = context.and_then(|context| context.namespace_options.as_ref());
        let Some(options) = options.filter(|options| options.pid() == v1::NamespaceMode::Target) else {
            return Ok(None);
        };
        let target = self.containers.find(&options.target_id)?;
        if target.pod != container.pod {
            return Err(Error::invalid(format!("target container {} is in another pod", target.id)));
        }
        if target.pid == 0 {
            return Err(Error::precondition(format!("target container {} does not run", target.id)));
        }
        Ok(Some(target.pid))
    }

    /// What a specification needs to know of `pod`, whose namespaces `pid` has.
    pub(super) fn pod_facts(&self, pod: &Pod, pid: u32) -> PodFacts {
        let files = PodFiles::of(&self.config.state, &pod.id);
        let own_ipc = pod.namespaces().ipc() != v1::NamespaceMode::Node;
        let bundle = self.tenant.core().state().join("bundles").join(self.tenant.namespace()).join(&pod.id);
        PodFacts {
            id: pod.id.clone(),
            hostname: hostname(pod),
            netns: pod.attachment.as_ref().map(|attachment| attachment.netns.clone()),
            users: pod.users().map(|map| (map, users::pin(&self.config.state, &pod.id))),
            pid,
            label: pod.selinux.as_ref().map(|labels| labels.mount.clone()),
            shm: Some(if own_ipc { bundle.join("shm") } else { "/dev/shm".into() }),
            files: vec![
                ("/etc/resolv.conf", files.resolv_conf),
                ("/etc/hostname", files.hostname),
                ("/etc/hosts", files.hosts),
            ],
            config: pod.config.clone(),
        }
    }
}

/// `spec` with devices of the Container Device Interface.
fn with_devices(spec: Spec, names: &[String]) -> Result<Spec> {
    if names.is_empty() {
        return Ok(spec);
    }
    let broken = |error| Error::internal(format!("a specification with CDI devices: {error}"));
    let mut spec = serde_json::to_value(&spec).map_err(broken)?;
    cdi::inject(&mut spec, names)?;
    serde_json::from_value(spec).map_err(broken)
}

/// The host name that programs in a pod see.
pub(super) fn hostname(pod: &Pod) -> String {
    if pod.config.hostname.is_empty() || pod.on_host_network() {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    pod.config.hostname.clone()
}

/// The task's stdin: open for those who attach, for the first of them only, or at its end.
fn input_uri(config: &v1::ContainerConfig) -> &'static str {
    match (config.stdin, config.stdin_once) {
        (true, true) => ATTACH_ONCE,
        (true, false) => ATTACH,
        (false, _) => "",
    }
}

/// The task's stdout that stands for a log file: the shim writes it in the CRI's format.
fn log_uri(path: &Path, max_line: usize) -> String {
    let mut uri = String::from("cri-log://");
    for letter in path.to_string_lossy().chars() {
        match letter {
            '%' => uri.push_str("%25"),
            '?' => uri.push_str("%3F"),
            '#' => uri.push_str("%23"),
            _ => uri.push(letter),
        }
    }
    uri.push_str(&format!("?max_line={max_line}"));
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_path_is_escaped() {
        assert_eq!(log_uri(Path::new("/v/p_1/c/0.log"), 16384), "cri-log:///v/p_1/c/0.log?max_line=16384");
        assert_eq!(log_uri(Path::new("/a%b?c#d"), 5), "cri-log:///a%25b%3Fc%23d?max_line=5");
    }
}
