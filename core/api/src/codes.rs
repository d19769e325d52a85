//! The table from the engine's error kinds to gRPC codes.

use tonic::{Code, Status};
use windlass_model::{Error, Kind};

/// The longest message that goes out; it travels in a header, and clients bound those.
const LONGEST: usize = 4096;

/// The answer that an error of the engine gives.
pub(crate) fn status(error: Error) -> Status {
    let mut message = error.to_string();
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push('…');
    }
    Status::new(code(error.kind()), message)
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::Canceled => Code::Cancelled,
        Kind::Unknown => Code::Unknown,
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Aborted => Code::Aborted,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
        Kind::Unavailable => Code::Unavailable,
        Kind::DataLoss => Code::DataLoss,
        Kind::Unauthenticated => Code::Unauthenticated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let status = status(Error::not_found("ä".repeat(5000)));
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().len() <= LONGEST + '…'.len_utf8());
    }
}
