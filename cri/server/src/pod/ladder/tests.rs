//! Pods on the real engine with edges that fail: plugins and shims that are shell scripts, records as a crash leaves them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use windlass_cri_api::v1;
use windlass_engine::tasks::ShimConfig;
use windlass_engine::{Core, Options};
use windlass_model::Kind;
use windlass_model::snapshotter::{Labels, LayerTarget, SnapshotId, Snapshotter, Usage};

use super::*;
use crate::pod::subject;
use crate::{CgroupDriver, Runtime, ServerConfig};

/// A plugin that gives an address, and writes down that it was called.
const GOOD: &str = r#"[ $CNI_COMMAND = ADD ] && echo '{"ips":[{"address":"10.1.2.3/24"}]}'"#;

/// A driver that holds nothing: pods need no images.
#[derive(Debug)]
struct Nothing;

impl Snapshotter for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }
    fn root(&self) -> &Path {
        Path::new("/nonexistent")
    }
    fn prepare(&self, _: SnapshotId, _: &[SnapshotId], _: &Labels) -> Result<()> {
        Ok(())
    }
    fn view(&self, _: SnapshotId, _: &[SnapshotId], _: &Labels) -> Result<()> {
        Ok(())
    }
    fn mounts(
        &self,
        _: SnapshotId,
        _: &[SnapshotId],
        _: windlass_model::snapshotter::Kind,
    ) -> Result<Vec<windlass_model::Mount>> {
        Ok(Vec::new())
    }
    fn commit(&self, _: SnapshotId, _: &[SnapshotId]) -> Result<()> {
        Ok(())
    }
    fn remove(&self, _: SnapshotId) -> Result<()> {
        Ok(())
    }
    fn usage(&self, _: SnapshotId, _: &[SnapshotId]) -> Result<Usage> {
        Ok(Usage::default())
    }
    fn ids(&self) -> Result<Vec<SnapshotId>> {
        Ok(Vec::new())
    }
    fn layer_target(&self, _: SnapshotId) -> Option<LayerTarget> {
        None
    }
}

/// A node whose edges are scripts.
struct Node {
    folder: tempfile::TempDir,
    server: Arc<Server>,
}

impl Node {
    async fn new(plugin: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("net.d")).unwrap();
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "plugin"}]});
        std::fs::write(path("net.d/net.conflist"), list.to_string()).unwrap();
        let log = path("log");
        script(&path("plugin"), &format!("echo $CNI_COMMAND >> {}\n{plugin}\nexit 0", log.display()));
        script(&path("shim"), "[ $(eval echo \\${$#}) = delete ] && exit 0\necho broken >&2; exit 1");
        let server = Self::start(folder.path()).await;
        Self { folder, server }
    }

    /// A daemon on the node's folders.
    async fn start(folder: &Path) -> Arc<Server> {
        let path = |name: &str| folder.join(name);
        let shim =
            ShimConfig { shim: path("shim"), events_address: path("events.sock"), api_address: path("api.sock") };
        let drivers: Vec<Arc<dyn Snapshotter>> = vec![Arc::new(Nothing)];
        let (registry, events) = Default::default();
        let (root, state, verifier) = (path("root"), path("state"), None);
        let options = Options { root, state, drivers, registry, shim, events, verifier };
        let core = Core::open(options).await.unwrap();
        let config = ServerConfig {
            root: path("root"),
            state: path("state"),
            snapshotter: "nothing".into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            default_runtime: "windlass".into(),
            runtimes: [("windlass".to_string(), Runtime::default())].into(),
            share_images: Vec::new(),
            pinned_images: Vec::new(),
            cni_conf_template: None,
            max_log_line: 16384,
            selinux: false,
            shim: "/bin/true".into(),
            nri: None,
            cni_conf_dir: path("net.d"),
            cni_bin_dirs: vec![folder.to_owned()],
            streaming: crate::streaming::StreamingConfig::default(),
        };
        Server::new(config, core.tenant("k8s.io".parse().unwrap())).unwrap()
    }

    /// What RunPodSandbox recorded and made when the daemon was killed at `rung`.
    async fn crashed_at(&self, rung: Rung) -> Arc<Pod> {
        let plan = PodPlan::new(request(0), &self.server.config).unwrap();
        let pod = self.server.reserve_pod(&plan).await.unwrap();
        let attachment = Attachment {
            netns: self.server.pin(&pod.id),
            list: self.server.network.current().await.unwrap(),
            args: plan.cni_args(&pod.id),
            capabilities: Default::default(),
            result: None,
        };
        let mut pod = pod;
        if rung != Rung::Reserved {
            pod = self.server.step_pod(&pod.id, vec![Step::Network(Some(Box::new(attachment)))]).await.unwrap();
            self.server.prepare(&pod, &plan).await.unwrap();
        }
        let further: &[Step] = match rung {
            Rung::Booted => &[Step::Boot],
            Rung::Ready => &[Step::Boot, Step::Ready],
            Rung::Down => &[Step::Boot, Step::Down],
            _ => &[],
        };
        self.server.step_pod(&pod.id, further.to_vec()).await.unwrap()
    }

    async fn pods(&self) -> Vec<v1::PodSandbox> {
        self.server.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().items
    }

    /// Namespaces, files, cgroups and records of pods.
    async fn left(&self) -> Vec<String> {
        let records = self.server.tenant.sandboxes().list().await.unwrap();
        let mut left: Vec<String> = records.iter().map(|record| record.id.to_string()).collect();
        for folder in ["state/netns", "state/pods", "state/bundles/k8s.io"] {
            let entries = std::fs::read_dir(self.folder.path().join(folder)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        left
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default().replace('\n', " ")
    }
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn request(attempt: u32) -> v1::RunPodSandboxRequest {
    let metadata = v1::PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt };
    let config = v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_leaves_nothing() {
    let node = Node::new("[ $CNI_COMMAND = ADD ] && exit 1").await;
    let error = node.server.run_pod_sandbox(request(0)).await.unwrap_err().to_string();
    assert!(error.contains("plugin"), "{error}");
    assert_eq!(node.left().await, [""; 0]);
    assert_eq!(node.calls(), "ADD DEL ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_fails_leaves_nothing_and_a_retry_starts_anew() {
    let node = Node::new(GOOD).await;
    let calls = [node.server.run_pod_sandbox(request(0)), node.server.run_pod_sandbox(request(0))];
    for result in futures::future::join_all(calls).await {
        assert!(result.unwrap_err().to_string().contains("broken"));
    }
    assert_eq!(node.calls(), "ADD DEL ", "the second call joined the first");
    node.server.run_pod_sandbox(request(0)).await.unwrap_err();
    assert_eq!(node.calls(), "ADD DEL ADD DEL ");
    assert_eq!(node.left().await, [""; 0]);
    assert!(node.pods().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_come_down_stays_on_the_list_until_it_does() {
    let node = Node::new("exit 1").await;
    node.server.run_pod_sandbox(request(0)).await.unwrap_err();
    let pods = node.pods().await;
    assert_eq!((pods.len(), pods[0].state()), (1, v1::PodSandboxState::SandboxNotready));
    let remove = || v1::RemovePodSandboxRequest { pod_sandbox_id: pods[0].id.clone() };
    assert!(node.server.remove_pod_sandbox(remove()).await.is_err());
    script(&node.folder.path().join("plugin"), "exit 0");
    node.server.remove_pod_sandbox(remove()).await.unwrap();
    node.server.remove_pod_sandbox(remove()).await.unwrap();
    assert_eq!(node.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_takes_down_what_was_half_built() {
    for rung in [Rung::Reserved, Rung::Networked, Rung::Booted, Rung::Down] {
        let mut node = Node::new(GOOD).await;
        let name = node.crashed_at(rung).await.name.clone();
        let config = node.server.config.clone();
        let tenant = node.server.tenant.clone();
        node.server = Server::new(config, tenant).unwrap();
        node.server.recover().await.unwrap();
        for _ in 0..500 {
            if !node.server.verbs.is_busy(&subject(&name)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pods = node.pods().await;
        if rung == Rung::Down {
            let kept = (pods.len(), pods[0].state(), node.left().await.len());
            assert_eq!(kept, (1, v1::PodSandboxState::SandboxNotready, 1), "the record waits for its removal");
        } else {
            assert_eq!((pods.len(), node.left().await), (0, vec![]), "{rung:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_pod_without_its_shim_is_not_ready_and_can_be_stopped() {
    let node = Node::new(GOOD).await;
    let pod = node.crashed_at(Rung::Ready).await;
    let pods = node.pods().await;
    assert_eq!((pods.len(), pods[0].state()), (1, v1::PodSandboxState::SandboxNotready));
    assert_eq!(node.server.ready_pod(pod.id.as_str()).await.unwrap_err().kind(), Kind::FailedPrecondition);
    let stop = || v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.to_string() };
    for _ in 0..2 {
        node.server.stop_pod_sandbox(stop()).await.unwrap();
    }
    assert_eq!(node.calls(), "DEL ", "the second stop had nothing to do");
    assert_eq!(node.left().await.len(), 1, "the record");
    let unknown = v1::StopPodSandboxRequest { pod_sandbox_id: "unknown".into() };
    node.server.stop_pod_sandbox(unknown).await.unwrap();
}
