//! A core in a temporary folder, for tests: the real database and file system, and a driver that only makes folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use windlass_model::snapshotter::{Kind, Labels, LayerTarget, SnapshotId, Snapshotter, Usage, Whiteouts};
use windlass_model::{Error, Mount, Result};

use crate::{Core, Options, Tenant, registry, tasks};

/// A driver whose snapshots are folders named by their number; it does not look at parents.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    /// While set, `prepare` fails after it made half of its work.
    pub(crate) broken: AtomicBool,
}

impl Folders {
    pub(crate) fn new(root: &Path) -> Arc<Self> {
        fs::create_dir_all(root).unwrap();
        Arc::new(Self { root: root.to_owned(), broken: AtomicBool::new(false) })
    }

    pub(crate) fn path(&self, id: SnapshotId) -> PathBuf {
        self.root.join(id.to_string())
    }
}

impl Snapshotter for Folders {
    fn name(&self) -> &'static str {
        "folders"
    }
    fn root(&self) -> &Path {
        &self.root
    }
    fn prepare(&self, id: SnapshotId, _parents: &[SnapshotId], _labels: &Labels) -> Result<()> {
        fs::create_dir(self.path(id))?;
        if self.broken.load(Ordering::Relaxed) { Err(Error::internal("broken on purpose")) } else { Ok(()) }
    }
    fn view(&self, id: SnapshotId, parents: &[SnapshotId], labels: &Labels) -> Result<()> {
        self.prepare(id, parents, labels)
    }
    fn mounts(&self, id: SnapshotId, parents: &[SnapshotId], kind: Kind) -> Result<Vec<Mount>> {
        let source = self.path(id).display().to_string();
        let options = parents.iter().map(|parent| format!("parent={parent}")).chain([format!("{kind:?}")]).collect();
        Ok(vec![Mount { kind: "bind".into(), source, target: String::new(), options }])
    }
    fn commit(&self, _id: SnapshotId, _parents: &[SnapshotId]) -> Result<()> {
        Ok(())
    }
    fn remove(&self, id: SnapshotId) -> Result<()> {
        windlass_sys::fs::remove_tree(&self.path(id))
    }
    fn usage(&self, id: SnapshotId, _parents: &[SnapshotId]) -> Result<Usage> {
        Ok(Usage { inodes: fs::read_dir(self.path(id))?.count() as u64, bytes: 0 })
    }
    fn ids(&self) -> Result<Vec<SnapshotId>> {
        Ok(fs::read_dir(&self.root)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }
    fn layer_target(&self, id: SnapshotId) -> Option<LayerTarget> {
        Some(LayerTarget { path: self.path(id), whiteouts: Whiteouts::Apply })
    }
}

/// Opens a core under `folder`, with one driver.
pub(crate) async fn open(folder: &Path) -> Result<(Core, Arc<Folders>)> {
    let root = folder.join("root");
    let driver = Folders::new(&root.join("snapshots/folders"));
    let options = Options {
        state: folder.join("state"),
        drivers: vec![driver.clone()],
        registry: registry::Config::default(),
        shim: tasks::ShimConfig {
            shim: "/nonexistent/shim".into(),
            events_address: folder.join("events.sock"),
            api_address: folder.join("api.sock"),
        },
        events: crate::events::Config::default(),
        verifier: None,
        root,
    };
    Ok((Core::open(options).await?, driver))
}

/// A new core with one tenant.
pub(crate) async fn tenant() -> (tempfile::TempDir, Tenant, Arc<Folders>) {
    let folder = tempfile::tempdir().unwrap();
    let (core, driver) = open(folder.path()).await.unwrap();
    (folder, core.tenant("test".parse().unwrap()), driver)
}

/// Closes a core so that its folder can be opened again.
pub(crate) async fn close(tenant: Tenant) {
    let core = tenant.core().clone();
    drop(tenant);
    core.close().await;
}
