//! `windlass images`: names that stand for images.

mod pull;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{DeleteImageRequest, ListImagesRequest as ListNamesRequest};
use k8s_cri::v1::{ImageSpec, ImageStatusRequest, ListImagesRequest, RemoveImageRequest};
use serde::Serialize;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::output::{Output, Row};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull an image from its registry
    Pull(pull::Arguments),
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// An image as the CRI tells of it.
#[derive(Debug, Serialize)]
struct Image {
    id: String,
    tags: Vec<String>,
    digests: Vec<String>,
    size: u64,
    pinned: bool,
}

impl Row for Image {
    const HEADS: &'static [&'static str] = &["IMAGE", "TAG", "IMAGE ID", "SIZE"];

    fn cells(&self) -> Vec<String> {
        let (name, tag) = match (self.tags.first(), self.digests.first()) {
            (Some(name), _) => split_tag(name),
            (None, Some(name)) => (name.split('@').next().unwrap_or(name), "<none>"),
            (None, None) => ("<none>", "<none>"),
        };
        vec![name.into(), tag.into(), human::short(&self.id).into(), human::size(self.size)]
    }
}

/// A name and what it points at, in a namespace of another tenant.
#[derive(Debug, Serialize)]
struct Name {
    name: String,
    digest: String,
    media_type: String,
    created_at: i64,
}

impl Row for Name {
    const HEADS: &'static [&'static str] = &["NAME", "DIGEST", "TYPE", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let created = human::age(self.created_at);
        vec![self.name.clone(), human::short(&self.digest).into(), self.media_type.clone(), created]
    }
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    match command {
        Command::Pull(arguments) => pull::run(arguments, daemon, output).await,
        Command::Ls if daemon.is_kubernetes() => list(daemon, output).await,
        Command::Ls => list_names(daemon, output).await,
        Command::Rm { images } if daemon.is_kubernetes() => remove(daemon, &images).await,
        Command::Rm { images } => remove_names(daemon, images).await,
    }
}

async fn list(daemon: &Daemon, output: &Output) -> Result<()> {
    let answer = daemon.images().await?.list_images(ListImagesRequest { filter: None }).await.map_err(answered)?;
    // A row for each tag, so that every name can be found.
    let mut rows: Vec<Image> = Vec::new();
    for image in answer.into_inner().images {
        let row = |tags| Image {
            id: image.id.clone(),
            tags,
            digests: image.repo_digests.clone(),
            size: image.size,
            pinned: image.pinned,
        };
        if output.is_json() || image.repo_tags.is_empty() {
            rows.push(row(image.repo_tags.clone()));
        } else {
            rows.extend(image.repo_tags.iter().map(|tag| row(vec![tag.clone()])));
        }
    }
    rows.sort_by(|one, other| (&one.tags, &one.id).cmp(&(&other.tags, &other.id)));
    output.rows(&rows)
}

async fn list_names(daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(ImagesClient<_>, daemon.connect().await?);
    let answer = client.list(daemon.request(ListNamesRequest::default())).await.map_err(answered)?;
    let names = answer.into_inner().images.into_iter().map(|image| {
        let target = image.target.unwrap_or_default();
        Name {
            name: image.name,
            digest: target.digest,
            media_type: target.media_type,
            created_at: human::nanos(image.created_at.as_ref()),
        }
    });
    output.rows(&names.collect::<Vec<_>>())
}

async fn remove(daemon: &Daemon, images: &[String]) -> Result<()> {
    let mut client = daemon.images().await?;
    for name in images {
        let spec = Some(ImageSpec { image: name.clone(), ..Default::default() });
        // To the CRI, removing nothing is success; to a person it is a misspelt name.
        let status = client.image_status(ImageStatusRequest { image: spec.clone(), verbose: false }).await;
        if status.map_err(answered).with_context(|| format!("look for {name}"))?.into_inner().image.is_none() {
            bail!("there is no image {name:?}");
        }
        let removed = client.remove_image(RemoveImageRequest { image: spec }).await;
        removed.map_err(answered).with_context(|| format!("remove {name}"))?;
    }
    Ok(())
}

async fn remove_names(daemon: &Daemon, names: Vec<String>) -> Result<()> {
    let mut client = api!(ImagesClient<_>, daemon.connect().await?);
    for name in names {
        let request = DeleteImageRequest { name: name.clone(), sync: true, target: None };
        let removed = client.delete(daemon.request(request)).await;
        removed.map_err(answered).with_context(|| format!("remove {name}"))?;
    }
    Ok(())
}

/// A name without its tag, and the tag; a colon before the last slash belongs to a port.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (name, "<none>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(split_tag("localhost:5000/app:1"), ("localhost:5000/app", "1"));
        assert_eq!(split_tag("localhost:5000/app"), ("localhost:5000/app", "<none>"));
    }
}
