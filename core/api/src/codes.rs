//! What an error of the engine is in gRPC.

use tonic::{Code, Status};
use windlass_model::Error;

/// The answer that an error gives.
pub(crate) fn status(error: Error) -> Status {
    Status::new(Code::from(error.kind().code()), error.brief())
}
