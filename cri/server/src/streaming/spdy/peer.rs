//! A SPDY client for tests that writes its frames by itself.

use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::headers::DICTIONARY;

/// A client with bytes of its own.
pub(in super::super) struct Peer<T> {
    pub io: T,
    zlib: Compress,
}

#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Got {
    Data(u32, bool, Vec<u8>),
    Control(u16, Vec<u8>),
    End,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Peer<T> {
    pub(in super::super) fn new(io: T) -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        Self { io, zlib }
    }

    pub(in super::super) async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) {
        let mut frame = vec![0x80, 3, 0, kind as u8, flags];
        frame.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        frame.extend(payload);
        // A server that closes must not fail the test at a random place.
        let _ = self.io.write_all(&frame).await;
    }

    pub(in super::super) async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        self.open_with(id, &block).await;
    }

    pub(in super::super) async fn open_with(&mut self, id: u32, block: &[u8]) {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        let mut compressed = Vec::with_capacity(block.len() + 1024);
        self.zlib.compress_vec(block, &mut compressed, FlushCompress::Sync).unwrap();
        payload.extend(compressed);
        self.control(1, 0, &payload).await;
    }

    pub(in super::super) async fn data(&mut self, id: u32, fin: bool, bytes: &[u8]) {
        let mut frame = id.to_be_bytes().to_vec();
        frame.push(u8::from(fin));
        frame.extend(&(bytes.len() as u32).to_be_bytes()[1..]);
        frame.extend(bytes);
        let _ = self.io.write_all(&frame).await;
    }

    pub(in super::super) async fn window(&mut self, id: u32, delta: u32) {
        self.control(9, 0, &[id.to_be_bytes(), delta.to_be_bytes()].concat()).await;
    }

    /// The next frame but for window updates.
    pub(in super::super) async fn got(&mut self) -> Got {
        loop {
            let mut head = [0; 8];
            if self.io.read_exact(&mut head).await.is_err() {
                return Got::End;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
            self.io.read_exact(&mut payload).await.unwrap();
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            match (head[0] >> 7, head[3]) {
                (0, _) => return Got::Data(first, head[4] == 1, payload),
                (_, 9) => {}
                (_, kind) => return Got::Control(u16::from(kind), payload),
            }
        }
    }

    /// Everything of one stream until its end.
    pub(in super::super) async fn all_of(&mut self, id: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.got().await {
                Got::Data(of, fin, bytes) if of == id => {
                    all.extend(bytes);
                    if fin {
                        return all;
                    }
                }
                Got::End => panic!("ended after {} bytes", all.len()),
                _ => {}
            }
        }
    }

    /// Whether the server says that the protocol was broken, and closes.
    pub(in super::super) async fn thrown_out(mut self) -> bool {
        let mut told = false;
        loop {
            match self.got().await {
                Got::Control(7, payload) => told = payload[4..] == [0, 0, 0, 1],
                Got::End => return told,
                _ => {}
            }
        }
    }
}
