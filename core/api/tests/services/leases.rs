//! Leases.

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, ListRequest, ListResourcesRequest,
    Resource as ResourceWord,
};
use tonic::Code;

use super::*;

fn resource(kind: &str, id: &str) -> Option<ResourceWord> {
    Some(ResourceWord { id: id.into(), r#type: kind.into() })
}

#[tokio::test]
async fn a_lease_is_made_filled_listed_and_ended() {
    let bench = bench().await;
    let mut leases = LeasesClient::new(bench.channel.clone());
    let create = |id: &str| CreateRequest { id: id.into(), labels: labels([("a", "b")]) };
    leases.create(within("one", create("519466803-3X_-"))).await.expect("create");
    let twice = leases.create(within("one", create("519466803-3X_-"))).await.expect_err("twice");
    assert_eq!(twice.code(), Code::AlreadyExists);
    let unnamed = leases.create(within("one", create(""))).await.expect("create").into_inner().lease.expect("a lease");
    assert!(!unnamed.id.is_empty());
    assert_eq!(leases.create(within("one", create("a b"))).await.expect_err("bad").code(), Code::InvalidArgument);
    let filters = vec!["id==519466803-3X_-".to_owned()];
    let found = leases.list(within("one", ListRequest { filters })).await.expect("list").into_inner().leases;
    assert_eq!((found.len(), found[0].labels.clone()), (1, labels([("a", "b")])));
    assert!(leases.list(within("two", ListRequest::default())).await.expect("list").into_inner().leases.is_empty());

    let add = |kind: &str, id: &str| {
        within("one", AddResourceRequest { id: "519466803-3X_-".into(), resource: resource(kind, id) })
    };
    let digest = put_blob(&bench.tenant("one"), b"x").await.to_string();
    for (kind, id) in [("content", digest.as_str()), ("snapshots/overlayfs", "s"), ("images", "i"), ("ingests", "g")] {
        leases.add_resource(add(kind, id)).await.expect(kind);
    }
    for (kind, id, code) in [
        ("content", "x", Code::InvalidArgument),
        ("snapshots", "x", Code::InvalidArgument),
        ("content/x", "x", Code::InvalidArgument),
        ("images", "", Code::InvalidArgument),
        ("tasks", "x", Code::Unimplemented),
    ] {
        assert_eq!(leases.add_resource(add(kind, id)).await.expect_err(kind).code(), code, "{kind}");
    }
    let list = || within("one", ListResourcesRequest { id: "519466803-3X_-".into() });
    let held = leases.list_resources(list()).await.expect("list").into_inner().resources;
    let kinds: Vec<_> = held.iter().map(|resource| resource.r#type.as_str()).collect();
    assert_eq!(kinds, ["content", "images", "ingests", "snapshots/overlayfs"]);
    let request = DeleteResourceRequest { id: "519466803-3X_-".into(), resource: resource("snapshots/overlayfs", "s") };
    leases.delete_resource(within("one", request)).await.expect("delete");
    assert_eq!(leases.list_resources(list()).await.expect("list").into_inner().resources.len(), 3);
    let delete = || within("one", DeleteRequest { id: "519466803-3X_-".into(), sync: false });
    leases.delete(delete()).await.expect("delete");
    assert_eq!(leases.delete(delete()).await.expect_err("gone").code(), Code::NotFound);
    assert_eq!(leases.list_resources(list()).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn what_only_a_lease_held_is_gone_when_its_deletion_returns() {
    let bench = bench().await;
    let tenant = bench.tenant("one");
    let lease = "l".parse().expect("a lease");
    tenant.leases().create(&lease, Labels::new()).await.expect("create");
    let mut writer = tenant.content().ingest("r", None, Some(&lease)).await.expect("ingest");
    writer.write(b"bytes").await.expect("write");
    let digest = writer.commit(None, None, Labels::new()).await.expect("commit");
    bench.core.collect().await.expect("collect");
    tenant.content().info(&digest).await.expect("held");
    let mut leases = LeasesClient::new(bench.channel.clone());
    leases.delete(within("one", DeleteRequest { id: "l".into(), sync: true })).await.expect("delete");
    assert!(tenant.content().info(&digest).await.expect_err("gone").is_not_found());
}
