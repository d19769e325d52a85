//! The connection to a daemon: one socket, on which it speaks the containerd API and the CRI.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// The namespace of who names none.
pub(crate) const DEFAULT: &str = "default";

/// The namespace that the CRI serves, unless a daemon is configured otherwise.
pub(crate) const KUBERNETES: &str = "k8s.io";

/// The largest answer that is read; lists of a full node pass gRPC's usual 4 MiB.
pub(crate) const LARGEST: usize = 64 << 20;

/// How long the daemon may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the daemon is and whom we speak for.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    socket: PathBuf,
    namespace: String,
    /// Whether somebody chose the namespace.
    named: bool,
    header: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

/// Makes a client of the containerd API on a channel, with its limits.
macro_rules! api {
    ($client:path, $channel:expr) => {
        <$client>::new($channel).max_decoding_message_size(crate::client::LARGEST)
    };
}
pub(crate) use api;

impl Daemon {
    /// A daemon at a path or `unix://` address, for the namespace that is `named`, else for `otherwise`; nothing is
    /// connected yet.
    pub fn new(address: &str, named: Option<&str>, otherwise: &str) -> Result<Self> {
        let namespace = named.unwrap_or(otherwise);
        let socket = address.strip_prefix("unix://").unwrap_or(address);
        if socket.is_empty() || socket.contains("://") {
            bail!("{address:?} is not the address of a Unix socket");
        }
        namespace.parse::<windlass_model::Namespace>()?;
        let header = namespace.parse().context("the namespace cannot be sent")?;
        let (socket, namespace, named) = (socket.into(), namespace.into(), named.is_some());
        Ok(Self { socket, namespace, named, header, lease: None })
    }

    /// The same daemon, where what is made belongs to a lease until something else holds it.
    pub fn under(&self, lease: &str) -> Result<Self> {
        Ok(Self { lease: Some(lease.parse().context("the lease cannot be sent")?), ..self.clone() })
    }

    /// Our namespace, where somebody chose it.
    pub fn named(&self) -> Option<&str> {
        self.named.then_some(&self.namespace)
    }

    /// Our namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// True where the CRI serves our namespace.
    pub fn is_kubernetes(&self) -> bool {
        self.namespace == KUBERNETES
    }

    /// Fails where the CRI does not serve our namespace.
    pub fn require_kubernetes(&self) -> Result<()> {
        if self.is_kubernetes() {
            return Ok(());
        }
        bail!("this is known of the kubelet's namespace only: {KUBERNETES}, not {}", self.namespace)
    }

    /// A connection.
    pub async fn connect(&self) -> Result<Channel> {
        // Asked for once by hand: the transport would hide why it failed.
        UnixStream::connect(&self.socket).await.map_err(|error| unreachable_daemon(&self.socket, &error))?;
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(PATIENCE);
        endpoint
            .connect_with_connector(connector)
            .await
            .with_context(|| format!("speak gRPC at {}", self.socket.display()))
    }

    /// The CRI's runtime service.
    pub async fn runtime(&self) -> Result<RuntimeServiceClient<Channel>> {
        Ok(RuntimeServiceClient::new(self.connect().await?).max_decoding_message_size(LARGEST))
    }

    /// The CRI's image service.
    pub async fn images(&self) -> Result<ImageServiceClient<Channel>> {
        Ok(ImageServiceClient::new(self.connect().await?).max_decoding_message_size(LARGEST))
    }

    /// A request of the containerd API in our namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.header.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }
}

fn unreachable_daemon(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::NotFound => anyhow!("no daemon at {socket}: there is no such socket (is windlassd running?)"),
        ErrorKind::ConnectionRefused => anyhow!("no daemon at {socket}: nobody listens (is windlassd running?)"),
        ErrorKind::PermissionDenied => anyhow!("you may not open {socket} (root may)"),
        _ => anyhow!("connect to {socket}: {error}"),
    }
}

/// What the daemon answered, as an error for a person.
pub(crate) fn answered(status: Status) -> anyhow::Error {
    if status.message().is_empty() {
        anyhow!("the daemon answers: {}", status.code())
    } else {
        anyhow!("{} ({:?})", status.message(), status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets() {
        let daemon = |address, namespace| Daemon::new(address, namespace, DEFAULT);
        assert_eq!(daemon("unix:///run/w.sock", None).expect("good").socket, Path::new("/run/w.sock"));
        assert!(daemon("http://localhost", None).is_err());
        assert!(daemon("", None).is_err());
        assert!(daemon("/run/w.sock", Some("a/b")).is_err());
    }

    #[test]
    fn a_namespace_that_nobody_chose_is_known_as_such() {
        let daemon = Daemon::new("/run/w.sock", None, KUBERNETES).expect("good");
        assert_eq!((daemon.named(), daemon.namespace(), daemon.is_kubernetes()), (None, KUBERNETES, true));
        let daemon = Daemon::new("/run/w.sock", Some("a"), KUBERNETES).expect("good");
        assert_eq!((daemon.named(), daemon.is_kubernetes()), (Some("a"), false));
    }

    #[test]
    fn a_lease_travels_in_a_header() {
        let daemon = Daemon::new("/run/w.sock", None, DEFAULT).expect("good");
        assert!(daemon.request(()).metadata().get("containerd-lease").is_none());
        let request = daemon.under("l").expect("good").request(());
        assert_eq!(request.metadata().get("containerd-lease").map(|lease| lease.as_bytes()), Some(&b"l"[..]));
    }

    #[tokio::test]
    async fn a_missing_daemon_is_told_in_plain_words() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("w.sock");
        let error =
            Daemon::new(path.to_str().expect("utf-8"), None, DEFAULT).expect("good").connect().await.expect_err("none");
        assert!(error.to_string().contains("is windlassd running?"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        let error =
            Daemon::new(path.to_str().expect("utf-8"), None, DEFAULT).expect("good").connect().await.expect_err("dead");
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }
}
