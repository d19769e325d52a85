//! The way to registries (OCI distribution spec 1.1): one [`Client`] per daemon, one [`Session`] per pull.
//!
//! A session reads the `hosts.toml` directories afresh, so that an edit counts from the next pull on, and holds what
//! was learned on the way: tokens, and which host gave bytes that were not what their digest says. What comes from a
//! registry is untrusted: answers have a size limit, every wait ends, and nothing is believed without its digest.
//!
//! Credentials belong to the registry that the reference names. They are sent to that host and to the token server it
//! names, never to a mirror, never along a redirect to another origin, and never in clear text over a network that
//! asked for them in clear text only because somebody stood in the middle.

pub(crate) mod auth;
mod client;
mod fetch;
pub(crate) mod hosts;
mod push;
mod resolve;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use windlass_model::Result;
use windlass_model::reference::Reference;

pub(crate) use client::Session;
pub(crate) use fetch::BlobStream;
pub(crate) use push::{Pushed, Upload};
pub(crate) use resolve::Resolved;

/// Where the registry configuration lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The folder (or several, joined by `:`) with one directory per registry host, each holding a `hosts.toml`, as
    /// containerd reads them; `None` asks every registry directly.
    pub config_path: Option<PathBuf>,
}

/// How one client wants its registry to be reached, beside what is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// What it presents to the registry that the reference names.
    pub auth: Option<Credentials>,
    /// A folder of `hosts.toml` directories in the place of the configured one.
    pub config_path: Option<PathBuf>,
    /// Whether a registry of which no file says anything is spoken to without TLS.
    pub plain_http: bool,
}

impl Access {
    /// The configured way, with these credentials.
    pub fn with(auth: Option<Credentials>) -> Self {
        Self { auth, ..Self::default() }
    }
}

/// What a client presents to the registry that a reference names.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password or access key.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// An identity token: an OAuth 2 refresh token that the token server changes into an access token.
    Identity(String),
    /// A bearer token that is sent to the registry as it is.
    Registry(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Basic { .. } => "Basic",
            Self::Identity(_) => "Identity",
            Self::Registry(_) => "Registry",
        };
        write!(f, "{kind}(<redacted>)")
    }
}

/// How long and how often things are tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a TCP connection and its TLS handshake.
    pub(crate) connect: Duration,
    /// From a request to the head of its answer, and between two pieces of a small answer.
    pub(crate) answer: Duration,
    /// Before the second try; doubled before each further one.
    pub(crate) back_off: Duration,
    /// The longest `Retry-After` that is waited for; a longer one ends the request at once.
    pub(crate) retry_after: Duration,
    /// How often a request is sent to the registry itself.
    pub(crate) attempts: u32,
    /// How often a request is sent to a mirror, which has somebody after it.
    pub(crate) mirror_attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            back_off: Duration::from_millis(300),
            retry_after: Duration::from_secs(30),
            attempts: 5,
            mirror_attempts: 2,
        }
    }
}

/// The registries of the world; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    config: Config,
    patience: Patience,
    http: Arc<client::Http>,
}

impl Client {
    pub(crate) fn new(config: Config) -> Self {
        Self::with_patience(config, Patience::default())
    }

    pub(crate) fn with_patience(config: Config, patience: Patience) -> Self {
        Self { config, patience, http: Arc::new(client::Http::new(patience)) }
    }

    /// Starts talking about one repository; reads the host directories.
    pub(crate) async fn session(&self, reference: &Reference, access: Access) -> Result<Session> {
        Session::open(self, reference, access, Vec::new()).await
    }

    /// As [`Client::session`], to write to the repository and to read from `sources` beside it.
    pub(crate) async fn push_session(
        &self,
        reference: &Reference,
        access: Access,
        sources: &[String],
    ) -> Result<Session> {
        let own = format!("repository:{}:pull,push", reference.repository());
        let scopes = sources.iter().map(|source| format!("repository:{source}:pull"));
        Session::open(self, reference, access, [own].into_iter().chain(scopes).collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_print() {
        let all = [
            Credentials::Basic { user: "u5er".into(), password: "s3cret".into() },
            Credentials::Identity("s3cret".into()),
            Credentials::Registry("s3cret".into()),
        ];
        let printed = format!("{all:?}");
        assert!(!printed.contains("s3cret") && !printed.contains("u5er"), "{printed}");
    }
}
