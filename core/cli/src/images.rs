//! `windlass images`: names that stand for images.

mod archive;
mod check;
mod kubelet;
mod names;
mod pull;
mod push;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use crate::client::Daemon;
use crate::human;
use crate::labels;
use crate::output::Output;
use crate::snapshots::Driver;

pub(crate) use pull::{Fetch, fetch};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull an image from its registry
    Pull(pull::Arguments),
    /// Push an image to a registry
    Push(push::Arguments),
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that match one of these (containerd's filter language; not of the kubelet's images)
        filters: Vec<String>,
    },
    /// Read images from an archive (OCI layout or docker save)
    Import(archive::Import),
    /// Write images into an archive (OCI layout, which docker load takes too)
    Export(archive::Export),
    /// Give an image another name
    Tag {
        /// The name that it has
        image: String,
        /// Names that it gets
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change labels of an image
    Label {
        /// Its name
        image: String,
        #[command(flatten)]
        changes: labels::Changes,
    },
    /// All that is known of an image: its record, manifest and configuration
    #[command(visible_alias = "info")]
    Inspect {
        /// Its name
        image: String,
    },
    /// See whether all of an image is there, and whether it is unpacked
    Check {
        #[command(flatten)]
        driver: Driver,
        /// Names; all where none is given
        images: Vec<String>,
    },
    /// Remove images
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Names, or ids of the kubelet's images
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// What was pulled.
#[derive(Debug, Serialize)]
struct Pulled {
    image: String,
    id: String,
    size: u64,
    seconds: f64,
}

impl Pulled {
    fn tell(&self, output: &Output) -> Result<()> {
        let (id, size) = (human::short(&self.id), human::size(self.size));
        output.one(self, &format!("pulled {} ({id}, {size}) in {:.1} s", self.image, self.seconds))
    }
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    match command {
        Command::Pull(arguments) => pull::run(arguments, daemon, output).await,
        Command::Push(arguments) => push::run(arguments, daemon, output).await,
        Command::Ls { .. } if daemon.is_kubernetes() => kubelet::list(daemon, output).await,
        Command::Ls { filters } => names::list(filters, daemon, output).await,
        Command::Import(arguments) => archive::import(arguments, daemon, output).await,
        Command::Export(arguments) => archive::export(arguments, daemon, output).await,
        Command::Tag { image, names } => names::tag(&image, &names, daemon, output).await,
        Command::Label { image, changes } => names::label(image, changes, daemon).await,
        Command::Inspect { image } => check::inspect(&image, daemon, output).await,
        Command::Check { driver, images } => check::run(&driver.snapshotter, images, daemon, output).await,
        Command::Rm { images } if daemon.is_kubernetes() => kubelet::remove(daemon, &images).await,
        Command::Rm { images } => names::remove(daemon, images).await,
    }
}
