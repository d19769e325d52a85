//! `containerd.services.version.v1.Version`: which build answers.

use containerd_client::services::v1::VersionResponse;
use tonic::{Request, Response, Status};

use crate::served::version_server::{Version, VersionServer};

struct Service;

pub(crate) fn service() -> VersionServer<impl Version> {
    VersionServer::new(Service)
}

#[tonic::async_trait]
impl Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("WINDLASS_REVISION").unwrap_or_default().to_owned(),
        }))
    }
}
