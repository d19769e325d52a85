//! GetContainerEvents: each change of a pod or a container is told to whoever listens, with all that is known of the pod.
//!
//! Nobody waits for a listener. Each has room for [`BACKLOG`] events; one that reads more slowly than they happen is told
//! so by the end of its stream, and the kubelet then asks for everything anew. Without a listener an event costs nothing.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, future};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::Status;
use windlass_cri_api::v1;
use windlass_cri_api::v1::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};
use windlass_model::{Error, Id, Result, Timestamp};

use crate::Server;
use crate::container::{Container, Step};
use crate::pod::{Pod, Rung};

/// How many events a listener may be behind.
const BACKLOG: usize = 1024;

/// What a listener reads.
pub(crate) type EventStream = Pin<Box<dyn Stream<Item = Result<v1::ContainerEventResponse, Status>> + Send>>;

/// All who listen; nobody any more once it is closed.
pub(crate) struct Listeners(Mutex<Option<broadcast::Sender<Arc<v1::ContainerEventResponse>>>>);

impl Default for Listeners {
    fn default() -> Self {
        Self(Mutex::new(Some(broadcast::Sender::new(BACKLOG))))
    }
}

impl Listeners {
    fn is_empty(&self) -> bool {
        self.0.lock().as_ref().is_none_or(|sender| sender.receiver_count() == 0)
    }

    fn send(&self, event: v1::ContainerEventResponse) {
        if let Some(sender) = self.0.lock().as_ref() {
            // An error says that nobody listens any more.
            let _ = sender.send(Arc::new(event));
        }
    }

    fn listen(&self) -> Result<EventStream> {
        let receiver = self.0.lock().as_ref().map(broadcast::Sender::subscribe);
        let receiver = receiver.ok_or_else(|| Error::unavailable("the daemon is about to end"))?;
        let events = BroadcastStream::new(receiver).map(|received| match received {
            Ok(event) => Ok(v1::ContainerEventResponse::clone(&event)),
            Err(BroadcastStreamRecvError::Lagged(missed)) => {
                Err(Status::resource_exhausted(format!("{missed} events were missed: they are read too slowly")))
            }
        });
        // What follows a gap is not told: the listener has to look at everything anew anyway.
        let whole = events.scan(false, |over, event| {
            let next = if *over { None } else { Some(event) };
            *over = next.as_ref().is_some_and(Result::is_err);
            future::ready(next)
        });
        Ok(Box::pin(whole))
    }

    /// Ends every stream after what was told.
    fn close(&self) {
        self.0.lock().take();
    }
}

impl Server {
    /// Listens from now on.
    pub(crate) async fn get_container_events(self: &Arc<Self>, _request: v1::GetEventsRequest) -> Result<EventStream> {
        self.listeners.listen()
    }

    /// Ends the streams that would never end by themselves, so that the daemon can.
    pub fn end_streams(&self) {
        self.listeners.close();
    }

    /// Tells what a step did to a container.
    pub(crate) async fn announce_step(&self, container: &Container, step: &Step) {
        match step {
            Step::Create => self.announce_container(ContainerCreatedEvent, container).await,
            // Where the end came first it has told both.
            Step::Run { .. } if container.end.is_none() => {
                self.announce_container(ContainerStartedEvent, container).await;
            }
            Step::Exit(end) => {
                if !container.started_at.happened() && end.reason.is_empty() {
                    self.announce_container(ContainerStartedEvent, container).await;
                }
                self.announce_container(ContainerStoppedEvent, container).await;
            }
            Step::Run { .. } | Step::Start | Step::Remove => {}
        }
    }

    /// Tells that a container was stopped by its removal.
    pub(crate) async fn announce_container_stopped(&self, container: &Container) {
        self.announce_container(ContainerStoppedEvent, container).await;
    }

    /// Tells that a container is gone.
    pub(crate) async fn announce_container_deleted(&self, container: &Container) {
        self.announce_container(ContainerDeletedEvent, container).await;
    }

    /// Tells that a pod came up.
    pub(crate) async fn announce_pod_started(&self, pod: &Pod) {
        self.announce(ContainerCreatedEvent, &pod.id, pod).await;
        self.announce(ContainerStartedEvent, &pod.id, pod).await;
    }

    /// Tells that a pod runs no longer.
    pub(crate) async fn announce_pod_stopped(&self, pod: &Pod) {
        self.announce(ContainerStoppedEvent, &pod.id, pod).await;
    }

    /// Tells that a pod is gone.
    pub(crate) async fn announce_pod_deleted(&self, pod: &Pod) {
        self.announce(ContainerDeletedEvent, &pod.id, pod).await;
    }

    /// Tells that the shim of the pod `id` is dead, unless the pod was taken down.
    pub(crate) async fn announce_death(&self, id: &str) {
        if let Ok(pod) = self.pods.find(id)
            && pod.rung == Rung::Ready
        {
            self.announce_pod_stopped(&pod).await;
        }
    }

    async fn announce_container(&self, kind: v1::ContainerEventType, container: &Container) {
        // The record of a pod goes after those of its containers.
        if let Ok(pod) = self.pods.find(container.pod.as_str()) {
            self.announce(kind, &container.id, &pod).await;
        }
    }

    async fn announce(&self, kind: v1::ContainerEventType, id: &Id, pod: &Pod) {
        if self.listeners.is_empty() {
            return;
        }
        let status = self.status_of_pod(pod).await;
        // Not later than what it is told with: a listener compares it with the time of what it knows.
        let created_at = Timestamp::now().nanos();
        self.listeners.send(v1::ContainerEventResponse {
            container_id: id.to_string(),
            container_event_type: kind.into(),
            created_at,
            pod_sandbox_status: Some(status),
            containers_statuses: self.container_statuses_of(&pod.id).await,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: usize) -> v1::ContainerEventResponse {
        v1::ContainerEventResponse { container_id: id.to_string(), ..Default::default() }
    }

    #[tokio::test]
    async fn every_listener_hears_what_happens_after_it_came() {
        let listeners = Listeners::default();
        listeners.send(event(0));
        let streams: Vec<_> = (0..3).map(|_| listeners.listen().unwrap()).collect();
        assert!(!listeners.is_empty());
        listeners.send(event(1));
        listeners.send(event(2));
        listeners.close();
        for stream in streams {
            let heard: Vec<_> = stream.map(|event| event.unwrap().container_id).collect().await;
            assert_eq!(heard, ["1", "2"]);
        }
        assert!(listeners.is_empty());
        assert_eq!(listeners.listen().err().unwrap().kind(), windlass_model::Kind::Unavailable);
    }

    #[tokio::test]
    async fn a_listener_that_does_not_read_is_told_and_cut_and_holds_up_nobody() {
        let listeners = Listeners::default();
        let slow = listeners.listen().unwrap();
        for id in 0..=BACKLOG {
            listeners.send(event(id));
        }
        let heard: Vec<_> = slow.collect().await;
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0].as_ref().unwrap_err().code(), tonic::Code::ResourceExhausted);
        assert!(listeners.is_empty());
    }
}
