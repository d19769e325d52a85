//! `containerd.services.version.v1.Version`: which build answers, in words that containerd's clients understand.
//!
//! nerdctl reads the version as a semantic one and pulls and pushes by the transfer service from 2.0.0 on; ctr and dockerd
//! only show it. So the answer begins with the release of containerd whose API this is (2.2 is the first with the mounts
//! service), and our own version follows as build metadata, which has no part in comparisons. A pre-release suffix would:
//! `2.2.0-x` is less than `2.2.0`.

use containerd_client::services::v1::VersionResponse;
use tonic::{Request, Response, Status};

use crate::served::version_server::{Version, VersionServer};

/// The release of containerd whose API is served, and the release of Windlass.
const VERSION: &str = concat!("2.2.0+windlass.", env!("CARGO_PKG_VERSION"));

struct Service;

pub(crate) fn service() -> VersionServer<impl Version> {
    VersionServer::new(Service)
}

#[tonic::async_trait]
impl Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: VERSION.to_owned(),
            revision: option_env!("WINDLASS_REVISION").unwrap_or_default().to_owned(),
        }))
    }
}
