//! The snapshots of an image's layers, made one upon the other by a client, as a daemon's own pull makes them.

use anyhow::{Context, Result, bail};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{ApplyRequest, Info, UpdateRequest};
use containerd_client::types;
use prost_types::FieldMask;
use tonic::Code;
use tonic::transport::Channel;
use windlass_model::{Descriptor, Digest};

use crate::client::{Daemon, answered, api};
use crate::image::{self, Config, Contents};
use crate::leases::Holder;

/// True where the topmost layer's snapshot is there, and so all below it.
pub(crate) async fn is_unpacked(config: &Config, driver: &str, daemon: &Daemon, channel: &Channel) -> Result<bool> {
    match config.chain().last() {
        Some(top) => is_committed(&top.to_string(), driver, daemon, channel).await,
        None => Ok(true),
    }
}

async fn is_committed(name: &str, driver: &str, daemon: &Daemon, channel: &Channel) -> Result<bool> {
    let request = StatSnapshotRequest { snapshotter: driver.to_owned(), key: name.to_owned() };
    match api!(SnapshotsClient<_>, channel.clone()).stat(daemon.request(request)).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(answered(status)),
    }
}

/// Makes what is missing of an image's snapshots; gives the topmost one's name, empty where there are no layers.
pub(crate) async fn unpack(name: &str, driver: &str, daemon: &Daemon, channel: &Channel) -> Result<String> {
    let found = image::find(name, daemon, channel).await?;
    let contents = Contents::of(&found, daemon, channel).await?;
    let config = contents.config(daemon, channel).await?;
    if !is_unpacked(&config, driver, daemon, channel).await? {
        let lease = Holder::take(daemon, channel).await?;
        let made = all(&contents, &config, driver, lease.daemon(), channel).await;
        lease.release().await;
        made.with_context(|| format!("unpack {name}"))?;
    }
    Ok(config.chain().last().map(Digest::to_string).unwrap_or_default())
}

async fn all(contents: &Contents, config: &Config, driver: &str, daemon: &Daemon, channel: &Channel) -> Result<()> {
    let mut parent = String::new();
    for ((layer, diff_id), chain_id) in contents.layers.iter().zip(config.diff_ids()).zip(config.chain()) {
        let chain_id = chain_id.to_string();
        if !is_committed(&chain_id, driver, daemon, channel).await? {
            one(layer, diff_id, &parent, &chain_id, driver, daemon, channel).await?;
        }
        parent = chain_id;
    }
    // The configuration keeps the snapshots as long as the image keeps the configuration.
    let key = format!("containerd.io/gc.ref.snapshot.{driver}");
    let update_mask = Some(FieldMask { paths: vec![format!("labels.{key}")] });
    let digest = contents.config.digest.to_string();
    let info = Some(Info { digest, labels: [(key, parent)].into(), ..Default::default() });
    let request = UpdateRequest { info, update_mask };
    api!(ContentClient<_>, channel.clone()).update(daemon.request(request)).await.map_err(answered)?;
    Ok(())
}

async fn one(
    layer: &Descriptor,
    diff_id: &Digest,
    parent: &str,
    chain_id: &str,
    driver: &str,
    daemon: &Daemon,
    channel: &Channel,
) -> Result<()> {
    let mut snapshots = api!(SnapshotsClient<_>, channel.clone());
    let snapshotter = driver.to_owned();
    let key = format!("extract-{} {chain_id}", uuid::Uuid::new_v4());
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
        parent: parent.to_owned(),
        labels: [("containerd.io/snapshot.ref".to_owned(), chain_id.to_owned())].into(),
    };
    let mounts = match snapshots.prepare(daemon.request(request)).await {
        Ok(answer) => answer.into_inner().mounts,
        // The driver knew the layer by its name and made it itself.
        Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
        Err(status) => return Err(answered(status)),
    };
    let filled = async {
        let diff = Some(types::Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.to_string(),
            size: i64::try_from(layer.size)?,
            annotations: layer.annotations.clone().into_iter().collect(),
        });
        let request = ApplyRequest { diff, mounts, ..Default::default() };
        let applied = api!(DiffClient<_>, channel.clone()).apply(daemon.request(request)).await.map_err(answered)?;
        let applied = applied.into_inner().applied.unwrap_or_default().digest;
        if applied != diff_id.to_string() {
            bail!("layer {} unpacks to {applied}, and not to {diff_id}", layer.digest);
        }
        let request = CommitSnapshotRequest {
            snapshotter: snapshotter.clone(),
            name: chain_id.to_owned(),
            key: key.clone(),
            labels: Default::default(),
        };
        match api!(SnapshotsClient<_>, channel.clone()).commit(daemon.request(request)).await {
            Ok(_) => Ok(true),
            // Another was quicker.
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(answered(status)),
        }
    }
    .await;
    if !matches!(filled, Ok(true)) {
        // What stays, the lease's end takes away.
        drop(snapshots.remove(daemon.request(RemoveSnapshotRequest { snapshotter, key })).await);
    }
    filled.map(drop)
}
