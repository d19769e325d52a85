//! What a CRI server is made of, and one line per RPC that leads to the verb's file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tonic::{Request, Response, Status, async_trait};
use windlass_cri_api::v1::image_service_server::{ImageService, ImageServiceServer};
use windlass_cri_api::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use windlass_cri_api::{MAX_MESSAGE, v1};
use windlass_engine::Tenant;
use windlass_engine::events::Receiver;
use windlass_model::{Error, Namespace, Result};

use crate::announce::{EventStream, Listeners};
use crate::calls::Calls;
use crate::container::Containers;
use crate::handlers::Handlers;
use crate::image::Measures;
use crate::instrument;
use crate::names::Verbs;
use crate::network::Network;
use crate::nri::{Nri, NriConfig};
use crate::pod::Pods;
use crate::reload::{Live, Reload};
use crate::selinux::Selinux;
use crate::stats::Stats;
use crate::stream::Batches;
use crate::streaming::{Streaming, StreamingConfig};
use crate::timeline::Timelines;

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// We do, in the file system.
    Cgroupfs,
    /// systemd does, over its bus.
    Systemd,
}

/// A runtime handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// An OCI runtime's executable; `None`: the one built into the shim.
    pub binary: Option<PathBuf>,
    /// Another shim v2, by runtime name or path; `None`: ours.
    pub shim: Option<String>,
}

/// What the server is told once, at its start.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Lasting state; the server keeps its own below `<root>/cri`.
    pub root: PathBuf,
    /// State that a reboot takes away.
    pub state: PathBuf,
    /// The snapshot driver that holds images and root file systems.
    pub snapshotter: String,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The handler of a pod that names none; a key of `runtimes`.
    pub default_runtime: String,
    /// Handlers by name.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Where the CNI conflists are.
    pub cni_conf_dir: PathBuf,
    /// Where the CNI plugins are, in order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// What a CNI conflist is made from when the kubelet tells the node's address ranges; `None`: none is made.
    pub cni_conf_template: Option<PathBuf>,
    /// The longest piece of a line in one entry of a container's log, in bytes.
    pub max_log_line: usize,
    /// Our shim's executable, which Status looks for.
    pub shim: PathBuf,
    /// Whether containers get SELinux's labels where the kernel has it.
    pub selinux: bool,
    /// The images that the kubelet must not remove: references, `beginning*` or `*part*`.
    pub pinned_images: Vec<String>,
    /// The namespaces whose images may be used as if they were here.
    pub share_images: Vec<Namespace>,
    /// Plugins of the Node Resource Interface; `None`: none.
    pub nri: Option<NriConfig>,
    /// Where exec, attach and port-forward are served.
    pub streaming: StreamingConfig,
}

/// The CRI server of one tenant.
pub struct Server {
    pub(crate) config: ServerConfig,
    pub(crate) tenant: Tenant,
    pub(crate) verbs: Verbs,
    pub(crate) network: Network,
    pub(crate) pods: Pods,
    pub(crate) containers: Containers,
    pub(crate) listeners: Listeners,
    pub(crate) handlers: Handlers,
    pub(crate) measures: Measures,
    pub(crate) stats: Stats,
    pub(crate) live: RwLock<Live>,
    pub(crate) nri: Nri,
    pub(crate) selinux: Selinux,
    pub(crate) calls: Calls,
    pub(crate) timelines: Timelines,
    pub(crate) streaming: Streaming,
    /// What has happened since the server was made; the listener takes it.
    pub(crate) happened: Mutex<Option<Receiver>>,
}

/// The gRPC face of a [`Server`].
#[derive(Clone)]
pub struct Rpc(Arc<Server>);

type Answer<T> = Result<Response<T>, Status>;

impl Server {
    /// A server that answers from what its tenant holds; [`Server::recover`] comes before its first call.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] where the configuration contradicts itself;
    /// [`windlass_model::Kind::FailedPrecondition`] where SELinux is wanted and its policy says nothing of containers.
    pub fn new(config: ServerConfig, tenant: Tenant) -> Result<Arc<Self>> {
        if !config.runtimes.contains_key(&config.default_runtime) {
            return Err(Error::invalid(format!("default runtime {:?} is not configured", config.default_runtime)));
        }
        tenant.snapshots(&config.snapshotter)?;
        let network = Network::new(&config)?;
        let live = Reload { pinned_images: config.pinned_images.clone(), max_log_line: config.max_log_line };
        Ok(Arc::new(Self {
            verbs: Verbs::default(),
            pods: Pods::default(),
            containers: Containers::default(),
            listeners: Listeners::default(),
            handlers: Handlers::default(),
            measures: Measures::default(),
            stats: Stats::default(),
            live: RwLock::new(Live::new(&live)?),
            nri: Nri::default(),
            calls: Calls::default(),
            timelines: Timelines::default(),
            selinux: Selinux::detect(config.selinux)?,
            streaming: Streaming::default(),
            happened: Mutex::new(Some(tenant.events().subscribe_to(tenant.namespace()))),
            network,
            config,
            tenant,
        }))
    }

    /// The gRPC services, with the message size that the kubelet counts on.
    pub fn services(self: &Arc<Self>) -> (RuntimeServiceServer<Rpc>, ImageServiceServer<Rpc>) {
        let rpc = Rpc(self.clone());
        (
            RuntimeServiceServer::new(rpc.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(usize::MAX),
            ImageServiceServer::new(rpc).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(usize::MAX),
        )
    }
}

/// The answer of an RPC that is not built.
async fn unbuilt<T>(name: &'static str) -> Result<T> {
    Err(Error::unimplemented(format!("{name} is not built yet")))
}

#[async_trait]
impl RuntimeService for Rpc {
    async fn version(&self, request: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        instrument::query(&self.0, "Version", request, |request| self.0.version(request)).await
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        instrument::verb(&self.0, "RunPodSandbox", request, |request| self.0.run_pod_sandbox(request)).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        instrument::verb(&self.0, "StopPodSandbox", request, |request| self.0.stop_pod_sandbox(request)).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        instrument::verb(&self.0, "RemovePodSandbox", request, |request| self.0.remove_pod_sandbox(request)).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        instrument::query(&self.0, "PodSandboxStatus", request, |request| self.0.pod_sandbox_status(request)).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        instrument::query(&self.0, "ListPodSandbox", request, |request| self.0.list_pod_sandbox(request)).await
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        instrument::verb(&self.0, "CreateContainer", request, |request| self.0.create_container(request)).await
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        instrument::verb(&self.0, "StartContainer", request, |request| self.0.start_container(request)).await
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        instrument::verb(&self.0, "StopContainer", request, |request| self.0.stop_container(request)).await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        instrument::verb(&self.0, "RemoveContainer", request, |request| self.0.remove_container(request)).await
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        instrument::query(&self.0, "ListContainers", request, |request| self.0.list_containers(request)).await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        instrument::query(&self.0, "ContainerStatus", request, |request| self.0.container_status(request)).await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        instrument::verb(&self.0, "UpdateContainerResources", request, |request| {
            self.0.update_container_resources(request)
        })
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        instrument::verb(&self.0, "ReopenContainerLog", request, |request| self.0.reopen_container_log(request)).await
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        instrument::verb(&self.0, "ExecSync", request, |request| self.0.exec_sync(request)).await
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        instrument::query(&self.0, "Exec", request, |request| self.0.exec(request)).await
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        instrument::query(&self.0, "Attach", request, |request| self.0.attach(request)).await
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Answer<v1::PortForwardResponse> {
        instrument::query(&self.0, "PortForward", request, |request| self.0.port_forward(request)).await
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Answer<v1::ContainerStatsResponse> {
        instrument::query(&self.0, "ContainerStats", request, |request| self.0.container_stats(request)).await
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        instrument::query(&self.0, "ListContainerStats", request, |request| self.0.list_container_stats(request)).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        instrument::query(&self.0, "PodSandboxStats", request, |request| self.0.pod_sandbox_stats(request)).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        instrument::query(&self.0, "ListPodSandboxStats", request, |request| self.0.list_pod_sandbox_stats(request))
            .await
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        instrument::verb(&self.0, "UpdateRuntimeConfig", request, |request| self.0.update_runtime_config(request)).await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        instrument::query(&self.0, "Status", request, |request| self.0.status(request)).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        instrument::query(&self.0, "CheckpointContainer", request, |_| unbuilt("CheckpointContainer")).await
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        instrument::query(&self.0, "ListMetricDescriptors", request, |request| self.0.list_metric_descriptors(request))
            .await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        instrument::query(&self.0, "ListPodSandboxMetrics", request, |request| self.0.list_pod_sandbox_metrics(request))
            .await
    }

    async fn runtime_config(&self, request: Request<v1::RuntimeConfigRequest>) -> Answer<v1::RuntimeConfigResponse> {
        instrument::query(&self.0, "RuntimeConfig", request, |request| self.0.runtime_config(request)).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        instrument::verb(&self.0, "UpdatePodSandboxResources", request, |request| {
            self.0.update_pod_sandbox_resources(request)
        })
        .await
    }

    type StreamPodSandboxesStream = Batches<v1::PodSandbox, v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Batches<v1::PodSandbox, v1::StreamPodSandboxesResponse>> {
        instrument::query(&self.0, "StreamPodSandboxes", request, |request| self.0.stream_pod_sandboxes(request)).await
    }

    type StreamContainersStream = Batches<v1::Container, v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Batches<v1::Container, v1::StreamContainersResponse>> {
        instrument::query(&self.0, "StreamContainers", request, |request| self.0.stream_containers(request)).await
    }

    type StreamContainerStatsStream = Batches<v1::ContainerStats, v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Batches<v1::ContainerStats, v1::StreamContainerStatsResponse>> {
        instrument::query(&self.0, "StreamContainerStats", request, |request| self.0.stream_container_stats(request))
            .await
    }

    type StreamPodSandboxStatsStream = Batches<v1::PodSandboxStats, v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Batches<v1::PodSandboxStats, v1::StreamPodSandboxStatsResponse>> {
        instrument::query(&self.0, "StreamPodSandboxStats", request, |request| self.0.stream_pod_sandbox_stats(request))
            .await
    }

    type StreamPodSandboxMetricsStream = Batches<v1::PodSandboxMetrics, v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Batches<v1::PodSandboxMetrics, v1::StreamPodSandboxMetricsResponse>> {
        instrument::query(&self.0, "StreamPodSandboxMetrics", request, |request| {
            self.0.stream_pod_sandbox_metrics(request)
        })
        .await
    }

    type GetContainerEventsStream = EventStream;

    async fn get_container_events(&self, request: Request<v1::GetEventsRequest>) -> Answer<EventStream> {
        instrument::query(&self.0, "GetContainerEvents", request, |request| self.0.get_container_events(request)).await
    }
}

#[async_trait]
impl ImageService for Rpc {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        instrument::query(&self.0, "ListImages", request, |request| self.0.list_images(request)).await
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Answer<v1::ImageStatusResponse> {
        instrument::query(&self.0, "ImageStatus", request, |request| self.0.image_status(request)).await
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        instrument::verb(&self.0, "PullImage", request, |request| self.0.pull_image(request)).await
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        instrument::verb(&self.0, "RemoveImage", request, |request| self.0.remove_image(request)).await
    }

    async fn image_fs_info(&self, request: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        instrument::query(&self.0, "ImageFsInfo", request, |request| self.0.image_fs_info(request)).await
    }

    type StreamImagesStream = Batches<v1::Image, v1::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<Batches<v1::Image, v1::StreamImagesResponse>> {
        instrument::query(&self.0, "StreamImages", request, |request| self.0.stream_images(request)).await
    }
}
