//! ContainerStatus and ListContainers, from memory.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use windlass_cri_api::v1;
use windlass_model::{Error, Id, Result};

use super::{Container, image_volume, require, signal};
use crate::Server;

impl Server {
    /// Everything about one container.
    pub(crate) async fn container_status(
        self: &Arc<Self>,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse> {
        let container = self.containers.find(&request.container_id)?;
        if !container.is_visible() {
            return Err(Error::not_found(format!("container {} is not made yet", container.id)));
        }
        let info = if request.verbose { self.container_info(&container) } else { HashMap::new() };
        Ok(v1::ContainerStatusResponse { status: Some(status(&container)), info })
    }

    /// The containers that pass a filter, oldest first.
    pub(crate) async fn list_containers(
        self: &Arc<Self>,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse> {
        Ok(v1::ListContainersResponse { containers: self.containers_passing(request.filter)?.collect() })
    }

    /// What a list or a stream has: a snapshot, put into words one by one.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] naming the part of the filter.
    pub(crate) fn containers_passing(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<impl Iterator<Item = v1::Container> + use<>> {
        let filter = filter.unwrap_or_default();
        let known = filter.state.is_none_or(|state| v1::ContainerState::try_from(state.state).is_ok());
        require(known, "filter.state", "is unknown")?;
        let mut all = self.containers.all();
        all.retain(|container| container.is_visible() && passes(container, &filter));
        Ok(all.into_iter().map(|container| item(&container)))
    }

    /// The status of each container of a pod, oldest first.
    pub(crate) async fn container_statuses_of(&self, pod: &Id) -> Vec<v1::ContainerStatus> {
        let all = self.containers.of_pod(pod);
        all.iter().filter(|container| container.is_visible()).map(|container| status(container)).collect()
    }

    /// What a person who debugs wants to see.
    fn container_info(&self, container: &Arc<Container>) -> HashMap<String, String> {
        let bundle = self.tenant.core().state().join("bundles").join(self.tenant.namespace()).join(&container.id);
        let spec: Value = std::fs::read(bundle.join("config.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Value::Null);
        let info = json!({
            "sandboxID": container.pod.as_str(),
            "pid": container.pid,
            "rung": container.rung,
            "timeline": self.timelines.told(&container.id),
            "runtimeType": container.handler,
            "snapshotKey": container.id.as_str(),
            "snapshotter": container.snapshotter,
            "runtimeSpec": spec,
        });
        HashMap::from([("info".into(), info.to_string())])
    }
}

/// True where a container is what `filter` asks for.
pub(super) fn passes(container: &Container, filter: &v1::ContainerFilter) -> bool {
    let labels = &container.config.labels;
    container.id.as_str().starts_with(&filter.id)
        && container.pod.as_str().starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|asked| asked.state == container.state() as i32)
        && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The image as the user named it, or its id.
fn image(container: &Container) -> v1::ImageSpec {
    let asked = container.config.image.clone().unwrap_or_default();
    let named = if asked.user_specified_image.is_empty() { &asked.image } else { &asked.user_specified_image };
    v1::ImageSpec { image: named.clone(), image_ref: container.image_id.clone(), ..asked }
}

/// A container as lists have it.
fn item(container: &Container) -> v1::Container {
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        metadata: container.config.metadata.clone(),
        image: Some(image(container)),
        image_ref: container.image_ref.clone(),
        state: container.state() as i32,
        created_at: container.created_at.nanos(),
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        image_id: container.image_id.clone(),
    }
}

/// A container in full.
fn status(container: &Container) -> v1::ContainerStatus {
    let config = &container.config;
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
    let user = v1::LinuxContainerUser {
        uid: container.user.uid.into(),
        gid: container.user.gid.into(),
        supplemental_groups: container.user.groups.iter().map(|group| i64::from(*group)).collect(),
    };
    v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: config.metadata.clone(),
        state: container.state() as i32,
        created_at: container.created_at.nanos(),
        started_at: container.started_at.nanos(),
        finished_at: container.end.as_ref().map_or(0, |end| end.at.nanos()),
        exit_code: container.end.as_ref().map_or(0, |end| end.code),
        image: Some(image(container)),
        image_ref: container.image_ref.clone(),
        reason: container.reason().to_owned(),
        message: container.end.as_ref().map(|end| end.message.clone()).unwrap_or_default(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: image_volume::mounts(container),
        log_path: container.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: resources.map(|linux| v1::ContainerResources { linux: Some(linux), windows: None }),
        image_id: container.image_id.clone(),
        user: Some(v1::ContainerUser { linux: Some(user) }),
        stop_signal: signal::word(container.stop_signal) as i32,
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::Timestamp;

    use super::super::record::{End, Rung, Step, tests::container};
    use super::*;

    #[test]
    fn a_status_is_filled() {
        let mut one = container(Rung::Running);
        one.started_at = Timestamp(5);
        one.config.image = Some(v1::ImageSpec {
            image: "sha256:00".into(),
            user_specified_image: "busybox:1".into(),
            ..Default::default()
        });
        let end = End { code: 3, at: Timestamp(9), reason: String::new(), message: "why".into() };
        one.advance(Step::Exit(end)).unwrap();
        let status = status(&one);
        assert_eq!((status.created_at, status.started_at, status.finished_at), (1, 5, 9));
        assert_eq!((status.exit_code, status.reason.as_str(), status.message.as_str()), (3, "Error", "why"));
        assert_eq!(status.image.unwrap().image, "busybox:1");
        assert_eq!(status.image_id, item(&one).image_id);
        assert_eq!(status.stop_signal, v1::Signal::Sigterm as i32);
    }

    #[test]
    fn filters_are_all_met() {
        let mut one = container(Rung::Running);
        one.config.labels.insert("a".into(), "b".into());
        let filter = |change: fn(&mut v1::ContainerFilter)| {
            let mut filter = v1::ContainerFilter::default();
            change(&mut filter);
            filter
        };
        assert!(passes(&one, &filter(|_| ())));
        assert!(passes(&one, &filter(|f| f.state = Some(v1::ContainerStateValue { state: 1 }))));
        assert!(!passes(&one, &filter(|f| f.state = Some(v1::ContainerStateValue { state: 2 }))));
        assert!(!passes(&one, &filter(|f| f.pod_sandbox_id = "other".into())));
        assert!(passes(&one, &filter(|f| drop(f.label_selector.insert("a".into(), "b".into())))));
        assert!(!passes(&one, &filter(|f| drop(f.label_selector.insert("a".into(), "c".into())))));
        assert!(!passes(&one, &filter(|f| f.id = "c2".into())));
    }
}
