//! `windlass snapshots`: file systems of images and containers, and what they take on disk.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{Info, Kind, ListSnapshotsRequest, UsageRequest};
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::output::{Output, Row};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        driver: Driver,
    },
    /// What snapshots take on disk, their parents not counted
    Usage {
        #[command(flatten)]
        driver: Driver,
        /// Their keys; all where none is given
        keys: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Driver {
    /// The snapshot driver
    #[arg(long, default_value = "overlay")]
    snapshotter: String,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    key: String,
    parent: String,
    kind: &'static str,
    created_at: i64,
    labels: BTreeMap<String, String>,
}

impl Row for Snapshot {
    const HEADS: &'static [&'static str] = &["KEY", "PARENT", "KIND", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), self.parent.clone(), self.kind.into(), human::age(self.created_at)]
    }
}

#[derive(Debug, Serialize)]
struct Usage {
    key: String,
    bytes: u64,
    inodes: u64,
}

impl Row for Usage {
    const HEADS: &'static [&'static str] = &["KEY", "SIZE", "INODES"];

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), human::size(self.bytes), self.inodes.to_string()]
    }
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(SnapshotsClient<_>, daemon.connect().await?);
    match command {
        Command::Ls { driver } => {
            let found = list(&mut client, daemon, driver.snapshotter).await?;
            output.rows(&found.into_iter().map(snapshot).collect::<Vec<_>>())
        }
        Command::Usage { driver, keys } => {
            let snapshotter = driver.snapshotter;
            let keys = if keys.is_empty() {
                let found = list(&mut client, daemon, snapshotter.clone()).await?;
                found.into_iter().map(|info| info.name).collect()
            } else {
                keys
            };
            let mut rows = Vec::with_capacity(keys.len());
            for key in keys {
                rows.push(usage(&mut client, daemon, &snapshotter, key).await?);
            }
            output.rows(&rows)
        }
    }
}

async fn list(client: &mut SnapshotsClient<Channel>, daemon: &Daemon, snapshotter: String) -> Result<Vec<Info>> {
    let request = ListSnapshotsRequest { snapshotter, filters: Vec::new() };
    let mut stream = client.list(daemon.request(request)).await.map_err(answered)?.into_inner();
    let mut found = Vec::new();
    while let Some(batch) = stream.message().await.map_err(answered)? {
        found.extend(batch.info);
    }
    Ok(found)
}

async fn usage(
    client: &mut SnapshotsClient<Channel>,
    daemon: &Daemon,
    snapshotter: &str,
    key: String,
) -> Result<Usage> {
    let request = UsageRequest { snapshotter: snapshotter.to_owned(), key: key.clone() };
    let answer = client.usage(daemon.request(request)).await;
    let answer = answer.map_err(answered).with_context(|| format!("measure {key}"))?.into_inner();
    let count = |count| u64::try_from(count).unwrap_or(0);
    Ok(Usage { key, bytes: count(answer.size), inodes: count(answer.inodes) })
}

fn snapshot(info: Info) -> Snapshot {
    let kind = match info.kind() {
        Kind::View => "view",
        Kind::Active => "active",
        Kind::Committed => "committed",
        Kind::Unknown => "unknown",
    };
    Snapshot {
        key: info.name,
        parent: info.parent,
        kind,
        created_at: human::nanos(info.created_at.as_ref()),
        labels: info.labels.into_iter().collect(),
    }
}
