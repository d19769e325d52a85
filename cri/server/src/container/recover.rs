//! Compares containers' records with what runs: after the daemon's start, and when an event may have been missed.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tracing::{info, warn};
use windlass_model::process::State;
use windlass_model::{Id, Result, Timestamp};

use super::create::ignore_missing;
use super::record::{Container, EXIT_UNSEEN, End, Rung, Step};
use crate::Server;

/// How long the daemon's start waits for shims; slower ones are settled after it.
const PATIENCE: Duration = Duration::from_millis(100);

impl Server {
    /// Begins to listen for ends, and brings every record in line with its task.
    ///
    /// # Errors
    /// None that a single container can cause: those are logged.
    pub(crate) async fn recover_containers(self: &Arc<Self>) -> Result<()> {
        self.watch_events();
        let settled = self.containers.all().into_iter().map(|container| {
            let server = self.clone();
            tokio::spawn(async move { server.recover_container(&container).await })
        });
        let orphans = self.tenant.tasks().list().into_iter().filter(|id| self.containers.find(id.as_str()).is_err());
        for id in orphans {
            info!(container = %id, "end a task that no record knows");
            let server = self.clone();
            self.verbs.begin(super::subject(&id), "remove", async move { server.end_task(&id).await });
        }
        // What is not settled by then goes on by itself.
        let _ = tokio::time::timeout(PATIENCE, join_all(settled.collect::<Vec<_>>())).await;
        Ok(())
    }

    async fn recover_container(self: &Arc<Self>, container: &Container) {
        let id = &container.id;
        let result =
            match container.rung {
                Rung::Created => Ok(()),
                Rung::Exited => ignore_missing(self.tenant.tasks().delete(id).await),
                Rung::Starting | Rung::Running => self.settle_container(id).await,
                Rung::Reserved | Rung::Removing => {
                    info!(container = %id, rung = ?container.rung, "remove a container that was left half way");
                    let (server, id) = (self.clone(), id.clone());
                    self.verbs.begin(super::subject(&container.id), "remove", async move {
                        server.down_container(&id).await
                    });
                    Ok(())
                }
            };
        if let Err(error) = result {
            warn!(container = %id, %error, "a container could not be brought in line with its record");
        }
    }

    /// Asks the shim how a container is and records it.
    ///
    /// # Errors
    /// Where the shim does not answer.
    pub(crate) async fn settle_container(&self, id: &Id) -> Result<()> {
        let Ok(container) = self.containers.find(id.as_str()) else { return Ok(()) };
        if !container.may_run() {
            return Ok(());
        }
        let unseen = |message: &str| End {
            code: EXIT_UNSEEN,
            at: Timestamp::now(),
            reason: "Unknown".into(),
            message: message.into(),
        };
        let end = match self.tenant.tasks().state(id).await {
            Ok(found) if matches!(found.state, State::Running | State::Paused | State::Pausing) => {
                if container.rung == Rung::Starting {
                    let at = Timestamp::now();
                    self.step_container(id, Step::Run { pid: found.pid, at }).await?;
                }
                return Ok(());
            }
            Ok(found) => match found.exit {
                Some(exit) => End {
                    code: i32::try_from(exit.status).unwrap_or(EXIT_UNSEEN),
                    at: exit.at,
                    reason: String::new(),
                    message: String::new(),
                },
                // Made and never started: the daemon died in between.
                None => unseen("its start was interrupted"),
            },
            Err(error) if error.is_not_found() => unseen("its task is gone"),
            Err(error) => return Err(error),
        };
        // Another may have recorded the end meanwhile; both are right.
        let _ = self.step_container(id, Step::Exit(end)).await;
        self.end_task(id).await
    }
}
