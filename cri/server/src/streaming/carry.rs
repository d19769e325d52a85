//! Carries bytes between a session's client and a container, in each direction at the pace of whoever takes them.

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use windlass_engine::tasks;
use windlass_model::{Error, Kind, Result};

use super::{Input, Output, TerminalSize};

/// Carries one output to its end and closes the client's stream behind it. Where either is missing there is nothing to do.
///
/// # Errors
/// [`Kind::Canceled`] where the client takes no more: it is gone.
pub(super) async fn output(from: Option<tasks::Output>, to: Option<Output>) -> Result<()> {
    let gone = |error| Error::with_source(Kind::Canceled, "the client of a session is gone", error);
    let Some(mut to) = to else { return Ok(()) };
    if let Some(mut from) = from {
        while let Some(piece) = from.next().await {
            to.write_all(piece).await.map_err(gone)?;
            to.flush().await.map_err(gone)?;
        }
    }
    to.shutdown().await.map_err(gone)
}

/// Carries what the client writes, until it ends or the process takes no more; then the process's end of it is closed.
pub(super) async fn input(from: Option<Input>, to: Option<impl tokio::io::AsyncWrite + Unpin>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    if let Err(error) = tokio::io::copy(&mut from, &mut to).await {
        // A client that is gone, or a program that has closed its input, which is its right.
        tracing::debug!(%error, "the input of a session ends early");
    }
}

/// Has the terminal follow the client's window, until that changes no more.
pub(super) async fn sizes<F: Future<Output = Result<()>>>(
    mut sizes: mpsc::Receiver<TerminalSize>,
    resize: impl Fn(TerminalSize) -> F,
) {
    while let Some(size) = sizes.recv().await {
        if let Err(error) = resize(size).await {
            tracing::debug!(%error, "a terminal keeps its size");
        }
    }
}

/// Refuses a combination of streams that no session can have.
///
/// # Errors
/// [`Kind::InvalidArgument`] naming the field.
pub(super) fn check_streams(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<()> {
    if tty && stderr {
        return Err(Error::invalid("stderr: a terminal has none of its own, so tty and stderr exclude each other"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Error::invalid("stdin, stdout, stderr: at least one must be asked for"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_streams_are_refused() {
        assert!(check_streams(false, true, true, true).is_ok());
        assert!(check_streams(true, false, true, false).is_ok());
        assert!(check_streams(false, true, false, false).is_ok());
        for (tty, stdin, stdout, stderr) in [(true, true, true, true), (false, false, false, false)] {
            assert_eq!(check_streams(tty, stdin, stdout, stderr).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_told_and_one_without_output_is_none() {
        let (ours, theirs) = tokio::io::duplex(16);
        drop(theirs);
        let gone = output(None, Some(Box::new(ours))).await;
        assert!(gone.is_ok(), "closing is all that was to be done");
        output(None, None).await.unwrap();
        let (ours, mut theirs) = tokio::io::duplex(16);
        input(Some(Box::new(&b"hello"[..])), Some(ours)).await;
        let mut all = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut theirs, &mut all).await.unwrap();
        assert_eq!(all, "hello");
    }
}
