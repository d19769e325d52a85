//! The Node Resource Interface 0.12: plugins that hear of pods and containers, and change containers that are made.
//!
//! A plugin connects to our socket, or is started by us with one, registers, says which events it wants, and is told of all
//! pods and containers that there are; from then on it is asked at each of their steps ([`hooks`]). What it wants of a
//! container is collected with what others want ([`collect`]), kept in the container's record, and put into the
//! specification when the container starts ([`apply`]).
//!
//! A plugin that refuses a step makes it fail. One that does not answer in time, or breaks the protocol, is cut off, and
//! pods go on without it. Without plugins, nothing of this runs.

mod apply;
mod collect;
mod frame;
mod hooks;
mod launch;
mod link;
mod owners;
mod plugin;
mod serve;
mod words;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::RwLockReadGuard;
use windlass_model::Id;

use crate::Server;
pub(crate) use apply::{Skills, apply, apply_beside};
#[cfg(any(test, fuzzing))]
pub(crate) use frame::fuzz_frames;
pub(crate) use hooks::Told;
use plugin::{Patience, Plugin};
pub(crate) use words::cri_resources;

/// Where plugins are and how long they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NriConfig {
    /// Where plugins connect.
    pub socket: PathBuf,
    /// Plugins that are started with us: executables called `NN-name`.
    pub plugin_dir: PathBuf,
    /// Their configuration: `NN-name.conf` or `name.conf`.
    pub plugin_config_dir: PathBuf,
    /// From a plugin's connection to its registration.
    pub registration_timeout: Duration,
    /// For each question to a plugin.
    pub request_timeout: Duration,
}

/// How far plugins have heard of a pod or a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Of its beginning.
    Begun,
    /// Of its end.
    Ended,
}

/// The plugins of a server.
#[derive(Default)]
pub(crate) struct Nri {
    server: OnceLock<Weak<Server>>,
    plugins: RwLock<Vec<Arc<Plugin>>>,
    /// Whoever brings something into being holds it shared from before plugins hear of it until it is recorded. A joining
    /// plugin holds it alone, so nothing is missing from what it is told and nothing is told twice.
    gate: tokio::sync::RwLock<()>,
    lives: Mutex<HashMap<Id, Arc<tokio::sync::Mutex<Life>>>>,
}

impl NriConfig {
    fn patience(&self) -> Patience {
        Patience { registration: self.registration_timeout, request: self.request_timeout }
    }
}

impl Nri {
    /// Held while something comes into being that plugins are to hear of.
    pub(crate) async fn entry(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// True where there is a plugin.
    pub(crate) fn is_heard(&self) -> bool {
        !self.plugins.read().is_empty()
    }

    /// The plugins in their order, without those that are lost.
    fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.plugins.read().iter().filter(|plugin| !plugin.link().has_ended()).cloned().collect()
    }

    /// Forgets those that are lost.
    fn prune(&self) {
        self.plugins.write().retain(|plugin| !plugin.link().has_ended());
    }

    fn add(&self, plugin: Arc<Plugin>) {
        let mut plugins = self.plugins.write();
        plugins.push(plugin);
        // Those of one index keep the order in which they came.
        plugins.sort_by(|one, other| one.index().cmp(other.index()));
        let order: Vec<_> = plugins.iter().map(|plugin| plugin.title()).collect();
        tracing::info!(?order, "plugins");
    }

    fn server(&self) -> Option<Arc<Server>> {
        self.server.get().and_then(Weak::upgrade)
    }

    fn begin(&self, id: &Id, life: Life) {
        self.lives.lock().insert(id.clone(), Arc::new(tokio::sync::Mutex::new(life)));
    }

    fn life(&self, id: &Id) -> Option<Arc<tokio::sync::Mutex<Life>>> {
        self.lives.lock().get(id).cloned()
    }

    fn forget(&self, id: &Id) -> Option<Arc<tokio::sync::Mutex<Life>>> {
        self.lives.lock().remove(id)
    }
}
