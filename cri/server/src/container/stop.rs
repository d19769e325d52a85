//! StopContainer: asks, waits, kills. Each call has its own patience, so a later, shorter one ends the wait earlier.

use std::sync::Arc;
use std::time::Duration;

use windlass_cri_api::v1;
use windlass_model::{Error, Id, Kind, Result};

use super::ladder::KILL_PATIENCE;
use super::record::Rung;
use super::signal;
use crate::Server;

/// How long a stop waits for a start that is under way.
const START_PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Stops a container; one that is unknown or does not run is stopped.
    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse> {
        let container = match self.containers.find(&request.container_id) {
            Ok(container) => container,
            Err(error) if error.is_not_found() => return Ok(v1::StopContainerResponse {}),
            Err(error) => return Err(error),
        };
        let seconds = u64::try_from(request.timeout).unwrap_or_default();
        let (server, id) = (self.clone(), container.id.clone());
        let stop = async move {
            server.stop_within(&id, Duration::from_secs(seconds)).await?;
            server.nri_stop_container(&id).await;
            Ok(())
        };
        self.verbs.join(format!("stop/{}/{seconds}", container.id), "stop", stop).await?;
        Ok(v1::StopContainerResponse {})
    }

    async fn stop_within(&self, id: &Id, patience: Duration) -> Result<()> {
        self.containers.wait(id, START_PATIENCE, |container| container.rung != Rung::Starting).await;
        let Ok(container) = self.containers.find(id.as_str()) else { return Ok(()) };
        if container.rung != Rung::Running {
            return Ok(());
        }
        let ended = |now: &super::Container| !now.may_run();
        if !patience.is_zero() && self.containers.first_to_ask(id) {
            self.signal_container(id, container.stop_signal, false).await?;
        }
        if !patience.is_zero() && self.containers.wait(id, patience, ended).await {
            return Ok(());
        }
        self.signal_container(id, signal::KILL, true).await?;
        if self.containers.wait(id, KILL_PATIENCE, ended).await {
            return Ok(());
        }
        Err(Error::deadline(format!("container {id} was killed and has not ended")))
    }

    /// Sends a signal; where the task is gone already, its end is looked for.
    async fn signal_container(&self, id: &Id, signal: u32, all: bool) -> Result<()> {
        match self.tenant.tasks().kill(id, signal, all).await {
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition) => {
                self.settle_container(id).await
            }
            result => result,
        }
    }
}
