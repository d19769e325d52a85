//! CreateContainer: a name, a root file system and a record; nothing runs yet.

use std::sync::Arc;

use tracing::{info, warn};
use windlass_cri_api::v1;
use windlass_engine::images::ImageDetail;
use windlass_model::{Error, Id, Kind, Result};

use super::cdi::Beside;
use super::image_volume::ImageVolume;
use super::plan::{Plan, plan, wrong};
use super::record::{ImageDefaults, Rung};
use super::spec::build;
use super::spec::resources::check_machine;
use super::start::host;
use super::{blocking, cdi, labels};
use crate::Server;
use crate::pod::Pod;

/// Everything that is known before the first step.
pub(super) struct Order {
    pub(super) pod: Arc<Pod>,
    pub(super) config: v1::ContainerConfig,
    pub(super) plan: Plan,
    pub(super) image: Arc<ImageDetail>,
    pub(super) image_ref: String,
    pub(super) defaults: ImageDefaults,
    pub(super) image_user: String,
    pub(super) image_volumes: Vec<ImageVolume>,
    pub(super) image_stop_signal: Option<String>,
    pub(super) devices: Beside,
}

impl Server {
    /// Makes a container. A retry joins the call that is under way; where the container is there already, its id is the
    /// answer.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse> {
        let pod = self.ready_pod(&request.pod_sandbox_id).await?;
        let config = request.config.ok_or_else(|| wrong("config", "is missing"))?;
        let runtime = self.config.runtimes.get(&pod.handler).cloned().unwrap_or_default();
        let plan = plan(&config, &pod.config, &runtime)?;
        self.selinux.check(labels::asker(&config, &pod.namespaces()).options)?;
        if let Some(asked) = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
            check_machine(asked, "linux.resources", host())?;
        }
        let (server, subject) = (self.clone(), format!("container-name/{}", plan.name));
        let create = async move { server.create(pod, config, plan).await };
        let id: Id = self.verbs.join(subject, "create", create).await?;
        Ok(v1::CreateContainerResponse { container_id: id.into() })
    }

    async fn create(self: Arc<Self>, pod: Arc<Pod>, config: v1::ContainerConfig, plan: Plan) -> Result<Id> {
        if let Some(known) = self.containers.named(&plan.name) {
            match known.rung {
                Rung::Created | Rung::Starting | Rung::Running if known.pod == pod.id => return Ok(known.id.clone()),
                Rung::Reserved | Rung::Removing => {
                    info!(container = %known.id, "clear away what is left of a container of the same name");
                    self.down_container(&known.id).await?;
                }
                _ => {
                    let message = format!("container {} has the name {:?} already", known.id, plan.name);
                    return Err(Error::already_exists(message));
                }
            }
        }
        let (asked, names) = (config.clone(), cdi::requested(&config)?);
        let devices = blocking(move || build::check(&asked, host()).and_then(|()| cdi::beside(&names))).await?;
        let order = Order { devices, ..self.order(pod, config, plan).await? };
        let id = crate::names::fresh_id()?;
        match self.climb_container(&id, order).await {
            Ok(_) => Ok(id),
            Err(error) => {
                if let Err(left) = self.down_container(&id).await {
                    warn!(container = %id, error = %left, "a container that was not made left something behind");
                }
                Err(error)
            }
        }
    }

    /// Looks the image up and checks what only it can answer.
    async fn order(&self, pod: Arc<Pod>, config: v1::ContainerConfig, plan: Plan) -> Result<Order> {
        let found = match self.find_image(&plan.image).await? {
            Some(found) => self.own_image(found).await?,
            None => return Err(Error::not_found(format!("image {:?} is not here", plan.image))),
        };
        let image = found.detail;
        if let Some(kind) = &image.artifact_type {
            return Err(wrong("image.image", &format!("is an artifact ({kind}), which cannot be run")));
        }
        let run = image.config.config().as_ref();
        let list = |words: Option<&Vec<String>>| words.cloned().unwrap_or_default();
        let defaults = ImageDefaults {
            entrypoint: list(run.and_then(|run| run.entrypoint().as_ref())),
            cmd: list(run.and_then(|run| run.cmd().as_ref())),
            env: list(run.and_then(|run| run.env().as_ref())),
            working_dir: run.and_then(|run| run.working_dir().clone()).unwrap_or_default(),
            volumes: list(run.and_then(|run| run.volumes().as_ref())),
        };
        build::args(&config, &defaults)?;
        let user_specified = config.image.as_ref().map(|image| image.user_specified_image.as_str()).unwrap_or_default();
        let named = if user_specified.is_empty() { &plan.image } else { user_specified };
        let image_ref = match named.parse::<windlass_model::Reference>() {
            // A bare id reads as a repository's name, too.
            Ok(reference) if !found.by_id || !user_specified.is_empty() => {
                reference.with_digest(&found.record.target.digest).to_string()
            }
            _ => image.id.to_string(),
        };
        Ok(Order {
            image_user: run.and_then(|run| run.user().clone()).unwrap_or_default(),
            image_volumes: self.find_image_volumes(&config).await?,
            image_stop_signal: run.and_then(|run| run.stop_signal().clone()),
            devices: Beside::default(),
            pod,
            config,
            plan,
            image_ref,
            image,
            defaults,
        })
    }
}

/// The error for a lookup of a container that is in the way of nothing.
pub(super) fn ignore_missing<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
