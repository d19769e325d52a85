//! `containerd.services.diff.v1.Diff`: layers applied to the mounts of snapshots, and made from them.

use containerd_client::services::v1::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use tonic::{Request, Response, Status};
use windlass_engine::{Core, layers};

use crate::codes::status;
use crate::served::diff_server::{Diff, DiffServer};
use crate::{tenant, words};

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> DiffServer<impl Diff> {
    DiffServer::new(Service { core })
}

#[tonic::async_trait]
impl Diff for Service {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let layers = tenant::of(&self.core, &request)?.layers();
        let asked = request.into_inner();
        let diff = words::described(words::required(asked.diff, "diff")?)?;
        let mounts: Vec<_> = asked.mounts.into_iter().map(words::mounted).collect();
        let applied = layers.apply(&diff, &mounts, asked.sync_fs).await.map_err(status)?;
        Ok(Response::new(ApplyResponse { applied: Some(words::descriptor(applied)) }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let (layers, lease) = (tenant::of(&self.core, &request)?.layers(), tenant::lease(&request)?);
        let asked = request.into_inner();
        let wanted = layers::DiffRequest {
            lower: asked.left.into_iter().map(words::mounted).collect(),
            upper: asked.right.into_iter().map(words::mounted).collect(),
            media_type: asked.media_type,
            reference: asked.r#ref,
            labels: asked.labels.into_iter().collect(),
            newest: asked.source_date_epoch.map(|epoch| epoch.seconds),
            lease,
        };
        let made = layers.diff(wanted).await.map_err(status)?;
        Ok(Response::new(DiffResponse { diff: Some(words::descriptor(made)) }))
    }
}
