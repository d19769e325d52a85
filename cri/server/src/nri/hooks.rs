//! The steps of pods and containers at which plugins are asked. Beginnings may be refused; ends are told, and what a plugin
//! says against them is logged.

use std::sync::Arc;

use serde_json::Value;
use tracing::warn;
use windlass_cri_api::nri::{self, ContainerAdjustment, Event};
use windlass_cri_api::v1;
use windlass_model::{Error, Id, Result};

use super::collect::{Creation, Updates};
use super::{Life, words};
use crate::Server;
use crate::container::Container;
use crate::container::record::Rung as ContainerRung;
use crate::pod::{Pod, Rung};

/// A step of a container that plugins are only told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was made.
    Created,
    /// It is about to run.
    Starting,
    /// It runs.
    Started,
    /// Its limits were changed.
    Updated,
}

impl Told {
    fn words(self) -> (Event, &'static str) {
        match self {
            Self::Created => (Event::PostCreateContainer, "PostCreateContainer"),
            Self::Starting => (Event::StartContainer, "StartContainer"),
            Self::Started => (Event::PostStartContainer, "PostStartContainer"),
            Self::Updated => (Event::PostUpdateContainer, "PostUpdateContainer"),
        }
    }
}

impl Server {
    /// A pod is up and not ready yet.
    ///
    /// # Errors
    /// Where a plugin refuses it.
    pub(crate) async fn nri_run_pod(&self, pod: &Pod) -> Result<()> {
        self.nri.begin(&pod.id, Life::Begun);
        self.tell_pod(Event::RunPodSandbox, "RunPodSandbox", pod).await
    }

    /// A pod goes down; its containers have ended, and it is still there.
    pub(crate) async fn nri_stop_pod(&self, pod: &Pod) {
        for container in self.containers.of_pod(&pod.id) {
            self.nri_stop_container(&container.id).await;
        }
        let Some(life) = self.nri.life(&pod.id) else { return };
        let mut life = life.lock().await;
        if *life == Life::Begun {
            *life = Life::Ended;
            log(self.tell_pod(Event::StopPodSandbox, "StopPodSandbox", pod).await);
        }
    }

    /// A pod is forgotten.
    pub(crate) async fn nri_remove_pod(&self, pod: &Pod) {
        self.nri_stop_pod(pod).await;
        if self.nri.forget(&pod.id).is_some() {
            log(self.tell_pod(Event::RemovePodSandbox, "RemovePodSandbox", pod).await);
        }
    }

    /// A pod's resources are to be changed.
    ///
    /// # Errors
    /// Where a plugin refuses it.
    pub(crate) async fn nri_update_pod(
        &self,
        pod: &Pod,
        overhead: Option<&v1::LinuxContainerResources>,
        resources: Option<&v1::LinuxContainerResources>,
    ) -> Result<()> {
        if !self.nri.is_heard() {
            return Ok(());
        }
        let request = nri::UpdatePodSandboxRequest {
            pod: Some(self.pod_for_plugins(pod).await),
            overhead_linux_resources: overhead.map(words::resources),
            linux_resources: resources.map(words::resources),
        };
        for plugin in self.nri.plugins() {
            plugin.ask::<nri::Empty>(Event::UpdatePodSandbox, "UpdatePodSandbox", &request).await?;
        }
        Ok(())
    }

    /// A pod's resources were changed.
    pub(crate) async fn nri_updated_pod(&self, pod: &Pod) {
        if self.nri.is_heard() {
            log(self.tell_pod(Event::PostUpdatePodSandbox, "PostUpdatePodSandbox", pod).await);
        }
    }

    /// A container is to be made: what plugins want of it, for its record. Nothing where there are none.
    ///
    /// # Errors
    /// Where a plugin refuses it, two want the same, or what they want is rejected by one that judges it.
    pub(crate) async fn nri_create_container(&self, container: &Container) -> Result<Option<ContainerAdjustment>> {
        if !self.nri.is_heard() {
            return Ok(None);
        }
        let pod = self.pod_for_plugins(&*self.pods.find(container.pod.as_str())?).await;
        let spec = self.adjusted_spec(container).await?;
        let mut creation = Creation::new(words::container(container, &spec));
        let pristine = creation.container.clone();
        self.nri.begin(&container.id, Life::Begun);
        let plugins = self.nri.plugins();
        for plugin in &plugins {
            let request =
                nri::CreateContainerRequest { pod: Some(pod.clone()), container: Some(creation.container.clone()) };
            let answer = plugin.ask(Event::CreateContainer, "CreateContainer", &request).await?;
            if let Some(answer) = answer {
                creation.take(&plugin.title(), answer)?;
            }
        }
        let judges: Vec<_> = plugins.iter().filter(|one| one.wants(Event::ValidateContainerAdjustment)).collect();
        if !judges.is_empty() {
            let instance = |plugin: &Arc<super::Plugin>| nri::PluginInstance {
                name: plugin.name().to_owned(),
                index: plugin.index().to_owned(),
            };
            let request = nri::ValidateContainerAdjustmentRequest {
                pod: Some(pod),
                container: Some(pristine),
                adjust: Some(creation.adjust.clone()),
                update: creation.updates.all.clone(),
                owners: Some(creation.updates.owners.worded()),
                plugins: plugins.iter().map(instance).collect(),
            };
            for judge in judges {
                judged(judge, &request).await?;
            }
        }
        if let Some(server) = self.nri.server() {
            server.evict("", creation.evict).await;
            server.apply_updates("", creation.updates.all).await;
        }
        Ok(Some(creation.adjust))
    }

    /// A container takes a step.
    ///
    /// # Errors
    /// What a plugin says against it.
    pub(crate) async fn nri_tell(&self, told: Told, id: &Id) -> Result<()> {
        if !self.nri.is_heard() {
            return Ok(());
        }
        let Ok(container) = self.containers.find(id.as_str()) else { return Ok(()) };
        let (event, method) = told.words();
        self.tell_container(event, method, &container).await
    }

    /// As [`Server::nri_tell`], of a step that was taken already: what a plugin says against it is logged.
    pub(crate) async fn nri_note(&self, told: Told, id: &Id) {
        log(self.nri_tell(told, id).await);
    }

    /// A container's limits are to be changed: what plugins make of the change.
    ///
    /// # Errors
    /// Where a plugin refuses it, or two want the same.
    pub(crate) async fn nri_update_container(
        &self,
        container: &Container,
        change: v1::LinuxContainerResources,
    ) -> Result<v1::LinuxContainerResources> {
        if !self.nri.is_heard() {
            return Ok(change);
        }
        let (pod, told) = self.container_for_plugins(container).await;
        let mut resources = words::resources(&change);
        let mut updates = Updates::default();
        for plugin in self.nri.plugins() {
            let request = nri::UpdateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(told.clone()),
                linux_resources: Some(resources.clone()),
            };
            let answer = plugin.ask(Event::UpdateContainer, "UpdateContainer", &request).await?;
            let Some(nri::UpdateContainerResponse { update, evict }) = answer else { continue };
            updates.take(&plugin.title(), update)?;
            let own = updates.all.iter().find(|update| update.container_id == container.id.as_str());
            if let Some(wanted) = own.and_then(|own| own.linux.as_ref()?.resources.clone()) {
                super::collect::merge(&mut resources, wanted);
            }
            self.beside(plugin.title(), Vec::new(), evict);
        }
        updates.all.retain(|update| update.container_id != container.id.as_str());
        self.beside(String::new(), updates.all, Vec::new());
        let mut changed = words::cri_resources(&resources);
        // The kubelet says both; a plugin may have raised one beyond the other.
        if changed.memory_swap_limit_in_bytes > 0 {
            let least = changed.memory_limit_in_bytes;
            changed.memory_swap_limit_in_bytes = changed.memory_swap_limit_in_bytes.max(least);
        }
        Ok(v1::LinuxContainerResources { oom_score_adj: change.oom_score_adj, ..changed })
    }

    /// A container has ended, in whatever way; told once.
    pub(crate) async fn nri_stop_container(&self, id: &Id) {
        let Some(life) = self.nri.life(id) else { return };
        let mut life = life.lock().await;
        if *life == Life::Ended || !self.nri.is_heard() {
            return;
        }
        let Ok(container) = self.containers.find(id.as_str()) else { return };
        *life = Life::Ended;
        let (pod, told) = self.container_for_plugins(&container).await;
        let mut updates = Updates::default();
        for plugin in self.nri.plugins() {
            let request = nri::StopContainerRequest { pod: Some(pod.clone()), container: Some(told.clone()) };
            let answer = plugin.ask(Event::StopContainer, "StopContainer", &request).await;
            let taken = answer.and_then(|answer: Option<nri::StopContainerResponse>| {
                updates.take(&plugin.title(), answer.unwrap_or_default().update)
            });
            log(taken);
        }
        self.beside(String::new(), updates.all, Vec::new());
    }

    /// A container is forgotten.
    pub(crate) async fn nri_remove_container(&self, id: &Id) {
        self.nri_stop_container(id).await;
        let Ok(container) = self.containers.find(id.as_str()) else { return };
        if self.nri.forget(id).is_some() && self.nri.is_heard() {
            log(self.tell_container(Event::RemoveContainer, "RemoveContainer", &container).await);
        }
    }

    /// Everything that a joining plugin is to know.
    pub(super) async fn state_for_plugins(&self) -> (Vec<nri::PodSandbox>, Vec<nri::Container>) {
        let (mut pods, mut containers) = (Vec::new(), Vec::new());
        for pod in self.pods.all().into_iter().filter(|pod| pod.is_visible()) {
            self.nri.begin(&pod.id, if pod.rung == Rung::Ready { Life::Begun } else { Life::Ended });
            pods.push(self.pod_for_plugins(&pod).await);
        }
        for container in self.containers.all().into_iter().filter(|container| container.is_visible()) {
            let has_ended = matches!(container.rung, ContainerRung::Exited | ContainerRung::Removing);
            self.nri.begin(&container.id, if has_ended { Life::Ended } else { Life::Begun });
            containers.push(self.container_for_plugins(&container).await.1);
        }
        (pods, containers)
    }

    async fn tell_pod(&self, event: Event, method: &str, pod: &Pod) -> Result<()> {
        if !self.nri.is_heard() {
            return Ok(());
        }
        let told = self.pod_for_plugins(pod).await;
        // The requests of all these methods have the pod in the same place.
        let request = nri::RunPodSandboxRequest { pod: Some(told.clone()) };
        for plugin in self.nri.plugins() {
            plugin.tell(event, method, &request, (&told, None)).await?;
        }
        Ok(())
    }

    async fn tell_container(&self, event: Event, method: &str, container: &Container) -> Result<()> {
        let (pod, told) = self.container_for_plugins(container).await;
        // The requests of all these methods have pod and container in the same places.
        let request = nri::StartContainerRequest { pod: Some(pod.clone()), container: Some(told.clone()) };
        for plugin in self.nri.plugins() {
            plugin.tell(event, method, &request, (&pod, Some(&told))).await?;
        }
        Ok(())
    }

    async fn pod_for_plugins(&self, pod: &Pod) -> nri::PodSandbox {
        let pid = match pod.rung {
            Rung::Booted | Rung::Ready => self.tenant.tasks().sandbox_pid(&pod.id).await.unwrap_or_default(),
            _ => 0,
        };
        words::pod(pod, pid)
    }

    /// A container and its pod; with the specification where there is one still.
    async fn container_for_plugins(&self, container: &Container) -> (nri::PodSandbox, nri::Container) {
        let pod = match self.pods.find(container.pod.as_str()) {
            Ok(pod) => self.pod_for_plugins(&pod).await,
            Err(_) => nri::PodSandbox { id: container.pod.to_string(), ..Default::default() },
        };
        let bundle = self.tenant.core().state().join("bundles").join(self.tenant.namespace()).join(&container.id);
        let written = tokio::fs::read(bundle.join("config.json")).await.ok();
        let spec = match written.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(spec) => spec,
            None if container.rung == ContainerRung::Created => {
                self.adjusted_spec(container).await.unwrap_or(Value::Null)
            }
            None => Value::Null,
        };
        (pod, words::container(container, &spec))
    }

    /// Does what plugins want of other containers, without waiting: those may wait for this one.
    fn beside(&self, plugin: String, updates: Vec<nri::ContainerUpdate>, evict: Vec<nri::ContainerEviction>) {
        let Some(server) = self.nri.server().filter(|_| !updates.is_empty() || !evict.is_empty()) else { return };
        // Ends with its work.
        tokio::spawn(async move {
            server.evict(&plugin, evict).await;
            server.apply_updates(&plugin, updates).await;
        });
    }
}

/// Asks a plugin that judges what others want; without its answer nothing is made.
async fn judged(judge: &super::Plugin, request: &nri::ValidateContainerAdjustmentRequest) -> Result<()> {
    let answer = judge.ask(Event::ValidateContainerAdjustment, "ValidateContainerAdjustment", request).await?;
    let answer: nri::ValidateContainerAdjustmentResponse = match answer {
        Some(answer) => answer,
        None if judge.is_judge() => {
            return Err(Error::precondition(format!("plugin {} is to judge and does not answer", judge.title())));
        }
        None => return Ok(()),
    };
    if answer.reject {
        let message = format!("plugin {} rejects what plugins want: {}", judge.title(), answer.reason);
        return Err(Error::precondition(message));
    }
    Ok(())
}

fn log(told: Result<()>) {
    if let Err(error) = told {
        warn!(%error, "a plugin is against what has happened");
    }
}
