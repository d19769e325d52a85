//! A client of streaming sessions over SPDY/3.1, as the kubelet and crictl are: without flow control.
//!
//! Its header blocks are compressed without the protocol's dictionary, which zlib allows; of replies it reads the id alone.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::channels::Ended;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// A connection.
#[derive(Debug)]
pub struct Spdy {
    stream: BufReader<TcpStream>,
    zlib: Compress,
    newest: u32,
    /// The subprotocol that the server chose.
    pub protocol: String,
    /// What came on each stream and was not taken yet.
    got: HashMap<u32, Vec<u8>>,
    ended: HashSet<u32>,
    reset: HashSet<u32>,
    /// The newest answer to a ping.
    pub pong: u32,
    /// What the server said when it ended the connection: 0 is a friendly end.
    pub goaway: Option<u32>,
}

/// An exec or attach with its streams open; 0 is a stream that was not asked for.
#[derive(Debug)]
pub struct Command {
    /// The connection.
    pub spdy: Spdy,
    /// The status.
    pub error: u32,
    /// What is typed.
    pub stdin: u32,
    /// What the process writes.
    pub stdout: u32,
    /// What it complains.
    pub stderr: u32,
    /// The window's size.
    pub resize: u32,
}

/// Sends a request to a streaming URL; answers the status and the head.
pub async fn request(url: &str, method: &str, headers: &[(&str, &str)]) -> Result<(u16, String, BufReader<TcpStream>)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("streaming URL {url}"))?;
    let (host, path) = rest.split_once('/').with_context(|| format!("streaming URL {url}"))?;
    let mut stream = TcpStream::connect(host).await.with_context(|| format!("connect to {host}"))?;
    stream.set_nodelay(true)?;
    let mut text = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await?;
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.context("no answer")?.context("no whole answer")?);
    }
    let head = String::from_utf8(head)?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, head, stream))
}

impl Spdy {
    /// Upgrades a connection to a streaming URL.
    pub async fn open(url: &str, protocols: &str) -> Result<Self> {
        let headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocols)];
        let (status, head, stream) = request(url, "POST", &headers).await?;
        let upgraded = head.contains("connection: upgrade\r\n") && head.contains("upgrade: spdy/3.1\r\n");
        ensure!(status == 101 && upgraded, "no upgrade: {head}");
        let chosen = head.lines().find_map(|line| line.strip_prefix("x-stream-protocol-version:"));
        Ok(Self {
            stream,
            zlib: Compress::new(Compression::fast(), true),
            newest: 0,
            protocol: chosen.context("no protocol was chosen")?.trim().to_owned(),
            got: HashMap::new(),
            ended: HashSet::new(),
            reset: HashSet::new(),
            pong: 0,
            goaway: None,
        })
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.context("the server takes nothing")??;
        Ok(())
    }

    /// Sends a control frame.
    pub async fn control(&mut self, kind: u16, payload: &[u8]) -> Result<()> {
        let mut frame = vec![0x80, 3];
        frame.extend(kind.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        self.raw(&frame).await
    }

    /// Opens a stream and waits for its reply.
    pub async fn stream(&mut self, headers: &[(&str, &str)]) -> Result<u32> {
        let id = self.newest + if self.newest == 0 { 1 } else { 2 };
        self.newest = id;
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        let mut compressed = Vec::with_capacity(block.len() + 64);
        self.zlib.compress_vec(&block, &mut compressed, FlushCompress::Sync)?;
        payload.extend(compressed);
        self.control(SYN_STREAM, &payload).await?;
        loop {
            match self.frame().await?.context("the server closed instead of a reply")? {
                (SYN_REPLY, of) if of == id => return Ok(id),
                (RST_STREAM, of) if of == id => bail!("stream {id} is refused"),
                _ => {}
            }
        }
    }

    /// Sends bytes on a stream, and its end.
    pub async fn send(&mut self, id: u32, bytes: &[u8], fin: bool) -> Result<()> {
        let mut frame = id.to_be_bytes().to_vec();
        frame.extend(((u32::from(fin) << 24) | bytes.len() as u32).to_be_bytes());
        frame.extend(bytes);
        self.raw(&frame).await
    }

    /// Sends a ping; the answer is in `pong` when it came.
    pub async fn ping(&mut self, id: u32) -> Result<()> {
        self.control(PING, &id.to_be_bytes()).await
    }

    /// Reads a frame: its type, 0 for data, and its stream. Nothing when the server has closed.
    pub async fn frame(&mut self) -> Result<Option<(u16, u32)>> {
        let mut head = [0; 8];
        let read =
            timeout(PATIENCE, self.stream.read_exact(&mut head)).await.context("the server says nothing more")?;
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            read => read?,
        };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut payload = vec![0; length];
        timeout(PATIENCE, self.stream.read_exact(&mut payload)).await.context("half a frame")??;
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap_or_default());
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if first >> 31 == 0 {
            self.got.entry(first).or_default().extend(payload);
            if head[4] == 1 {
                self.ended.insert(first);
            }
            return Ok(Some((0, first)));
        }
        let kind = u16::from_be_bytes([head[2], head[3]]);
        let id = if length >= 4 { word(0) } else { 0 };
        match kind {
            RST_STREAM => drop(self.reset.insert(id)),
            PING => self.pong = id,
            GOAWAY => self.goaway = Some(word(4)),
            _ => {}
        }
        Ok(Some((kind, id)))
    }

    /// All of a stream to its end, whether that was a good one or a reset.
    pub async fn all_of(&mut self, id: u32) -> Result<Vec<u8>> {
        while !self.ended.contains(&id) && !self.reset.contains(&id) {
            self.frame().await?.with_context(|| format!("the server closed before stream {id} ended"))?;
        }
        Ok(self.got.remove(&id).unwrap_or_default())
    }

    /// What came on a stream, as soon as it holds `text`.
    pub async fn until(&mut self, id: u32, text: &str) -> Result<String> {
        loop {
            let so_far = String::from_utf8_lossy(self.got.get(&id).map_or(&[][..], Vec::as_slice)).into_owned();
            if so_far.contains(text) {
                self.got.remove(&id);
                return Ok(so_far);
            }
            self.frame().await?.with_context(|| format!("the server closed before {text:?}: {so_far:?}"))?;
        }
    }

    /// Reads until the server closes.
    pub async fn until_closed(&mut self) -> Result<()> {
        while self.frame().await?.is_some() {}
        Ok(())
    }
}

impl Command {
    /// Dials a URL of an exec or attach and opens its streams, which are named as for [`crate::channels::exec`].
    pub async fn open(url: &str, streams: &str) -> Result<Self> {
        let mut spdy = Spdy::open(url, "v4.channel.k8s.io,v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io").await?;
        ensure!(spdy.protocol == "v4.channel.k8s.io", "{}", spdy.protocol);
        let mut ids = [0; 5];
        let kinds = [("error", ' '), ("stdin", 'i'), ("stdout", 'o'), ("stderr", 'e'), ("resize", 't')];
        for ((kind, letter), id) in kinds.into_iter().zip(&mut ids) {
            if letter == ' ' || streams.contains(letter) {
                *id = spdy.stream(&[("streamtype", kind)]).await?;
            }
        }
        let [error, stdin, stdout, stderr, resize] = ids;
        Ok(Self { spdy, error, stdin, stdout, stderr, resize })
    }

    /// Types, and ends the input.
    pub async fn input(&mut self, bytes: &[u8], fin: bool) -> Result<()> {
        self.spdy.send(self.stdin, bytes, fin).await
    }

    /// Tells the size of the window.
    pub async fn resize(&mut self, width: u16, height: u16) -> Result<()> {
        let text = format!("{{\"Width\":{width},\"Height\":{height}}}\n");
        self.spdy.send(self.resize, text.as_bytes(), false).await
    }

    /// Reads to the end.
    pub async fn finish(mut self) -> Result<Ended> {
        let status = self.spdy.all_of(self.error).await?;
        let mut ended = Ended { status: serde_json::from_slice(&status).unwrap_or_default(), ..Ended::default() };
        for (id, bytes) in [(self.stdout, &mut ended.stdout), (self.stderr, &mut ended.stderr)] {
            if id != 0 {
                *bytes = self.spdy.all_of(id).await?;
            }
        }
        Ok(ended)
    }
}
