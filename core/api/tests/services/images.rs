//! Image names.

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    DeleteImageRequest, GetContainerRequest, GetImageRequest, ListContainersRequest, ListImagesRequest,
};
use tonic::Code;
use windlass_engine::images::ImageRecord;
use windlass_engine::{ContainerRecord, Durability};
use windlass_model::{Descriptor, Timestamp};

use super::*;

#[tokio::test]
async fn images_and_containers_are_told_as_recorded() {
    let bench = bench().await;
    let tenant = bench.tenant("one");
    let digest = put_blob(&tenant, b"{}").await;
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest,
        size: 2,
        platform: None,
        annotations: Default::default(),
        urls: Vec::new(),
    };
    let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
    let record = ImageRecord {
        name: "docker.io/library/app:1".into(),
        target,
        labels: labels.clone(),
        created_at: Timestamp::now(),
        updated_at: Timestamp::now(),
    };
    tenant.images().create(record).await.expect("create");
    let mut images = ImagesClient::new(bench.channel.clone());
    let name = "docker.io/library/app:1".to_owned();
    let found = images.get(within("one", GetImageRequest { name: name.clone() })).await.expect("get");
    let found = found.into_inner().image.expect("an image");
    assert_eq!(found.target.expect("a target").digest, digest.to_string());
    assert_eq!(found.labels["a"], "b");
    assert_eq!(
        images.list(within("one", ListImagesRequest::default())).await.expect("list").into_inner().images.len(),
        1
    );
    let request = DeleteImageRequest { name: name.clone(), sync: true, target: None };
    images.delete(within("one", request)).await.expect("delete");
    assert_eq!(images.get(within("one", GetImageRequest { name })).await.expect_err("gone").code(), Code::NotFound);

    let mut record = ContainerRecord::new("box".parse().expect("an id"));
    record.labels = labels;
    tenant.containers().create(record, Durability::Crash).await.expect("create");
    let mut containers = ContainersClient::new(bench.channel.clone());
    let found = containers.get(within("one", GetContainerRequest { id: "box".into() })).await.expect("get");
    assert_eq!(found.into_inner().container.expect("a container").labels["a"], "b");
    let mut stream =
        containers.list_stream(within("one", ListContainersRequest::default())).await.expect("list").into_inner();
    let first = stream.message().await.expect("a message").expect("a container");
    assert_eq!(first.container.expect("a container").id, "box");
    assert!(stream.message().await.expect("the end").is_none());
}
