//! Bytes over a stream: `Data` messages one way, and `WindowUpdate` messages the other way that say how many more may come.
//!
//! A piece has at most 32 KiB, and a window of 64 KiB is opened whenever less than that is open. What reads and writes
//! here are threads that may block: a slow disk slows the client down, and a slow client the disk.

use std::io::{self, Read, Write};

use containerd_client::types::transfer::{Data, WindowUpdate};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use windlass_model::{Error, Kind, Result};

use super::{Stream, read};

/// The longest piece, in bytes.
const PIECE: usize = 32 << 10;
/// How many bytes may be on their way.
const WINDOW: i64 = 2 * PIECE as i64;
/// How many pieces wait for the thread that reads or writes them.
const PIECES: usize = 4;

/// What a client sends.
pub(crate) struct Reader {
    pieces: mpsc::Receiver<Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

/// What a client gets; dropped, it is the end.
pub(crate) struct Writer {
    pieces: mpsc::Sender<Vec<u8>>,
}

/// The bytes that a client sends over `stream`, until `stop` says that nobody wants them any more.
pub(crate) fn receive(stream: Stream, stop: CancellationToken) -> Reader {
    let (sender, pieces) = mpsc::channel(PIECES);
    // It ends with the client's last byte, or when the reader is dropped.
    tokio::spawn(async move {
        let given_up = || Err(Error::new(Kind::Canceled, "the transfer was given up"));
        let pumped = stop.run_until_cancelled(pump_in(stream, &sender)).await;
        if let Err(error) = pumped.unwrap_or_else(given_up) {
            let _ = sender.send(Err(error)).await;
        }
    });
    Reader { pieces, piece: Vec::new(), at: 0 }
}

async fn pump_in(mut stream: Stream, sender: &mpsc::Sender<Result<Vec<u8>>>) -> Result<()> {
    let mut window = 0;
    loop {
        if window < WINDOW {
            // A client that has sent everything need not listen any more.
            if stream.send(&WindowUpdate { update: WINDOW as i32 }).await.is_ok() {
                window += WINDOW;
            }
        }
        let message = tokio::select! {
            message = stream.receive() => message?,
            () = sender.closed() => return Ok(()),
        };
        let Some(message) = message else { return Ok(()) };
        let Some(Data { data }) = read(&message)? else {
            return Err(Error::invalid(format!("a stream of bytes carries a {:?}", message.type_url)));
        };
        window -= data.len() as i64;
        if sender.send(Ok(data)).await.is_err() {
            return Ok(());
        }
    }
}

/// A way to send bytes over `stream`, and the task that ends when the client got them all; dropped, it fails the writer.
pub(crate) fn send(stream: Stream) -> (Writer, AbortOnDropHandle<Result<()>>) {
    let (sender, pieces) = mpsc::channel(PIECES);
    (Writer { pieces: sender }, AbortOnDropHandle::new(tokio::spawn(pump_out(stream, pieces))))
}

async fn pump_out(mut stream: Stream, mut pieces: mpsc::Receiver<Vec<u8>>) -> Result<()> {
    let mut window = 0i64;
    while let Some(piece) = pieces.recv().await {
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            while window <= 0 {
                let gone = || Error::new(Kind::Canceled, "the client reads no further");
                let message = stream.receive().await?.ok_or_else(gone)?;
                let update: Option<WindowUpdate> = read(&message)?;
                let update = update.map_or(0, |update| i64::from(update.update));
                window = window.saturating_add(update.max(0));
            }
            let length = rest.len().min(PIECE).min(usize::try_from(window).unwrap_or(PIECE));
            stream.send(&Data { data: rest[..length].to_vec() }).await?;
            window -= length as i64;
            rest = &rest[length..];
        }
    }
    Ok(())
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(piece)) => (self.piece, self.at) = (piece, 0),
            }
        }
        let length = into.len().min(self.piece.len() - self.at);
        into[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE);
        let gone = |_| io::Error::other(Error::new(Kind::Canceled, "the client went away"));
        self.pieces.blocking_send(bytes[..length].to_vec()).map_err(gone)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
