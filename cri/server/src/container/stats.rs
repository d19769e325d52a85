//! ContainerStats and ListContainerStats: what containers use.

use std::collections::HashMap;
use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::{Id, Result};

use super::record::Rung;
use super::spec::resources::cgroup_path;
use super::status::passes;
use super::{Container, Server};
use crate::stats::{self, Depth, Measure, Reading, Target};

/// What was found out about some containers at one time.
pub(crate) struct Found {
    pub(crate) readings: HashMap<Id, Arc<Reading>>,
    measures: HashMap<(String, String), Measure>,
}

impl Server {
    /// What one container uses; of one that does not run, what its own layer takes.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub(crate) async fn container_stats(
        self: &Arc<Self>,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse> {
        let container = self.containers.find(&request.container_id)?;
        let mut stats = self.stats_of_containers(&[container]).await?;
        Ok(v1::ContainerStatsResponse { stats: stats.pop() })
    }

    /// The same of all containers that pass a filter, oldest first.
    pub(crate) async fn list_container_stats(
        self: &Arc<Self>,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse> {
        Ok(v1::ListContainerStatsResponse { stats: self.container_stats_passing(request.filter).await? })
    }

    /// What a list or a stream has.
    pub(crate) async fn container_stats_passing(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>> {
        let v1::ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter.unwrap_or_default();
        let filter = v1::ContainerFilter { id, pod_sandbox_id, label_selector, state: None };
        let mut containers = self.containers.all();
        containers.retain(|container| container.is_visible() && passes(container, &filter));
        self.stats_of_containers(&containers).await
    }

    async fn stats_of_containers(&self, containers: &[Arc<Container>]) -> Result<Vec<v1::ContainerStats>> {
        let found = self.look_at(containers, Vec::new(), Depth::Usage).await?;
        Ok(containers.iter().map(|container| self.stats_of(container, &found)).collect())
    }

    /// Reads containers and pods in one pass, and asks for the containers' layers.
    pub(crate) async fn look_at(
        &self,
        containers: &[Arc<Container>],
        pods: Vec<Target>,
        depth: Depth,
    ) -> Result<Found> {
        let running = containers.iter().filter(|container| container.rung == Rung::Running);
        let targets = running.map(|container| self.container_target(container)).chain(pods).collect();
        let keys: Vec<_> = containers.iter().map(|container| layer_key(container)).collect();
        let (readings, measures) =
            tokio::join!(self.stats.read(targets, depth), self.stats.layers.measures(&self.tenant, &keys));
        Ok(Found { readings: readings?, measures })
    }

    /// One container's part of what was found.
    pub(crate) fn stats_of(&self, container: &Container, found: &Found) -> v1::ContainerStats {
        let reading = found.readings.get(&container.id).map(AsRef::as_ref);
        let measure = found.measure(container);
        v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: container.id.to_string(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            cpu: reading.map(stats::cpu),
            memory: reading.and_then(stats::memory),
            writable_layer: measure.map(|measure| stats::layer(measure, self.layers_on(&container.snapshotter))),
            swap: reading.and_then(stats::swap),
            io: reading.and_then(stats::io),
        }
    }

    /// The folder that names the file system on which a driver keeps its layers.
    pub(crate) fn layers_on(&self, driver: &str) -> String {
        self.tenant.core().root().join("snapshots").join(driver).display().to_string()
    }

    /// The containers whose programs run.
    pub(crate) fn running(&self) -> Vec<Arc<Container>> {
        let mut all = self.containers.all();
        all.retain(|container| container.rung == Rung::Running);
        all
    }

    /// What is to be read of a container.
    pub(crate) fn container_target(&self, container: &Container) -> Target {
        Target {
            id: container.id.clone(),
            cgroup: self.cgroup_of(container),
            began: Some(container.started_at),
            init: container.pid,
            network: None,
        }
    }

    /// The cgroup of a container, in the words of the configured driver.
    pub(crate) fn cgroup_of(&self, container: &Container) -> String {
        let parent = self.pods.find(container.pod.as_str()).map(|pod| pod.cgroup_parent.clone()).unwrap_or_default();
        cgroup_path(self.config.cgroup_driver, &parent, &container.id).display().to_string()
    }
}

impl Found {
    /// What a container's own layer takes, where that was measured.
    pub(crate) fn measure(&self, container: &Container) -> Option<Measure> {
        self.measures.get(&layer_key(container)).copied()
    }
}

fn layer_key(container: &Container) -> (String, String) {
    (container.snapshotter.clone(), container.id.to_string())
}
