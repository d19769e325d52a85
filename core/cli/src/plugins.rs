//! `windlass plugins`: what the daemon is made of, in containerd's words.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Subcommand;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::{Plugin as Word, PluginsRequest};
use serde::Serialize;

use crate::client::{Daemon, answered, api};
use crate::output::{Output, Row};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List plugins
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that match one of these (containerd's filter language): type==io.containerd.snapshotter.v1
        filters: Vec<String>,
    },
}

#[derive(Debug, Serialize)]
struct Plugin {
    r#type: String,
    id: String,
    platforms: Vec<String>,
    requires: Vec<String>,
    capabilities: Vec<String>,
    exports: BTreeMap<String, String>,
    error: Option<String>,
}

impl Row for Plugin {
    const HEADS: &'static [&'static str] = &["TYPE", "ID", "PLATFORMS", "STATUS"];

    fn cells(&self) -> Vec<String> {
        let platforms = if self.platforms.is_empty() { "-".into() } else { self.platforms.join(",") };
        let status = if self.error.is_some() { "error" } else { "ok" };
        vec![self.r#type.clone(), self.id.clone(), platforms, status.into()]
    }
}

pub(crate) async fn run(Command::Ls { filters }: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(IntrospectionClient<_>, daemon.connect().await?);
    let answer = client.plugins(daemon.request(PluginsRequest { filters })).await.map_err(answered)?;
    output.rows(&answer.into_inner().plugins.into_iter().map(plugin).collect::<Vec<_>>())
}

fn plugin(word: Word) -> Plugin {
    let platforms = word.platforms.into_iter().map(|platform| {
        let parts = [platform.os, platform.architecture, platform.variant];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    });
    Plugin {
        r#type: word.r#type,
        id: word.id,
        platforms: platforms.collect(),
        requires: word.requires,
        capabilities: word.capabilities,
        exports: word.exports.into_iter().collect(),
        error: word.init_err.map(|error| error.message),
    }
}
