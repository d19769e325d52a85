//! PodSandboxStatus and ListPodSandbox: what the records say, and whether the shim lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::time::timeout;
use windlass_cri_api::v1;
use windlass_model::{Error, Result, Timestamp};

use super::record::Pod;
use crate::Server;
use crate::container::require;

/// How long a verbose status waits for the plugins' CHECK.
const CHECK: Duration = Duration::from_secs(5);

impl Server {
    /// One pod's status.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`], also while the pod is still coming up.
    pub(crate) async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse> {
        let pod = self.pods.find(&request.pod_sandbox_id)?;
        if !pod.is_visible() {
            return Err(Error::not_found(format!("pod sandbox {} is not up yet", pod.id)));
        }
        let timestamp = Timestamp::now().nanos();
        let state = self.pod_state(&pod).await;
        let info = if request.verbose { self.pod_info(&pod).await } else { HashMap::new() };
        Ok(v1::PodSandboxStatusResponse {
            status: Some(status(&pod, state)),
            info,
            containers_statuses: self.container_statuses_of(&pod.id).await,
            timestamp,
        })
    }

    /// The pods that a filter lets through, oldest first.
    pub(crate) async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse> {
        Ok(v1::ListPodSandboxResponse { items: self.pods_passing(request.filter).await?.collect() })
    }

    /// What a list or a stream has: a snapshot, put into words one by one.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] naming the part of the filter.
    pub(crate) async fn pods_passing(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<impl Iterator<Item = v1::PodSandbox> + use<>> {
        let filter = filter.unwrap_or_default();
        let known = filter.state.is_none_or(|state| v1::PodSandboxState::try_from(state.state).is_ok());
        require(known, "filter.state", "is unknown")?;
        let pods = self.pods_named(&filter.id, &filter.label_selector);
        let states = join_all(pods.iter().map(|pod| self.pod_state(pod))).await;
        let wanted = filter.state.map(|wanted| wanted.state);
        let items = pods.into_iter().zip(states);
        let items = items.filter(move |(_, state)| wanted.is_none_or(|wanted| wanted == *state as i32));
        Ok(items.map(|(pod, state)| item(&pod, state)))
    }

    /// The pods with an id, or all, that have some labels; oldest first.
    pub(crate) fn pods_named(&self, id: &str, labels: &HashMap<String, String>) -> Vec<Arc<Pod>> {
        let mut pods = match id {
            "" => self.pods.all(),
            // What is not there, or not the only one, is not on the list.
            id => self.pods.find(id).into_iter().collect(),
        };
        pods.retain(|pod| pod.is_visible() && has_labels(pod, labels));
        pods
    }

    /// What a status says of a pod, ready or not.
    pub(crate) async fn status_of_pod(&self, pod: &Pod) -> v1::PodSandboxStatus {
        status(pod, self.pod_state(pod).await)
    }

    async fn pod_state(&self, pod: &Pod) -> v1::PodSandboxState {
        match self.is_ready(pod).await {
            true => v1::PodSandboxState::SandboxReady,
            false => v1::PodSandboxState::SandboxNotready,
        }
    }

    /// What `crictl inspectp` shows beyond the status.
    async fn pod_info(&self, pod: &Arc<Pod>) -> HashMap<String, String> {
        let metadata = pod.metadata();
        let pid = self.tenant.tasks().sandbox_pid(&pod.id).await.unwrap_or(0);
        let netns = pod.attachment.as_ref().map(|attachment| &attachment.netns);
        let check = match &pod.attachment {
            Some(attachment) => timeout(CHECK, self.network.check(&pod.id, attachment)).await,
            None => Ok(Ok(())),
        };
        let check = match check {
            Ok(Ok(())) => "ok".to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("took longer than {CHECK:?}"),
        };
        let (overhead, resources) = pod.limits();
        let info = json!({
            "overhead": super::update::told(&overhead),
            "resources": super::update::told(&resources),
            "pid": pid,
            "rung": pod.rung,
            "timeline": self.timelines.told(&pod.id),
            "runtimeHandler": pod.handler,
            "cgroupParent": pod.cgroup_parent,
            "netns": netns,
            "netnsClosed": netns.is_some_and(|path| !windlass_sys::netns::is_pinned(path)),
            "network": pod.attachment.as_ref().map(|attachment| &attachment.list.name),
            "cniCheck": check,
            "cniResult": pod.attachment.as_ref().and_then(|attachment| attachment.result.as_ref()),
            "files": super::PodFiles::of(&self.config.state, &pod.id).folder,
            "config": {
                "metadata": {
                    "name": metadata.name,
                    "namespace": metadata.namespace,
                    "uid": metadata.uid,
                    "attempt": metadata.attempt,
                },
                "hostname": pod.config.hostname,
                "log_directory": pod.config.log_directory,
                "labels": pod.config.labels,
                "annotations": pod.config.annotations,
            },
        });
        HashMap::from([("info".to_string(), info.to_string())])
    }
}

fn has_labels(pod: &Pod, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| pod.config.labels.get(key) == Some(value))
}

fn item(pod: &Pod, state: v1::PodSandboxState) -> v1::PodSandbox {
    v1::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(pod.metadata()),
        state: state.into(),
        created_at: pod.created_at.nanos(),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.asked_handler.clone(),
    }
}

fn status(pod: &Pod, state: v1::PodSandboxState) -> v1::PodSandboxStatus {
    let mut addresses = pod.addresses().into_iter().map(|address| address.to_string());
    let network = v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    };
    let namespaces = v1::Namespace { options: Some(pod.namespaces()) };
    v1::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(pod.metadata()),
        state: state.into(),
        created_at: pod.created_at.nanos(),
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.asked_handler.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Rung;
    use crate::pod::record::tests::pod;

    #[test]
    fn labels_select() {
        let mut pod = pod(Rung::Ready);
        pod.config.labels = HashMap::from([("a".to_string(), "1".to_string()), ("b".to_string(), "2".to_string())]);
        let wanted = |key: &str, value: &str| HashMap::from([(key.to_string(), value.to_string())]);
        assert!(has_labels(&pod, &HashMap::new()) && has_labels(&pod, &wanted("a", "1")));
        assert!(!has_labels(&pod, &wanted("a", "2")) && !has_labels(&pod, &wanted("c", "")));
    }

    #[test]
    fn a_status_has_what_the_kubelet_needs() {
        let ready = status(&pod(Rung::Ready), v1::PodSandboxState::SandboxReady);
        let metadata = ready.metadata.unwrap();
        assert_eq!((ready.id.as_str(), metadata.name.as_str(), ready.created_at), ("p1", "p", 1));
        assert_eq!(ready.network.unwrap().ip, "");
        assert!(ready.linux.unwrap().namespaces.unwrap().options.is_some());
    }
}
