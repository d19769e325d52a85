//! Whole SPDY connections against a peer that writes its frames by itself.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::testing::{CLOSED, Echo, exec, ports, terms};
use super::peer::{Got, Peer};
use super::remote_command::Version;
use super::{port_forward, remote_command};

/// A command whose server has 1 KiB of room to write to.
fn command(version: Version, word: &str, tty: bool, stop: &CancellationToken) -> (Peer<DuplexStream>, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(1024);
    let (command, stop) = (exec(word, tty), stop.clone());
    let server = tokio::spawn(async move { remote_command::serve(ours, version, command, &Echo, terms(&stop)).await });
    (Peer::new(theirs), server)
}

fn forward() -> (Peer<DuplexStream>, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    let server = tokio::spawn(async move { port_forward::serve(ours, ports(&[]), &Echo, terms(&stop)).await });
    (Peer::new(theirs), server)
}

async fn open_all(peer: &mut Peer<DuplexStream>, kinds: &[&str]) {
    for (kind, id) in kinds.iter().zip((1..).step_by(2)) {
        peer.open(id, &[("streamtype", kind)]).await;
        let Got::Control(2, reply) = peer.got().await else { panic!("no reply to {kind}") };
        assert_eq!(reply[..4], id.to_be_bytes());
    }
}

const ERROR: u32 = 1;
const STDIN: u32 = 3;
const STDOUT: u32 = 5;

#[tokio::test]
async fn an_exec_echoes_and_tells_its_exit_code() {
    let (mut peer, server) = command(Version::V4, "7", false, &CancellationToken::new());
    open_all(&mut peer, &["error", "stdin", "stdout", "stderr"]).await;
    peer.data(STDIN, false, b"hel").await;
    peer.data(STDIN, true, b"lo").await;
    assert_eq!(peer.all_of(STDOUT).await, b"hello");
    assert_eq!(peer.all_of(7).await, b"complaint");
    let status = String::from_utf8(peer.all_of(ERROR).await).unwrap();
    assert!(status.contains(r#""reason":"ExitCode","message":"7""#), "{status}");
    while !matches!(peer.got().await, Got::Control(7, _)) {}
    drop(peer);
    server.await.unwrap();
}

#[tokio::test]
async fn versions_before_4_say_it_in_a_sentence() {
    for (version, word, said) in [
        (Version::V1, "0", ""),
        (Version::V2, "3", "command terminated with non-zero exit code: 3"),
        (Version::V3, "fail", "Internal error occurred: no such program"),
    ] {
        let (mut peer, _) = command(version, word, false, &CancellationToken::new());
        open_all(&mut peer, &["error", "stdin", "stdout", "stderr"]).await;
        peer.data(STDIN, true, b"").await;
        assert_eq!(String::from_utf8(peer.all_of(ERROR).await).unwrap(), said);
    }
}

#[tokio::test]
async fn pings_are_answered_while_nothing_happens() {
    let (mut peer, _) = command(Version::V4, "0", false, &CancellationToken::new());
    peer.control(6, 0, &[0, 0, 0, 9]).await;
    assert_eq!(peer.got().await, Got::Control(6, vec![0, 0, 0, 9]));
    // An answer to a ping of ours, settings and unknown frames are none of our business.
    peer.control(6, 0, &[0, 0, 0, 8]).await;
    peer.control(4, 0, &[0, 0, 0, 0]).await;
    peer.control(99, 0, b"future").await;
    peer.control(6, 0, &[0, 0, 0, 11]).await;
    assert_eq!(peer.got().await, Got::Control(6, vec![0, 0, 0, 11]));
}

#[tokio::test]
async fn streams_that_nobody_asked_for_are_refused() {
    let (mut peer, _) = command(Version::V4, "0", false, &CancellationToken::new());
    peer.open(1, &[("streamtype", "error")]).await;
    assert!(matches!(peer.got().await, Got::Control(2, _)));
    for (id, kind) in [(3, "error"), (5, "resize"), (7, "other")] {
        peer.open(id, &[("streamtype", kind)]).await;
        let reset = [u32::to_be_bytes(id), 3_u32.to_be_bytes()].concat();
        assert_eq!(peer.got().await, Got::Control(3, reset), "{kind}");
    }
}

#[tokio::test]
async fn much_more_than_a_window_passes_both_ways() {
    let (peer, _) = command(Version::V4, "0", false, &CancellationToken::new());
    let mut peer = peer;
    open_all(&mut peer, &["error", "stdin", "stdout", "stderr"]).await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8 ^ (at >> 8) as u8).collect();
    let Peer { io, .. } = peer;
    let (from, mut to) = tokio::io::split(io);
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        // One frame far beyond every window, as a client without flow control sends it.
        for (chunk, fin) in [(&sent[..2_000_000], 0), (&sent[2_000_000..], 1)] {
            let mut head = vec![0, 0, 0, STDIN as u8, fin];
            head.extend(&(chunk.len() as u32).to_be_bytes()[1..]);
            to.write_all(&head).await.unwrap();
            to.write_all(chunk).await.unwrap();
        }
        to
    });
    let mut from = from;
    let mut all = Vec::new();
    while all.len() < bytes.len() {
        let mut head = [0; 8];
        from.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
        from.read_exact(&mut payload).await.unwrap();
        if head[..4] == STDOUT.to_be_bytes() {
            all.extend(payload);
        }
    }
    assert!(all == bytes);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_client_with_windows_is_not_sent_more_than_they_hold() {
    let (mut peer, _) = command(Version::V4, "0", false, &CancellationToken::new());
    // Ten bytes for each stream from now on.
    peer.control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 10]).await;
    open_all(&mut peer, &["error", "stdin", "stdout", "stderr"]).await;
    peer.data(STDIN, true, b"0123456789abcdef").await;
    assert_eq!(peer.got().await, Got::Data(STDOUT, false, b"0123456789".to_vec()));
    peer.control(6, 0, &[0, 0, 0, 1]).await;
    assert_eq!(peer.got().await, Got::Control(6, vec![0, 0, 0, 1]), "nothing but the answer");
    peer.window(STDOUT, 4).await;
    assert_eq!(peer.got().await, Got::Data(STDOUT, false, b"abcd".to_vec()));
    peer.window(STDOUT, 100).await;
    assert_eq!(peer.got().await, Got::Data(STDOUT, false, b"ef".to_vec()));
    peer.window(STDOUT, 0x7fff_ffff).await;
    assert!(peer.thrown_out().await, "a window has 31 bits");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    type Crime = fn(&mut Peer<DuplexStream>) -> futures::future::BoxFuture<'_, ()>;
    let crimes: [(&str, Crime); 11] = [
        ("even id", |peer| Box::pin(peer.open(2, &[("streamtype", "error")]))),
        ("id 0", |peer| Box::pin(peer.open(0, &[("streamtype", "error")]))),
        ("ids backwards", |peer| {
            Box::pin(async {
                peer.open(5, &[("streamtype", "error")]).await;
                peer.open(3, &[("streamtype", "stdin")]).await;
            })
        }),
        ("data of no stream", |peer| Box::pin(peer.data(9, false, b"x"))),
        ("data of stream 0", |peer| Box::pin(peer.data(0, false, b"x"))),
        ("truncated frame", |peer| Box::pin(peer.control(1, 0, &[0, 0, 0, 1]))),
        ("truncated reset", |peer| Box::pin(peer.control(3, 0, &[0, 0, 0, 1]))),
        ("no zlib", |peer| Box::pin(peer.control(1, 0, b"\0\0\0\x01\0\0\0\0\0\0garbage"))),
        ("bomb", |peer| Box::pin(async { peer.open_with(1, &vec![0; 8 << 20]).await })),
        ("reply to nothing", |peer| Box::pin(peer.control(2, 0, &[0, 0, 0, 1]))),
        ("duplicate header", |peer| Box::pin(peer.open(1, &[("streamtype", "error"), ("streamtype", "stdin")]))),
    ];
    for (name, crime) in crimes {
        let (mut peer, server) = command(Version::V4, "0", false, &CancellationToken::new());
        crime(&mut peer).await;
        assert!(peer.thrown_out().await, "{name}");
        server.await.unwrap();
    }
    // Oversized, and of another version: the head alone tells.
    for head in [[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], [0x80, 2, 0, 1, 0, 0, 0, 0]] {
        let (mut peer, server) = command(Version::V4, "0", false, &CancellationToken::new());
        peer.io.write_all(&head).await.unwrap();
        assert!(peer.thrown_out().await);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_is_gone_ends_what_it_began() {
    let (mut peer, server) = command(Version::V4, "0", false, &CancellationToken::new());
    open_all(&mut peer, &["error", "stdin", "stdout", "stderr"]).await;
    drop(peer);
    server.await.unwrap();
    let (mut peer, server) = command(Version::V4, "0", false, &CancellationToken::new());
    peer.open(1, &[("streamtype", "error")]).await;
    drop(peer);
    server.await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_stops_does_not_say_that_all_went_well() {
    let stop = CancellationToken::new();
    let (mut peer, _) = command(Version::V4, "hang", false, &stop);
    open_all(&mut peer, &["error", "stdin", "stdout", "stderr"]).await;
    stop.cancel();
    let status = String::from_utf8(peer.all_of(ERROR).await).unwrap();
    assert!(status.contains("Failure") && status.contains("windlassd stops"), "{status}");
}

#[tokio::test]
async fn pings_do_not_fill_memory_while_the_client_does_not_read() {
    let (mut peer, _) = command(Version::V4, "hang", false, &CancellationToken::new());
    let flood = async {
        loop {
            peer.control(6, 0, &[0, 0, 0, 1]).await;
        }
    };
    // The server stops reading once its answers have nowhere to go; without that this would never end.
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err());
}

#[tokio::test]
async fn forwarded_connections_share_a_connection_and_fail_alone() {
    let (mut peer, server) = forward();
    for (request, (port, [error, data])) in [("80", [1, 3]), ("1", [5, 7]), ("81", [9, 11])].into_iter().enumerate() {
        let request = request.to_string();
        for (kind, id) in [("error", error), ("data", data)] {
            peer.open(id, &[("streamtype", kind), ("port", port), ("requestid", &request)]).await;
        }
        peer.data(error, true, b"").await;
    }
    assert_eq!(CLOSED, 1);
    let said = String::from_utf8(peer.all_of(5).await).unwrap();
    assert!(said.contains("port 1") && said.contains("nobody listens"), "{said}");
    peer.data(11, true, b"second").await;
    assert_eq!(peer.all_of(11).await, b"second");
    peer.data(3, false, b"fi").await;
    peer.data(3, true, b"rst").await;
    assert_eq!(peer.all_of(3).await, b"first");
    drop(peer);
    server.await.unwrap();
}

#[tokio::test]
async fn pairs_without_request_ids_are_neighbours() {
    let (mut peer, _) = forward();
    peer.open(1, &[("streamtype", "error"), ("port", "80")]).await;
    peer.open(3, &[("streamtype", "data"), ("port", "80")]).await;
    peer.data(3, true, b"old").await;
    assert_eq!(peer.all_of(3).await, b"old");
}

#[tokio::test]
async fn streams_without_a_port_or_kind_are_refused() {
    let (mut peer, _) = forward();
    let wrong: [&[(&str, &str)]; 4] = [
        &[("streamtype", "data")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "70000")],
        &[("streamtype", "stdin"), ("port", "80")],
    ];
    for (headers, id) in wrong.into_iter().zip((1..).step_by(2)) {
        peer.open(id, headers).await;
        let reset = [u32::to_be_bytes(id), 3_u32.to_be_bytes()].concat();
        assert_eq!(peer.got().await, Got::Control(3, reset), "{headers:?}");
    }
}

#[tokio::test]
async fn too_many_streams_are_refused_one_by_one() {
    let (mut peer, _) = forward();
    let mut refused = 0;
    for id in (1..=2 * 1001).step_by(2) {
        peer.open(id, &[("streamtype", "error"), ("port", "80"), ("requestid", &id.to_string())]).await;
        if matches!(peer.got().await, Got::Control(3, _)) {
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
}
