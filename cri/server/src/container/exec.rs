//! ExecSync: a program beside the container's first, run to its end.

use std::sync::Arc;
use std::time::Duration;

use windlass_cri_api::v1;
use windlass_engine::tasks::ExecSync;
use windlass_model::{Error, Result};

use super::plan::wrong;
use super::record::{Container, Rung};
use super::spec::build;
use super::start::{host, hostname};
use crate::Server;

/// How much of each stream is kept, in bytes, as containerd has it.
const LIMIT: usize = 16 * 1024 * 1024;

impl Server {
    /// Runs a program in a running container and answers what it wrote. A time-out kills it.
    pub(crate) async fn exec_sync(self: &Arc<Self>, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse> {
        check_command(&request.cmd)?;
        let seconds = u64::try_from(request.timeout).map_err(|_| wrong("timeout", "is negative"))?;
        let container = self.running_container(&request.container_id)?;
        let process = self.exec_process(&container, request.cmd, false)?;
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

    /// A container that runs.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::FailedPrecondition`] where it does not.
    pub(crate) fn running_container(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.containers.find(id)?;
        if container.rung != Rung::Running {
            return Err(Error::precondition(format!("container {} is not running", container.id)));
        }
        Ok(container)
    }

    /// The OCI process, as JSON, of a program that runs beside the first of `container`, as the same user and no freer.
    pub(crate) fn exec_process(&self, container: &Container, command: Vec<String>, terminal: bool) -> Result<Vec<u8>> {
        let pod = self.pods.find(container.pod.as_str())?;
        let mut process = build::process(container, host(), &hostname(&pod), command)?;
        process.set_terminal(Some(terminal));
        if terminal {
            let mut environment = process.env().clone().unwrap_or_default();
            if !environment.iter().any(|pair| pair.starts_with("TERM=")) {
                environment.push("TERM=xterm".into());
            }
            process.set_env(Some(environment));
        }
        let broken = |error| Error::internal(format!("write the process of an exec: {error}"));
        let wanted = container.adjustment()?;
        if wanted.is_none() && container.devices.is_empty() {
            return serde_json::to_vec(&process).map_err(broken);
        }
        let mut process = serde_json::to_value(&process).map_err(broken)?;
        if let Some(wanted) = wanted {
            crate::nri::apply_beside(&mut process, &wanted);
        }
        container.devices.apply(&mut process)?;
        serde_json::to_vec(&process).map_err(broken)
    }
}

/// Refuses what cannot be a program with its arguments.
pub(crate) fn check_command(command: &[String]) -> Result<()> {
    if command.first().is_none_or(String::is_empty) {
        return Err(wrong("cmd", "is empty"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(wrong("cmd", "holds a NUL byte"));
    }
    Ok(())
}
