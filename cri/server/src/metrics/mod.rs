//! ListMetricDescriptors and ListPodSandboxMetrics: what cAdvisor tells of containers, told by the runtime.
//!
//! The families are a table ([`families`]); each has the function that reads its values from what one pass over the
//! cgroups found. Names, units and types are cAdvisor's. A value is a whole number: seconds are cut.

mod families;
mod sources;

use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::{Result, Timestamp};

use crate::Server;
use crate::container::{Container, Found};
use crate::pod::Family as Pod;
use crate::stats::Depth;
use families::{CONTAINER, Family, POD};
use sources::{Disk, OfContainer, OfPod};

/// The labels that every series has, first.
const BASE: [&str; 6] = ["id", "name", "image", "pod", "namespace", "container"];

/// The values of one series after another, as a family's function finds them.
#[derive(Default)]
pub(crate) struct Values(Vec<(u64, Vec<String>)>);

impl Values {
    /// The only value of a family.
    fn one(&mut self, value: u64) {
        self.0.push((value, Vec::new()));
    }

    /// One of many values, with the values of the family's own labels.
    fn labelled<const N: usize>(&mut self, value: u64, labels: [&str; N]) {
        self.0.push((value, labels.map(str::to_owned).to_vec()));
    }
}

impl Server {
    /// The families that [`Server::list_pod_sandbox_metrics`] may answer.
    pub(crate) async fn list_metric_descriptors(
        self: &Arc<Self>,
        _request: v1::ListMetricDescriptorsRequest,
    ) -> Result<v1::ListMetricDescriptorsResponse> {
        let descriptors = POD.iter().map(Family::descriptor).chain(CONTAINER.iter().map(Family::descriptor));
        Ok(v1::ListMetricDescriptorsResponse { descriptors: descriptors.collect() })
    }

    /// The metrics of all ready pods and of their running containers.
    pub(crate) async fn list_pod_sandbox_metrics(
        self: &Arc<Self>,
        _request: v1::ListPodSandboxMetricsRequest,
    ) -> Result<v1::ListPodSandboxMetricsResponse> {
        Ok(v1::ListPodSandboxMetricsResponse { pod_metrics: self.pod_metrics().await? })
    }

    /// What the list or the stream has.
    pub(crate) async fn pod_metrics(&self) -> Result<Vec<v1::PodSandboxMetrics>> {
        let pods = self.families(self.ready_pods()).await;
        let found = self.look_at_families(&pods, Depth::Everything).await?;
        let disk = Disk::look(self.layers_on(&self.config.snapshotter)).await.map(Arc::new);
        Ok(pods.iter().map(|pod| self.metrics_of(pod, &found, disk.as_ref())).collect())
    }

    fn metrics_of(&self, family: &Pod, found: &Found, disk: Option<&Arc<Disk>>) -> v1::PodSandboxMetrics {
        let pod = &family.pod;
        let metadata = pod.metadata();
        let id = path_of(&self.cgroup_of_pod(pod));
        let labels = [&id, pod.id.as_str(), "", &metadata.name, &metadata.namespace, ""].map(str::to_owned);
        let source = found.readings.get(&pod.id).map(|reading| OfPod { reading: reading.clone() });
        let metrics = source.map(|source| series(POD, &labels, source.reading.at, &source));
        let running = family.containers.iter().filter_map(|one| Some((one, OfContainer::new(one, found, disk)?)));
        let container_metrics = running.map(|(container, source)| v1::ContainerMetrics {
            container_id: container.id.to_string(),
            metrics: series(CONTAINER, &self.labels_of(container, &metadata), source.at, &source),
        });
        v1::PodSandboxMetrics {
            pod_sandbox_id: pod.id.to_string(),
            metrics: metrics.unwrap_or_default(),
            container_metrics: container_metrics.collect(),
        }
    }

    fn labels_of(&self, container: &Container, pod: &v1::PodSandboxMetadata) -> [String; 6] {
        let config = &container.config;
        let image = config.image.as_ref().map(|image| match image.user_specified_image.as_str() {
            "" => image.image.clone(),
            named => named.to_owned(),
        });
        [
            path_of(&self.cgroup_of(container)),
            container.id.to_string(),
            image.unwrap_or_default(),
            pod.name.clone(),
            pod.namespace.clone(),
            config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default(),
        ]
    }
}

/// A cgroup as cAdvisor names it: its path from the root of the hierarchy.
fn path_of(cgroup: &str) -> String {
    windlass_sys::cgroup::relative(cgroup).map(|path| format!("/{}", path.display())).unwrap_or_default()
}

/// All that the families of a table say of one source.
fn series<S>(table: &[Family<S>], base: &[String; 6], at: Timestamp, source: &S) -> Vec<v1::Metric> {
    let mut metrics = Vec::with_capacity(table.len() + table.len() / 4);
    for family in table {
        let mut values = Values::default();
        (family.read)(source, &mut values);
        metrics.extend(values.0.into_iter().map(|(value, labels)| v1::Metric {
            name: family.name.into(),
            timestamp: at.nanos(),
            metric_type: family.kind.into(),
            label_values: base.iter().cloned().chain(labels).collect(),
            value: Some(v1::UInt64Value { value }),
        }));
    }
    metrics
}

#[cfg(test)]
mod tests;
