//! Certificates made on the spot, and a registry that is spoken to over TLS only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::registry::{Registry, free_port};

/// An authority that signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// docker-registry behind TLS; killed when dropped.
#[derive(Debug)]
pub struct SecureRegistry {
    child: Child,
    host: String,
}

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Writes the authority's certificate.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(fs::write(path, self.issuer.pem())?)
    }

    /// Signs a certificate for the given names and addresses; without any it is one for a client.
    pub fn sign(&self, dir: &Path, name: &str, subjects: &[&str]) -> Result<Pair> {
        let subjects: Vec<_> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        let usage = match subjects.is_empty() {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        };
        let mut params = CertificateParams::new(subjects)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let pair = Pair { certificate: dir.join(format!("{name}.cert.pem")), key: dir.join(format!("{name}.key.pem")) };
        fs::write(&pair.certificate, certificate.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }
}

impl SecureRegistry {
    /// Serves over TLS what `open` holds. With `clients`, the file of an authority, whoever asks must show a certificate
    /// that this authority signed.
    pub fn beside(open: &Registry, dir: &Path, shown: &Pair, clients: Option<&Path>) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let port = free_port()?;
        let (certificate, key) = (shown.certificate.display(), shown.key.display());
        let clients = clients.map(|file| format!("    clientcas: [{}]\n", file.display())).unwrap_or_default();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n  tls:\n    certificate: {certificate}\n    \
             key: {key}\n{clients}",
            open.data().display()
        );
        fs::write(dir.join("config.yml"), config)?;
        let log = fs::File::create(dir.join("log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let registry = Self { child: child.context("docker-registry over TLS")?, host: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + crate::patient(Duration::from_secs(20));
        while std::net::TcpStream::connect(&registry.host).is_err() {
            ensure!(Instant::now() < deadline, "docker-registry does not listen on {}", registry.host);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// `address:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> &str {
        self.host.rsplit(':').next().unwrap_or_default()
    }
}

impl Drop for SecureRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
