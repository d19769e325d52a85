//! PullImage: the reference and the credentials that the kubelet sends, made into a pull of the engine.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_cri_api::v1;
use windlass_engine::images::{Naming, PullRequest};
use windlass_engine::registry::{Access, Credentials};
use windlass_model::{Context as _, Error, Reference, Result};

use crate::Server;

/// A pull during which no byte comes for so long is given up, as containerd has it.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(300);

impl Server {
    /// Pulls and unpacks an image; answers its id. The same pull asked for twice is done once.
    pub(crate) async fn pull_image(self: &Arc<Self>, request: v1::PullImageRequest) -> Result<v1::PullImageResponse> {
        let spec = request.image.unwrap_or_default();
        if spec.image.is_empty() {
            return Err(Error::invalid("image.image is empty"));
        }
        let reference: Reference = spec.image.parse().context(|| "image.image".into())?;
        let auth = credentials(request.auth.as_ref(), reference.host())?;
        let pull = PullRequest {
            unpack: Some(self.config.snapshotter.clone()),
            naming: Naming::Cri,
            progress_timeout: PROGRESS_TIMEOUT,
            access: Access::with(auth),
            ..PullRequest::new(reference.clone())
        };
        // Who brings other credentials does not get what somebody else's bought.
        let subject = format!("pull/{reference}/{:x}", fingerprint(request.auth.as_ref()));
        let images = self.tenant.images();
        let work = async move { images.pull(pull).await.map(|pulled| pulled.detail.id.to_string()) };
        let image_ref: String = self.verbs.join(subject, "pull", work).await?;
        Ok(v1::PullImageResponse { image_ref })
    }
}

/// A number that tells credentials apart; it stays in memory.
fn fingerprint(auth: Option<&v1::AuthConfig>) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(auth) = auth {
        [&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token, &auth.server_address]
            .hash(&mut hasher);
    }
    hasher.finish()
}

/// What to present to the registry at `host`; nothing where the credentials are another one's.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for an `auth` that is not base64 of `user:password`. It is never quoted.
fn credentials(auth: Option<&v1::AuthConfig>, host: &str) -> Result<Option<Credentials>> {
    let Some(auth) = auth else { return Ok(None) };
    if !auth.server_address.is_empty() && server_host(&auth.server_address) != canonical(host) {
        return Ok(None);
    }
    if !auth.username.is_empty() {
        return Ok(Some(Credentials::Basic { user: auth.username.clone(), password: auth.password.clone() }));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Credentials::Identity(auth.identity_token.clone())));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Credentials::Registry(auth.registry_token.clone())));
    }
    if auth.auth.is_empty() {
        return Ok(None);
    }
    let broken = || Error::invalid("auth.auth is not base64 of user:password");
    let bytes = STANDARD.decode(auth.auth.trim()).map_err(|_| broken())?;
    let text = String::from_utf8(bytes).map_err(|_| broken())?;
    let (user, password) = text.split_once(':').ok_or_else(broken)?;
    // Docker has padded the password with NUL bytes.
    let password = password.trim_end_matches('\0').to_owned();
    Ok(Some(Credentials::Basic { user: user.to_owned(), password }))
}

/// The host in a server's address: `https://index.docker.io/v1/`, `registry.example:5000`.
fn server_host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    canonical(rest.split('/').next().unwrap_or_default())
}

/// Docker's registry has many names.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(change: impl FnOnce(&mut v1::AuthConfig)) -> v1::AuthConfig {
        let mut auth = v1::AuthConfig::default();
        change(&mut auth);
        auth
    }

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic { user: user.into(), password: password.into() })
    }

    #[test]
    fn credentials_are_read_in_all_their_forms() {
        let cases = [
            (auth(|_| ()), None),
            (auth(|a| (a.username, a.password) = ("u".into(), "p".into())), basic("u", "p")),
            (auth(|a| a.auth = STANDARD.encode("u:p:q\0\0")), basic("u", "p:q")),
            (auth(|a| a.identity_token = "t".into()), Some(Credentials::Identity("t".into()))),
            (auth(|a| a.registry_token = "t".into()), Some(Credentials::Registry("t".into()))),
        ];
        for (auth, expected) in cases {
            assert_eq!(credentials(Some(&auth), "quay.io").unwrap(), expected);
        }
        assert_eq!(credentials(None, "quay.io").unwrap(), None);
    }

    #[test]
    fn credentials_of_another_registry_stay_here() {
        for (server, host, given) in [
            ("https://index.docker.io/v1/", "docker.io", true),
            ("quay.io", "quay.io", true),
            ("https://quay.io:443", "quay.io", false),
            ("http://127.0.0.1:5000/v2", "127.0.0.1:5000", true),
            ("quay.io", "docker.io", false),
        ] {
            let auth = auth(|a| (a.username, a.server_address) = ("u".into(), server.into()));
            assert_eq!(credentials(Some(&auth), host).unwrap().is_some(), given, "{server} {host}");
        }
    }

    #[test]
    fn broken_credentials_are_refused_and_not_quoted() {
        for bad in ["not base64 s3cret!", &STANDARD.encode("s3cret"), &STANDARD.encode([0xff, b':'])] {
            let error = credentials(Some(&auth(|a| a.auth = bad.into())), "x").unwrap_err();
            assert!(!error.to_string().contains("s3cret"));
        }
    }
}
