//! Names of images in a tenant's namespace: the list of them, tags, labels, removal.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{DeleteImageRequest, Image, ListImagesRequest, UpdateImageRequest};
use containerd_client::to_any;
use containerd_client::types::transfer::ImageStore;
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::image;
use crate::labels::Changes;
use crate::output::{Output, Row};
use crate::transfer::Mover;

/// A name and what it points at.
#[derive(Debug, Serialize)]
struct Name {
    name: String,
    digest: String,
    media_type: String,
    size: u64,
    created_at: i64,
    labels: BTreeMap<String, String>,
}

impl Row for Name {
    const HEADS: &'static [&'static str] = &["NAME", "DIGEST", "TYPE", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let created = human::age(self.created_at);
        vec![self.name.clone(), human::short(&self.digest).into(), self.media_type.clone(), created]
    }
}

/// All images that match one of `filters`.
pub(super) async fn all(filters: Vec<String>, daemon: &Daemon, channel: &Channel) -> Result<Vec<Image>> {
    let mut client = api!(ImagesClient<_>, channel.clone());
    let answer = client.list(daemon.request(ListImagesRequest { filters })).await.map_err(answered)?;
    Ok(answer.into_inner().images)
}

pub(super) async fn list(filters: Vec<String>, daemon: &Daemon, output: &Output) -> Result<()> {
    let names = all(filters, daemon, &daemon.connect().await?).await?.into_iter().map(|image| {
        let target = image.target.unwrap_or_default();
        Name {
            name: image.name,
            digest: target.digest,
            media_type: target.media_type,
            size: u64::try_from(target.size).unwrap_or(0),
            created_at: human::nanos(image.created_at.as_ref()),
            labels: image.labels.into_iter().collect(),
        }
    });
    output.rows(&names.collect::<Vec<_>>())
}

/// Gives `image` further `names`, short ones completed.
pub(super) async fn tag(image: &str, names: &[String], daemon: &Daemon, output: &Output) -> Result<()> {
    let found = image::find(image, daemon, &daemon.connect().await?).await?;
    for name in names {
        let name = image::full(name)?;
        let mover = Mover::new(daemon, output, &format!("tagging {name}")).await?;
        let end = |name| to_any(&ImageStore { name, ..Default::default() });
        let moved = mover.run(end(found.name.clone()), end(name.clone())).await;
        moved.with_context(|| format!("tag {name}"))?;
    }
    Ok(())
}

pub(super) async fn label(name: String, changes: Changes, daemon: &Daemon) -> Result<()> {
    let channel = daemon.connect().await?;
    let found = image::find(&name, daemon, &channel).await?;
    let (labels, update_mask) = changes.masked();
    let image = Some(Image { name: found.name, labels, target: found.target, ..Default::default() });
    let request = UpdateImageRequest { image, update_mask, source_date_epoch: None };
    let changed = api!(ImagesClient<_>, channel).update(daemon.request(request)).await;
    changed.map_err(answered).with_context(|| format!("label {name}"))?;
    Ok(())
}

pub(super) async fn remove(daemon: &Daemon, names: Vec<String>) -> Result<()> {
    let channel = daemon.connect().await?;
    let mut client = api!(ImagesClient<_>, channel.clone());
    for name in names {
        let found = image::find(&name, daemon, &channel).await?;
        let request = DeleteImageRequest { name: found.name, sync: true, target: None };
        let removed = client.delete(daemon.request(request)).await;
        removed.map_err(answered).with_context(|| format!("remove {name}"))?;
    }
    Ok(())
}
