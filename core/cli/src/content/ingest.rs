//! `windlass content ingest`: a blob from standard input, written piece by piece.

use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{WriteAction, WriteContentRequest};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Daemon, answered};
use crate::labels;
use crate::output::Output;

/// Bytes in one message; the daemon takes 16 MiB.
const PIECE: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The name under which the bytes are collected; an ingest of that name is taken up where it ended
    reference: String,
    /// What the digest is to be
    #[arg(long, value_name = "DIGEST", default_value = "")]
    expected_digest: String,
    /// How many bytes are to come
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    expected_size: i64,
    /// Labels of the blob
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct Ingested {
    digest: String,
    size: i64,
}

pub(super) async fn run(
    client: ContentClient<Channel>,
    arguments: Arguments,
    daemon: &Daemon,
    output: &Output,
) -> Result<()> {
    let reference = arguments.reference.clone();
    let done = write(client, arguments, tokio::io::stdin(), daemon).await;
    let done = done.with_context(|| format!("ingest {reference}"))?;
    output.one(&done, &done.digest)
}

async fn write(
    mut client: ContentClient<Channel>,
    arguments: Arguments,
    mut from: impl AsyncRead + Unpin,
    daemon: &Daemon,
) -> Result<Ingested> {
    let Arguments { reference, expected_digest, expected_size, labels } = arguments;
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: reference.clone(),
        total: expected_size,
        expected: expected_digest.clone(),
        ..Default::default()
    };
    let (to, messages) = mpsc::channel(1);
    to.send(first.clone()).await?;
    let opened = client.write(daemon.request(ReceiverStream::new(messages))).await;
    let mut answers = match opened {
        Err(status) if is_here(&status, &expected_digest) => return Ok(here(expected_digest, expected_size)),
        opened => opened.map_err(answered)?.into_inner(),
    };
    let started = match answers.message().await {
        Err(status) if is_here(&status, &expected_digest) => return Ok(here(expected_digest, expected_size)),
        started => started.map_err(answered)?.context("the daemon closed the stream at once")?,
    };
    // What is there already is not sent again.
    let mut offset = started.offset;
    let skipped = tokio::io::copy(&mut (&mut from).take(u64::try_from(offset)?), &mut tokio::io::sink()).await?;
    if skipped != u64::try_from(offset)? {
        bail!("{offset} bytes are there already, and standard input has only {skipped}");
    }
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await.context("read standard input")?;
        let action = if length == 0 { WriteAction::Commit } else { WriteAction::Write };
        let request = WriteContentRequest {
            action: action.into(),
            offset,
            data: piece[..length].to_vec(),
            // A commit sets the labels.
            labels: if length == 0 { labels.iter().cloned().collect() } else { Default::default() },
            ..first.clone()
        };
        // Where this fails, the daemon has said why.
        let _ = to.send(request).await;
        let answer = match answers.message().await {
            Err(status) if is_here(&status, &expected_digest) => return Ok(here(expected_digest, expected_size)),
            answer => answer.map_err(answered)?.context("the daemon closed the stream before the commit")?,
        };
        offset = offset.saturating_add(i64::try_from(length)?);
        if length == 0 {
            return Ok(Ingested { digest: answer.digest, size: offset });
        }
    }
}

/// True where the daemon has the very blob that was to come.
fn is_here(status: &tonic::Status, expected: &str) -> bool {
    status.code() == Code::AlreadyExists && !expected.is_empty()
}

fn here(digest: String, size: i64) -> Ingested {
    Ingested { digest, size }
}
