//! Opens a root folder and holds what all tenants share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use windlass_model::{Context, Error, Kind, Namespace, Result, snapshotter::Snapshotter};
use windlass_sys::fs::Lock;

use crate::events::{self, Events};
use crate::gc::{self, GcStats};
use crate::meta;
use crate::namespaces::Namespaces;
use crate::{Tenant, content, images, mounts, registry, snapshots, tasks};

/// What a core is opened with.
pub struct Options {
    /// Lasting state; survives a reboot.
    pub root: PathBuf,
    /// State that a reboot takes away: bundles, sockets, pinned namespaces.
    pub state: PathBuf,
    /// The snapshot drivers; their names are unique.
    pub drivers: Vec<Arc<dyn Snapshotter>>,
    /// How registries are reached.
    pub registry: registry::Config,
    /// How shims are started.
    pub shim: tasks::ShimConfig,
    /// Which events are kept.
    pub events: events::Config,
    /// Who is asked whether an image may be used; `None`: nobody.
    pub verifier: Option<images::VerifierConfig>,
}

/// One opened root; clones are the same core.
#[derive(Clone)]
pub struct Core(pub(crate) Arc<Inner>);

/// What the tenants of one core share. Fields are handles: each is cheap to clone and safe to use from any task.
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) db: meta::Db,
    pub(crate) events: Events,
    pub(crate) blobs: content::Blobs,
    pub(crate) drivers: BTreeMap<String, Arc<dyn Snapshotter>>,
    pub(crate) snapshots: snapshots::Shared,
    pub(crate) details: images::Details,
    pub(crate) collector: gc::Collector,
    pub(crate) registry: registry::Client,
    pub(crate) pulls: images::Pulls,
    pub(crate) verifiers: images::Verifiers,
    pub(crate) roster: tasks::Roster,
    /// Last, so that it is released after everything else was closed.
    _lock: Lock,
}

impl Core {
    /// Opens `options.root`, makes it where it is missing, and removes what an earlier crash left behind.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] where another process holds the root or a newer version wrote the database.
    pub async fn open(options: Options) -> Result<Self> {
        let (root, state) = (options.root.clone(), options.state.clone());
        let lock = blocking(move || {
            std::fs::create_dir_all(&state).context(|| format!("make {}", state.display()))?;
            std::fs::create_dir_all(&root).context(|| format!("make {}", root.display()))?;
            windlass_sys::fs::lock_exclusive(&root.join("lock")).context(|| "another daemon uses this root".into())
        })
        .await?;
        let db = meta::Db::open(&options.root.join("meta")).await?;
        match Inner::open(options, db.clone(), lock).await {
            Ok(inner) => {
                let core = Self(Arc::new(inner));
                core.0.collector.start(Arc::downgrade(&core.0));
                // What became garbage in a crash goes soon.
                core.0.collector.nudge();
                Ok(core)
            }
            Err(error) => {
                db.close().await;
                Err(error)
            }
        }
    }

    /// The records of one namespace.
    pub fn tenant(&self, namespace: Namespace) -> Tenant {
        Tenant::new(self.clone(), namespace)
    }

    /// The namespaces themselves.
    pub fn namespaces(&self) -> Namespaces {
        Namespaces::new(self.clone())
    }

    /// Lets the records of one namespace be written before those of the others from now on: they wait for no more of a
    /// flood than the batch under way.
    pub fn favour(&self, namespace: Namespace) {
        self.0.db.favour(namespace);
    }

    /// The event bus of all namespaces.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// The live shims.
    pub fn roster(&self) -> &tasks::Roster {
        &self.0.roster
    }

    /// The lasting root folder.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The folder of state that a reboot takes away.
    pub fn state(&self) -> &Path {
        &self.0.state
    }

    /// The snapshot driver of that name, the engine's or containerd's.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no such driver.
    pub fn driver(&self, name: &str) -> Result<&Arc<dyn Snapshotter>> {
        self.0
            .drivers
            .get(snapshots::driver_name(name))
            .ok_or_else(|| Error::not_found(format!("snapshot driver {name:?} is not configured")))
    }

    /// All snapshot drivers, in the order of their names.
    pub fn drivers(&self) -> impl Iterator<Item = &Arc<dyn Snapshotter>> {
        self.0.drivers.values()
    }

    /// Collects garbage now and waits until the files are gone.
    pub async fn collect(&self) -> Result<GcStats> {
        gc::collect(self).await
    }

    /// Ends background work and waits until everything acknowledged is written. The root is free for another core once
    /// all clones of this one are gone.
    pub async fn close(self) {
        self.0.collector.stop().await;
        self.0.roster.close().await;
        if let Err(error) = self.0.events.settle().await {
            tracing::warn!(%error, "the last events are not kept");
        }
        self.0.db.close().await;
    }
}

impl Inner {
    async fn open(options: Options, db: meta::Db, lock: Lock) -> Result<Self> {
        let Options { root, state, drivers, registry, shim, events, verifier } = options;
        let events = Events::open(&db, events).await?;
        let blobs = content::Blobs::open(&root.join("content"), &db).await?;
        mounts::sweep(&db, &state).await?;
        let snapshots = snapshots::Shared::open(&db, &drivers).await?;
        let mut by_name = BTreeMap::new();
        for driver in drivers {
            if let Some(twin) = by_name.insert(driver.name().to_owned(), driver) {
                return Err(Error::invalid(format!("there are two snapshot drivers {:?}", twin.name())));
            }
        }
        let roster = tasks::Roster::open(state.clone(), shim, events.clone()).await?;
        Ok(Self {
            root,
            state,
            db,
            events,
            blobs,
            drivers: by_name,
            snapshots,
            details: images::Details::default(),
            collector: gc::Collector::default(),
            registry: registry::Client::new(registry),
            pulls: images::Pulls::default(),
            verifiers: images::Verifiers::new(verifier),
            roster,
            _lock: lock,
        })
    }
}

/// The one door for blocking work (files, drivers): runs `work` on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::with_source(Kind::Internal, "blocking work was cut off", error)),
    }
}

#[cfg(test)]
mod tests;
