//! `windlass snapshots`: file systems of images and containers, and what they take on disk.

mod mounts;
mod tree;
mod unpack;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::labels;
use crate::output::{Output, Row};

pub(crate) use unpack::{is_unpacked, unpack};

/// The driver of who names none.
pub(crate) const DRIVER: &str = "overlay";

/// A snapshot of everything below it is kept as long as this label says so.
pub(crate) const GC_ROOT: &str = "containerd.io/gc.root";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        driver: Driver,
        /// Only those that match one of these (containerd's filter language)
        filters: Vec<String>,
    },
    /// All that is known of a snapshot
    Info {
        #[command(flatten)]
        driver: Driver,
        /// Its key
        key: String,
    },
    /// Snapshots below their parents
    Tree {
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
    /// Make a writable snapshot, and tell its mounts
    Prepare(Make),
    /// Make a read-only snapshot, and tell its mounts
    View(Make),
    /// The mounts of a snapshot
    #[command(visible_alias = "mount")]
    Mounts {
        #[command(flatten)]
        driver: Driver,
        /// Its key
        key: String,
        /// Tell commands that mount it at this folder
        #[arg(long, value_name = "FOLDER")]
        target: Option<String>,
    },
    /// End the writing to a snapshot, which gets a name for good
    Commit {
        #[command(flatten)]
        driver: Driver,
        /// The key that it had
        key: String,
        /// The name that it gets
        name: String,
    },
    /// Change labels of a snapshot
    Label {
        #[command(flatten)]
        driver: Driver,
        /// Its key
        key: String,
        #[command(flatten)]
        changes: labels::Changes,
    },
    /// Remove snapshots
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        #[command(flatten)]
        driver: Driver,
        /// Their keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Make the snapshots of an image's layers
    Unpack {
        #[command(flatten)]
        driver: Driver,
        /// The image's name
        image: String,
    },
    /// Take away what a driver has on disk and no record names
    Cleanup {
        #[command(flatten)]
        driver: Driver,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Driver {
    /// The snapshot driver
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", default_value = DRIVER)]
    pub snapshotter: String,
}

#[derive(Debug, Args)]
pub(crate) struct Make {
    #[command(flatten)]
    driver: Driver,
    /// Its key
    key: String,
    /// The committed snapshot below it; none for an empty one
    parent: Option<String>,
    /// Tell commands that mount it at this folder
    #[arg(long, value_name = "FOLDER")]
    target: Option<String>,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    key: String,
    parent: String,
    kind: &'static str,
    created_at: i64,
    updated_at: i64,
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
    let channel = daemon.connect().await?;
    let mut client = api!(SnapshotsClient<_>, channel.clone());
    match command {
        Command::Ls { driver, filters } => {
            let found = list(&mut client, daemon, driver.snapshotter, filters).await?;
            output.rows(&found.into_iter().map(snapshot).collect::<Vec<_>>())
        }
        Command::Info { driver, key } => {
            let request = StatSnapshotRequest { snapshotter: driver.snapshotter, key };
            let answer = client.stat(daemon.request(request)).await.map_err(answered)?;
            output.json(&snapshot(answer.into_inner().info.unwrap_or_default()))
        }
        Command::Tree { driver } => {
            let found = list(&mut client, daemon, driver.snapshotter, Vec::new()).await?;
            tree::show(&found, output)
        }
        Command::Usage { driver, keys } => usages(client, daemon, output, driver.snapshotter, keys).await,
        Command::Prepare(Make { driver, key, parent, target }) => {
            let request = PrepareSnapshotRequest {
                snapshotter: driver.snapshotter,
                key,
                parent: parent.unwrap_or_default(),
                labels: rooted(),
            };
            let answer = client.prepare(daemon.request(request)).await.map_err(answered)?;
            mounts::tell(answer.into_inner().mounts, target.as_deref(), output)
        }
        Command::View(Make { driver, key, parent, target }) => {
            let request = ViewSnapshotRequest {
                snapshotter: driver.snapshotter,
                key,
                parent: parent.unwrap_or_default(),
                labels: rooted(),
            };
            let answer = client.view(daemon.request(request)).await.map_err(answered)?;
            mounts::tell(answer.into_inner().mounts, target.as_deref(), output)
        }
        Command::Mounts { driver, key, target } => {
            let request = MountsRequest { snapshotter: driver.snapshotter, key };
            let answer = client.mounts(daemon.request(request)).await.map_err(answered)?;
            mounts::tell(answer.into_inner().mounts, target.as_deref(), output)
        }
        Command::Commit { driver, key, name } => {
            let request =
                CommitSnapshotRequest { snapshotter: driver.snapshotter, name, key: key.clone(), labels: rooted() };
            let committed = client.commit(daemon.request(request)).await;
            committed.map_err(answered).with_context(|| format!("commit {key}"))?;
            Ok(())
        }
        Command::Label { driver, key, changes } => {
            let (labels, update_mask) = changes.masked();
            let info = Some(Info { name: key.clone(), labels, ..Default::default() });
            let request = UpdateSnapshotRequest { snapshotter: driver.snapshotter, info, update_mask };
            client.update(daemon.request(request)).await.map_err(answered).with_context(|| format!("label {key}"))?;
            Ok(())
        }
        Command::Rm { driver, keys } => {
            for key in keys {
                let request = RemoveSnapshotRequest { snapshotter: driver.snapshotter.clone(), key: key.clone() };
                let removed = client.remove(daemon.request(request)).await;
                removed.map_err(answered).with_context(|| format!("remove {key}"))?;
            }
            Ok(())
        }
        Command::Unpack { driver, image } => {
            let top = unpack(&image, &driver.snapshotter, daemon, &channel).await?;
            output.one(&serde_json::json!({ "image": image, "snapshot": top }), &top)
        }
        Command::Cleanup { driver } => {
            let request = CleanupRequest { snapshotter: driver.snapshotter };
            client.cleanup(daemon.request(request)).await.map_err(answered)?;
            Ok(())
        }
    }
}

/// The label without which what a person makes by hand would be collected.
fn rooted() -> std::collections::HashMap<String, String> {
    [(GC_ROOT.to_owned(), human::moment(Some(&std::time::SystemTime::now().into())))].into()
}

async fn list(
    client: &mut SnapshotsClient<Channel>,
    daemon: &Daemon,
    snapshotter: String,
    filters: Vec<String>,
) -> Result<Vec<Info>> {
    let request = ListSnapshotsRequest { snapshotter, filters };
    let mut stream = client.list(daemon.request(request)).await.map_err(answered)?.into_inner();
    let mut found = Vec::new();
    while let Some(batch) = stream.message().await.map_err(answered)? {
        found.extend(batch.info);
    }
    Ok(found)
}

async fn usages(
    mut client: SnapshotsClient<Channel>,
    daemon: &Daemon,
    output: &Output,
    snapshotter: String,
    mut keys: Vec<String>,
) -> Result<()> {
    if keys.is_empty() {
        let found = list(&mut client, daemon, snapshotter.clone(), Vec::new()).await?;
        keys = found.into_iter().map(|info| info.name).collect();
    }
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let request = UsageRequest { snapshotter: snapshotter.clone(), key: key.clone() };
        let answer = client.usage(daemon.request(request)).await;
        let answer = answer.map_err(answered).with_context(|| format!("measure {key}"))?.into_inner();
        let count = |count| u64::try_from(count).unwrap_or(0);
        rows.push(Usage { key, bytes: count(answer.size), inodes: count(answer.inodes) });
    }
    output.rows(&rows)
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
        updated_at: human::nanos(info.updated_at.as_ref()),
        labels: info.labels.into_iter().collect(),
    }
}
