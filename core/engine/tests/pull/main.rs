//! Pulls, from registries good and bad, into a real core with the real drivers.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod faults;
mod image;
mod push;
mod real;
mod registry;
mod straight;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use windlass_engine::images::{Naming, PullRequest, Pulled};
use windlass_engine::{Core, Options, Tenant, tasks};
use windlass_model::Result;
use windlass_snapshotters::{native::Native, overlay::Overlay};

/// A core in a folder of its own, closed or killed with it.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub core: Core,
    pub tenant: Tenant,
}

impl Node {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("w-b-").tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("certs.d")).unwrap();
        let core = open(folder.path()).await;
        let tenant = core.tenant("test".parse().unwrap());
        Self { folder, core, tenant }
    }

    /// The hosts.toml of a registry's name.
    pub fn hosts(&self, name: &str, text: &str) {
        let folder = self.folder.path().join("certs.d").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
    }

    pub fn request(&self, reference: &str) -> PullRequest {
        let mut request = PullRequest::new(reference.parse().unwrap());
        request.unpack = Some("overlay".into());
        request.naming = Naming::Cri;
        request.progress_timeout = Duration::from_secs(2);
        request
    }

    pub async fn pull(&self, reference: &str) -> Result<Pulled> {
        self.tenant.images().pull(self.request(reference)).await
    }

    pub async fn layer(&self, chain: &windlass_model::Digest) -> PathBuf {
        let id = self.tenant.snapshots("overlay").unwrap().stat(&chain.to_string()).await.unwrap().id;
        self.folder.path().join(format!("root/snapshots/overlay/{id}/fs"))
    }

    /// Fails if anything of an image is left: record, file or folder.
    pub async fn assert_empty(&self) {
        self.core.collect().await.unwrap();
        assert!(self.tenant.images().list().await.unwrap().is_empty());
        assert!(self.tenant.content().list().await.unwrap().is_empty());
        assert!(self.tenant.leases().list().await.unwrap().is_empty());
        assert!(self.tenant.snapshots("overlay").unwrap().list().await.unwrap().is_empty());
        let root = self.folder.path().join("root");
        // Folders are removed by a task of their own.
        for _ in 0..200 {
            let left = names(&root.join("content/blobs/sha256")).len()
                + names(&root.join("snapshots/overlay")).iter().filter(|name| name.parse::<u64>().is_ok()).count();
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("left: {:?} {:?}", names(&root.join("content/blobs/sha256")), names(&root.join("snapshots/overlay")));
    }

    pub fn ingests(&self) -> usize {
        names(&self.folder.path().join("root/content/ingest")).len()
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default()
}

pub async fn open(folder: &Path) -> Core {
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("snapshots")).unwrap();
    let overlay = Arc::new(Overlay::open(root.join("snapshots/overlay")).unwrap());
    let native = Arc::new(Native::open(root.join("snapshots/native")).unwrap());
    let options = Options {
        state: folder.join("state"),
        drivers: vec![overlay, native],
        registry: windlass_engine::registry::Config { config_path: Some(folder.join("certs.d")) },
        shim: tasks::ShimConfig {
            shim: "/nonexistent/shim".into(),
            events_address: folder.join("events.sock"),
            api_address: folder.join("api.sock"),
        },
        events: windlass_engine::events::Config::default(),
        verifier: None,
        root,
    };
    Core::open(options).await.unwrap()
}
