//! `windlass diff`: what a snapshot changes as a layer, and layers applied to snapshots.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    Info, Kind, MountsRequest, RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::services::v1::{ApplyRequest, DiffRequest, InfoRequest};
use containerd_client::types::{Descriptor, Mount};
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::labels;
use crate::leases::Holder;
use crate::output::Output;
use crate::snapshots::{Driver, GC_ROOT};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a layer of what a snapshot changes, and tell its digest
    Create {
        #[command(flatten)]
        driver: Driver,
        /// The snapshot
        key: String,
        /// What it is compared with; its parent where nothing is given
        below: Option<String>,
        /// The layer's media type
        #[arg(long, default_value = "application/vnd.oci.image.layer.v1.tar+gzip")]
        media_type: String,
        /// The name of the ingest
        #[arg(long = "ref", value_name = "REFERENCE", default_value = "")]
        reference: String,
        /// Labels of the blob
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
        labels: Vec<(String, String)>,
    },
    /// Apply a layer of the content store to a writable snapshot
    Apply {
        #[command(flatten)]
        driver: Driver,
        /// The layer's digest
        digest: String,
        /// The snapshot
        key: String,
        /// The layer's media type
        #[arg(long, default_value = "application/vnd.oci.image.layer.v1.tar+gzip")]
        media_type: String,
    },
}

/// A layer.
#[derive(Debug, Serialize)]
struct Layer {
    media_type: String,
    digest: String,
    size: i64,
}

/// Snapshots of a driver, and the views that were made for a comparison.
struct Sides<'a> {
    client: SnapshotsClient<Channel>,
    daemon: &'a Daemon,
    driver: String,
    views: Vec<String>,
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    let channel = daemon.connect().await?;
    let made = match command {
        Command::Create { driver, key, below, media_type, reference, labels } => {
            let mut labels: std::collections::HashMap<_, _> = labels.into_iter().collect();
            // Nothing refers to it yet.
            labels.entry(GC_ROOT.into()).or_insert_with(|| human::moment(Some(&std::time::SystemTime::now().into())));
            let request = DiffRequest { media_type, r#ref: reference, labels, ..Default::default() };
            let lease = Holder::take(daemon, &channel).await?;
            let made = create(request, driver.snapshotter, &key, below, lease.daemon(), &channel).await;
            lease.release().await;
            made.with_context(|| format!("make a layer of {key}"))?
        }
        Command::Apply { driver, digest, key, media_type } => {
            let applied = apply(&digest, media_type, driver.snapshotter, &key, daemon, &channel).await;
            applied.with_context(|| format!("apply {digest} to {key}"))?
        }
    };
    let layer = Layer { media_type: made.media_type, digest: made.digest, size: made.size };
    output.one(&layer, &layer.digest)
}

async fn create(
    mut request: DiffRequest,
    driver: String,
    key: &str,
    below: Option<String>,
    daemon: &Daemon,
    channel: &Channel,
) -> Result<Descriptor> {
    let client = api!(SnapshotsClient<_>, channel.clone());
    let mut sides = Sides { client, daemon, driver, views: Vec::new() };
    let mounted = async {
        let found = sides.stat(key).await?;
        let below = below.unwrap_or_else(|| found.parent.clone());
        request.left = if below.is_empty() { Vec::new() } else { sides.mounts_of(&below).await? };
        request.right = sides.mounts(found).await?;
        Ok::<_, anyhow::Error>(())
    };
    let made = match mounted.await {
        Ok(()) => {
            let answer = api!(DiffClient<_>, channel.clone()).diff(daemon.request(request)).await;
            answer
                .map_err(answered)
                .and_then(|made| made.into_inner().diff.context("the daemon answers without a layer"))
        }
        Err(error) => Err(error),
    };
    sides.close().await;
    made
}

async fn apply(
    digest: &str,
    media_type: String,
    driver: String,
    key: &str,
    daemon: &Daemon,
    channel: &Channel,
) -> Result<Descriptor> {
    let request = InfoRequest { digest: digest.to_owned() };
    let info = api!(ContentClient<_>, channel.clone()).info(daemon.request(request)).await.map_err(answered)?;
    let size = info.into_inner().info.unwrap_or_default().size;
    let client = api!(SnapshotsClient<_>, channel.clone());
    let mut sides = Sides { client, daemon, driver, views: Vec::new() };
    let found = sides.stat(key).await?;
    if found.kind() != Kind::Active {
        bail!("it is not a snapshot that can be written to");
    }
    let mounts = sides.mounts(found).await?;
    let diff = Some(Descriptor { media_type, digest: digest.to_owned(), size, ..Default::default() });
    let request = ApplyRequest { diff, mounts, ..Default::default() };
    let applied = api!(DiffClient<_>, channel.clone()).apply(daemon.request(request)).await.map_err(answered)?;
    applied.into_inner().applied.context("the daemon answers without a layer")
}

impl Sides<'_> {
    async fn stat(&mut self, key: &str) -> Result<Info> {
        let request = StatSnapshotRequest { snapshotter: self.driver.clone(), key: key.to_owned() };
        let answer = self.client.stat(self.daemon.request(request)).await.map_err(answered)?;
        answer.into_inner().info.context("the daemon answers without a snapshot")
    }

    async fn mounts_of(&mut self, key: &str) -> Result<Vec<Mount>> {
        let found = self.stat(key).await?;
        self.mounts(found).await
    }

    /// The mounts that show a snapshot; a committed one gets a view.
    async fn mounts(&mut self, found: Info) -> Result<Vec<Mount>> {
        let snapshotter = self.driver.clone();
        if found.kind() != Kind::Committed {
            let request = MountsRequest { snapshotter, key: found.name };
            let answer = self.client.mounts(self.daemon.request(request)).await.map_err(answered)?;
            return Ok(answer.into_inner().mounts);
        }
        let key = format!("diff-{}", uuid::Uuid::new_v4());
        let request = ViewSnapshotRequest { snapshotter, key: key.clone(), parent: found.name, ..Default::default() };
        let answer = self.client.view(self.daemon.request(request)).await.map_err(answered)?;
        self.views.push(key);
        Ok(answer.into_inner().mounts)
    }

    /// Removes the views; those that cannot be removed go with the lease.
    async fn close(mut self) {
        for key in std::mem::take(&mut self.views) {
            let request = RemoveSnapshotRequest { snapshotter: self.driver.clone(), key };
            drop(self.client.remove(self.daemon.request(request)).await);
        }
    }
}
