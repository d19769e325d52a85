//! `windlass images import` and `export`: images as a tar archive, through a stream to or from the daemon.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::to_any;
use containerd_client::types::transfer::{ImageExportStream, ImageImportStream, ImageReference, ImageStore};
use serde::Serialize;

use super::names;
use crate::client::Daemon;
use crate::human;
use crate::image;
use crate::output::Output;
use crate::snapshots::Driver;
use crate::transfer::{Choice, Mover};

/// The name of a file that stands for standard input or output.
const STANDARD: &str = "-";

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The archive; - for standard input
    file: String,
    /// Name an image that has only a tag NAME:TAG
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// Name images by their digests too: NAME@DIGEST
    #[arg(long, requires = "base_name")]
    digests: bool,
    /// Give the whole archive's index a name
    #[arg(long, value_name = "NAME")]
    index_name: Option<String>,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    driver: Driver,
    /// Keep the blobs only
    #[arg(long)]
    no_unpack: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The archive; - for standard output
    file: String,
    /// The images
    #[arg(required = true)]
    images: Vec<String>,
    #[command(flatten)]
    choice: Choice,
    /// Leave out the manifest that only docker load reads
    #[arg(long)]
    skip_manifest_json: bool,
    /// Leave out layers that may not be distributed
    #[arg(long)]
    skip_non_distributable: bool,
}

#[derive(Debug, Serialize)]
struct Imported {
    images: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Exported {
    file: String,
    images: Vec<String>,
    bytes: u64,
}

pub(super) async fn import(arguments: Import, daemon: &Daemon, output: &Output) -> Result<()> {
    let Import { file, base_name, digests, index_name, choice, driver, no_unpack } = arguments;
    let channel = daemon.connect().await?;
    let before = names::all(Vec::new(), daemon, &channel).await?;
    let mover = Mover::new(daemon, output, &format!("importing {file}")).await?;
    let stream = mover.stream("import").await?;
    let source = ImageImportStream { stream: stream.id().to_owned(), ..Default::default() };
    let store = ImageStore {
        name: index_name.map(|name| image::full(&name)).transpose()?.unwrap_or_default(),
        platforms: choice.words(),
        all_metadata: choice.is_all(),
        extra_references: vec![naming(base_name, digests)],
        unpacks: if no_unpack { Vec::new() } else { choice.unpacks(&driver.snapshotter) },
        ..Default::default()
    };
    let moving = mover.run(to_any(&source), to_any(&store));
    let feeding = async {
        match file.as_str() {
            STANDARD => stream.feed(tokio::io::stdin()).await,
            path => stream.feed(tokio::fs::File::open(path).await.with_context(|| format!("open {path}"))?).await,
        }
    };
    tokio::pin!(feeding);
    tokio::pin!(moving);
    // The daemon may be done before the archive's last bytes are sent, which are padding; and where it fails, its
    // answer says why, and not the stream's end.
    tokio::select! {
        biased;
        moved = &mut moving => moved,
        fed = &mut feeding => match fed {
            Ok(()) => moving.await,
            Err(error) => tokio::time::timeout(std::time::Duration::from_secs(1), moving).await.unwrap_or(Err(error)),
        },
    }
    .with_context(|| format!("import {file}"))?;
    let is_new = |image: &containerd_client::services::v1::Image| !before.contains(image);
    let mut images: Vec<String> =
        names::all(Vec::new(), daemon, &channel).await?.into_iter().filter(is_new).map(|image| image.name).collect();
    images.sort();
    let text = if images.is_empty() { "nothing new".into() } else { images.join("\n") };
    output.one(&Imported { images }, &text)
}

/// How images of an archive are named: those with whole names by these, those with a tag alone below `base`.
fn naming(base: Option<String>, digests: bool) -> ImageReference {
    let name = base.unwrap_or_else(|| "import".into());
    ImageReference { name, is_prefix: true, allow_overwrite: true, add_digest: digests, skip_named_digest: false }
}

pub(super) async fn export(arguments: Export, daemon: &Daemon, output: &Output) -> Result<()> {
    let Export { file, images, choice, skip_manifest_json, skip_non_distributable } = arguments;
    let channel = daemon.connect().await?;
    let mut found = Vec::with_capacity(images.len());
    for name in &images {
        found.push(image::find(name, daemon, &channel).await?.name);
    }
    let mover = Mover::new(daemon, output, &format!("exporting {}", found.join(" "))).await?;
    let stream = mover.stream("export").await?;
    let further = found.iter().skip(1).map(|name| ImageReference { name: name.clone(), ..Default::default() });
    let source = ImageStore {
        name: found.first().cloned().unwrap_or_default(),
        extra_references: further.collect(),
        ..Default::default()
    };
    let destination = ImageExportStream {
        stream: stream.id().to_owned(),
        platforms: choice.words(),
        all_platforms: choice.is_all(),
        skip_compatibility_manifest: skip_manifest_json,
        skip_non_distributable,
        ..Default::default()
    };
    let moving = mover.run(to_any(&source), to_any(&destination));
    let doing = || format!("export {}", found.join(" "));
    if file == STANDARD {
        tokio::try_join!(moving, stream.drain(tokio::io::stdout())).with_context(doing)?;
        return Ok(());
    }
    // The name appears when all is there.
    let folder = Path::new(&file).parent().filter(|folder| !folder.as_os_str().is_empty());
    let unfinished = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).context("make the archive")?;
    let writer = tokio::fs::File::from_std(unfinished.reopen()?);
    let ((), bytes) = tokio::try_join!(moving, stream.drain(writer)).with_context(doing)?;
    unfinished.persist(&file).with_context(|| format!("write {file}"))?;
    let exported = Exported { file, images: found, bytes };
    output.one(&exported, &format!("{} ({})", exported.file, human::size(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_named_only_where_asked() {
        let plain = naming(None, false);
        assert_eq!((plain.name.as_str(), plain.is_prefix, plain.add_digest), ("import", true, false));
        assert!(naming(Some("local/app".into()), true).add_digest);
    }
}
