//! A CRI client over the daemon's socket. Its words are those of the crate `k8s-cri`, an independent reading of the wire.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use crate::newer::Newer;

pub use k8s_cri::v1 as words;

/// What a call answers.
pub type Answer<T> = Result<T, Status>;

/// A client of both CRI services. A clone shares the connection.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
}

/// The code with which a call failed, or `Ok`.
pub fn code<T>(answer: &Answer<T>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

/// A request with the kubelet's deadline of 120 s.
fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(120));
    request
}

impl Cri {
    /// Connects to a socket; fails at once when nobody listens.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::try_from("http://localhost")?.connect_with_connector(connector).await?;
        let limit = 16 << 20;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(limit),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(limit),
            channel,
        })
    }

    /// The runtime service itself, for calls without a shorthand here.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// The image service itself.
    pub fn image_service(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    /// Calls in words that are newer than `k8s-cri`'s.
    pub fn newer(&self) -> Newer {
        Newer::new(self.channel.clone())
    }

    /// Version.
    pub async fn version(&self) -> Answer<v1::VersionResponse> {
        let request = v1::VersionRequest { version: "0.1.0".to_owned() };
        self.runtime().version(ask(request)).await.map(tonic::Response::into_inner)
    }

    /// Status: the conditions by name.
    pub async fn conditions(&self) -> Answer<HashMap<String, bool>> {
        let answer = self.runtime().status(ask(v1::StatusRequest { verbose: false })).await?.into_inner();
        let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
        Ok(conditions.into_iter().map(|condition| (condition.r#type, condition.status)).collect())
    }

    /// RunPodSandbox with the default handler.
    pub async fn run_pod(&self, config: &v1::PodSandboxConfig) -> Answer<String> {
        self.run_pod_with(config, "").await
    }

    /// RunPodSandbox with a named handler.
    pub async fn run_pod_with(&self, config: &v1::PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        Ok(self.runtime().run_pod_sandbox(ask(request)).await?.into_inner().pod_sandbox_id)
    }

    /// StopPodSandbox.
    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime().stop_pod_sandbox(ask(request)).await.map(|_| ())
    }

    /// RemovePodSandbox.
    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime().remove_pod_sandbox(ask(request)).await.map(|_| ())
    }

    /// PodSandboxStatus.
    pub async fn pod_status(&self, id: &str) -> Answer<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime().pod_sandbox_status(ask(request)).await?.into_inner();
        answer.status.ok_or_else(|| Status::data_loss("an answer without a status"))
    }

    /// ListPodSandbox.
    pub async fn pods(&self, filter: Option<v1::PodSandboxFilter>) -> Answer<Vec<v1::PodSandbox>> {
        Ok(self.runtime().list_pod_sandbox(ask(v1::ListPodSandboxRequest { filter })).await?.into_inner().items)
    }

    /// CreateContainer.
    pub async fn create(
        &self,
        pod: &str,
        container: &v1::ContainerConfig,
        config: &v1::PodSandboxConfig,
    ) -> Answer<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(container.clone()),
            sandbox_config: Some(config.clone()),
        };
        Ok(self.runtime().create_container(ask(request)).await?.into_inner().container_id)
    }

    /// StartContainer.
    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime().start_container(ask(request)).await.map(|_| ())
    }

    /// StopContainer, with the seconds that the container has for its end.
    pub async fn stop(&self, id: &str, timeout: i64) -> Answer<()> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.runtime().stop_container(ask(request)).await.map(|_| ())
    }

    /// RemoveContainer.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime().remove_container(ask(request)).await.map(|_| ())
    }

    /// ContainerStatus.
    pub async fn container_status(&self, id: &str) -> Answer<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime().container_status(ask(request)).await?.into_inner();
        answer.status.ok_or_else(|| Status::data_loss("an answer without a status"))
    }

    /// ListContainers.
    pub async fn containers(&self, filter: Option<v1::ContainerFilter>) -> Answer<Vec<v1::Container>> {
        Ok(self.runtime().list_containers(ask(v1::ListContainersRequest { filter })).await?.into_inner().containers)
    }

    /// ExecSync, with a time-out in seconds; zero is none.
    pub async fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Answer<v1::ExecSyncResponse> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        self.runtime().exec_sync(ask(request)).await.map(tonic::Response::into_inner)
    }

    /// ExecSync whose output is expected: standard output as text.
    pub async fn output(&self, id: &str, command: &[&str]) -> Result<String> {
        let answer = self.exec(id, command, 20).await?;
        let error = String::from_utf8_lossy(&answer.stderr).into_owned();
        anyhow::ensure!(answer.exit_code == 0, "{command:?} ends with {}: {error}", answer.exit_code);
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// ReopenContainerLog.
    pub async fn reopen_log(&self, id: &str) -> Answer<()> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.runtime().reopen_container_log(ask(request)).await.map(|_| ())
    }

    /// PullImage without credentials.
    pub async fn pull(&self, reference: &str) -> Answer<String> {
        self.pull_as(reference, None).await
    }

    /// PullImage.
    pub async fn pull_as(&self, reference: &str, auth: Option<v1::AuthConfig>) -> Answer<String> {
        let request = v1::PullImageRequest { image: Some(image(reference)), auth, sandbox_config: None };
        Ok(self.image_service().pull_image(ask(request)).await?.into_inner().image_ref)
    }

    /// ListImages.
    pub async fn images(&self) -> Answer<Vec<v1::Image>> {
        Ok(self.image_service().list_images(ask(v1::ListImagesRequest { filter: None })).await?.into_inner().images)
    }

    /// ImageStatus: nothing when there is no such image.
    pub async fn image(&self, reference: &str) -> Answer<Option<v1::Image>> {
        let request = v1::ImageStatusRequest { image: Some(image(reference)), verbose: false };
        Ok(self.image_service().image_status(ask(request)).await?.into_inner().image)
    }

    /// RemoveImage.
    pub async fn remove_image(&self, reference: &str) -> Answer<()> {
        let request = v1::RemoveImageRequest { image: Some(image(reference)) };
        self.image_service().remove_image(ask(request)).await.map(|_| ())
    }

    /// Every pod down and away, whatever state it is in.
    pub async fn remove_everything(&self) -> Result<()> {
        for pod in self.pods(None).await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        Ok(())
    }
}

/// An image reference in the CRI's words.
pub fn image(reference: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: reference.to_owned(), ..Default::default() }
}

/// A container with a name, an image and a command; it logs to `<name>.log`.
pub fn container(name: &str, reference: &str, command: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(image(reference)),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources { oom_score_adj: 500, ..Default::default() }),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container as i32,
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }),
        labels: HashMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]),
        ..Default::default()
    }
}
