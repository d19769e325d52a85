//! Namespaces, and that they are walls.

use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{
    CreateNamespaceRequest, DeleteContentRequest, DeleteNamespaceRequest, InfoRequest, ListContentRequest,
    ListNamespacesRequest, Namespace as NamespaceWord,
};
use tonic::Code;

use super::*;

#[tokio::test]
async fn a_namespace_is_required_and_walls_hold() {
    let bench = bench().await;
    let mut content = ContentClient::new(bench.channel.clone());
    let refused = content.list(ListContentRequest::default()).await.expect_err("no namespace");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "namespace is required"));
    let digest = put_blob(&bench.tenant("one"), b"hello").await.to_string();
    let known = content.info(within("one", InfoRequest { digest: digest.clone() })).await.expect("known");
    assert_eq!(known.into_inner().info.expect("info").size, 5);
    let unknown = content.info(within("two", InfoRequest { digest })).await.expect_err("another's");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn namespaces_come_and_go() {
    let bench = bench().await;
    let mut namespaces = NamespacesClient::new(bench.channel.clone());
    let word = |name: &str| Some(NamespaceWord { name: name.into(), labels: Default::default() });
    let create = |name| CreateNamespaceRequest { namespace: word(name) };
    namespaces.create(create("moby")).await.expect("create");
    assert_eq!(namespaces.create(create("moby")).await.expect_err("twice").code(), Code::AlreadyExists);
    assert_eq!(namespaces.create(create("a/b")).await.expect_err("bad").code(), Code::InvalidArgument);
    let list = namespaces.list(ListNamespacesRequest::default()).await.expect("list").into_inner().namespaces;
    assert_eq!(list.iter().map(|namespace| namespace.name.as_str()).collect::<Vec<_>>(), ["moby"]);
    let digest = put_blob(&bench.tenant("moby"), b"held").await.to_string();
    let delete = || DeleteNamespaceRequest { name: "moby".into() };
    assert_eq!(namespaces.delete(delete()).await.expect_err("not empty").code(), Code::FailedPrecondition);
    let mut content = ContentClient::new(bench.channel.clone());
    content.delete(within("moby", DeleteContentRequest { digest })).await.expect("delete");
    namespaces.delete(delete()).await.expect("empty now");
}
