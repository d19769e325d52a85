//! ExecSync: a program beside the container's first, run to its end.

use std::sync::Arc;
use std::time::Duration;

use windlass_cri_api::v1;
use windlass_engine::tasks::ExecSync;
use windlass_model::{Error, Result};

use super::plan::wrong;
use super::record::Rung;
use super::spec::build;
use super::start::{host, hostname};
use crate::Server;

/// How much of each stream is kept, in bytes, as containerd has it.
const LIMIT: usize = 16 * 1024 * 1024;

impl Server {
    /// Runs a program in a running container and answers what it wrote. A time-out kills it.
    pub(crate) async fn exec_sync(self: &Arc<Self>, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse> {
        if request.cmd.is_empty() {
            return Err(wrong("cmd", "is empty"));
        }
        if request.cmd.iter().any(|word| word.contains('\0')) {
            return Err(wrong("cmd", "holds a NUL byte"));
        }
        let container = self.containers.find(&request.container_id)?;
        if container.rung != Rung::Running {
            return Err(Error::precondition(format!("container {} is not running", container.id)));
        }
        let pod = self.pods.find(container.pod.as_str())?;
        let mut process = build::process(&container, host(), &hostname(&pod), request.cmd)?;
        process.set_terminal(Some(false));
        let process = serde_json::to_vec(&process)
            .map_err(|error| Error::internal(format!("write the process of an exec: {error}")))?;
        let seconds = u64::try_from(request.timeout).unwrap_or_default();
        let done = self
            .tenant
            .tasks()
            .exec_sync(ExecSync {
                container: container.id.clone(),
                process,
                timeout: (seconds > 0).then(|| Duration::from_secs(seconds)),
                limit: LIMIT,
            })
            .await?;
        Ok(v1::ExecSyncResponse {
            stdout: done.stdout,
            stderr: done.stderr,
            exit_code: i32::try_from(done.exit.status).unwrap_or(i32::MAX),
        })
    }
}
