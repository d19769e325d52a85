//! Image names.

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetContainerRequest, GetImageRequest, Image, ListContainersRequest,
    ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types;
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

fn image(name: &str, digest: &Digest, pairs: &[(&str, &str)]) -> Image {
    let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let target = types::Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: digest.to_string(),
        size: 2,
        annotations: Default::default(),
    };
    Image { name: name.into(), target: Some(target), labels, ..Default::default() }
}

fn masked(image: Image, paths: &[&str]) -> UpdateImageRequest {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
    UpdateImageRequest { image: Some(image), update_mask, source_date_epoch: None }
}

#[tokio::test]
async fn an_image_is_created_changed_and_deleted() {
    let bench = bench().await;
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    let mut images = ImagesClient::new(bench.channel.clone());
    let create = |image: Image| within("one", CreateImageRequest { image: Some(image), source_date_epoch: None });
    let made = images.create(create(image("app", &one, &[("a", "1"), ("b", "1")]))).await.expect("create");
    assert!(made.into_inner().image.expect("an image").created_at.is_some());
    let twice = images.create(create(image("app", &one, &[]))).await.expect_err("twice");
    assert_eq!(twice.code(), Code::AlreadyExists);
    for bad in [
        image("", &one, &[]),
        Image { target: None, ..image("x", &one, &[]) },
        Image { target: Some(types::Descriptor::default()), ..image("x", &one, &[]) },
        image("x", &one, &[("a", &"x".repeat(4096))]),
    ] {
        assert_eq!(images.create(create(bad)).await.expect_err("bad").code(), Code::InvalidArgument);
    }
    assert_eq!(
        images.create(within("one", CreateImageRequest::default())).await.expect_err("bad").code(),
        Code::InvalidArgument
    );

    let changed = images.update(within("one", masked(image("app", &two, &[("a", "2")]), &["labels.a"]))).await;
    let changed = changed.expect("update").into_inner().image.expect("an image");
    assert_eq!(changed.labels, labels([("a", "2"), ("b", "1")]));
    assert_eq!(changed.target.expect("a target").digest, one.to_string());
    let changed = images.update(within("one", masked(image("app", &two, &[]), &["target"]))).await;
    let changed = changed.expect("update").into_inner().image.expect("an image");
    assert_eq!((changed.target.expect("a target").digest, changed.labels.len()), (two.to_string(), 2));
    let wrong = images.update(within("one", masked(image("app", &two, &[]), &["name"]))).await;
    assert_eq!(wrong.expect_err("no field").code(), Code::InvalidArgument);
    let missing = images.update(within("one", masked(image("none", &two, &[]), &[]))).await;
    assert_eq!(missing.expect_err("none").code(), Code::NotFound);

    let delete = |digest: &Digest| DeleteImageRequest {
        name: "app".into(),
        sync: false,
        target: Some(types::Descriptor { digest: digest.to_string(), ..Default::default() }),
    };
    assert_eq!(images.delete(within("one", delete(&one))).await.expect_err("moved").code(), Code::NotFound);
    images.delete(within("one", delete(&two))).await.expect("delete");
}

#[tokio::test]
async fn a_synchronous_deletion_leaves_nothing_that_only_the_image_kept() {
    let bench = bench().await;
    let tenant = bench.tenant("one");
    let mut writer = tenant.content().ingest("manifest", None, None).await.expect("ingest");
    writer.write(b"{}").await.expect("write");
    let digest = writer.commit(None, None, Labels::new()).await.expect("commit");
    let mut images = ImagesClient::new(bench.channel.clone());
    let create = CreateImageRequest { image: Some(image("app", &digest, &[])), source_date_epoch: None };
    images.create(within("one", create)).await.expect("create");
    bench.core.collect().await.expect("collect");
    tenant.content().info(&digest).await.expect("kept");
    let delete = DeleteImageRequest { name: "app".into(), sync: true, target: None };
    images.delete(within("one", delete)).await.expect("delete");
    assert!(tenant.content().info(&digest).await.expect_err("gone").is_not_found());
}

#[tokio::test]
async fn an_image_that_expires_may_be_held_by_a_lease() {
    let bench = bench().await;
    let tenant = bench.tenant("one");
    let lease = "l".parse().expect("a lease");
    tenant.leases().create(&lease, Labels::new()).await.expect("create");
    let mut images = ImagesClient::new(bench.channel.clone());
    let past = [("containerd.io/gc.expire", "2001-01-01T00:00:00Z")];
    for (request, name) in [(under("l", "one", ()), "held"), (within("one", ()), "loose")] {
        let create = CreateImageRequest { image: Some(image(name, &Digest::of(b"x"), &past)), source_date_epoch: None };
        let (headers, extensions, ()) = request.into_parts();
        images.create(Request::from_parts(headers, extensions, create)).await.expect("create");
    }
    bench.core.collect().await.expect("collect");
    let names = |list: Vec<ImageRecord>| list.into_iter().map(|image| image.name).collect::<Vec<_>>();
    assert_eq!(names(tenant.images().list().await.expect("list")), ["held"]);
    tenant.leases().delete(&lease).await.expect("delete");
    bench.core.collect().await.expect("collect");
    assert!(tenant.images().list().await.expect("list").is_empty());
}
