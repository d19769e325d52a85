//! `windlass content`: blobs, by digest.

mod ingest;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Subcommand;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest, ReadContentRequest,
    UpdateRequest,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::images;
use crate::labels;
use crate::output::{Output, Row};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List blobs
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that match one of these (containerd's filter language)
        filters: Vec<String>,
    },
    /// List blobs that are being written
    Active,
    /// All that is known of a blob
    Info {
        /// Its digest
        digest: String,
    },
    /// Write a blob to standard output
    Get {
        /// Its digest
        digest: String,
    },
    /// Pull the blobs of an image and unpack nothing
    Fetch(images::Fetch),
    /// Write standard input into a blob, and tell its digest
    Ingest(ingest::Arguments),
    /// Forget blobs that are being written
    Abort {
        /// Their references
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Change labels of a blob
    Label {
        /// Its digest
        digest: String,
        #[command(flatten)]
        changes: labels::Changes,
    },
    /// Remove blobs, whatever refers to them
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Their digests
        #[arg(required = true)]
        digests: Vec<String>,
    },
}

#[derive(Debug, Serialize)]
struct Blob {
    digest: String,
    size: u64,
    created_at: i64,
    labels: BTreeMap<String, String>,
}

impl Row for Blob {
    const HEADS: &'static [&'static str] = &["DIGEST", "SIZE", "CREATED", "LABELS"];

    fn cells(&self) -> Vec<String> {
        let labels: Vec<&str> = self.labels.keys().map(String::as_str).collect();
        vec![self.digest.clone(), human::size(self.size), human::age(self.created_at), labels.join(",")]
    }
}

#[derive(Debug, Serialize)]
struct Ingest {
    reference: String,
    offset: u64,
    total: u64,
    started_at: i64,
    updated_at: i64,
}

impl Row for Ingest {
    const HEADS: &'static [&'static str] = &["REFERENCE", "WRITTEN", "OF", "STARTED", "LAST WRITE"];

    fn cells(&self) -> Vec<String> {
        let total = if self.total == 0 { "-".into() } else { human::size(self.total) };
        let (started, updated) = (human::age(self.started_at), human::age(self.updated_at));
        vec![self.reference.clone(), human::size(self.offset), total, started, updated]
    }
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(ContentClient<_>, daemon.connect().await?);
    match command {
        Command::Ls { filters } => list(client, daemon, output, filters).await,
        Command::Active => list_ingests(client, daemon, output).await,
        Command::Info { digest } => {
            let answer = client.info(daemon.request(InfoRequest { digest })).await.map_err(answered)?;
            output.json(&blob(answer.into_inner().info.unwrap_or_default()))
        }
        Command::Fetch(arguments) => images::fetch(arguments, daemon, output).await,
        Command::Ingest(arguments) => ingest::run(client, arguments, daemon, output).await,
        Command::Abort { references } => {
            for reference in references {
                let aborted = client.abort(daemon.request(AbortRequest { r#ref: reference.clone() })).await;
                aborted.map_err(answered).with_context(|| format!("abort {reference}"))?;
            }
            Ok(())
        }
        Command::Label { digest, changes } => {
            let (labels, update_mask) = changes.masked();
            let info = Some(Info { digest: digest.clone(), labels, ..Default::default() });
            let changed = client.update(daemon.request(UpdateRequest { info, update_mask })).await;
            changed.map_err(answered).with_context(|| format!("label {digest}"))?;
            Ok(())
        }
        Command::Get { digest } => get(client, daemon, output, digest).await,
        Command::Rm { digests } => remove(client, daemon, digests).await,
    }
}

async fn list(
    mut client: ContentClient<Channel>,
    daemon: &Daemon,
    output: &Output,
    filters: Vec<String>,
) -> Result<()> {
    let answer = client.list(daemon.request(ListContentRequest { filters })).await.map_err(answered)?;
    let mut stream = answer.into_inner();
    let mut blobs = Vec::new();
    while let Some(batch) = stream.message().await.map_err(answered)? {
        blobs.extend(batch.info.into_iter().map(blob));
    }
    output.rows(&blobs)
}

fn blob(info: Info) -> Blob {
    Blob {
        digest: info.digest,
        size: u64::try_from(info.size).unwrap_or(0),
        created_at: human::nanos(info.created_at.as_ref()),
        labels: info.labels.into_iter().collect(),
    }
}

async fn list_ingests(mut client: ContentClient<Channel>, daemon: &Daemon, output: &Output) -> Result<()> {
    let answer = client.list_statuses(daemon.request(ListStatusesRequest::default())).await.map_err(answered)?;
    let ingests = answer.into_inner().statuses.into_iter().map(|status| Ingest {
        reference: status.r#ref,
        offset: u64::try_from(status.offset).unwrap_or(0),
        total: u64::try_from(status.total).unwrap_or(0),
        started_at: human::nanos(status.started_at.as_ref()),
        updated_at: human::nanos(status.updated_at.as_ref()),
    });
    output.rows(&ingests.collect::<Vec<_>>())
}

async fn get(mut client: ContentClient<Channel>, daemon: &Daemon, output: &Output, digest: String) -> Result<()> {
    let request = ReadContentRequest { digest, offset: 0, size: 0 };
    let mut stream = client.read(daemon.request(request)).await.map_err(answered)?.into_inner();
    while let Some(part) = stream.message().await.map_err(answered)? {
        output.raw(&part.data)?;
    }
    Ok(())
}

async fn remove(mut client: ContentClient<Channel>, daemon: &Daemon, digests: Vec<String>) -> Result<()> {
    for digest in digests {
        let removed = client.delete(daemon.request(DeleteContentRequest { digest: digest.clone() })).await;
        removed.map_err(answered).with_context(|| format!("remove {digest}"))?;
    }
    Ok(())
}
