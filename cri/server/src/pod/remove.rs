//! RemovePodSandbox: down the ladder, and the records go too.

use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::Result;

use super::subject;
use crate::Server;

impl Server {
    /// Removes a pod with its containers, running or not. An unknown pod is success.
    pub(crate) async fn remove_pod_sandbox(
        self: &Arc<Self>,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse> {
        let pod = match self.pods.find(&request.pod_sandbox_id) {
            Err(error) if error.is_not_found() => return Ok(v1::RemovePodSandboxResponse {}),
            found => found?,
        };
        let (server, id) = (self.clone(), pod.id.clone());
        let work = async move {
            match server.clear_pod(&id).await {
                Err(error) if server.pods.find(id.as_str()).is_err_and(|gone| gone.is_not_found()) => {
                    tracing::debug!(pod = %id, %error, "removed meanwhile");
                    Ok(())
                }
                done => done,
            }
        };
        self.verbs.join(subject(&pod.name), "remove", work).await?;
        Ok(v1::RemovePodSandboxResponse {})
    }
}
