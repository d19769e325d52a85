//! One namespace's view of the core: the only way to records.

use windlass_model::{Namespace, Result};

use crate::Core;
use crate::containers::Containers;
use crate::content;
use crate::events::Events;
use crate::images::Images;
use crate::layers::Layers;
use crate::leases::Leases;
use crate::meta::{Durability, Lane, Tx};
use crate::mounts::Mounts;
use crate::sandboxes::Sandboxes;
use crate::snapshots::Snapshots;
use crate::tasks::Tasks;

/// A namespace of a [`Core`]; cheap to clone.
#[derive(Clone)]
pub struct Tenant {
    pub(crate) core: Core,
    namespace: Namespace,
    isolated: bool,
}

impl Tenant {
    pub(crate) fn new(core: Core, namespace: Namespace) -> Self {
        Self { core, namespace, isolated: false }
    }

    /// The same namespace for a client that gets no blob from another one, even where it can name it by its digest.
    #[must_use]
    pub fn isolated(self) -> Self {
        Self { isolated: true, ..self }
    }

    /// True for [`Tenant::isolated`].
    pub(crate) fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The core that all tenants share.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Blobs that this namespace knows.
    pub fn content(&self) -> content::Store {
        content::Store::new(self.clone())
    }

    /// Image names.
    pub fn images(&self) -> Images {
        Images::new(self.clone())
    }

    /// Layers, applied to snapshots and made from them.
    pub fn layers(&self) -> Layers {
        Layers::new(self.clone())
    }

    /// Snapshots of one driver.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] where there is no such driver.
    pub fn snapshots(&self, driver: &str) -> Result<Snapshots> {
        Snapshots::new(self.clone(), driver)
    }

    /// Container records.
    pub fn containers(&self) -> Containers {
        Containers::new(self.clone())
    }

    /// Sandbox records.
    pub fn sandboxes(&self) -> Sandboxes {
        Sandboxes::new(self.clone())
    }

    /// Leases, which keep things from the garbage collector.
    pub fn leases(&self) -> Leases {
        Leases::new(self.clone())
    }

    /// Mounts that the daemon makes.
    pub fn mounts(&self) -> Mounts {
        Mounts::new(self.clone())
    }

    /// Running things.
    pub fn tasks(&self) -> Tasks {
        Tasks::new(self.clone())
    }

    /// Changes records of this namespace, see [`crate::meta::Db::update`]; tenants have their turns.
    pub(crate) async fn update<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lane = Lane::Tenant(self.namespace.clone());
        self.core.0.db.update_in(lane, durability, change).await
    }

    /// The event bus (of all namespaces: filter by [`Tenant::namespace`]).
    pub fn events(&self) -> &Events {
        self.core.events()
    }
}
