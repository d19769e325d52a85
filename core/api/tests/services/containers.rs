//! Container records.

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, ListContainersRequest, UpdateContainerRequest,
};
use prost_types::Any;
use tonic::Code;
use windlass_engine::{ContainerRecord, Durability};

use super::*;

#[tokio::test]
async fn a_list_tells_of_what_its_filters_select() {
    let bench = bench().await;
    let tenant = bench.tenant("one");
    for (id, labels) in [("web", &[("app.io/tier", "front")][..]), ("db", &[("app.io/tier", "back")]), ("plain", &[])] {
        let mut record = ContainerRecord::new(id.parse().expect("an id"));
        record.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        record.image = format!("registry.example/{id}:1");
        record.runtime.name = "io.containerd.runc.v2".into();
        tenant.containers().create(record, Durability::Crash).await.expect("create");
    }
    let mut containers = ContainersClient::new(bench.channel.clone());
    for (filters, wanted) in [
        (&["id==web"][..], &["web"][..]),
        (&["id==web", "id==db"], &["db", "web"]),
        (&["labels.\"app.io/tier\""], &["db", "web"]),
        (&["labels.\"app.io/tier\"!=front"], &["db", "plain"]),
        (&["runtime.name==io.containerd.runc.v2,image~=/(web|plain):1$/"], &["plain", "web"]),
        (&["runtime.name==other"], &[]),
    ] {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let list = containers.list(within("one", ListContainersRequest { filters })).await.expect("list").into_inner();
        assert_eq!(list.containers.iter().map(|container| container.id.as_str()).collect::<Vec<_>>(), wanted);
    }
}

fn container(id: &str) -> Container {
    Container {
        id: id.into(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: b"{}".to_vec(),
        }),
        snapshotter: "overlayfs".into(),
        snapshot_key: id.into(),
        labels: labels([("a", "1"), ("b", "1")]),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_container_is_recorded_changed_and_forgotten() {
    let bench = bench().await;
    let mut containers = ContainersClient::new(bench.channel.clone());
    let create = |container| within("one", CreateContainerRequest { container: Some(container) });
    let made = containers.create(create(container("box"))).await.expect("create").into_inner().container;
    let made = made.expect("a container");
    assert_eq!((made.snapshotter.as_str(), made.created_at.is_some()), ("overlayfs", true));
    assert_eq!(containers.create(create(container("box"))).await.expect_err("twice").code(), Code::AlreadyExists);
    for bad in [
        container("a/b"),
        Container { spec: None, ..container("x") },
        Container { runtime: None, ..container("x") },
        Container { snapshotter: String::new(), ..container("x") },
        Container { extensions: [(String::new(), Any::default())].into(), ..container("x") },
        Container { sandbox: "../up".into(), ..container("x") },
    ] {
        assert_eq!(containers.create(create(bad)).await.expect_err("bad").code(), Code::InvalidArgument);
    }

    let update = |container: Container, paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
        within("one", UpdateContainerRequest { container: Some(container), update_mask })
    };
    let mut wanted = container("box");
    wanted.labels = labels([("a", "2"), ("b", "2")]);
    wanted.extensions = [("e".to_owned(), Any { type_url: "t".into(), value: vec![0, 255] })].into();
    let changed = containers.update(update(wanted.clone(), &["labels.a", "extensions.e"])).await.expect("update");
    let changed = changed.into_inner().container.expect("a container");
    assert_eq!(changed.labels, labels([("a", "2"), ("b", "1")]));
    assert_eq!(changed.extensions["e"].value, [0, 255]);
    wanted.image = "new".into();
    let changed = containers.update(update(wanted.clone(), &[])).await.expect("update").into_inner().container;
    assert_eq!(changed.expect("a container").image, "new");
    wanted.snapshotter = "native".into();
    let refused = containers.update(update(wanted.clone(), &[])).await.expect_err("cannot change");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = containers.update(update(wanted.clone(), &["snapshotter"])).await.expect_err("no field");
    assert_eq!(refused.code(), Code::InvalidArgument);
    wanted.spec = None;
    let refused = containers.update(update(wanted, &["spec"])).await.expect_err("needs one");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(containers.update(update(container("none"), &[])).await.expect_err("none").code(), Code::NotFound);

    let delete = || within("one", DeleteContainerRequest { id: "box".into() });
    containers.delete(delete()).await.expect("delete");
    assert_eq!(containers.delete(delete()).await.expect_err("gone").code(), Code::NotFound);
}
