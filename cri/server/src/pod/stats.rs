//! PodSandboxStats and ListPodSandboxStats: what pods use, with their containers.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use windlass_cri_api::v1;
use windlass_model::{Error, Id, Result, Timestamp};

use super::record::Pod;
use super::{Rung, Server};
use crate::container::{Container, Found};
use crate::stats::{self, Depth, Target, Witness};

/// A pod that is up, with its containers.
pub(crate) struct Family {
    pub(crate) pod: Arc<Pod>,
    pub(crate) containers: Vec<Arc<Container>>,
}

impl Server {
    /// What one pod uses.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::Unavailable`] where the pod is not ready: it has nothing
    /// that could be read.
    pub(crate) async fn pod_sandbox_stats(
        self: &Arc<Self>,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse> {
        let pod = self.pods.find(&request.pod_sandbox_id)?;
        let families = self.families(vec![pod.clone()]).await;
        let mut stats = self.stats_of_pods(&families).await?;
        match stats.pop() {
            Some(stats) => Ok(v1::PodSandboxStatsResponse { stats: Some(stats) }),
            None => Err(Error::unavailable(format!("pod sandbox {} is not ready", pod.id))),
        }
    }

    /// What all pods use that are ready and pass a filter, oldest first.
    pub(crate) async fn list_pod_sandbox_stats(
        self: &Arc<Self>,
        request: v1::ListPodSandboxStatsRequest,
    ) -> Result<v1::ListPodSandboxStatsResponse> {
        Ok(v1::ListPodSandboxStatsResponse { stats: self.pod_stats_passing(request.filter).await? })
    }

    /// What a list or a stream has.
    pub(crate) async fn pod_stats_passing(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>> {
        let filter = filter.unwrap_or_default();
        let families = self.families(self.pods_named(&filter.id, &filter.label_selector)).await;
        self.stats_of_pods(&families).await
    }

    /// Those of the pods that are ready, each with its containers.
    pub(crate) async fn families(&self, pods: Vec<Arc<Pod>>) -> Vec<Family> {
        let ready = join_all(pods.iter().map(|pod| self.is_ready(pod))).await;
        let pods = pods.into_iter().zip(ready).filter_map(|(pod, ready)| ready.then_some(pod));
        let mut of_pod: HashMap<Id, Vec<Arc<Container>>> = HashMap::new();
        for container in self.containers.all().into_iter().filter(|container| container.is_visible()) {
            of_pod.entry(container.pod.clone()).or_default().push(container);
        }
        pods.map(|pod| Family { containers: of_pod.remove(&pod.id).unwrap_or_default(), pod }).collect()
    }

    /// Reads pods and containers in one pass.
    pub(crate) async fn look_at_families(&self, families: &[Family], depth: Depth) -> Result<Found> {
        let containers: Vec<_> = families.iter().flat_map(|family| family.containers.iter().cloned()).collect();
        let pods = families.iter().map(|family| self.pod_target(&family.pod, &family.containers)).collect();
        self.look_at(&containers, pods, depth).await
    }

    async fn stats_of_pods(&self, families: &[Family]) -> Result<Vec<v1::PodSandboxStats>> {
        let found = self.look_at_families(families, Depth::Usage).await?;
        Ok(families.iter().map(|family| self.stats_of_family(family, &found)).collect())
    }

    fn stats_of_family(&self, family: &Family, found: &Found) -> v1::PodSandboxStats {
        let pod = &family.pod;
        let mut reading = found.readings.get(&pod.id).cloned();
        if !super::cgroup::holds_containers(pod) {
            let containers = family.containers.iter().filter_map(|one| found.readings.get(&one.id));
            reading = reading.map(|reading| Arc::new(reading.with(containers.map(AsRef::as_ref))));
        }
        let reading = reading.as_deref();
        let threads =
            family.containers.iter().filter_map(|one| found.readings.get(&one.id)).map(|one| one.usage.pids).sum();
        v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: pod.id.to_string(),
                metadata: Some(pod.metadata()),
                labels: pod.config.labels.clone(),
                annotations: pod.config.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: reading.map(stats::cpu),
                memory: reading.and_then(stats::memory),
                network: reading.and_then(stats::network),
                // Those of the containers: the shim is no process of the pod's.
                process: Some(v1::ProcessUsage {
                    timestamp: reading.map_or_else(Timestamp::now, |reading| reading.at).nanos(),
                    process_count: Some(v1::UInt64Value { value: threads }),
                }),
                containers: family.containers.iter().map(|container| self.stats_of(container, found)).collect(),
                io: reading.and_then(stats::io),
            }),
            windows: None,
        }
    }

    /// The pods whose record says that they are up.
    pub(crate) fn ready_pods(&self) -> Vec<Arc<Pod>> {
        let mut all = self.pods.all();
        all.retain(|pod| pod.rung == Rung::Ready);
        all
    }

    /// What is to be read of a pod. `containers` are its own.
    pub(crate) fn pod_target(&self, pod: &Pod, containers: &[Arc<Container>]) -> Target {
        let witness = Witness {
            shim: self.bundle_of(&pod.id).join("shim.pid"),
            container: containers.iter().map(|container| container.pid).find(|pid| *pid != 0).unwrap_or(0),
        };
        Target {
            id: pod.id.clone(),
            cgroup: self.cgroup_of_pod(pod),
            began: pod.owns_cgroup.then_some(pod.created_at),
            init: 0,
            network: (!pod.on_host_network()).then_some(witness),
        }
    }

    /// The cgroup of a pod.
    pub(crate) fn cgroup_of_pod(&self, pod: &Pod) -> String {
        super::cgroup::whole(pod, self.config.cgroup_driver)
    }

    fn bundle_of(&self, pod: &Id) -> std::path::PathBuf {
        self.tenant.core().state().join("bundles").join(self.tenant.namespace()).join(pod)
    }
}
