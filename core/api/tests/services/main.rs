//! The services over a real core, asked by containerd's own client messages through a Unix socket; a file for each service.

mod containers;
mod content;
mod health;
mod images;
mod introspection;
mod leases;
mod mounts;
mod namespaces;
mod policy;
mod sandboxes;
mod snapshots;
mod transfer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use containerd_client::services::v1::content_client::ContentClient;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Server};
use windlass_engine::images::VerifierConfig;
use windlass_engine::{Core, Options, Tenant, registry, tasks};
use windlass_model::Digest;
use windlass_model::snapshotter::Labels;
use windlass_snapshotters::Native;

/// A served core in a temporary folder.
struct Bench {
    _dir: tempfile::TempDir,
    core: Core,
    channel: Channel,
    _server: tokio_util::task::AbortOnDropHandle<()>,
}

async fn bench() -> Bench {
    bench_with(None).await
}

/// A bench on which somebody is asked whether an image may be used.
async fn bench_with(verifier: Option<VerifierConfig>) -> Bench {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let core = Core::open(Options {
        root: at("root"),
        state: at("state"),
        drivers: vec![Arc::new(Native::open(at("snapshots")).expect("a driver"))],
        registry: registry::Config::default(),
        shim: tasks::ShimConfig { shim: at("shim"), events_address: at("events"), api_address: at("api") },
        events: windlass_engine::events::Config::default(),
        verifier,
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
    /// Calls a method whose messages no crate has.
    async fn raw<A, T>(&self, method: &'static str, request: Request<A>) -> Result<tonic::Streaming<T>, tonic::Status>
    where
        A: prost::Message + Send + Sync + 'static,
        T: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.expect("ready");
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
        let codec = tonic_prost::ProstCodec::<A, T>::default();
        client.server_streaming(request, path, codec).await.map(|answer| answer.into_inner())
    }

    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

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

/// A request in a namespace, under a lease.
fn under<T>(lease: &str, namespace: &str, message: T) -> Request<T> {
    let mut request = within(namespace, message);
    request.metadata_mut().insert("containerd-lease", lease.parse().expect("ascii"));
    request
}

/// Labels as requests have them.
fn labels<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
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
