//! A client of streaming sessions over WebSocket (RFC 6455) with Kubernetes' channel protocol: each message is the number
//! of a channel and bytes of it. An exec has 0 stdin, 1 stdout, 2 stderr, 3 its status and 4 the window's size; a
//! forwarded port has one for data and one for errors, which begin with the port.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_cri::v1;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cri::Cri;

/// What a client types.
pub const STDIN: u8 = 0;
/// What the process writes.
pub const STDOUT: u8 = 1;
/// What it complains.
pub const STDERR: u8 = 2;
/// How the session ended.
pub const STATUS: u8 = 3;
/// The window's size.
pub const RESIZE: u8 = 4;

/// Closes the channel whose number follows; only version 5 has it.
const CLOSE: u8 = 255;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An open session.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    read: Vec<u8>,
    /// The protocol that the server chose.
    pub protocol: String,
}

/// What came of a session that has ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: Vec<u8>,
    /// The status object; null where none came.
    pub status: Value,
}

impl Ended {
    /// The exit code, where the status tells one.
    pub fn code(&self) -> Option<i32> {
        if self.status.get("status")?.as_str()? == "Success" {
            return Some(0);
        }
        let causes = self.status.pointer("/details/causes")?.as_array()?;
        let cause = causes.iter().find(|cause| cause.get("reason").is_some_and(|reason| reason == "ExitCode"))?;
        cause.get("message")?.as_str()?.parse().ok()
    }
}

impl Session {
    /// Dials the URL that an RPC answered.
    pub async fn open(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("streaming URL {url}"))?;
        let (host, path) = rest.split_once('/').with_context(|| format!("streaming URL {url}"))?;
        let mut stream = TcpStream::connect(host).await.with_context(|| format!("connect to {host}"))?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut session = Self { stream, read: Vec::new(), protocol: String::new() };
        let head = loop {
            if let Some(end) = session.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break String::from_utf8_lossy(&session.read.drain(..end + 4).collect::<Vec<u8>>()).into_owned();
            }
            ensure!(session.more().await? > 0, "the server closed before it answered");
        };
        ensure!(head.starts_with("HTTP/1.1 101"), "no upgrade: {head}");
        let chosen = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-protocol").then(|| value.trim().to_owned())
        });
        session.protocol = chosen.unwrap_or_default();
        Ok(session)
    }

    async fn more(&mut self) -> Result<usize> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        read.context("the server says nothing more")?.context("read from the server")
    }

    async fn frame(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            length @ ..126 => frame.push(0x80 | length as u8),
            length @ ..65_536 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        // A mask of zeros masks nothing, and every client must have one.
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        timeout(PATIENCE, self.stream.write_all(&frame)).await.context("the server takes nothing")??;
        Ok(())
    }

    /// Sends bytes of a channel.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        let mut message = vec![channel];
        message.extend_from_slice(bytes);
        self.frame(2, &message).await
    }

    /// Tells the size of the window.
    pub async fn resize(&mut self, width: u16, height: u16) -> Result<()> {
        self.send(RESIZE, format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes()).await
    }

    /// Ends our side of a channel.
    pub async fn close(&mut self, channel: u8) -> Result<()> {
        ensure!(self.protocol == "v5.channel.k8s.io", "{} cannot close a channel", self.protocol);
        self.send(CLOSE, &[channel]).await
    }

    /// The next bytes of any channel; nothing when the server has closed.
    pub async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            let Some((opcode, payload)) = self.read_frame().await? else { return Ok(None) };
            match opcode {
                1 | 2 => match payload.split_first() {
                    // A channel that the server closed.
                    Some((&CLOSE, _)) | None => {}
                    Some((channel, bytes)) if !bytes.is_empty() => return Ok(Some((*channel, bytes.to_vec()))),
                    Some(_) => {}
                },
                8 => return Ok(None),
                9 => self.frame(10, &payload).await?,
                10 => {}
                other => bail!("a frame of kind {other}"),
            }
        }
    }

    async fn read_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((head, length)) = measure(&self.read)
                && self.read.len() >= head + length
            {
                let opcode = self.read[0] & 0x0f;
                let payload = self.read[head..head + length].to_vec();
                self.read.drain(..head + length);
                return Ok(Some((opcode, payload)));
            }
            match self.more().await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // A server may end a session so.
                Err(error) if error.root_cause().to_string().contains("reset") => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads one channel until what came holds `text`; says all that came on it.
    pub async fn until(&mut self, channel: u8, text: &str) -> Result<String> {
        let mut all = Vec::new();
        loop {
            let so_far = String::from_utf8_lossy(&all);
            if so_far.contains(text) {
                return Ok(so_far.into_owned());
            }
            match self.next().await.with_context(|| format!("{text:?} in {so_far:?}"))? {
                Some((from, bytes)) if from == channel => all.extend_from_slice(&bytes),
                Some(_) => {}
                None => bail!("the session ended before {text:?}: {so_far:?}"),
            }
        }
    }

    /// Reads to the end.
    pub async fn finish(mut self) -> Result<Ended> {
        let mut ended = Ended::default();
        let mut status = Vec::new();
        while let Some((channel, bytes)) = self.next().await? {
            match channel {
                STDOUT => ended.stdout.extend_from_slice(&bytes),
                STDERR => ended.stderr.extend_from_slice(&bytes),
                STATUS => status.extend_from_slice(&bytes),
                other => bail!("bytes on channel {other}"),
            }
        }
        ended.status = serde_json::from_slice(&status).unwrap_or_default();
        Ok(ended)
    }
}

/// The length of a frame's head and of its payload, where the head is whole.
fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? & 0x7f {
        126 => Some((4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into())),
        127 => Some((10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?)),
        length => Some((2, length.into())),
    }
}

/// What to run, and which streams are wanted: `i` stdin, `o` stdout, `e` stderr, `t` a terminal.
pub async fn exec(cri: &Cri, container: &str, command: &[&str], streams: &str) -> Result<Session> {
    Session::open(&exec_url(cri, container, command, streams).await?).await
}

/// The URL of an exec.
pub async fn exec_url(cri: &Cri, container: &str, command: &[&str], streams: &str) -> Result<String, tonic::Status> {
    let request = v1::ExecRequest {
        container_id: container.to_owned(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        tty: streams.contains('t'),
        stdin: streams.contains('i'),
        stdout: streams.contains('o'),
        stderr: streams.contains('e'),
    };
    Ok(cri.runtime().exec(request).await?.into_inner().url)
}

/// Attaches; the streams are named as for [`exec`].
pub async fn attach(cri: &Cri, container: &str, streams: &str) -> Result<Session> {
    Session::open(&attach_url(cri, container, streams).await?).await
}

/// The URL of an attach.
pub async fn attach_url(cri: &Cri, container: &str, streams: &str) -> Result<String, tonic::Status> {
    let request = v1::AttachRequest {
        container_id: container.to_owned(),
        tty: streams.contains('t'),
        stdin: streams.contains('i'),
        stdout: streams.contains('o'),
        stderr: streams.contains('e'),
    };
    Ok(cri.runtime().attach(request).await?.into_inner().url)
}

/// The URL of a port-forward.
pub async fn forward_url(cri: &Cri, pod: &str, ports: &[i32]) -> Result<String, tonic::Status> {
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: ports.to_vec() };
    Ok(cri.runtime().port_forward(request).await?.into_inner().url)
}
