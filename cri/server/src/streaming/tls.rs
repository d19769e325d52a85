//! The certificate of the streaming server: one that was given, or one that it makes for itself at each start.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use windlass_model::{Context, Error, Result};

use super::Tls;

/// What does the handshakes; `None` without TLS.
///
/// # Errors
/// Where a given file cannot be read or is no certificate or key, or the two do not belong together.
pub(super) fn acceptor(tls: &Tls, address: IpAddr) -> Result<Option<TlsAcceptor>> {
    let (chain, key) = match tls {
        Tls::Off => return Ok(None),
        Tls::SelfSigned => self_signed(address)?,
        Tls::Files { cert, key } => (chain(cert)?, private_key(key)?),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| Error::invalid(format!("the certificate of the streaming server: {error}")))?;
    // SPDY and WebSocket both begin with HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn self_signed(address: IpAddr) -> Result<Pair> {
    let names = vec!["localhost".to_owned(), address.to_string()];
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| Error::internal(format!("make a certificate for the streaming server: {error}")))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| Error::internal(format!("make a key for the streaming server: {error}")))?;
    Ok((vec![made.cert.der().clone()], key))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).context(|| format!("read the certificate {}", path.display()))?;
    let chain: Vec<_> = rustls_pemfile::certs(&mut text.as_slice())
        .collect::<std::io::Result<_>>()
        .context(|| format!("read the certificate {}", path.display()))?;
    if chain.is_empty() {
        return Err(Error::invalid(format!("{} holds no certificate", path.display())));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = std::fs::read(path).context(|| format!("read the key {}", path.display()))?;
    rustls_pemfile::private_key(&mut text.as_slice())
        .context(|| format!("read the key {}", path.display()))?
        .ok_or_else(|| Error::invalid(format!("{} holds no private key", path.display())))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_certificate_is_made_or_read() {
        assert!(acceptor(&Tls::Off, LOOPBACK).unwrap().is_none());
        assert!(acceptor(&Tls::SelfSigned, LOOPBACK).unwrap().is_some());
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let files = [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())];
        let [cert, key] = files.map(|(name, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        assert!(acceptor(&Tls::Files { cert: cert.clone(), key: key.clone() }, LOOPBACK).unwrap().is_some());
        let refused = |cert, key| acceptor(&Tls::Files { cert, key }, LOOPBACK).err().unwrap().to_string();
        assert!(refused(key.clone(), key.clone()).contains("no certificate"));
        assert!(refused(cert.clone(), cert.clone()).contains("no private key"));
        assert!(refused(dir.path().join("none"), key).contains("none"));
    }
}
