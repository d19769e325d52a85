//! Who the server is.

use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;

use super::*;

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
