//! `windlass images push`: from the namespace to a registry.

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::to_any;
use containerd_client::types::transfer::ImageStore;
use serde::Serialize;

use crate::client::Daemon;
use crate::human;
use crate::image;
use crate::output::Output;
use crate::transfer::{Choice, Mover, Registry};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to push: [HOST/]NAME[:TAG]
    reference: String,
    /// The image to push, where it has another name here
    image: Option<String>,
    #[command(flatten)]
    registry: Registry,
    #[command(flatten)]
    choice: Choice,
}

#[derive(Debug, Serialize)]
struct Pushed {
    reference: String,
    digest: String,
}

pub(super) async fn run(arguments: Arguments, daemon: &Daemon, output: &Output) -> Result<()> {
    let Arguments { reference, image, registry, choice } = arguments;
    let reference: windlass_model::Reference = reference.parse()?;
    let shown = reference.to_string();
    let found = image::find(image.as_deref().unwrap_or(&shown), daemon, &daemon.connect().await?).await?;
    let mut mover = Mover::new(daemon, output, &format!("pushing {shown}")).await?;
    let destination = mover.registry(&reference, registry).await?;
    // What is here is pushed, unless one platform of it is asked for.
    let platforms = if choice.is_default() { Vec::new() } else { choice.words() };
    let store = ImageStore { name: found.name, platforms, ..Default::default() };
    mover.run(to_any(&store), destination).await.with_context(|| format!("push {shown}"))?;
    let pushed = Pushed { reference: shown, digest: found.target.unwrap_or_default().digest };
    output.one(&pushed, &format!("pushed {} ({})", pushed.reference, human::short(&pushed.digest)))
}
