//! Keeps credentials out of every log: what `Debug` prints of an `AuthConfig`.

use std::fmt;

use crate::v1::AuthConfig;

/// Says whether a secret is there, never what it is.
struct Secret<'a>(&'a str);

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "redacted" })
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .field("password", &Secret(&self.password))
            .field("auth", &Secret(&self.auth))
            .field("identity_token", &Secret(&self.identity_token))
            .field("registry_token", &Secret(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::v1::{AuthConfig, KeyValue, PullImageRequest, Signal};
    use prost::Message;

    #[test]
    fn a_request_never_prints_its_secrets() {
        let auth = AuthConfig {
            username: "ada".into(),
            password: "s3cret-a".into(),
            auth: "s3cret-b".into(),
            server_address: "registry.example".into(),
            identity_token: "s3cret-c".into(),
            registry_token: "s3cret-d".into(),
        };
        let printed = format!("{:?}", PullImageRequest { auth: Some(auth), ..Default::default() });
        assert!(!printed.contains("s3cret"), "{printed}");
        assert!(printed.contains("ada") && printed.contains("redacted"), "{printed}");
    }

    #[test]
    fn an_environment_value_may_be_any_bytes() {
        let pair = KeyValue { key: "K".into(), value: vec![0xff, 0x00, 0xfe] };
        assert_eq!(KeyValue::decode(pair.encode_to_vec().as_slice()), Ok(pair));
    }

    #[test]
    fn signals_keep_their_numbers() {
        assert_eq!(Signal::Sigterm as i32, 23);
        assert_eq!(Signal::Sigrtminplus15 as i32, 50);
        assert_eq!(Signal::Sigrtmax as i32, 65);
    }
}
