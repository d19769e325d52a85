//! `containerd.services.introspection.v1.Introspection`: which server answers, and what it is made of.

mod plugins;

use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use containerd_client::services::v1::{
    PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_model::Context;

use crate::codes::status;
use crate::served::introspection_server::{Introspection, IntrospectionServer};
use crate::words;

/// The file of the server's id, below the root.
const UUID: &str = "uuid";

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> IntrospectionServer<impl Introspection> {
    IntrospectionServer::new(Service { core })
}

#[tonic::async_trait]
impl Introspection for Service {
    async fn plugins(&self, request: Request<PluginsRequest>) -> Result<Response<PluginsResponse>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut plugins = plugins::all(&self.core);
        plugins.retain(|plugin| filter.matches(|path| plugins::field(plugin, path)));
        Ok(Response::new(PluginsResponse { plugins }))
    }

    async fn plugin_info(&self, request: Request<PluginInfoRequest>) -> Result<Response<PluginInfoResponse>, Status> {
        let PluginInfoRequest { r#type: kind, id, options } = request.into_inner();
        let found = plugins::all(&self.core).into_iter().find(|plugin| plugin.r#type == kind && plugin.id == id);
        let plugin = found.ok_or_else(|| Status::not_found(format!("there is no plugin {kind}.{id}")))?;
        if options.is_some() {
            return Err(Status::unimplemented(format!("plugin {kind}.{id} tells no more than its name")));
        }
        Ok(Response::new(PluginInfoResponse { plugin: Some(plugin), extra: None }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<ServerResponse>, Status> {
        let path = self.core.root().join(UUID);
        let uuid = tokio::task::spawn_blocking(move || own_uuid(&path)).await;
        let uuid = uuid.map_err(|error| Status::internal(error.to_string()))?.map_err(status)?;
        let pidns = std::fs::metadata("/proc/self/ns/pid").map(|pidns| pidns.ino()).unwrap_or_default();
        let pid = u64::from(std::process::id());
        Ok(Response::new(ServerResponse { uuid, pid, pidns, deprecations: Vec::new() }))
    }
}

/// The id of this root, made by whoever asks first and kept.
fn own_uuid(path: &Path) -> windlass_model::Result<String> {
    let fresh = uuid::Uuid::new_v4().to_string();
    let doing = || format!("keep the server's id in {}", path.display());
    match std::fs::File::create_new(path) {
        Ok(mut file) => file.write_all(fresh.as_bytes()).map(|()| fresh).context(doing),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::read_to_string(path).map(|text| text.trim().to_owned()).context(doing)
        }
        Err(error) => Err(error).context(doing),
    }
}
