//! The harness of the black-box tests: it sees a daemon only as a kubelet and an administrator would, through sockets,
//! files and processes.
//!
//! The same stories run on containerd where the CRI says what the answer is, so that a test is proven on a reference
//! before it judges: `WINDLASS_E2E_RUNTIME=containerd cargo nextest run -p windlass-test-e2e`.

pub mod asked;
pub mod channels;
pub mod cli;
pub mod cni;
pub mod cri;
pub mod crossing;
pub mod ctr;
pub mod daemon;
pub mod docker;
pub mod edge;
pub mod flood;
pub mod flushes;
pub mod http;
pub mod image;
pub mod inventory;
pub mod kernel;
pub mod leaks;
pub mod methods;
pub mod mounts;
pub mod newer;
pub mod node;
pub mod nri;
pub mod registry;
pub mod secure;
pub mod spdy;
pub mod systemd;
pub mod tasks;
pub mod tenant;
pub mod together;
pub mod transfer;
pub mod trouble;
pub mod writers;

pub use anyhow::{Context, Result, anyhow, bail, ensure};
pub use asked::patient;
pub use cli::Cli;
pub use cri::{Cri, code, words};
pub use ctr::Ctr;
pub use daemon::{Daemon, Flavour};
pub use image::{Compression, Family, Image, Layer};
pub use node::{Node, Plan};

use std::time::{Duration, Instant};

/// Asks `probe` every 10 ms until it answers something; fails, naming `what`, after a [`patient`] `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The number in the environment variable `name`, or `default`.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
