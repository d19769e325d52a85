//! How a session ended, in the words of its subprotocol: a Status object of the Kubernetes API, or plain text.

use serde::Serialize;
use windlass_model::{Error, Result};

/// How the error stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Before version 4: nothing for success, else a sentence.
    Text,
    /// From version 4 on: always an object, with the exit code.
    Json,
}

#[derive(Serialize)]
struct Status {
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

impl Report {
    /// The bytes for the error stream; `ended` is the exit code, where there is one, or why there is none.
    pub(super) fn bytes(self, ended: &Result<i32>) -> Vec<u8> {
        let status = Status::new(ended);
        match self {
            Self::Text => status.message.into_bytes(),
            // The object holds nothing that JSON cannot say.
            Self::Json => serde_json::to_vec(&status).unwrap_or_default(),
        }
    }
}

impl Status {
    fn new(ended: &Result<i32>) -> Self {
        match ended {
            Ok(0) => Self {
                metadata: Empty {},
                status: "Success",
                message: String::new(),
                reason: "",
                details: None,
                code: None,
            },
            Ok(code) => Self {
                metadata: Empty {},
                status: "Failure",
                message: format!("command terminated with non-zero exit code: {code}"),
                reason: "NonZeroExitCode",
                details: Some(Details { causes: [Cause { reason: "ExitCode", message: code.to_string() }] }),
                code: None,
            },
            Err(error) => Self::internal(error),
        }
    }

    fn internal(error: &Error) -> Self {
        Self {
            metadata: Empty {},
            status: "Failure",
            message: format!("Internal error occurred: {error}"),
            reason: "InternalError",
            details: None,
            code: Some(500),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(report: Report, ended: Result<i32>) -> String {
        String::from_utf8(report.bytes(&ended)).unwrap()
    }

    #[test]
    fn text_says_nothing_of_success() {
        assert_eq!(said(Report::Text, Ok(0)), "");
        assert_eq!(said(Report::Text, Ok(7)), "command terminated with non-zero exit code: 7");
        assert_eq!(said(Report::Text, Err(Error::internal("no such file"))), "Internal error occurred: no such file");
    }

    #[test]
    fn an_object_says_everything() {
        assert_eq!(said(Report::Json, Ok(0)), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            said(Report::Json, Ok(7)),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#
        );
        assert_eq!(
            said(Report::Json, Err(Error::internal("x"))),
            r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: x","reason":"InternalError","code":500}"#
        );
    }
}
