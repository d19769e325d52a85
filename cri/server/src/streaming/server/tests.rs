//! The server on real sockets, with and without TLS.

use async_trait::async_trait;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::spdy::peer::Peer;
use super::super::testing::Echo;
use super::super::{AttachSession, ExecSession, Input, Output, PortForwardSession, Streams, Tls};
use super::*;

struct Running {
    streaming: Streaming,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// Reads nothing until its client has gone, and then says so.
struct Deaf(Arc<Notify>);

#[async_trait]
impl Host for Deaf {
    async fn exec(&self, _: ExecSession, mut streams: Streams) -> Result<i32> {
        while streams.resize.recv().await.is_some() {}
        self.0.notify_one();
        Ok(0)
    }

    async fn attach(&self, _: AttachSession, _: Streams) -> Result<()> {
        Ok(())
    }

    async fn port(&self, _: &PortForwardSession, _: u16, _: Input, _: Output) -> Result<()> {
        Ok(())
    }
}

async fn start(change: impl FnOnce(&mut StreamingConfig)) -> Running {
    start_with(change, Echo).await
}

async fn start_with(change: impl FnOnce(&mut StreamingConfig), host: impl Host) -> Running {
    let mut config = StreamingConfig::default();
    change(&mut config);
    let (listener, base) = Listener::bind(&config).await.unwrap();
    let (streaming, stop) = (Streaming::default(), CancellationToken::new());
    streaming.0.base.set(base).unwrap();
    let server = tokio::spawn(listener.serve(Arc::new(host), streaming.clone(), stop.clone()));
    Running { streaming, stop, server }
}

fn exec(command: &str) -> Session {
    let container = "c".parse().unwrap();
    Session::Exec(ExecSession {
        container,
        command: vec![command.into()],
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    })
}

/// The host and the request of a URL.
fn dial(url: &str) -> (String, String) {
    let (host, path) = url.split_once("://").unwrap().1.split_once('/').unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    (host.to_owned(), request)
}

/// Reads the head of an answer and gives its status.
async fn status(io: &mut (impl AsyncRead + Unpin)) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    // Clients look at it, and a server's own wish to close must not stand in its place.
    let connection = if status == 101 { "connection: upgrade\r\n" } else { "connection: close\r\n" };
    assert!(head.contains(connection) && head.matches("connection:").count() == 1, "{head}");
    status
}

async fn open(url: &str) -> (u16, TcpStream) {
    let (host, request) = dial(url);
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    (status(&mut stream).await, stream)
}

async fn open_all<T: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<T>) {
    for (kind, id) in [("error", 1), ("stdin", 3), ("stdout", 5), ("resize", 7)] {
        peer.open(id, &[("streamtype", kind)]).await;
    }
}

/// Types, and reads the echo and the exit code.
async fn echoes<T: AsyncRead + AsyncWrite + Unpin>(stream: T) {
    let mut peer = Peer::new(stream);
    open_all(&mut peer).await;
    peer.data(3, true, b"hello").await;
    assert_eq!(peer.all_of(5).await, b"hello");
    peer.data(7, true, b"").await;
    assert!(String::from_utf8(peer.all_of(1).await).unwrap().contains("Success"));
}

#[tokio::test]
async fn a_url_leads_to_its_session_once() {
    let running = start(|_| ()).await;
    let url = running.streaming.url(exec("0")).unwrap();
    let (status, stream) = open(&url).await;
    assert_eq!(status, 101);
    assert_eq!(open(&url).await.0, 404);
    assert_eq!(open(&running.streaming.url(exec("0")).unwrap().replace("exec", "attach")).await.0, 404);
    echoes(stream).await;
    running.stop.cancel();
    running.server.await.unwrap();
}

#[tokio::test]
async fn a_given_certificate_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let [cert, key] = [("cert", made.cert.pem()), ("key", made.signing_key.serialize_pem())].map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
    let running = start(|config| config.tls = Tls::Files { cert, key }).await;
    let url = running.streaming.url(exec("0")).unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (host, request) = dial(&url);
    let stream = TcpStream::connect(host).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&mut stream).await, 101);
    echoes(stream).await;
    // Who speaks no TLS is not served, and nobody notices.
    let mut plain = TcpStream::connect(dial(&url).0).await.unwrap();
    plain.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
}

#[tokio::test]
async fn a_client_that_leaves_bytes_behind_that_nobody_reads_is_missed() {
    let heard = Arc::new(Notify::new());
    let running = start_with(|_| (), Deaf(heard.clone())).await;
    let (_, stream) = open(&running.streaming.url(exec("0")).unwrap()).await;
    let mut peer = Peer::new(stream);
    open_all(&mut peer).await;
    let piece = [b'x'; 64 * 1024];
    while tokio::time::timeout(Duration::from_secs(1), peer.data(3, false, &piece)).await.is_ok() {}
    drop(peer);
    // The program ends when it hears that its client has gone; nothing else tells its host so.
    heard.notified().await;
}

#[tokio::test]
async fn a_still_connection_is_closed() {
    let running = start(|config| config.idle = Duration::from_millis(1)).await;
    let (_, mut stream) = open(&running.streaming.url(exec("0")).unwrap()).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    running.stop.cancel();
    running.server.await.unwrap();
}

#[tokio::test]
async fn one_that_says_nothing_holds_nobody_up() {
    let running = start(|_| ()).await;
    let url = running.streaming.url(exec("0")).unwrap();
    let mut silent = TcpStream::connect(dial(&url).0).await.unwrap();
    silent.write_all(b"POST /exec/").await.unwrap();
    echoes(open(&url).await.1).await;
    let mut noise = TcpStream::connect(dial(&url).0).await.unwrap();
    noise.write_all(&[0xff; 64]).await.unwrap();
    let mut answer = Vec::new();
    let _ = noise.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
}

#[test]
fn a_server_on_all_addresses_is_reached_on_loopback() {
    let shown = |text: &str| reachable(text.parse().unwrap()).to_string();
    assert_eq!(shown("0.0.0.0:80"), "127.0.0.1:80");
    assert_eq!(shown("[::]:80"), "[::1]:80");
    assert_eq!(shown("192.0.2.7:80"), "192.0.2.7:80");
}
