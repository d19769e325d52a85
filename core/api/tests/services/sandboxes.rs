//! The store of sandboxes.

use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::services::v1::sandbox::{
    StoreCreateRequest, StoreDeleteRequest, StoreGetRequest, StoreListRequest, StoreUpdateRequest,
};
use containerd_client::types::Sandbox;
use containerd_client::types::sandbox::Runtime;
use tonic::Code;

use super::*;

#[tokio::test]
async fn a_sandbox_is_recorded_changed_and_forgotten() {
    let bench = bench().await;
    let mut store = StoreClient::new(bench.channel.clone());
    let sandbox = Sandbox {
        sandbox_id: "pod".into(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
        labels: labels([("a", "1")]),
        sandboxer: "shim".into(),
        ..Default::default()
    };
    let create = |sandbox: &Sandbox| within("one", StoreCreateRequest { sandbox: Some(sandbox.clone()) });
    store.create(create(&sandbox)).await.expect("create");
    assert_eq!(store.create(create(&sandbox)).await.expect_err("twice").code(), Code::AlreadyExists);
    let update = |labels, fields: &[&str]| {
        let sandbox = Some(Sandbox { labels, ..sandbox.clone() });
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        within("one", StoreUpdateRequest { sandbox, fields })
    };
    store.update(update(labels([("b", "2")]), &["labels.b"])).await.expect("update");
    let wrong = store.update(update(labels([]), &["sandboxer"])).await.expect_err("no field");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let get = |namespace| within(namespace, StoreGetRequest { sandbox_id: "pod".into() });
    let found = store.get(get("one")).await.expect("get").into_inner().sandbox.expect("a sandbox");
    assert_eq!((found.labels, found.sandboxer.as_str()), (labels([("a", "1"), ("b", "2")]), "shim"));
    assert_eq!(store.get(get("two")).await.expect_err("another's").code(), Code::NotFound);
    let filters = vec!["labels.b==2".to_owned()];
    assert_eq!(store.list(within("one", StoreListRequest { filters })).await.expect("list").into_inner().list.len(), 1);
    let delete = || within("one", StoreDeleteRequest { sandbox_id: "pod".into() });
    store.delete(delete()).await.expect("delete");
    assert_eq!(store.delete(delete()).await.expect_err("gone").code(), Code::NotFound);
}
