//! TLS settings of a host, read from its files: authorities, client certificates, and whether to check at all.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use windlass_model::{Context, Error, Kind, Result};

use crate::registry::hosts::Tls;

/// The largest certificate or key file.
const MAX_PEM: u64 = 4 << 20;

/// The bytes of the files, so that two pulls share connections only while the files say the same.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Loaded {
    /// Whether TLS can be spoken at all.
    tls: bool,
    authorities: Vec<Vec<u8>>,
    client: Vec<(Vec<u8>, Vec<u8>)>,
    skip_verify: bool,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Holds private keys.
        f.debug_struct("Loaded").field("tls", &self.tls).field("skip_verify", &self.skip_verify).finish_non_exhaustive()
    }
}

impl Loaded {
    /// The system's authorities and nothing else.
    pub(super) fn system() -> Self {
        Self { tls: true, authorities: Vec::new(), client: Vec::new(), skip_verify: false }
    }

    /// No TLS: spares reading the system's authorities.
    pub(super) fn clear_text() -> Self {
        Self { tls: false, ..Self::system() }
    }

    pub(super) fn read(tls: &Tls) -> Result<Self> {
        let authorities = tls.authorities.iter().map(|path| read(path)).collect::<Result<_>>()?;
        let pair = |(certificate, key): &(std::path::PathBuf, Option<std::path::PathBuf>)| {
            Ok((read(certificate)?, read(key.as_ref().unwrap_or(certificate))?))
        };
        let client = tls.client.iter().map(pair).collect::<Result<_>>()?;
        Ok(Self { tls: true, authorities, client, skip_verify: tls.skip_verify.unwrap_or(false) })
    }

    pub(super) fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::with_source(Kind::Internal, "TLS cannot be set up", error))?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        // A second pair would be for a server that names its authorities; the first is what is shown.
        let Some((certificates, key)) = self.client.first() else { return Ok(builder.with_no_client_auth()) };
        let certificates = certificates_in(certificates)?;
        let key: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut key.as_slice())
            .map_err(Error::from)
            .and_then(|key| key.ok_or_else(|| Error::invalid("there is no key in it")))
            .context(|| "read the client key".into())?;
        builder.with_client_auth_cert(certificates, key).map_err(|error| {
            Error::with_source(Kind::InvalidArgument, "the client certificate and its key do not serve", error)
        })
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        if !self.tls {
            return Ok(roots);
        }
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::debug!(%error, "a system certificate is not read");
        }
        roots.add_parsable_certificates(system.certs);
        for pem in &self.authorities {
            let certificates = certificates_in(pem)?;
            if certificates.is_empty() {
                return Err(Error::invalid("a CA file holds no certificate"));
            }
            for certificate in certificates {
                roots.add(certificate).map_err(|error| {
                    Error::with_source(Kind::InvalidArgument, "a CA certificate is not valid", error)
                })?;
            }
        }
        Ok(roots)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).context(|| format!("open {}", path.display()))?;
    file.take(MAX_PEM).read_to_end(&mut bytes).context(|| format!("read {}", path.display()))?;
    Ok(bytes)
}

fn certificates_in(mut pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    rustls_pemfile::certs(&mut pem).collect::<std::io::Result<_>>().context(|| "read a PEM certificate".into())
}

/// Takes any certificate, because the administrator wrote `skip_verify`; signatures are still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
