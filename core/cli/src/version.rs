//! `windlass version`: which builds speak to each other.

use anyhow::Result;
use containerd_client::services::v1::version_client::VersionClient;
use k8s_cri::v1::VersionRequest;
use serde::Serialize;

use crate::client::{Daemon, answered, api};
use crate::output::Output;

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    server: Option<Server>,
}

#[derive(Debug, Serialize)]
struct Server {
    version: String,
    revision: String,
    cri_runtime: String,
    cri_runtime_version: String,
    cri_version: String,
}

pub(crate) async fn run(daemon: &Daemon, output: &Output) -> Result<()> {
    let client = env!("CARGO_PKG_VERSION");
    let server = ask(daemon).await;
    let text = match &server {
        Ok(server) => format!(
            "windlass   {client}\nwindlassd  {}{}\nCRI        {} ({} {})",
            server.version,
            if server.revision.is_empty() { String::new() } else { format!(" ({})", server.revision) },
            server.cri_version,
            server.cri_runtime,
            server.cri_runtime_version,
        ),
        Err(_) => format!("windlass   {client}"),
    };
    let (server, error) = match server {
        Ok(server) => (Some(server), None),
        Err(error) => (None, Some(error)),
    };
    output.one(&Versions { client, server }, &text)?;
    error.map_or(Ok(()), Err)
}

async fn ask(daemon: &Daemon) -> Result<Server> {
    let mut client = api!(VersionClient<_>, daemon.connect().await?);
    let version = client.version(()).await.map_err(answered)?.into_inner();
    let request = VersionRequest { version: "v1".into() };
    let cri = daemon.runtime().await?.version(request).await.map_err(answered)?.into_inner();
    Ok(Server {
        version: version.version,
        revision: version.revision,
        cri_runtime: cri.runtime_name,
        cri_runtime_version: cri.runtime_version,
        cri_version: cri.runtime_api_version,
    })
}
