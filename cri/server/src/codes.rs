//! What an error of ours is in gRPC.

use tonic::{Code, Status};
use windlass_model::Error;

/// The answer for a call that failed.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(Code::from(error.kind().code()), error.brief())
}
