//! The six Stream RPCs (KEP-5825): what the lists answer, cut into messages of bounded size.
//!
//! What there is is settled when the call comes in, by handles on records that never change; each item is put into words
//! only when the transport asks for the next message, so a slow reader costs no memory. No message is empty: an empty list
//! is the end of the stream at once.

use std::sync::Arc;

use prost::Message;
use tonic::Status;
use windlass_cri_api::v1;
use windlass_model::Result;

use crate::Server;

/// How many items a message has at most.
const ITEMS: usize = 256;
/// A message is closed when its items have so many bytes; a single item may be larger.
const BYTES: usize = 1024 * 1024;

/// The messages of one stream.
pub struct Batches<Item, Answer> {
    items: std::iter::Peekable<Box<dyn Iterator<Item = Item> + Send>>,
    wrap: fn(Vec<Item>) -> Answer,
}

impl<Item: Message, Answer> Batches<Item, Answer> {
    /// Cuts `items` into messages that `wrap` makes.
    fn new(items: impl Iterator<Item = Item> + Send + 'static, wrap: fn(Vec<Item>) -> Answer) -> Self {
        let items: Box<dyn Iterator<Item = Item> + Send> = Box::new(items);
        Self { items: items.peekable(), wrap }
    }
}

impl<Item: Message, Answer> Iterator for Batches<Item, Answer> {
    type Item = Answer;

    fn next(&mut self) -> Option<Answer> {
        let first = self.items.next()?;
        let mut bytes = first.encoded_len();
        let mut batch = vec![first];
        while batch.len() < ITEMS
            && let Some(item) = self.items.next_if(|item| bytes + item.encoded_len() <= BYTES)
        {
            bytes += item.encoded_len();
            batch.push(item);
        }
        Some((self.wrap)(batch))
    }
}

impl<Item: Message + Unpin, Answer: Unpin> tokio_stream::Stream for Batches<Item, Answer> {
    type Item = Result<Answer, Status>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.get_mut().next().map(Ok))
    }
}

impl Server {
    /// The pods that a filter lets through.
    pub(crate) async fn stream_pod_sandboxes(
        self: &Arc<Self>,
        request: v1::StreamPodSandboxesRequest,
    ) -> Result<Batches<v1::PodSandbox, v1::StreamPodSandboxesResponse>> {
        let items = self.pods_passing(request.filter).await?;
        Ok(Batches::new(items, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    /// The containers that a filter lets through.
    pub(crate) async fn stream_containers(
        self: &Arc<Self>,
        request: v1::StreamContainersRequest,
    ) -> Result<Batches<v1::Container, v1::StreamContainersResponse>> {
        let items = self.containers_passing(request.filter)?;
        Ok(Batches::new(items, |containers| v1::StreamContainersResponse { containers }))
    }

    /// What the containers use that a filter lets through.
    pub(crate) async fn stream_container_stats(
        self: &Arc<Self>,
        request: v1::StreamContainerStatsRequest,
    ) -> Result<Batches<v1::ContainerStats, v1::StreamContainerStatsResponse>> {
        let stats = self.container_stats_passing(request.filter).await?;
        Ok(Batches::new(stats.into_iter(), |container_stats| v1::StreamContainerStatsResponse { container_stats }))
    }

    /// What the pods use that a filter lets through.
    pub(crate) async fn stream_pod_sandbox_stats(
        self: &Arc<Self>,
        request: v1::StreamPodSandboxStatsRequest,
    ) -> Result<Batches<v1::PodSandboxStats, v1::StreamPodSandboxStatsResponse>> {
        let stats = self.pod_stats_passing(request.filter).await?;
        Ok(Batches::new(stats.into_iter(), |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    /// The metrics of all pods.
    pub(crate) async fn stream_pod_sandbox_metrics(
        self: &Arc<Self>,
        _request: v1::StreamPodSandboxMetricsRequest,
    ) -> Result<Batches<v1::PodSandboxMetrics, v1::StreamPodSandboxMetricsResponse>> {
        let metrics = self.pod_metrics().await?;
        Ok(Batches::new(metrics.into_iter(), |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    /// All images, or the one that the filter names.
    pub(crate) async fn stream_images(
        self: &Arc<Self>,
        request: v1::StreamImagesRequest,
    ) -> Result<Batches<v1::Image, v1::StreamImagesResponse>> {
        let images = self.list_images(v1::ListImagesRequest { filter: request.filter }).await?.images;
        Ok(Batches::new(images.into_iter(), |images| v1::StreamImagesResponse { images }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(sizes: &[usize]) -> Vec<Vec<String>> {
        let items: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| v1::PodSandbox {
                id: format!("{number}-{}", "x".repeat(*size)),
                ..Default::default()
            })
            .collect();
        let messages =
            Batches::new(items.into_iter(), |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes });
        let number = |pod: v1::PodSandbox| pod.id.split('-').next().unwrap().to_owned();
        messages.map(|message| message.pod_sandboxes.into_iter().map(number).collect()).collect()
    }

    #[test]
    fn every_item_comes_once_and_no_message_is_empty() {
        assert!(batches(&[]).is_empty());
        for count in [1, ITEMS - 1, ITEMS, ITEMS + 1, 3 * ITEMS] {
            let messages = batches(&vec![1; count]);
            assert_eq!(messages.len(), count.div_ceil(ITEMS));
            assert!(messages.iter().all(|message| !message.is_empty() && message.len() <= ITEMS));
            let all: Vec<_> = messages.concat();
            assert_eq!(all, (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_items_come_in_many_messages() {
        let half = BYTES / 2 + 1;
        assert_eq!(batches(&[half, half, 1, 2 * BYTES, 1]), [vec!["0"], vec!["1", "2"], vec!["3"], vec!["4"]]);
    }
}
