//! StopPodSandbox: down the ladder; the records stay.

use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::Result;

use super::subject;
use crate::Server;

impl Server {
    /// Stops a pod and all in it, and takes it off the network. A pod that is stopped or unknown is success.
    pub(crate) async fn stop_pod_sandbox(
        self: &Arc<Self>,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse> {
        let pod = match self.pods.find(&request.pod_sandbox_id) {
            Err(error) if error.is_not_found() => return Ok(v1::StopPodSandboxResponse {}),
            found => found?,
        };
        let (server, id) = (self.clone(), pod.id.clone());
        let work = async move {
            match server.bring_down(&id).await {
                Err(error) if server.pods.find(id.as_str()).is_err_and(|gone| gone.is_not_found()) => {
                    tracing::debug!(pod = %id, %error, "removed meanwhile");
                    Ok(())
                }
                done => done.map(drop),
            }
        };
        self.verbs.join(subject(&pod.name), "stop", work).await?;
        Ok(v1::StopPodSandboxResponse {})
    }
}
