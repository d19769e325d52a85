//! The streaming server on the wire: SPDY sessions, one-time URLs, slow and hostile clients, and crowds of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::channels::{self, exec_url};
use windlass_test_e2e::spdy::{Command, Spdy, request};
use windlass_test_e2e::{Node, eventually, kernel};

const SPDY: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];

async fn exec(node: &Node, container: &str, script: &str, streams: &str) -> Result<Command> {
    Command::open(&exec_url(&node.cri, container, &["sh", "-c", script], streams).await?, streams).await
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_over_spdy() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("spdy"), &image, &["sleep", "1000"]).await?;

    // The end of the input is all that tells cat to end.
    let mut command = exec(&node, &pod.container, "cat; echo complaint >&2; exit 42", "ioe").await?;
    command.spdy.ping(5).await?;
    command.input(b"hel", false).await?;
    command.input(b"lo", true).await?;
    let error = command.error;
    let status = String::from_utf8(command.spdy.all_of(error).await?)?;
    ensure!(status.contains("NonZeroExitCode") && status.contains("\"42\""), "{status}");
    let (stdout, stderr) = (command.stdout, command.stderr);
    ensure!(command.spdy.all_of(stdout).await? == b"hello" && command.spdy.all_of(stderr).await? == b"complaint\n");
    ensure!(command.spdy.pong == 5, "a ping was not answered");
    command.spdy.until_closed().await?;
    ensure!(command.spdy.goaway.unwrap_or_default() == 0);

    let mut terminal = exec(&node, &pod.container, "read line; stty size; exit 0", "ito").await?;
    terminal.resize(97, 31).await?;
    // A size is known before what is typed after it, but not at a fixed time.
    let sized = "while [ \"$(stty size)\" != '31 97' ]; do sleep 0.05; done; echo it is $(stty size)";
    let mut waiting = exec(&node, &pod.container, sized, "ito").await?;
    waiting.resize(97, 31).await?;
    let stdout = waiting.stdout;
    waiting.spdy.until(stdout, "it is 31 97").await?;
    terminal.input(b"\n", false).await?;
    ensure!(terminal.finish().await?.code() == Some(0));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_works_once_and_only_for_its_kind() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("once"), &image, &["sleep", "1000"]).await?;
    let url = async || exec_url(&node.cri, &pod.container, &["true"], "o").await;
    let four = [&SPDY[..], &[("X-Stream-Protocol-Version", "v4.channel.k8s.io")]].concat();

    let used = url().await?;
    ensure!(used.starts_with("http://127.0.0.1:") && !used.contains(":0/"), "{used}");
    ensure!(Command::open(&used, "o").await?.finish().await?.code() == Some(0));
    ensure!(request(&used, "POST", &four).await?.0 == 404, "a token worked twice");
    let elsewhere = url().await?;
    ensure!(request(&elsewhere.replace("/exec/", "/attach/"), "POST", &four).await?.0 == 404);
    ensure!(request(&elsewhere, "POST", &four).await?.0 == 404, "a token that was shown elsewhere is used");
    ensure!(request(&format!("{}x", url().await?), "POST", &four).await?.0 == 404);

    ensure!(request(&url().await?, "GET", &four).await?.0 == 101);
    ensure!(request(&url().await?, "POST", &SPDY).await?.0 == 400, "no version");
    ensure!(request(&url().await?, "POST", &four[2..]).await?.0 == 400, "no upgrade");
    let foreign = [&SPDY[..], &[("X-Stream-Protocol-Version", "v9.channel.k8s.io")]].concat();
    let (status, head, _) = request(&url().await?, "POST", &foreign).await?;
    ensure!(status == 403 && head.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"), "{head}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_attached_to_over_spdy() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let script = "while true; do echo tick; echo tock >&2; sleep 0.1; done";
    let pod = node.run(node.pod("attach"), &image, &["sh", "-c", script]).await?;
    let mut command = Command::open(&channels::attach_url(&node.cri, &pod.container, "oe").await?, "oe").await?;
    let (stdout, stderr) = (command.stdout, command.stderr);
    command.spdy.until(stdout, "tick").await?;
    command.spdy.until(stderr, "tock").await?;
    node.cri.stop(&pod.container, 0).await?;
    command.spdy.until_closed().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_connections_share_one_of_spdy() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let script = "nc -ll -p 7000 -e cat & exec sleep 1000";
    let pod = node.run(node.pod("ports"), &image, &["sh", "-c", script]).await?;
    let ready = "grep -q ':1B58 0*:0000 0A' /proc/net/tcp /proc/net/tcp6";
    eventually("it listens", Duration::from_secs(10), async || {
        node.cri.output(&pod.container, &["sh", "-c", ready]).await.ok().map(drop)
    })
    .await?;
    let mut spdy = Spdy::open(&channels::forward_url(&node.cri, &pod.id, &[]).await?, "portforward.k8s.io").await?;
    let mut pairs = Vec::new();
    for (request, port) in ["7000", "7000", "7001", "7000"].into_iter().enumerate() {
        let request = request.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", &request)];
        let error = spdy.stream(&headers("error")).await?;
        spdy.send(error, b"", true).await?;
        pairs.push((error, spdy.stream(&headers("data")).await?));
    }
    // One that nobody listens for says so, and leaves the others alone.
    let said = String::from_utf8(spdy.all_of(pairs[2].0).await?)?;
    ensure!(said.contains("7001"), "{said}");
    for (word, at) in [("second", 1), ("last", 3), ("first", 0)] {
        // Half-closed: the answer comes after our end.
        spdy.send(pairs[at].1, word.as_bytes(), true).await?;
        ensure!(spdy.all_of(pairs[at].1).await? == word.as_bytes(), "{word}");
        ensure!(spdy.all_of(pairs[at].0).await?.is_empty(), "{word}");
    }
    ensure!(spdy.stream(&[("streamtype", "data"), ("port", "70000")]).await.is_err());
    drop(spdy);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sessions_do_not_mind_each_other() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("crowd"), &image, &["sleep", "1000"]).await?;
    let held = kernel::descriptors(node.daemon.pid()).len();
    let one = async |number: usize| -> Result<()> {
        let mut command = exec(&node, &pod.container, "cat; exit 7", "io").await?;
        let text = format!("session {number}").repeat(1000);
        command.input(text.as_bytes(), true).await?;
        let ended = command.finish().await?;
        ensure!(ended.stdout == text.as_bytes() && ended.code() == Some(7), "{number}");
        Ok(())
    };
    futures::future::try_join_all((0..100).map(one)).await?;
    eventually("the daemon holds what it held", Duration::from_secs(20), async || {
        (kernel::descriptors(node.daemon.pid()).len() <= held).then_some(())
    })
    .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_costs_no_memory_and_loses_nothing() -> Result<()> {
    const SIZE: usize = 64 << 20;
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("slow"), &image, &["sleep", "1000"]).await?;
    let memory = || kernel::memory_kib(node.daemon.pid(), "status", "VmRSS");
    exec(&node, &pod.container, "true", "o").await?.finish().await?;
    let before = memory();
    let script = format!("head -c {SIZE} /dev/zero; echo written > /tmp/written");
    let mut slow = exec(&node, &pod.container, &script, "o").await?;
    let deaf = "sleep 1000";
    let mut stuffed = exec(&node, &pod.container, deaf, "io").await?;
    // What the program does not read stops its client, after the buffers between them.
    let mut stuffing = 0_usize;
    let piece = vec![b'x'; 1 << 20];
    while stuffing < SIZE
        && tokio::time::timeout(Duration::from_secs(3), stuffed.input(&piece, false))
            .await
            .is_ok_and(|sent| sent.is_ok())
    {
        stuffing += piece.len();
    }
    ensure!(stuffing < SIZE, "64 MiB went to a program that reads nothing");
    ensure!(memory() < before + 24 * 1024, "{} KiB before, {} after", before, memory());
    let written = node.cri.output(&pod.container, &["sh", "-c", "cat /tmp/written || true"]).await?;
    ensure!(written.is_empty(), "64 MiB were written to a client that reads nothing");
    drop(stuffed);
    let stdout = slow.stdout;
    let all = slow.spdy.all_of(stdout).await?;
    ensure!(all.len() == SIZE && all.iter().all(|byte| *byte == 0), "{} bytes", all.len());
    ensure!(slow.finish().await?.code() == Some(0));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_clients_are_thrown_out_and_nobody_notices() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("hostile"), &image, &["sleep", "1000"]).await?;
    let mut honest = exec(&node, &pod.container, "cat", "io").await?;
    let bomb = {
        let mut zlib = flate2::Compress::new(flate2::Compression::best(), true);
        let mut block = Vec::with_capacity(64 * 1024);
        zlib.compress_vec(&vec![0; 8 << 20], &mut block, flate2::FlushCompress::Sync)?;
        [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &block].concat()
    };
    let frame =
        |kind: u8, payload: &[u8]| [&[0x80, 3, 0, kind][..], &(payload.len() as u32).to_be_bytes(), payload].concat();
    for (name, bytes) in [
        ("oversized", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
        ("truncated", frame(3, &[0, 0, 0, 1])),
        ("data of no stream", vec![0, 0, 0, 9, 0, 0, 0, 1, b'x']),
        ("a bomb", frame(1, &bomb)),
        ("another version", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
        ("noise", (0..255).map(|byte: u8| byte.wrapping_mul(197) ^ 0xa5).collect()),
    ] {
        let mut hostile =
            Spdy::open(&exec_url(&node.cri, &pod.container, &["cat"], "io").await?, "v4.channel.k8s.io").await?;
        hostile.raw(&bytes).await?;
        hostile.until_closed().await.context(name)?;
    }
    // One that says half a request and nothing more holds nobody up.
    let url = exec_url(&node.cri, &pod.container, &["true"], "o").await?;
    let host = url.trim_start_matches("http://").split('/').next().context("no host")?.to_owned();
    let mut half = tokio::net::TcpStream::connect(host).await?;
    tokio::io::AsyncWriteExt::write_all(&mut half, b"POST /exec/").await?;
    ensure!(Command::open(&url, "o").await?.finish().await?.code() == Some(0));
    honest.input(b"still here", true).await?;
    ensure!(honest.finish().await?.stdout == b"still here");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stops_tells_its_sessions() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("stop"), &image, &["sleep", "1000"]).await?;
    let mut command = exec(&node, &pod.container, "echo on; sleep 1000", "o").await?;
    let stdout = command.stdout;
    command.spdy.until(stdout, "on").await?;
    let finish = tokio::spawn(command.finish());
    node.daemon.terminate().await?;
    node.resume().await?;
    if !node.is_reference() {
        let ended = finish.await??;
        ensure!(ended.status["status"] == "Failure", "an exec that was cut off looks well: {ended:?}");
    }
    ensure!(exec(&node, &pod.container, "exit 3", "o").await?.finish().await?.code() == Some(3));
    node.finish().await
}
