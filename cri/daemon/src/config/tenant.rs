//! `[[tenant]]`: sockets of single tenants, each fixed to its namespaces.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use windlass_model::Namespace;

use super::absolute;

/// `[[tenant]]` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTenant {
    /// The namespace that the socket is fixed to.
    pub namespace: String,
    /// More namespaces that it is open for; a request that names none means the one above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The socket.
    pub socket: PathBuf,
    /// The users that may connect; root where neither users nor groups are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
    /// The groups whose members may connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gids: Vec<u32>,
}

/// A checked `[[tenant]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The namespace that a request there means.
    pub namespace: Namespace,
    /// The others that it may name.
    pub also: Vec<Namespace>,
    /// The socket.
    pub socket: PathBuf,
    /// The users that may connect; never empty where there are no groups.
    pub uids: Vec<u32>,
    /// The groups whose members may connect.
    pub gids: Vec<u32>,
}

/// Checks each tenant's socket, and that no two are the same.
pub(super) fn check(raw: Vec<RawTenant>, cri: &str, main: &Path) -> Result<Vec<Tenant>> {
    let mut sockets = BTreeSet::from([main.to_owned()]);
    let mut tenants = Vec::new();
    for tenant in raw {
        let key = format!("[[tenant]] {}", tenant.namespace);
        let tenant = tenant.check(cri).with_context(|| key.clone())?;
        let twice = !sockets.insert(tenant.socket.clone());
        ensure!(!twice, "{key}: socket {} is another one's, too", tenant.socket.display());
        tenants.push(tenant);
    }
    Ok(tenants)
}

impl RawTenant {
    fn check(self, cri: &str) -> Result<Tenant> {
        let Self { namespace, also, socket, mut uids, gids } = self;
        for name in also.iter().chain([&namespace]) {
            ensure!(name != cri, "namespace {name} is the CRI's, which has no socket of its own");
        }
        let socket = absolute("socket", &socket)?;
        let length = socket.as_os_str().len();
        ensure!(length <= 107, "socket: {} is {length} bytes long, a socket's path holds 107", socket.display());
        if uids.is_empty() && gids.is_empty() {
            uids.push(0);
        }
        let also = also.iter().map(|name| name.parse().context("also")).collect::<Result<_>>()?;
        Ok(Tenant { namespace: namespace.parse().context("namespace")?, also, socket, uids, gids })
    }
}
