//! Image references as Kubernetes and Docker write them, brought to one full form.
//!
//! `busybox` means `docker.io/library/busybox:latest`. The first component names a host where it holds a `.` or a `:`,
//! is `localhost`, or has an upper-case letter (distribution spec 1.1, "Pulling manifests", and the grammar of
//! `distribution/reference`). A reference with a tag and a digest is the digest's; the tag is kept for display.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The longest repository name, host included, in bytes.
const MAX_NAME: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A checked reference: host, repository, and a tag, a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's name as written, `docker.io` where none was; not necessarily the host that is dialled.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository inside the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, `latest` where neither tag nor digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `host/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// `host/repository:tag`, where there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `host/repository@digest` for a digest that was resolved.
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(*digest), ..self.clone() }
    }
}

fn is_path_component(text: &str) -> bool {
    // [a-z0-9]+ joined by one '.', one or two '_', or any number of '-'.
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|run| !run.is_empty());
    separators.into_iter().all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                return address.parse::<std::net::Ipv6Addr>().is_ok()
                    && (port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()));
            }
            None => return false,
        },
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// True where the first component of a reference names a host rather than a folder of `docker.io`.
fn names_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::invalid(format!("image reference {text:?} {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A ':' after the last '/' starts a tag; before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("has a tag that is not a tag"));
        }
        let (host, repository) = match name.split_once('/') {
            Some((first, path)) if names_host(first) => (first, path.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let (host, repository) = match host {
            "docker.io" | "index.docker.io" if !repository.contains('/') => {
                ("docker.io", format!("library/{repository}"))
            }
            "index.docker.io" => ("docker.io", repository),
            _ => (host, repository),
        };
        if !is_host(host) {
            return Err(refuse("names no valid registry host"));
        }
        if host.len() + 1 + repository.len() > MAX_NAME {
            return Err(refuse("has a name longer than 255 bytes"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(refuse("has a repository that is not lower-case letters, digits and separators"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        match (&self.tag, &self.digest) {
            (_, Some(digest)) => write!(f, "@{digest}"),
            (Some(tag), None) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("foo/bar:1"), "docker.io/foo/bar:1");
        assert_eq!(full("docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("localhost/a"), "localhost/a:latest");
        assert_eq!(full("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
        assert_eq!(full("[::1]:5000/a:b"), "[::1]:5000/a:b");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = Digest::of(b"x");
        let reference: Reference = format!("quay.io/a/b:v1@{digest}").parse().unwrap();
        assert_eq!(reference.to_string(), format!("quay.io/a/b@{digest}"));
        assert_eq!(reference.tag(), Some("v1"));
    }

    #[test]
    fn rubbish_is_refused() {
        for bad in [
            "",
            " ",
            "a b",
            "UPPER",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:b:c",
            "a@sha256:1",
            "a..b",
            "-a",
            "x.io/A",
            "a:-x",
            "http://a/b",
            "x.io:99999/a",
            "../etc/passwd",
            "a/../b",
            "x.io/a___b",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(300).parse::<Reference>().is_err());
    }
}
