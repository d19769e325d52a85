//! Whole WebSocket connections against the client of a library.

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::super::status::Report;
use super::super::testing::{Echo, exec, ports, terms};
use super::Codec;
use super::remote_command::Subprotocol;
use super::{port_forward, remote_command};

const V5: Subprotocol = Subprotocol { codec: Codec::Binary, closing: true, report: Report::Json };
const BASE64: Subprotocol = Subprotocol { codec: Codec::Base64, closing: false, report: Report::Text };

type Client = WebSocketStream<DuplexStream>;

async fn command(subprotocol: Subprotocol, word: &str) -> (Client, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(1024);
    let command = exec(word, false);
    let stop = CancellationToken::new();
    let server =
        tokio::spawn(async move { remote_command::serve(ours, subprotocol, command, &Echo, terms(&stop)).await });
    (WebSocketStream::from_raw_socket(theirs, Role::Client, None).await, server)
}

/// Everything of a channel until the connection's end, and how that was said.
async fn rest(client: &mut Client) -> (Vec<Vec<u8>>, Option<CloseCode>) {
    let mut channels = vec![Vec::new(); 4];
    while let Some(Ok(message)) = client.next().await {
        match message {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend(&bytes[1..]),
            Message::Close(frame) => return (channels, frame.map(|frame| frame.code)),
            other => panic!("{other}"),
        }
    }
    (channels, None)
}

fn on(channel: u8, bytes: &[u8]) -> Message {
    Message::binary([&[channel], bytes].concat())
}

#[tokio::test]
async fn version_5_ends_its_input_and_gets_an_exit_code() {
    let (mut client, server) = command(V5, "7").await;
    assert_eq!(client.next().await.unwrap().unwrap(), on(1, b""), "the greeting");
    client.send(on(0, b"hello")).await.unwrap();
    client.send(on(9, b"to nobody")).await.unwrap();
    client.send(on(255, &[0])).await.unwrap();
    let (channels, code) = rest(&mut client).await;
    assert_eq!(channels[1], b"hello");
    assert_eq!(channels[2], b"complaint");
    assert!(String::from_utf8_lossy(&channels[3]).contains(r#""message":"7""#));
    assert_eq!(code, Some(CloseCode::Normal));
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn a_long_message_passes_in_pieces() {
    let (client, _) = command(V5, "0").await;
    let (mut to, mut from) = client.split();
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|at| at as u8 ^ (at >> 8) as u8).collect();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        to.send(on(0, &sent)).await.unwrap();
        to.send(on(255, &[0])).await.unwrap();
        to
    });
    let mut echoed: Vec<u8> = Vec::new();
    while let Some(Ok(Message::Binary(message))) = from.next().await {
        if message[0] == 1 {
            echoed.extend(&message[1..]);
        }
    }
    assert!(echoed == bytes, "{} of {}", echoed.len(), bytes.len());
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn base64_is_text_both_ways() {
    let (mut client, _) = command(BASE64, "3").await;
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("1"));
    client.send(Message::text("0Zm9vCg==")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("1Zm9vCg=="));
    client.send(Message::Ping(b"there?".to_vec().into())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(b"there?".to_vec().into()));
    client.send(Message::text("0***=")).await.unwrap();
    assert_eq!(rest(&mut client).await.1, Some(CloseCode::Invalid));
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    for (name, bytes, code) in [
        ("unmasked", &b"\x82\x02\x00x"[..], 1002_u16),
        ("reserved bit", b"\xc2\x82\0\0\0\0\0x", 1002),
        ("reserved opcode", b"\x83\x82\0\0\0\0\0x", 1002),
        ("continuation of nothing", b"\x80\x82\0\0\0\0\0x", 1002),
        ("a message within another", b"\x02\x82\0\0\0\0\0x\x82\x82\0\0\0\0\0x", 1002),
        ("a ping in pieces", b"\x09\x80\0\0\0\0", 1002),
        ("a long ping", b"\x89\xfe\x01\x00\0\0\0\0", 1002),
        ("oversized", b"\x82\xff\0\0\0\0\x10\0\0\0\0\0\0\0", 1009),
        ("a wish to end two channels", b"\x82\x83\0\0\0\0\xff\0\x01", 1007),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let stop = CancellationToken::new();
        let server =
            tokio::spawn(async move { remote_command::serve(ours, V5, exec("0", false), &Echo, terms(&stop)).await });
        theirs.write_all(bytes).await.unwrap();
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        assert_eq!(rest(&mut client).await.1, Some(CloseCode::from(code)), "{name}");
        drop(client);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_closes_ends_what_it_began() {
    let (mut client, server) = command(V5, "0").await;
    client.close(None).await.unwrap();
    while client.next().await.is_some() {}
    server.await.unwrap();
    let (client, server) = command(V5, "0").await;
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn ports_have_two_channels_each_that_begin_with_the_port() {
    let (ours, theirs) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    let session = ports(&[8080, 1]);
    let server = tokio::spawn(async move {
        port_forward::serve(ours, Codec::Binary, session, &Echo, terms(&stop)).await;
    });
    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let mut greeted = vec![Vec::new(); 4];
    while !greeted[3].ends_with(b"nobody listens") || greeted[..3].iter().any(|channel| channel.len() < 2) {
        let message = client.next().await.unwrap().unwrap().into_data();
        greeted[usize::from(message[0])].extend(&message[1..]);
    }
    assert_eq!(greeted[0], 8080_u16.to_le_bytes());
    assert_eq!(greeted[1], 8080_u16.to_le_bytes());
    assert_eq!(greeted[2], 1_u16.to_le_bytes());
    client.close(None).await.unwrap();
    while client.next().await.is_some() {}
    server.await.unwrap();
}

#[tokio::test]
async fn spdy_goes_through_a_tunnel_in_pieces_of_any_size() {
    let (ours, theirs) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    let server = tokio::spawn(async move {
        port_forward::serve_tunnel(ours, ports(&[]), &Echo, terms(&stop)).await;
    });
    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let first = client.next().await.unwrap().unwrap().into_data();
    assert_eq!(first[..4], [0x80, 3, 0, 9], "room for the session");
    // A ping, a byte at a time.
    for byte in [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1_u8] {
        client.send(Message::binary(vec![byte])).await.unwrap();
    }
    assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]));
    // Text is no SPDY.
    client.send(Message::text("x")).await.unwrap();
    assert_eq!(rest(&mut client).await.1, Some(CloseCode::Invalid));
    drop(client);
    server.await.unwrap();
}
