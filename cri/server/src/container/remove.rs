//! RemoveContainer: down from wherever it is, running or not.

use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::Result;

use crate::Server;

impl Server {
    /// Removes a container, killing it where it runs; one that is unknown is removed. Its log stays: that is the
    /// kubelet's.
    pub(crate) async fn remove_container(
        self: &Arc<Self>,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse> {
        let container = match self.containers.find(&request.container_id) {
            Ok(container) => container,
            Err(error) if error.is_not_found() => return Ok(v1::RemoveContainerResponse {}),
            Err(error) => return Err(error),
        };
        let (server, id) = (self.clone(), container.id.clone());
        let remove = async move { server.down_container(&id).await };
        self.verbs.join(super::subject(&container.id), "remove", remove).await?;
        Ok(v1::RemoveContainerResponse {})
    }
}
