//! How a client wants its registry reached, and its credentials, which it is asked for over a stream.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use containerd_client::types::transfer::{AuthRequest, AuthResponse, AuthType};
use windlass_engine::registry::{Access, Credentials};
use windlass_model::{Error, Kind, Reference, Result};

use super::Job;
use super::places::Registry;
use crate::streaming::read;

/// How long a client may think about its password.
const ANSWER: Duration = Duration::from_secs(120);

impl Job {
    /// Asks the client what it presents to the registry.
    pub(super) async fn access(&self, registry: &Registry) -> Result<Access> {
        let resolver = &registry.resolver;
        if !resolver.headers.is_empty() {
            return Err(Error::unimplemented("headers of a client's own for a registry; hosts.toml can have them"));
        }
        let plain_http = match resolver.default_scheme.as_str() {
            "" | "https" => false,
            "http" => true,
            other => return Err(Error::invalid(format!("a registry is spoken to by http or https, not {other:?}"))),
        };
        let config_path = Some(PathBuf::from(&resolver.host_dir)).filter(|path| !path.as_os_str().is_empty());
        if self.isolated && config_path.is_some() {
            // Files of this machine are not for it to choose.
            return Err(Error::new(Kind::PermissionDenied, "this socket takes no folder of registry hosts"));
        }
        let auth = match resolver.auth_stream.as_str() {
            "" => None,
            id => self.ask(id, &registry.reference).await?,
        };
        Ok(Access { auth, config_path, plain_http })
    }

    async fn ask(&self, id: &str, reference: &str) -> Result<Option<Credentials>> {
        let mut stream = self.streams.take(self.tenant.namespace(), id)?;
        let host = match reference.parse::<Reference>()?.host() {
            "docker.io" => "registry-1.docker.io".to_owned(),
            host => host.to_owned(),
        };
        stream.send(&AuthRequest { host, reference: reference.to_owned(), wwwauthenticate: Vec::new() }).await?;
        let answer = tokio::time::timeout(ANSWER, stream.receive()).await;
        let answer = answer.map_err(|_| Error::deadline("the client did not say its credentials"))??;
        let answer = answer.ok_or_else(|| Error::new(Kind::Canceled, "the client ended the stream of credentials"))?;
        let answer: AuthResponse = read(&answer)?.ok_or_else(|| Error::invalid("the client sent no credentials"))?;
        credentials(answer)
    }
}

/// What an answer says. It is never quoted.
fn credentials(answer: AuthResponse) -> Result<Option<Credentials>> {
    let AuthResponse { auth_type, secret, username, .. } = answer;
    let kind =
        AuthType::try_from(auth_type).map_err(|_| Error::invalid("the client's credentials are of no known kind"))?;
    if secret.is_empty() && username.is_empty() {
        return Ok(None);
    }
    Ok(match kind {
        AuthType::None => None,
        AuthType::Credentials => Some(Credentials::Basic { user: username, password: secret }),
        AuthType::Refresh => Some(Credentials::Identity(secret)),
        AuthType::Header => Some(header(&secret)?),
    })
}

/// The value of an `Authorization` header.
fn header(value: &str) -> Result<Credentials> {
    let broken = || Error::invalid("the client's Authorization header is not understood");
    let (scheme, parameters) = value.trim().split_once(' ').ok_or_else(broken)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Registry(parameters.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(broken());
    }
    let text = STANDARD.decode(parameters.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(broken)?;
    let (user, password) = text.split_once(':').ok_or_else(broken)?;
    Ok(Credentials::Basic { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: AuthType, username: &str, secret: &str) -> Result<Option<Credentials>> {
        let (secret, username) = (secret.to_owned(), username.to_owned());
        credentials(AuthResponse { auth_type: kind.into(), secret, username, expire_at: None })
    }

    #[test]
    fn credentials_are_read_in_all_their_forms() {
        let basic = Some(Credentials::Basic { user: "u".into(), password: "p".into() });
        assert_eq!(answer(AuthType::Credentials, "u", "p").expect("good"), basic);
        assert_eq!(answer(AuthType::Header, "", &format!("Basic {}", STANDARD.encode("u:p"))).expect("good"), basic);
        let bearer = Some(Credentials::Registry("t".into()));
        assert_eq!(answer(AuthType::Header, "", "bearer t").expect("good"), bearer);
        assert_eq!(answer(AuthType::Refresh, "", "t").expect("good"), Some(Credentials::Identity("t".into())));
        // A client without any says so in this way.
        assert_eq!(answer(AuthType::Refresh, "", "").expect("good"), None);
        assert_eq!(answer(AuthType::None, "", "x").expect("good"), None);
        for bad in ["x", "Digest y", "Basic !", "Basic eA=="] {
            let error = answer(AuthType::Header, "", bad).expect_err("refused");
            assert!(!error.to_string().contains(bad));
        }
        assert!(credentials(AuthResponse { auth_type: 77, ..AuthResponse::default() }).is_err());
    }
}
