//! GetContainerEvents: what the kubelet's evented PLEG hears of a pod's life, and what listeners do to the daemon.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tonic::{Request, Streaming};
use windlass_test_e2e::words::{
    ContainerEventResponse, ContainerEventType, ContainerState, GetEventsRequest, PodSandboxState,
};
use windlass_test_e2e::{Node, cri, patient};

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
    ContainerStoppedEvent as Stopped,
};

async fn listen(node: &Node) -> Result<Streaming<ContainerEventResponse>> {
    Ok(node.cri.runtime().get_container_events(Request::new(GetEventsRequest {})).await?.into_inner())
}

/// The next event.
async fn next(events: &mut Streaming<ContainerEventResponse>) -> Result<ContainerEventResponse> {
    let event = tokio::time::timeout(patient(Duration::from_secs(20)), events.message()).await;
    event.context("no event comes")??.context("the events have ended")
}

/// The state of a container in an event.
fn state(event: &ContainerEventResponse, id: &str) -> Option<ContainerState> {
    let status = event.containers_statuses.iter().find(|status| status.id == id)?;
    ContainerState::try_from(status.state).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_pod_and_its_container_is_told_to_every_listener() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let mut listeners = Vec::new();
    for _ in 0..20 {
        listeners.push(listen(&node).await?);
    }
    let config = node.pod("told");
    let pod = node.cri.run_pod(&config).await?;
    let id = node.cri.create(&pod, &cri::container("main", &image, &["sleep", "1000"]), &config).await?;
    node.cri.start(&id).await?;
    node.cri.stop(&id, 0).await?;
    node.cri.remove(&id).await?;
    node.cri.stop_pod(&pod).await?;
    node.cri.remove_pod(&pod).await?;
    let expected = [
        (&pod, Created, None),
        (&pod, Started, None),
        (&id, Created, Some(ContainerState::ContainerCreated)),
        (&id, Started, Some(ContainerState::ContainerRunning)),
        (&id, Stopped, Some(ContainerState::ContainerExited)),
        (&id, Deleted, None),
        (&pod, Stopped, None),
        (&pod, Deleted, None),
    ];
    for events in &mut listeners {
        let mut before = 0;
        for (of, kind, container) in expected {
            let event = next(events).await?;
            ensure!(event.container_id == **of && event.container_event_type == kind as i32, "{kind:?}: {event:?}");
            ensure!(event.created_at > before, "{kind:?}: {} after {before}", event.created_at);
            before = event.created_at;
            let status = event.pod_sandbox_status.clone().context("no status of the pod")?;
            ensure!(status.id == pod && status.metadata == config.metadata, "{kind:?}: {status:?}");
            ensure!(state(&event, &id) == container, "{kind:?}: {event:?}");
            let ready = status.state == PodSandboxState::SandboxReady as i32;
            ensure!(ready != (**of == pod && matches!(kind, Stopped | Deleted)), "{kind:?}: {status:?}");
        }
    }
    drop(listeners);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_by_itself_and_one_that_cannot_start_are_told_too() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.pod("short");
    let pod = node.cri.run_pod(&config).await?;
    let mut events = listen(&node).await?;
    let id = node.add(&pod, &config, cri::container("short", &image, &["true"])).await?;
    for kind in [Created, Started, Stopped] {
        let event = next(&mut events).await?;
        ensure!(event.container_id == id && event.container_event_type == kind as i32, "{kind:?}: {event:?}");
    }
    let bad = node.cri.create(&pod, &cri::container("bad", &image, &["/no/such/program"]), &config).await?;
    ensure!(node.cri.start(&bad).await.is_err(), "there is no such program");
    for kind in [Created, Stopped] {
        let event = next(&mut events).await?;
        ensure!(event.container_id == bad && event.container_event_type == kind as i32, "{kind:?}: {event:?}");
    }
    drop(events);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_ends_while_somebody_listens_and_while_somebody_does_not_read() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let (mut listener, deaf) = (listen(&node).await?, listen(&node).await?);
    let pod = node.run(node.pod("heard"), &image, &["sleep", "1000"]).await?;
    next(&mut listener).await?;
    let status = node.daemon.terminate().await?;
    ensure!(status.success(), "{status}");
    // What was told is read to its end, and then nothing more comes.
    while let Ok(Some(event)) = listener.message().await {
        ensure!(event.pod_sandbox_status.is_some_and(|status| status.id == pod.id));
    }
    drop(deaf);
    node.resume().await?;
    node.finish().await
}
