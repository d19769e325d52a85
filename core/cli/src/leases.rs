//! `windlass leases`: what keeps resources from being collected while someone works with them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Subcommand;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, Lease as Word, ListRequest,
    ListResourcesRequest, Resource as Held,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered, api};
use crate::human;
use crate::labels;
use crate::output::{Output, Row};

/// When a lease ends by itself (RFC 3339).
const EXPIRE: &str = "containerd.io/gc.expire";

/// How long what a command holds is kept where the command is killed.
const ONE_DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List leases
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that match one of these (containerd's filter language)
        filters: Vec<String>,
    },
    /// Make a lease, and tell its id
    Create {
        /// Its id; one is made up where none is given
        #[arg(long)]
        id: Option<String>,
        /// When it ends by itself: 90s, 30m, 24h or 7d from now; 0s for never
        #[arg(short = 'x', long, default_value = "24h", value_parser = human::duration)]
        expires: Duration,
        /// Its labels
        #[arg(value_name = "KEY=VALUE", value_parser = labels::pair)]
        labels: Vec<(String, String)>,
    },
    /// Remove leases
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Return only when what they alone held is gone
        #[arg(long)]
        sync: bool,
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// What a lease holds
    Resources {
        /// Its id
        id: String,
    },
    /// Let a lease hold a resource
    Add {
        /// The lease
        id: String,
        /// What it is: content, image, ingests, or snapshots/DRIVER
        kind: String,
        /// The resource: a digest, a name, a reference or a key
        resource: String,
    },
    /// Let a lease hold a resource no longer
    Drop {
        /// The lease
        id: String,
        /// What it is: content, image, ingests, or snapshots/DRIVER
        kind: String,
        /// The resource
        resource: String,
    },
}

#[derive(Debug, Serialize)]
struct Lease {
    id: String,
    created_at: i64,
    labels: BTreeMap<String, String>,
}

impl Row for Lease {
    const HEADS: &'static [&'static str] = &["LEASE", "CREATED", "LABELS"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), human::age(self.created_at), labels::cell(&self.labels)]
    }
}

#[derive(Debug, Serialize)]
struct Resource {
    kind: String,
    id: String,
}

impl Row for Resource {
    const HEADS: &'static [&'static str] = &["TYPE", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![self.kind.clone(), self.id.clone()]
    }
}

/// A lease of a command's own: what is made under [`Holder::daemon`] is safe until [`Holder::release`].
#[derive(Debug)]
pub(crate) struct Holder {
    id: String,
    plain: Daemon,
    leased: Daemon,
    client: LeasesClient<Channel>,
}

impl Holder {
    /// Takes a lease; it ends by itself where nobody releases it.
    pub async fn take(daemon: &Daemon, channel: &Channel) -> Result<Self> {
        let mut client = api!(LeasesClient<_>, channel.clone());
        let labels = [(EXPIRE.to_owned(), from_now(ONE_DAY))].into();
        let id = format!("windlass-{}", uuid::Uuid::new_v4());
        let made = client.create(daemon.request(CreateRequest { id: id.clone(), labels })).await;
        made.map_err(answered).context("take a lease")?;
        Ok(Self { leased: daemon.under(&id)?, id, plain: daemon.clone(), client })
    }

    /// The daemon, asked under this lease.
    pub fn daemon(&self) -> &Daemon {
        &self.leased
    }

    /// Gives the lease back. A lease that cannot be given back ends by itself, so this does not fail.
    pub async fn release(mut self) {
        let request = DeleteRequest { id: self.id, sync: false };
        drop(self.client.delete(self.plain.request(request)).await);
    }
}

pub(crate) async fn run(command: Command, daemon: &Daemon, output: &Output) -> Result<()> {
    let mut client = api!(LeasesClient<_>, daemon.connect().await?);
    match command {
        Command::Ls { filters } => {
            let answer = client.list(daemon.request(ListRequest { filters })).await.map_err(answered)?;
            output.rows(&answer.into_inner().leases.into_iter().map(lease).collect::<Vec<_>>())
        }
        Command::Create { id, expires, labels } => create(client, daemon, output, id, expires, labels).await,
        Command::Rm { sync, ids } => {
            for id in ids {
                let removed = client.delete(daemon.request(DeleteRequest { id: id.clone(), sync })).await;
                removed.map_err(answered).with_context(|| format!("remove {id}"))?;
            }
            Ok(())
        }
        Command::Resources { id } => {
            let answer = client.list_resources(daemon.request(ListResourcesRequest { id })).await.map_err(answered)?;
            let held = answer.into_inner().resources.into_iter();
            output.rows(&held.map(|held| Resource { kind: held.r#type, id: held.id }).collect::<Vec<_>>())
        }
        Command::Add { id, kind, resource } => {
            let resource = Some(Held { id: resource, r#type: kind });
            client.add_resource(daemon.request(AddResourceRequest { id, resource })).await.map_err(answered)?;
            Ok(())
        }
        Command::Drop { id, kind, resource } => {
            let resource = Some(Held { id: resource, r#type: kind });
            client.delete_resource(daemon.request(DeleteResourceRequest { id, resource })).await.map_err(answered)?;
            Ok(())
        }
    }
}

async fn create(
    mut client: LeasesClient<Channel>,
    daemon: &Daemon,
    output: &Output,
    id: Option<String>,
    expires: Duration,
    labels: Vec<(String, String)>,
) -> Result<()> {
    let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let mut labels: std::collections::HashMap<_, _> = labels.into_iter().collect();
    if !expires.is_zero() {
        labels.entry(EXPIRE.into()).or_insert_with(|| from_now(expires));
    }
    let made = client.create(daemon.request(CreateRequest { id, labels })).await.map_err(answered)?;
    let made = lease(made.into_inner().lease.unwrap_or_default());
    output.one(&made, &made.id)
}

fn lease(word: Word) -> Lease {
    let created_at = human::nanos(word.created_at.as_ref());
    Lease { id: word.id, created_at, labels: word.labels.into_iter().collect() }
}

/// The moment that lies so far ahead, as labels have it.
fn from_now(span: Duration) -> String {
    prost_types::Timestamp::from(SystemTime::now() + span).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_written_as_rfc_3339() {
        let text = from_now(Duration::ZERO);
        assert!(text.ends_with('Z') && text.contains('T') && text.starts_with("20"), "{text}");
    }
}
