//! The services over a real core, asked by containerd's own client messages through a Unix socket.

use std::path::Path;
use std::sync::Arc;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, StatSnapshotRequest, UsageRequest,
};
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{
    CreateNamespaceRequest, DeleteContentRequest, DeleteImageRequest, DeleteNamespaceRequest, GetContainerRequest,
    GetImageRequest, InfoRequest, ListContainersRequest, ListContentRequest, ListImagesRequest, ListNamespacesRequest,
    ListStatusesRequest, Namespace as NamespaceWord, ReadContentRequest,
};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request};
use windlass_engine::images::ImageRecord;
use windlass_engine::{ContainerRecord, Core, Durability, Options, Tenant, registry, tasks};
use windlass_model::snapshotter::Labels;
use windlass_model::{Descriptor, Digest, Timestamp};
use windlass_snapshotters::Native;

/// A served core in a temporary folder.
struct Bench {
    _dir: tempfile::TempDir,
    core: Core,
    channel: Channel,
    _server: tokio_util::task::AbortOnDropHandle<()>,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let core = Core::open(Options {
        root: at("root"),
        state: at("state"),
        drivers: vec![Arc::new(Native::open(at("snapshots")).expect("a driver"))],
        registry: registry::Config::default(),
        shim: tasks::ShimConfig { shim: at("shim"), events_address: at("events"), api_address: at("api") },
        events: windlass_engine::events::Config::default(),
    });
    let core = core.await.expect("a core");
    let listener = tokio::net::UnixListener::bind(at("api")).expect("bind");
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let routes = windlass_api::services(&core);
    let server = tokio::spawn(async move {
        Server::builder().add_routes(routes).serve_with_incoming(incoming).await.expect("serve");
    });
    let channel = connect(&at("api")).await;
    Bench { _dir: dir, core, channel, _server: tokio_util::task::AbortOnDropHandle::new(server) }
}

async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.expect("connect")
}

impl Bench {
    fn tenant(&self, name: &str) -> Tenant {
        self.core.tenant(name.parse().expect("a name"))
    }
}

/// A request in a namespace.
fn within<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", namespace.parse().expect("ascii"));
    request
}

/// Labels that keep a thing from the collector.
fn kept() -> Labels {
    Labels::from([("containerd.io/gc.root".to_owned(), "test".to_owned())])
}

async fn put_blob(tenant: &Tenant, bytes: &[u8]) -> Digest {
    let mut writer = tenant.content().ingest("test", None, None).await.expect("ingest");
    writer.write(bytes).await.expect("write");
    writer.commit(None, None, kept()).await.expect("commit")
}

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
async fn content_is_listed_read_and_deleted() {
    let bench = bench().await;
    let mut content = ContentClient::new(bench.channel.clone());
    // More than one message's worth.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let digest = put_blob(&bench.tenant("one"), &bytes).await.to_string();
    let mut list = content.list(within("one", ListContentRequest::default())).await.expect("list").into_inner();
    let batch = list.message().await.expect("a message").expect("a batch");
    assert_eq!(batch.info.len(), 1);
    assert_eq!(batch.info[0].digest, digest);
    for (offset, size, expected) in [(0, 0, &bytes[..]), (1_500_000, 1_400_000, &bytes[1_500_000..2_900_000])] {
        let request = ReadContentRequest { digest: digest.clone(), offset, size };
        let mut stream = content.read(within("one", request)).await.expect("read").into_inner();
        let mut got = Vec::new();
        while let Some(part) = stream.message().await.expect("a message") {
            assert_eq!(part.offset, offset + got.len() as i64);
            got.extend(part.data);
        }
        assert!(got == expected, "{offset} {size}");
    }
    let past = ReadContentRequest { digest: digest.clone(), offset: 3_000_001, size: 0 };
    assert_eq!(content.read(within("one", past)).await.expect_err("past the end").code(), Code::OutOfRange);
    let statuses = content.list_statuses(within("one", ListStatusesRequest::default())).await.expect("statuses");
    assert!(statuses.into_inner().statuses.is_empty());
    let filters = vec!["ref=x".to_owned()];
    let filtered = content.list_statuses(within("one", ListStatusesRequest { filters })).await;
    assert_eq!(filtered.expect_err("no filter").code(), Code::InvalidArgument);
    content.delete(within("one", DeleteContentRequest { digest: digest.clone() })).await.expect("delete");
    let gone = content.delete(within("one", DeleteContentRequest { digest })).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    let bad = content.info(within("one", InfoRequest { digest: "sha256:x".into() })).await.expect_err("bad");
    assert_eq!(bad.code(), Code::InvalidArgument);
}

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

#[tokio::test]
async fn snapshots_are_told_and_what_is_not_built_says_so() {
    let bench = bench().await;
    let store = bench.tenant("one").snapshots("native").expect("a driver");
    store.prepare("active", None, kept(), None).await.expect("prepare");
    let mut snapshots = SnapshotsClient::new(bench.channel.clone());
    let (snapshotter, key) = ("native".to_owned(), "active".to_owned());
    let request = StatSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone() };
    let info = snapshots.stat(within("one", request)).await.expect("stat").into_inner().info.expect("info");
    assert_eq!(info.kind(), Kind::Active);
    let request = MountsRequest { snapshotter: snapshotter.clone(), key: key.clone() };
    let mounts = snapshots.mounts(within("one", request)).await.expect("mounts").into_inner().mounts;
    assert_eq!(mounts[0].r#type, "bind");
    let request = UsageRequest { snapshotter: snapshotter.clone(), key: key.clone() };
    assert!(snapshots.usage(within("one", request)).await.expect("usage").into_inner().inodes > 0);
    let request = ListSnapshotsRequest { snapshotter: snapshotter.clone(), filters: Vec::new() };
    let mut list = snapshots.list(within("one", request)).await.expect("list").into_inner();
    assert_eq!(list.message().await.expect("a message").expect("a batch").info[0].name, "active");
    let request = StatSnapshotRequest { snapshotter: "btrfs".into(), key };
    assert_eq!(snapshots.stat(within("one", request)).await.expect_err("no driver").code(), Code::NotFound);
    let request = PrepareSnapshotRequest { snapshotter, ..Default::default() };
    assert_eq!(snapshots.prepare(within("one", request)).await.expect_err("not built").code(), Code::Unimplemented);
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

#[tokio::test]
async fn the_server_says_who_it_is() {
    let bench = bench().await;
    let version = VersionClient::new(bench.channel.clone()).version(()).await.expect("version").into_inner();
    assert_eq!(version.version, env!("CARGO_PKG_VERSION"));
    let mut introspection = IntrospectionClient::new(bench.channel.clone());
    let first = introspection.server(()).await.expect("server").into_inner();
    let second = introspection.server(()).await.expect("server").into_inner();
    assert_eq!(first.uuid.len(), 36);
    assert_eq!(first.uuid, second.uuid);
    assert_eq!(first.pid, u64::from(std::process::id()));
}
