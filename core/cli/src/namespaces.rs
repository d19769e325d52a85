//! `windlass namespaces`: the tenants of the daemon.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Subcommand;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, ListNamespacesRequest, Namespace as Word, UpdateNamespaceRequest,
};
use serde::Serialize;

use crate::client::{Daemon, answered, api};
use crate::labels;
use crate::output::{Output, Row};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List namespaces
    #[command(visible_alias = "list")]
    Ls,
    /// Make a namespace
    Create {
        /// Its name
        name: String,
        /// Its labels, as KEY=VALUE
        #[arg(value_name = "KEY=VALUE", value_parser = labels::pair)]
        labels: Vec<(String, String)>,
    },
    /// Change labels of a namespace
    Label {
        /// Its name
        name: String,
        #[command(flatten)]
        changes: labels::Changes,
    },
    /// Remove empty namespaces
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Serialize)]
struct Namespace {
    name: String,
    labels: BTreeMap<String, String>,
}

impl Row for Namespace {
    const HEADS: &'static [&'static str] = &["NAME", "LABELS"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), labels::cell(&self.labels)]
    }
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(NamespacesClient<_>, daemon.connect().await?);
    match command {
        Command::Ls => {
            let answer = client.list(ListNamespacesRequest::default()).await.map_err(answered)?;
            let namespaces = answer.into_inner().namespaces.into_iter();
            let namespaces =
                namespaces.map(|word| Namespace { name: word.name, labels: word.labels.into_iter().collect() });
            output.rows(&namespaces.collect::<Vec<_>>())
        }
        Command::Create { name, labels } => {
            let namespace = Some(Word { name: name.clone(), labels: labels.into_iter().collect() });
            let made = client.create(CreateNamespaceRequest { namespace }).await;
            made.map_err(answered).with_context(|| format!("create {name}"))?;
            Ok(())
        }
        Command::Label { name, changes } => {
            let (labels, update_mask) = changes.masked();
            let namespace = Some(Word { name: name.clone(), labels });
            let changed = client.update(UpdateNamespaceRequest { namespace, update_mask }).await;
            changed.map_err(answered).with_context(|| format!("label {name}"))?;
            Ok(())
        }
        Command::Rm { names } => {
            for name in names {
                let removed = client.delete(DeleteNamespaceRequest { name: name.clone() }).await;
                removed.map_err(answered).with_context(|| format!("remove {name}"))?;
            }
            Ok(())
        }
    }
}
