//! The one error that crosses crate borders: a kind that decides the wire code, a message, and the cause.
//!
//! Modules keep small enums of their own where a caller tells variants apart, and turn them into [`Error`] at their
//! crate's border. The kinds are those of containerd's `errdefs`, which are those of gRPC.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, in the words every client of a container runtime knows. The numbers are gRPC's (`google.rpc.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller gave up.
    Canceled = 1,
    /// A cause that nobody classified.
    Unknown = 2,
    /// A field of the request is wrong; repeating the call will not help.
    InvalidArgument = 3,
    /// A time-out passed before the work was done.
    DeadlineExceeded = 4,
    /// The named thing does not exist.
    NotFound = 5,
    /// The named thing exists already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit is reached: disk, memory, a quota, a registry's rate limit.
    ResourceExhausted = 8,
    /// The thing is in a state in which this cannot be done.
    FailedPrecondition = 9,
    /// A concurrent change got in between; the whole sequence may be tried again.
    Aborted = 10,
    /// An offset is past the end.
    OutOfRange = 11,
    /// Not built.
    Unimplemented = 12,
    /// An invariant of ours is broken.
    Internal = 13,
    /// The other side does not answer; trying again may help.
    Unavailable = 14,
    /// Stored or transferred bytes are not what they should be.
    DataLoss = 15,
    /// Credentials are missing or refused.
    Unauthenticated = 16,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    const ALL: [Self; 16] = [
        Self::Canceled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Its number on the wire, in gRPC and in ttrpc.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The kind of a number from the wire; [`Kind::Unknown`] for one that nobody knows, and for 0, which is no error.
    pub fn from_code(code: i32) -> Self {
        Self::ALL.into_iter().find(|kind| kind.code() == code).unwrap_or(Self::Unknown)
    }
}

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with a [`Kind`], a message for a person, and the error that caused it.
///
/// `Display` prints the message and then each cause, separated by `: `, so that one line tells the whole story.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that nothing else caused.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error of `kind` with the error that led to it.
    pub fn with_source(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::AlreadyExists`].
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Kind::AlreadyExists, message)
    }

    /// [`Kind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// [`Kind::FailedPrecondition`].
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    /// [`Kind::Unimplemented`].
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Kind::Unimplemented, message)
    }

    /// [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// [`Kind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// [`Kind::DataLoss`].
    pub fn data_loss(message: impl Into<String>) -> Self {
        Self::new(Kind::DataLoss, message)
    }

    /// [`Kind::DeadlineExceeded`].
    pub fn deadline(message: impl Into<String>) -> Self {
        Self::new(Kind::DeadlineExceeded, message)
    }

    /// What went wrong, for the wire and for callers that branch on it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True for [`Kind::NotFound`], which idempotent verbs treat as success.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// What it prints, cut to 4096 bytes: an answer's message travels in a header, and clients bound those.
    pub fn brief(&self) -> String {
        const LONGEST: usize = 4096;
        let mut message = self.to_string();
        if message.len() > LONGEST {
            message.truncate(message.floor_char_boundary(LONGEST - '…'.len_utf8()));
            message.push('…');
        }
        message
    }

    /// A copy for a second caller that waits for the same result; the causes become part of the message.
    pub fn share(&self) -> Self {
        Self::new(self.kind, self.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // An inner Error prints its own causes, so the walk stops there.
        let mut cause = self.source.as_deref().map(|source| source as &(dyn StdError + 'static));
        while let Some(inner) = cause {
            write!(f, ": {inner}")?;
            if inner.is::<Self>() {
                break;
            }
            cause = inner.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Gives errors of the operating system a kind: what a full disk or a missing file means to a client.
pub fn io_kind(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => Kind::NotFound,
        Io::AlreadyExists => Kind::AlreadyExists,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => Kind::PermissionDenied,
        Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory => Kind::ResourceExhausted,
        Io::TimedOut => Kind::DeadlineExceeded,
        Io::InvalidInput | Io::InvalidFilename => Kind::InvalidArgument,
        Io::InvalidData | Io::UnexpectedEof => Kind::DataLoss,
        Io::ConnectionRefused | Io::ConnectionReset | Io::BrokenPipe | Io::NotConnected => Kind::Unavailable,
        _ => Kind::Internal,
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self { kind: io_kind(&error), message: error.to_string(), source: None }
    }
}

/// Adds what was being done to an error, once, where it is known.
pub trait Context<T> {
    /// Keeps the error's kind and puts `doing` before its message.
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            Error { kind: error.kind, message: doing(), source: Some(Box::new(error)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_kind_and_prints_the_chain_once() {
        let inner: Result<()> = Err(Error::not_found("blob sha256:ab"));
        let outer = inner.context(|| "read manifest".into()).context(|| "pull busybox".into()).unwrap_err();
        assert_eq!(outer.kind(), Kind::NotFound);
        assert_eq!(outer.to_string(), "pull busybox: read manifest: blob sha256:ab");
    }

    #[test]
    fn a_brief_message_is_cut_between_characters() {
        assert_eq!(Error::not_found("a pod").brief(), "a pod");
        let cut = Error::internal("ä".repeat(5000)).brief();
        assert!(cut.len() <= 4096 && cut.ends_with("ä…"), "{} bytes", cut.len());
    }

    #[test]
    fn kinds_have_the_numbers_of_grpc() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind.code(), Kind::from_code(kind.code())), (index as i32 + 1, kind));
        }
        assert_eq!((Kind::NotFound.code(), Kind::Unauthenticated.code()), (5, 16));
        assert_eq!([Kind::from_code(0), Kind::from_code(17), Kind::from_code(-1)], [Kind::Unknown; 3]);
    }

    #[test]
    fn a_full_disk_is_resource_exhausted() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(Error::from(full).kind(), Kind::ResourceExhausted);
    }
}
