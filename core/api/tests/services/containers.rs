//! Container records.

use containerd_client::services::v1::ListContainersRequest;
use containerd_client::services::v1::containers_client::ContainersClient;
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
