//! Verbs that change something go on where their client hangs up: half a task, or half of some mounts, is nobody's.

use std::future::Future;

use tonic::{Response, Status};
use windlass_model::Result;

use crate::codes::status;

/// What a method answers.
pub(crate) type Answer<T> = std::result::Result<Response<T>, Status>;

/// Does `work` to its end, also where the client does not wait for it.
pub(crate) async fn finish<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Answer<T> {
    let done = tokio::spawn(work).await.map_err(|error| Status::internal(error.to_string()))?;
    done.map(Response::new).map_err(status)
}
