//! The Stream RPCs: what the lists answer, every item exactly once, and no message without one.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use prost::Message;
use tonic::Code;
use windlass_test_e2e::newer::{Bytes, ContainerStats, Filtered, IMAGES, Items, PodSandboxStats, RUNTIME};
use windlass_test_e2e::words::{
    Container, ContainerFilter, ContainerStatsFilter, Image, ImageFilter, PodSandbox, PodSandboxFilter,
    PodSandboxMetrics, PodSandboxState, PodSandboxStateValue, PodSandboxStatsFilter,
};
use windlass_test_e2e::{Node, code, cri};

/// Why containerd is not asked: it knows these calls only since version 2.3.
const NEW: &str = "the Stream calls are newer than the reference";
/// How many containers there are.
const MANY: usize = 300;

/// All items of the messages, none of which may be empty; `id` tells them apart.
fn items<T: Message + Default + std::fmt::Debug>(
    messages: Vec<Items<T>>,
    id: impl Fn(&T) -> String,
) -> Result<Vec<String>> {
    ensure!(messages.iter().all(|message| !message.items.is_empty()), "a message without an item");
    let ids: Vec<_> = messages.iter().flat_map(|message| &message.items).map(id).collect();
    ensure!(ids.iter().collect::<BTreeSet<_>>().len() == ids.len(), "an item came twice");
    Ok(ids)
}

fn all<T: Message + Default + std::fmt::Debug>() -> Filtered<T> {
    Filtered { filter: None }
}

fn only<T: Message + Default + std::fmt::Debug>(filter: T) -> Filtered<T> {
    Filtered { filter: Some(filter) }
}

fn of_stats(stats: &ContainerStats) -> String {
    stats.attributes.as_ref().map(|attributes| attributes.id.clone()).unwrap_or_default()
}

fn of_pod_stats(stats: &PodSandboxStats) -> String {
    stats.attributes.as_ref().map(|attributes| attributes.id.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_items_come_once_each() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused(NEW) {
        return Ok(());
    }
    let image = node.busybox().await?;
    let config = node.host_pod("many");
    let pod = node.cri.run_pod(&config).await?;
    // A label makes each item large, so that they do not fit into one message.
    let blob = "x".repeat(8000);
    let create = (0..MANY).map(|number| {
        let mut what = cri::container(&format!("c{number}"), &image, &["sleep", "100000"]);
        what.annotations.insert("blob".to_owned(), blob.clone());
        what.labels.insert("half".to_owned(), (number % 2).to_string());
        let (cri, pod, config) = (node.cri.clone(), pod.clone(), config.clone());
        async move { cri.create(&pod, &what, &config).await }
    });
    let created: Vec<String> = stream::iter(create).buffered(8).try_collect().await?;
    let expected: BTreeSet<_> = created.iter().cloned().collect();
    let newer = node.cri.newer();

    let messages = newer.all::<Container>(RUNTIME, "StreamContainers", &all::<ContainerFilter>()).await?;
    ensure!(
        messages.len() > 1,
        "all in one message of {} bytes",
        messages.iter().map(Message::encoded_len).sum::<usize>()
    );
    ensure!(
        messages.iter().all(|message| message.encoded_len() < 4 << 20),
        "a message is too large for gRPC's default"
    );
    let streamed = items(messages, |container: &Container| container.id.clone())?;
    let listed: Vec<_> = node.cri.containers(None).await?.into_iter().map(|container| container.id).collect();
    ensure!(streamed == listed, "the stream is not the list");
    ensure!(streamed.into_iter().collect::<BTreeSet<_>>() == expected);

    let half = [("half".to_owned(), "1".to_owned())].into();
    let filter = ContainerFilter { label_selector: half, ..Default::default() };
    let messages = newer.all::<Container>(RUNTIME, "StreamContainers", &only(filter)).await?;
    ensure!(items(messages, |container: &Container| container.id.clone())?.len() == MANY / 2);

    let messages = newer.all::<ContainerStats>(RUNTIME, "StreamContainerStats", &all::<ContainerStatsFilter>()).await?;
    ensure!(items(messages, of_stats)?.into_iter().collect::<BTreeSet<_>>() == expected);
    let filter = ContainerStatsFilter { id: created[7].clone(), ..Default::default() };
    let messages = newer.all::<ContainerStats>(RUNTIME, "StreamContainerStats", &only(filter)).await?;
    ensure!(items(messages, of_stats)? == [created[7].clone()]);

    // What is removed while a stream is read may or may not come, and nothing breaks.
    let request = Bytes::of(&all::<ContainerFilter>());
    let mut reading = newer.open(RUNTIME, "StreamContainers", request).await?;
    ensure!(reading.next().await?.is_some());
    node.cri.remove(&created[0]).await?;
    node.cri.remove(&created[MANY - 1]).await?;
    while let Some(message) = reading.next().await? {
        ensure!(!message.read::<Items<Container>>()?.items.is_empty());
    }
    // Who leaves in the middle leaves nothing behind.
    drop(newer.open(RUNTIME, "StreamContainers", Bytes::of(&all::<ContainerFilter>())).await?);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_images_and_what_they_use_are_streamed() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused(NEW) {
        return Ok(());
    }
    let image = node.busybox().await?;
    let newer = node.cri.newer();
    // An empty list is no message and then the end.
    ensure!(newer.all::<PodSandbox>(RUNTIME, "StreamPodSandboxes", &all::<PodSandboxFilter>()).await?.is_empty());
    ensure!(newer.all::<Container>(RUNTIME, "StreamContainers", &all::<ContainerFilter>()).await?.is_empty());
    ensure!(
        newer
            .all::<PodSandboxMetrics>(RUNTIME, "StreamPodSandboxMetrics", &Items::<Image>::default())
            .await?
            .is_empty()
    );

    let mut pods = Vec::new();
    for name in ["one", "two", "three"] {
        pods.push(node.run(node.host_pod(name), &image, &["sleep", "100000"]).await?);
    }
    node.cri.stop_pod(&pods[2].id).await?;
    let (up, every): (Vec<_>, Vec<_>) =
        (pods[..2].iter().map(|pod| pod.id.clone()).collect(), pods.iter().map(|pod| pod.id.clone()).collect());

    let id = |pod: &PodSandbox| pod.id.clone();
    let messages = newer.all::<PodSandbox>(RUNTIME, "StreamPodSandboxes", &all::<PodSandboxFilter>()).await?;
    ensure!(items(messages, id)? == every);
    let ready = Some(PodSandboxStateValue { state: PodSandboxState::SandboxReady as i32 });
    let filter = PodSandboxFilter { state: ready, ..Default::default() };
    let messages = newer.all::<PodSandbox>(RUNTIME, "StreamPodSandboxes", &only(filter)).await?;
    ensure!(items(messages, id)? == up);
    let filter = PodSandboxFilter { id: every[1].clone(), ..Default::default() };
    let messages = newer.all::<PodSandbox>(RUNTIME, "StreamPodSandboxes", &only(filter)).await?;
    ensure!(items(messages, id)? == [every[1].clone()]);

    // What is not up uses nothing.
    let messages =
        newer.all::<PodSandboxStats>(RUNTIME, "StreamPodSandboxStats", &all::<PodSandboxStatsFilter>()).await?;
    ensure!(items(messages, of_pod_stats)? == up);
    let messages =
        newer.all::<PodSandboxMetrics>(RUNTIME, "StreamPodSandboxMetrics", &Items::<Image>::default()).await?;
    ensure!(items(messages, |metrics: &PodSandboxMetrics| metrics.pod_sandbox_id.clone())? == up);

    let of_image = |image: &Image| image.id.clone();
    let messages = newer.all::<Image>(IMAGES, "StreamImages", &all::<ImageFilter>()).await?;
    let listed: Vec<_> = node.cri.images().await?.iter().map(of_image).collect();
    ensure!(items(messages, of_image)? == listed && listed.len() == 1);
    let filter = ImageFilter { image: Some(cri::image("none/such:1")) };
    ensure!(newer.all::<Image>(IMAGES, "StreamImages", &only(filter)).await?.is_empty());

    // What cannot be read as a request is refused, and the daemon goes on.
    let refused = newer.open(RUNTIME, "StreamContainers", Bytes(vec![0x0a, 0xff, 0xff])).await;
    let refused = match refused {
        Ok(mut messages) => messages.next().await.map(drop),
        Err(status) => Err(status),
    };
    ensure!(code(&refused) != Code::Ok);
    ensure!(node.cri.containers(None).await?.len() == 3);
    node.finish().await
}
