//! RunPodSandbox: up the ladder, once for each name.

use std::sync::Arc;

use tracing::{info, warn};
use windlass_cri_api::v1;
use windlass_model::{Id, Kind, Result};

use super::plan::PodPlan;
use super::subject;
use crate::Server;

impl Server {
    /// Runs a pod. A retry joins the run that is under way; a pod of that name that is ready is the answer; the broken
    /// rest of one is cleared away first.
    pub(crate) async fn run_pod_sandbox(
        self: &Arc<Self>,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse> {
        let plan = PodPlan::new(request, &self.config)?;
        self.selinux.check(plan.selinux().options)?;
        let (server, name) = (self.clone(), plan.name.clone());
        let id: Id = self.verbs.join(subject(&name), "run", async move { server.run_pod(plan).await }).await?;
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.into() })
    }

    async fn run_pod(self: &Arc<Self>, plan: PodPlan) -> Result<Id> {
        if let Some(known) = self.pods.named(&plan.name) {
            if self.is_ready(&known).await {
                return Ok(known.id.clone());
            }
            info!(pod = %known.id, rung = ?known.rung, "clear the broken pod of the same name");
            self.clear_pod(&known.id).await?;
        }
        let (id, name) = (self.reserve_pod(&plan).await?.id.clone(), plan.name.clone());
        match self.climb(&id, plan).await {
            Ok(_) => Ok(id),
            Err(error) if error.kind() == Kind::DeadlineExceeded => {
                // A plugin that hangs in ADD hangs in DEL, too. The caller has waited long enough; its next try for this
                // pod waits for the end of this.
                let (server, left) = (self.clone(), id.clone());
                self.verbs.begin(subject(&name), "clear", async move {
                    let done = server.clear_pod(&left).await;
                    done.inspect_err(|error| warn!(pod = %left, %error, "a pod that did not come up is not all down"))
                });
                Err(error)
            }
            Err(error) => {
                if let Err(left) = self.clear_pod(&id).await {
                    // It stays on the list, so that the kubelet asks for its removal.
                    warn!(pod = %id, error = %left, "a pod that did not come up is not all down");
                }
                Err(error)
            }
        }
    }
}
