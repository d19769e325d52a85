//! Connections into a pod's network: both versions of the protocol, half-closed, many at once, and to nobody.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::channels::{self, Session};
use windlass_test_e2e::spdy::Spdy;
use windlass_test_e2e::{Node, code, eventually};

/// Waits until something listens in the container on the port, which is written in hexadecimal as the kernel does.
async fn listens(node: &Node, container: &str, port: &str) -> Result<()> {
    let pattern = format!(":{port} 0*:0000 0A");
    eventually("it listens", Duration::from_secs(10), async || {
        let command = ["sh", "-c", &format!("cat /proc/net/tcp /proc/net/tcp6 | grep -q '{pattern}'")];
        node.cri.output(container, &command).await.ok().map(drop)
    })
    .await
}

/// One forwarded port: bytes on channel 0, errors on channel 1, both after the port's own two bytes.
async fn forward(node: &Node, pod: &str, port: u16) -> Result<Session> {
    let url = channels::forward_url(&node.cri, pod, &[port.into()]).await?;
    let mut session = Session::open(&url).await?;
    for _ in 0..2 {
        let (_, first) = session.next().await?.context("no port")?;
        ensure!(first == port.to_le_bytes(), "{first:?}");
    }
    Ok(session)
}

const ECHO: &str = "nc -ll -p 7000 -e cat & exec sleep 1000";

async fn round_trip(node: &Node, pod: &str) -> Result<()> {
    let mut session = forward(node, pod, 7000).await?;
    session.send(0, b"hello").await?;
    let said = session.until(0, "hello").await?;
    ensure!(said == "hello", "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_pod_are_reached() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("ports"), &image, &["sh", "-c", ECHO]).await?;
    listens(&node, &pod.container, "1B58").await?;
    round_trip(&node, &pod.id).await?;
    let all = (0..20).map(|_| round_trip(&node, &pod.id));
    futures::future::try_join_all(all).await?;

    // Much of it, there and back.
    let mut session = forward(&node, &pod.id, 7000).await?;
    let (mut sent, mut seen) = (0, 0);
    while seen < 4 << 20 {
        if sent < 4 << 20 && sent - seen < 1 << 18 {
            session.send(0, &[b'x'; 32 * 1024]).await?;
            sent += 32 * 1024;
        } else {
            let (channel, bytes) = session.next().await?.context("it ended")?;
            ensure!(channel == 0 && bytes.iter().all(|byte| *byte == b'x'), "{channel}");
            seen += bytes.len();
        }
    }
    ensure!(seen == 4 << 20);

    let mut nobody = forward(&node, &pod.id, 7001).await?;
    let told = nobody.until(1, "refused").await?;
    ensure!(told.contains("7001"), "{told}");
    node.finish().await
}

async fn to_a_host(address: &str) -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let listener = std::net::TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    let pod = node.run(node.host_pod("host"), &image, &["sleep", "1000"]).await?;
    let mut session = forward(&node, &pod.id, port).await?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        std::io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
    });
    session.send(0, b"hello").await?;
    session.until(0, "hello").await?;
    drop(session);
    // The end of the client is the end of its connection.
    eventually("the connection ends", Duration::from_secs(10), async || echo.is_finished().then_some(())).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_the_hosts_network_is_reached() -> Result<()> {
    to_a_host("127.0.0.1:0").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_listens_on_version_six_only_is_reached() -> Result<()> {
    to_a_host("[::1]:0").await
}

/// A connection over SPDY: its error stream, which we have ended, and its data stream.
async fn pair(spdy: &mut Spdy, port: u16) -> Result<(u32, u32)> {
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    let error = spdy.stream(&headers("error")).await?;
    spdy.send(error, b"", true).await?;
    Ok((error, spdy.stream(&headers("data")).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_half_of_a_connection_ends_by_itself() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    // It says how much came only when no more can come.
    let script = "nc -ll -p 7000 -e wc -c & exec sleep 1000";
    let pod = node.run(node.pod("counts"), &image, &["sh", "-c", script]).await?;
    listens(&node, &pod.container, "1B58").await?;
    let open =
        async |pod: &str| Spdy::open(&channels::forward_url(&node.cri, pod, &[]).await?, "portforward.k8s.io").await;
    let mut spdy = open(&pod.id).await?;
    let (error, data) = pair(&mut spdy, 7000).await?;
    spdy.send(data, b"twelve bytes", true).await?;
    ensure!(spdy.all_of(data).await?.trim_ascii() == b"12");
    ensure!(spdy.all_of(error).await?.is_empty());

    // The other way round: the server has said all, and still listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let heard = std::thread::spawn(move || -> std::io::Result<String> {
        let (mut stream, _) = listener.accept()?;
        std::io::Write::write_all(&mut stream, b"all I have to say")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        std::io::read_to_string(stream)
    });
    let host = node.run(node.host_pod("host"), &image, &["sleep", "1000"]).await?;
    let mut spdy = open(&host.id).await?;
    let (error, data) = pair(&mut spdy, port).await?;
    ensure!(spdy.all_of(data).await? == b"all I have to say");
    ensure!(!heard.is_finished(), "the end of one half ended the other");
    spdy.send(data, b"and I this", true).await?;
    ensure!(spdy.all_of(error).await?.is_empty());
    let heard = heard.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(heard == "and I this", "{heard}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_forwarded_is_refused() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("refused"), &image, &["sleep", "1000"]).await?;
    let forward = async |pod: &str, port: i32| code(&channels::forward_url(&node.cri, pod, &[port]).await);
    ensure!(forward("unknown", 80).await == Code::NotFound);
    for port in [0, -1, 65_536] {
        ensure!(forward(&pod.id, port).await == Code::InvalidArgument || node.is_reference(), "{port}");
    }
    node.cri.stop_pod(&pod.id).await?;
    ensure!(forward(&pod.id, 80).await != Code::Ok);
    node.finish().await
}
