//! From the engine's events to containers' records: ends and out-of-memory kills.

use std::sync::{Arc, Weak};

use tokio::task::JoinSet;
use tracing::{Instrument as _, debug, info, info_span, warn};
use windlass_engine::events::Received;
use windlass_model::event::Event;
use windlass_model::{Id, Kind, Timestamp};

use crate::Server;
use crate::container::Step;
use crate::container::record::End;

impl Server {
    /// Begins to listen, once. The listener ends with the server.
    pub(crate) fn watch_events(self: &Arc<Self>) {
        // Subscribed since the server was made, so that nothing of what shims tell meanwhile is missed.
        let Some(receiver) = self.happened.lock().take() else { return };
        let listener = listen(Arc::downgrade(self), receiver).instrument(info_span!("events"));
        // Ends when the server or the core is gone.
        tokio::spawn(listener);
    }

    async fn container_ended(&self, container: &str, status: u32, at: Timestamp) -> Option<Id> {
        let id = self.containers.find(container).ok()?.id.clone();
        let code = i32::try_from(status).unwrap_or(i32::MAX);
        let end = End { code, at, reason: String::new(), message: String::new() };
        match self.step_container(&id, Step::Exit(end)).await {
            Ok(container) => info!(container = %id, code, reason = container.reason(), "ended"),
            // Recorded before, or on its way down.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition) => {
                debug!(container = %id, %error, "an end that changes nothing");
            }
            Err(error) => {
                warn!(container = %id, %error, "an end could not be recorded");
                return None;
            }
        }
        Some(id)
    }

    async fn container_oom(&self, container: &str) {
        let Ok(known) = self.containers.find(container) else { return };
        let marked = self.change_container(&known.id, |container| {
            container.oom = true;
            Ok(())
        });
        match marked.await {
            Ok(_) => info!(container = %known.id, "the kernel killed a process for memory"),
            Err(error) => warn!(container = %known.id, %error, "an out-of-memory kill could not be recorded"),
        }
    }

    /// Frees what an ended container's task holds: mounts, bundle.
    async fn free_task(&self, id: Id) {
        match self.tenant.tasks().delete(&id).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            // Its removal tries again.
            Err(error) => warn!(container = %id, %error, "an ended task could not be deleted"),
        }
    }

    /// Asks after every container that should run: its end may have been among the missed events.
    async fn settle_all(&self) {
        for container in self.containers.all().into_iter().filter(|container| container.may_run()) {
            if let Err(error) = self.settle_container(&container.id).await {
                warn!(container = %container.id, %error, "its state is not known");
            }
        }
    }
}

/// Records events in their order, one after another; slow clean-up runs beside.
async fn listen(server: Weak<Server>, mut receiver: windlass_engine::events::Receiver) {
    let mut clean_ups = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            received = receiver.recv() => {
                let (Some(received), Some(server)) = (received, server.upgrade()) else { return };
                match received {
                    Received::Event(envelope) => {
                        if let Some(ended) = take(&server, &envelope.event).await {
                            clean_ups.spawn(async move {
                                server.nri_stop_container(&ended).await;
                                server.free_task(ended).await;
                            });
                        }
                    }
                    Received::Lagged(missed) => {
                        warn!(missed, "events were missed");
                        clean_ups.spawn(async move { server.settle_all().await });
                    }
                }
            }
            Some(_) = clean_ups.join_next() => {}
        }
    }
}

/// Records one event; answers the container whose task is to be freed.
async fn take(server: &Server, event: &Event) -> Option<Id> {
    match event {
        Event::TaskExit { container, process, status, at, .. } if process == container || process.is_empty() => {
            server.container_ended(container, *status, *at).await
        }
        Event::TaskOom { container } => {
            server.container_oom(container).await;
            None
        }
        Event::SandboxExit { id, .. } => {
            server.announce_death(id).await;
            None
        }
        _ => None,
    }
}
