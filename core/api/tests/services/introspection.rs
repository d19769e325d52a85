//! Who the server is.

use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{PluginInfoRequest, PluginsRequest};
use tonic::Code;

use super::*;

#[tokio::test]
async fn the_server_says_who_it_is() {
    let bench = bench().await;
    let version = VersionClient::new(bench.channel.clone()).version(()).await.expect("version").into_inner();
    assert_eq!(version.version, concat!("2.2.0+windlass.", env!("CARGO_PKG_VERSION")));
    let mut introspection = IntrospectionClient::new(bench.channel.clone());
    let first = introspection.server(()).await.expect("server").into_inner();
    let second = introspection.server(()).await.expect("server").into_inner();
    assert_eq!(first.uuid.len(), 36);
    assert_eq!(first.uuid, second.uuid);
    assert_eq!(first.pid, u64::from(std::process::id()));
}

#[tokio::test]
async fn clients_find_the_plugins_that_they_look_for() {
    let bench = bench().await;
    let mut introspection = IntrospectionClient::new(bench.channel.clone());
    for (filters, wanted) in [
        (&["type==io.containerd.snapshotter.v1, id==native"][..], &["native"][..]),
        (&[r#"type=="io.containerd.snapshotter.v1""#], &["native"]),
        (&["type~=|^io.containerd.runtime|", "id==diff-service"], &["task", "diff-service"]),
        (&["id==none"], &[]),
    ] {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let found = introspection.plugins(PluginsRequest { filters }).await.expect("plugins").into_inner().plugins;
        assert_eq!(found.iter().map(|plugin| plugin.id.as_str()).collect::<Vec<_>>(), wanted);
    }
    let info =
        |id: &str, options| PluginInfoRequest { r#type: "io.containerd.snapshotter.v1".into(), id: id.into(), options };
    let found = introspection.plugin_info(info("native", None)).await.expect("info").into_inner().plugin;
    let found = found.expect("a plugin");
    assert!(found.exports["root"].ends_with("snapshots"), "{found:?}");
    assert_eq!(found.platforms[0].os, "linux");
    assert_eq!(introspection.plugin_info(info("none", None)).await.expect_err("none").code(), Code::NotFound);
    let more = introspection.plugin_info(info("native", Some(Default::default()))).await.expect_err("no more");
    assert_eq!(more.code(), Code::Unimplemented);
}
