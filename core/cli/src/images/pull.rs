//! `windlass images pull`: from a registry into the namespace, and into snapshots on the way.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_client::to_any;
use containerd_client::types::transfer::ImageStore;

use super::{Pulled, kubelet};
use crate::client::Daemon;
use crate::image;
use crate::labels;
use crate::output::Output;
use crate::snapshots::Driver;
use crate::transfer::{Choice, Mover, Registry};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to pull: [HOST/]NAME[:TAG][@DIGEST]
    image: String,
    #[command(flatten)]
    registry: Registry,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    driver: Driver,
    /// Keep the blobs only
    #[arg(long)]
    no_unpack: bool,
    /// Labels of the image
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
    labels: Vec<(String, String)>,
}

/// `windlass content fetch`: a pull without the unpacking.
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// What to fetch: [HOST/]NAME[:TAG][@DIGEST]
    image: String,
    #[command(flatten)]
    registry: Registry,
    #[command(flatten)]
    choice: Choice,
    /// Labels of the image
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
    labels: Vec<(String, String)>,
}

pub(super) async fn run(arguments: Arguments, daemon: &Daemon, output: &Output) -> Result<()> {
    if !daemon.is_kubernetes() {
        let Arguments { image, registry, choice, driver, no_unpack, labels } = arguments;
        let driver = (!no_unpack).then_some(driver.snapshotter);
        return transfer(&image, registry, &choice, driver, labels, daemon, output).await;
    }
    if !arguments.choice.is_default() || arguments.no_unpack || !arguments.labels.is_empty() {
        bail!("the kubelet's images are pulled as the CRI does it: whole, for this machine, and without labels");
    }
    let login = arguments.registry.login()?;
    kubelet::pull(arguments.image, login, daemon, output).await
}

pub(crate) async fn fetch(arguments: Fetch, daemon: &Daemon, output: &Output) -> Result<()> {
    let Fetch { image, registry, choice, labels } = arguments;
    transfer(&image, registry, &choice, None, labels, daemon, output).await
}

async fn transfer(
    name: &str,
    registry: Registry,
    choice: &Choice,
    driver: Option<String>,
    labels: Vec<(String, String)>,
    daemon: &Daemon,
    output: &Output,
) -> Result<()> {
    let reference: windlass_model::Reference = name.parse()?;
    let name = reference.to_string();
    let begun = Instant::now();
    let mut mover = Mover::new(daemon, output, &format!("pulling {name}")).await?;
    let source = mover.registry(&reference, registry).await?;
    let store = ImageStore {
        name: name.clone(),
        labels: labels.into_iter().collect(),
        platforms: choice.words(),
        all_metadata: choice.is_all(),
        unpacks: driver.iter().flat_map(|driver| choice.unpacks(driver)).collect(),
        ..Default::default()
    };
    mover.run(source, to_any(&store)).await.with_context(|| format!("pull {name}"))?;
    let channel = daemon.connect().await?;
    let found = image::find(&name, daemon, &channel).await?;
    // Of all platforms the size is told without the machine's own, which may not be among them.
    let size = image::Contents::of(&found, daemon, &channel).await.map_or(0, |contents| contents.size());
    let id = found.target.unwrap_or_default().digest;
    Pulled { image: name, id, size, seconds: begun.elapsed().as_secs_f64() }.tell(output)
}
