//! The one table from our error kinds to gRPC's codes.

use tonic::{Code, Status};
use windlass_model::{Error, Kind};

/// The gRPC code of a kind.
pub(crate) fn code(kind: Kind) -> Code {
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

/// The answer for a call that failed. The message travels as a header, so it stays far below a header's limit.
pub(crate) fn status(error: &Error) -> Status {
    const LONGEST: usize = 4096;
    let mut message = error.to_string();
    if message.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    Status::new(code(error.kind()), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kubelet_branches_on_keeps_its_code() {
        assert_eq!(code(Kind::NotFound), Code::NotFound);
        assert_eq!(code(Kind::DeadlineExceeded), Code::DeadlineExceeded);
        assert_eq!(code(Kind::Unimplemented), Code::Unimplemented);
    }

    #[test]
    fn a_long_message_is_cut_at_a_letter() {
        let status = status(&Error::internal("ä".repeat(5000)));
        assert!(status.message().len() <= 4096 + '…'.len_utf8());
        assert!(status.message().ends_with('…'));
    }
}
