//! ReopenContainerLog: after the kubelet renamed the file.

use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::{Error, Result};

use super::record::Rung;
use crate::Server;

impl Server {
    /// Has the shim open the container's log anew.
    pub(crate) async fn reopen_container_log(
        self: &Arc<Self>,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse> {
        let container = self.containers.find(&request.container_id)?;
        if container.rung != Rung::Running {
            return Err(Error::precondition(format!("container {} is not running", container.id)));
        }
        if container.log_path.is_some() {
            self.tenant.tasks().reopen_log(&container.id).await?;
        }
        Ok(v1::ReopenContainerLogResponse {})
    }
}
