//! UpdatePodSandboxResources: the limits of a pod as a whole.
//!
//! The kubelet makes the cgroup of its pods, changes it and then calls; what it says here is the sum of what containers
//! ask for, which is less than the whole truth where one of them has no limit. So its cgroups are left to it, and its
//! words are kept for those who ask. Where the pod's cgroup is ours the limits are set, too: first in the kernel.

use std::sync::Arc;

use serde_json::{Value, json};
use windlass_cri_api::v1;
use windlass_engine::Durability;
use windlass_model::{Error, Id, Result};
use windlass_sys::cgroup::{Layout, Limits};

use super::record::{Pod, Rung};
use super::{blocking, subject};
use crate::Server;
use crate::container::{host, limits};

impl Server {
    /// Changes the limits of a pod. Calls for one pod take turns.
    pub(crate) async fn update_pod_sandbox_resources(
        self: &Arc<Self>,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse> {
        let v1::UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } = request;
        let pod = self.pods.find(&pod_sandbox_id)?;
        for (field, asked) in [("overhead", &overhead), ("resources", &resources)] {
            if let Some(asked) = asked {
                limits::check(asked, field)?;
                limits::check_machine(asked, field, host())?;
            }
        }
        let (server, id) = (self.clone(), pod.id.clone());
        let update = async move { server.change_pod_limits(&id, overhead, resources).await };
        self.verbs.turn(subject(&pod.name), "update", update).await?;
        Ok(v1::UpdatePodSandboxResourcesResponse {})
    }

    async fn change_pod_limits(
        &self,
        id: &Id,
        overhead: Option<v1::LinuxContainerResources>,
        resources: Option<v1::LinuxContainerResources>,
    ) -> Result<()> {
        let pod = self.pods.find(id.as_str())?;
        if !pod.is_visible() {
            return Err(Error::not_found(format!("pod sandbox {id} is not up yet")));
        }
        self.nri_update_pod(&pod, overhead.as_ref(), resources.as_ref()).await?;
        let (old_overhead, old_resources) = pod.limits();
        let overhead = limits::merge(&old_overhead, &overhead.unwrap_or_default());
        let resources = limits::merge(&old_resources, &resources.unwrap_or_default());
        limits::check(&overhead, "overhead")?;
        limits::check(&resources, "resources")?;
        if pod.owns_cgroup && pod.rung == Rung::Ready {
            let (cgroup, whole) = (pod.cgroup_parent.clone(), whole(&resources, &overhead));
            blocking(move || Layout::detect()?.limit(&cgroup, &whole).map(drop)).await?;
        }
        let change = move |record: &mut windlass_engine::SandboxRecord| {
            let mut pod = Pod::of_record(record)?;
            pod.set_limits(overhead, resources);
            pod.revision += 1;
            pod.write_into(record)
        };
        let record = self.tenant.sandboxes().update(id, Durability::Crash, change).await?;
        let pod = self.pods.replace(Pod::of_record(&record)?);
        self.nri_updated_pod(&pod).await;
        Ok(())
    }
}

/// What the pod's cgroup is to have: what its containers may use, and what the pod costs beside them.
fn whole(resources: &v1::LinuxContainerResources, overhead: &v1::LinuxContainerResources) -> Limits {
    let unsigned = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    // Of no limit a part is no limit, and nothing said stays nothing.
    let sum = |of: i64, and: i64| if of > 0 { of.saturating_add(and.max(0)) } else { of };
    let given = |number: i64| Some(number).filter(|number| *number != 0);
    let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
    let overhead_period = if overhead.cpu_period > 0 { overhead.cpu_period } else { 100_000 };
    let overhead_quota = overhead.cpu_quota.max(0).saturating_mul(period) / overhead_period;
    let memory = sum(resources.memory_limit_in_bytes, overhead.memory_limit_in_bytes);
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Limits {
        cpu_shares: unsigned(sum(resources.cpu_shares, overhead.cpu_shares)),
        cpu_quota: given(sum(resources.cpu_quota, overhead_quota)),
        cpu_period: unsigned(resources.cpu_period),
        cpus: text(&resources.cpuset_cpus),
        mems: text(&resources.cpuset_mems),
        memory: given(memory),
        memory_swap: given(sum(resources.memory_swap_limit_in_bytes, overhead.memory_limit_in_bytes))
            .filter(|_| host().limits_swap && memory != 0),
        pids: None,
        hugepages: match host().limits_hugepages {
            true => resources.hugepage_limits.iter().map(|limit| (limit.page_size.clone(), limit.limit)).collect(),
            false => Vec::new(),
        },
        unified: resources.unified.clone().into_iter().collect(),
    }
}

/// Limits as `crictl inspectp` shows them; what was not asked for is left out.
pub(super) fn told(limits: &v1::LinuxContainerResources) -> Value {
    let mut told = serde_json::Map::new();
    for (name, number) in [
        ("cpuPeriod", limits.cpu_period),
        ("cpuQuota", limits.cpu_quota),
        ("cpuShares", limits.cpu_shares),
        ("memoryLimitInBytes", limits.memory_limit_in_bytes),
        ("memorySwapLimitInBytes", limits.memory_swap_limit_in_bytes),
    ] {
        if number != 0 {
            told.insert(name.into(), number.into());
        }
    }
    for (name, list) in [("cpusetCpus", &limits.cpuset_cpus), ("cpusetMems", &limits.cpuset_mems)] {
        if !list.is_empty() {
            told.insert(name.into(), list.clone().into());
        }
    }
    if !limits.unified.is_empty() {
        told.insert("unified".into(), json!(limits.unified));
    }
    told.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::record::tests::pod;

    #[test]
    fn a_pods_whole_is_its_containers_and_its_overhead() {
        let resources = v1::LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 1000,
            ..Default::default()
        };
        let overhead = v1::LinuxContainerResources {
            cpu_shares: 10,
            cpu_quota: 5_000,
            cpu_period: 50_000,
            memory_limit_in_bytes: 24,
            ..Default::default()
        };
        let limits = whole(&resources, &overhead);
        assert_eq!((limits.cpu_shares, limits.cpu_quota, limits.memory), (Some(522), Some(60_000), Some(1024)));
        let unlimited = v1::LinuxContainerResources { memory_limit_in_bytes: -1, ..Default::default() };
        let limits = whole(&unlimited, &overhead);
        assert_eq!((limits.cpu_shares, limits.cpu_quota, limits.memory), (None, None, Some(-1)));
        assert_eq!(whole(&Default::default(), &overhead), Limits::default());
    }

    #[test]
    fn limits_are_kept_in_the_record() {
        let mut pod = pod(Rung::Ready);
        let limits = v1::LinuxContainerResources { cpu_shares: 5, ..Default::default() };
        pod.set_limits(Default::default(), limits.clone());
        let again = Pod::of_record(&pod.to_record().unwrap()).unwrap();
        assert_eq!(again.limits(), (Default::default(), limits.clone()));
        assert_eq!(told(&limits), json!({"cpuShares": 5}));
    }
}
