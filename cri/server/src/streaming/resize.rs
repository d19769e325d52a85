//! Sizes of the client's terminal: JSON objects one behind the other on a stream.

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::TerminalSize;

/// The longest object, in bytes.
const LONGEST: usize = 1024;

/// How many sizes wait for the terminal; a client that drags its window waits then.
const WAITING: usize = 4;

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// Bytes that may hold the begin of an object.
#[derive(Default)]
struct Decoder(Vec<u8>);

/// What is no size.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

impl Decoder {
    /// The sizes that `bytes` completes.
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<TerminalSize>, Malformed> {
        self.0.extend_from_slice(bytes);
        let mut objects = serde_json::Deserializer::from_slice(&self.0).into_iter::<Size>();
        let mut sizes = Vec::new();
        let mut done = 0;
        for object in objects.by_ref() {
            match object {
                Ok(Size { width, height }) => sizes.push(TerminalSize { width, height }),
                Err(error) if error.is_eof() => break,
                Err(_) => return Err(Malformed),
            }
        }
        done += objects.byte_offset();
        self.0.drain(..done.min(self.0.len()));
        if self.0.len() > LONGEST { Err(Malformed) } else { Ok(sizes) }
    }
}

/// Where the sizes come from.
pub(super) fn channel() -> (mpsc::Sender<TerminalSize>, mpsc::Receiver<TerminalSize>) {
    mpsc::channel(WAITING)
}

/// Passes sizes on until the stream ends, says something else, or nobody wants them.
pub(super) async fn pump(mut stream: impl AsyncRead + Unpin, sizes: mpsc::Sender<TerminalSize>) {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 512];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let Ok(news) = decoder.feed(&buffer[..count]) else { return };
        for size in news {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_may_come_in_pieces_or_together() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(br#"{"Width":80,"#), Ok(vec![]));
        assert_eq!(
            decoder.feed(b"\"Height\":24}\n{\"width\":1,\"height\":2}{"),
            Ok(vec![TerminalSize { width: 80, height: 24 }, TerminalSize { width: 1, height: 2 }])
        );
        assert_eq!(decoder.feed(br#""Width":3,"Height":4}"#), Ok(vec![TerminalSize { width: 3, height: 4 }]));
        assert!(decoder.0.is_empty());
    }

    #[test]
    fn nothing_else_is_a_size() {
        for wrong in [&b"80x24"[..], br#"{"Width":70000,"Height":1}"#, br#"{"Width":-1,"Height":1}"#, b"[]"] {
            assert_eq!(Decoder::default().feed(wrong), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(Decoder::default().feed(&[b' '; LONGEST + 1]).map(|_| ()), Ok(()), "white space is nothing");
        let endless = [b"{\"".as_slice(), &[b'x'; LONGEST]].concat();
        assert_eq!(Decoder::default().feed(&endless), Err(Malformed));
    }

    #[tokio::test]
    async fn sizes_reach_the_terminal() {
        let (sender, mut receiver) = channel();
        pump(&b"{\"Width\":80,\"Height\":24}{\"Width\":100,\"Height\":30}oops"[..], sender).await;
        assert_eq!(receiver.recv().await, None, "what came with nonsense is not trusted");
        let (sender, mut receiver) = channel();
        pump(&b"{\"Width\":80,\"Height\":24}\n"[..], sender).await;
        assert_eq!(receiver.recv().await, Some(TerminalSize { width: 80, height: 24 }));
        assert_eq!(receiver.recv().await, None);
    }
}
