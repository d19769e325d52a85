//! `windlass images check` and `inspect`: what of an image is there, and what it says.

use std::collections::BTreeMap;

use anyhow::Result;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{Image, InfoRequest};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use super::names;
use crate::client::{Daemon, answered, api};
use crate::human;
use crate::image::{self, Contents};
use crate::output::{Output, Row};
use crate::snapshots;

/// What is there of an image for this machine.
#[derive(Debug, Serialize)]
struct Checked {
    name: String,
    media_type: String,
    digest: String,
    status: &'static str,
    blobs: usize,
    blobs_present: usize,
    size: u64,
    size_present: u64,
    unpacked: bool,
    error: Option<String>,
}

impl Row for Checked {
    const HEADS: &'static [&'static str] = &["NAME", "DIGEST", "STATUS", "BLOBS", "SIZE", "UNPACKED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            human::short(&self.digest).into(),
            self.status.into(),
            format!("{}/{}", self.blobs_present, self.blobs),
            format!("{}/{}", human::size(self.size_present), human::size(self.size)),
            self.unpacked.to_string(),
        ]
    }
}

pub(super) async fn run(driver: &str, wanted: Vec<String>, daemon: &Daemon, output: &Output) -> Result<()> {
    let channel = daemon.connect().await?;
    let mut images = Vec::with_capacity(wanted.len());
    for name in &wanted {
        images.push(image::find(name, daemon, &channel).await?);
    }
    if wanted.is_empty() {
        images = names::all(Vec::new(), daemon, &channel).await?;
    }
    let mut rows = Vec::with_capacity(images.len());
    for image in images {
        rows.push(check(image, driver, daemon, &channel).await?);
    }
    output.rows(&rows)
}

async fn check(image: Image, driver: &str, daemon: &Daemon, channel: &Channel) -> Result<Checked> {
    let target = image.target.clone().unwrap_or_default();
    let mut checked = Checked {
        name: image.name.clone(),
        media_type: target.media_type,
        digest: target.digest,
        status: "unavailable",
        blobs: 0,
        blobs_present: 0,
        size: 0,
        size_present: 0,
        unpacked: false,
        error: None,
    };
    let contents = match Contents::of(&image, daemon, channel).await {
        Ok(contents) => contents,
        Err(error) => return Ok(Checked { error: Some(format!("{error:#}")), ..checked }),
    };
    checked.blobs = 2 + contents.layers.len();
    checked.size = contents.size();
    for blob in [&contents.manifest, &contents.config].into_iter().chain(&contents.layers) {
        if is_here(&blob.digest.to_string(), daemon, channel).await? {
            checked.blobs_present += 1;
            checked.size_present += blob.size;
        }
    }
    checked.status = if checked.blobs_present == checked.blobs { "complete" } else { "incomplete" };
    match contents.config(daemon, channel).await {
        Ok(config) => checked.unpacked = snapshots::is_unpacked(&config, driver, daemon, channel).await?,
        Err(error) => checked.error = Some(format!("{error:#}")),
    }
    Ok(checked)
}

async fn is_here(digest: &str, daemon: &Daemon, channel: &Channel) -> Result<bool> {
    let request = InfoRequest { digest: digest.to_owned() };
    match api!(ContentClient<_>, channel.clone()).info(daemon.request(request)).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(answered(status)),
    }
}

/// Prints everything, which is JSON in any case.
pub(super) async fn inspect(name: &str, daemon: &Daemon, output: &Output) -> Result<()> {
    let channel = daemon.connect().await?;
    let found = image::find(name, daemon, &channel).await?;
    let target = found.target.clone().unwrap_or_default();
    let mut told = json!({
        "name": found.name,
        "target": { "mediaType": target.media_type, "digest": target.digest, "size": target.size },
        "labels": found.labels.iter().collect::<BTreeMap<_, _>>(),
        "createdAt": human::moment(found.created_at.as_ref()),
        "updatedAt": human::moment(found.updated_at.as_ref()),
    });
    let contents = Contents::of(&found, daemon, &channel).await?;
    told["manifestDigest"] = contents.manifest.digest.to_string().into();
    for (field, blob) in [("manifest", &contents.manifest), ("config", &contents.config)] {
        let read: Value = image::json(&blob.digest.to_string(), daemon, &channel).await?;
        told[field] = read;
    }
    output.json(&told)
}
