//! The tenants' names and labels; a namespace springs up by its first write.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use windlass_model::{Error, Namespace, Result, Timestamp, event::Event, snapshotter::Labels};

use crate::Core;
use crate::events::Events;
use crate::meta::schema::{BLOBS, CONTAINERS, IMAGES, LEASES, MOUNTS, NAMESPACES, SANDBOXES, SNAPSHOTS};
use crate::meta::{Durability, Lane, Reader, Tx};
use crate::records::check_labels;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// When it came into being.
    #[serde(default)]
    pub created_at: Timestamp,
}

/// All namespaces of a core.
#[derive(Clone)]
pub struct Namespaces {
    core: Core,
}

impl Namespaces {
    pub(crate) fn new(core: Core) -> Self {
        Self { core }
    }

    /// All names with their records, in order.
    pub async fn list(&self) -> Result<BTreeMap<Namespace, NamespaceRecord>> {
        Ok(self.core.0.db.view().scan(&NAMESPACES, &())?.into_iter().collect())
    }

    /// One record.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn get(&self, name: &Namespace) -> Result<NamespaceRecord> {
        self.core.0.db.view().find(&NAMESPACES, name)?.ok_or_else(|| missing(name))
    }

    /// Makes a namespace before anything is in it.
    ///
    /// # Errors
    /// [`windlass_model::Kind::AlreadyExists`].
    pub async fn create(&self, name: &Namespace, labels: Labels) -> Result<NamespaceRecord> {
        check_labels(&labels)?;
        let (events, name) = (self.core.events().clone(), name.clone());
        let change = move |tx: &mut Tx<'_>| {
            if tx.has(&NAMESPACES, &name)? {
                return Err(Error::already_exists(format!("namespace {name} exists already")));
            }
            put_new(tx, &events, &name, labels)
        };
        self.core.0.db.update_in(Lane::Namespaces, Durability::Power, change).await
    }

    /// Changes the labels by `change`, alone among all writers.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn update(
        &self,
        name: &Namespace,
        change: impl FnOnce(&mut Labels) + Send + 'static,
    ) -> Result<NamespaceRecord> {
        let (events, name) = (self.core.events().clone(), name.clone());
        let change = move |tx: &mut Tx<'_>| {
            let mut record = tx.find(&NAMESPACES, &name)?.ok_or_else(|| missing(&name))?;
            change(&mut record.labels);
            check_labels(&record.labels)?;
            tx.put(&NAMESPACES, &name, &record)?;
            let told = Event::NamespaceUpdate { name: name.to_string(), labels: record.labels.clone() };
            events.after_commit(tx, &name, told);
            Ok(record)
        };
        self.core.0.db.update_in(Lane::Namespaces, Durability::Power, change).await
    }

    /// Forgets an empty namespace.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::FailedPrecondition`] where anything is in it.
    pub async fn delete(&self, name: &Namespace) -> Result<()> {
        let (events, name) = (self.core.events().clone(), name.clone());
        // A sandbox may run that nobody recorded.
        let running = self.core.roster().holds(&name);
        let change = move |tx: &mut Tx<'_>| {
            if !tx.has(&NAMESPACES, &name)? {
                return Err(missing(&name));
            }
            let mut holds = holdings(tx, &name)?;
            holds.extend(running.then_some("shims"));
            if !holds.is_empty() {
                let holds = holds.join(", ");
                return Err(Error::precondition(format!("namespace {name} is not empty: it still has {holds}")));
            }
            tx.delete(&NAMESPACES, &name);
            events.after_commit(tx, &name, Event::NamespaceDelete { name: name.to_string() });
            Ok(())
        };
        self.core.0.db.update_in(Lane::Namespaces, Durability::Power, change).await
    }
}

/// Makes the namespace of a write, where it is new. Every write that creates a record calls this.
pub(crate) fn ensure(tx: &mut Tx<'_>, events: &Events, name: &Namespace) -> Result<()> {
    if !tx.has(&NAMESPACES, name)? {
        put_new(tx, events, name, Labels::new())?;
    }
    Ok(())
}

fn put_new(tx: &mut Tx<'_>, events: &Events, name: &Namespace, labels: Labels) -> Result<NamespaceRecord> {
    let record = NamespaceRecord { labels, created_at: Timestamp::now() };
    tx.put(&NAMESPACES, name, &record)?;
    let told = Event::NamespaceCreate { name: name.to_string(), labels: record.labels.clone() };
    events.after_commit(tx, name, told);
    Ok(record)
}

fn missing(name: &Namespace) -> Error {
    Error::not_found(format!("namespace {name} does not exist"))
}

/// What keeps a namespace from being deleted, in words.
fn holdings(reader: &impl Reader, name: &Namespace) -> Result<Vec<&'static str>> {
    let found = [
        (reader.first(&IMAGES, name)?.is_some(), IMAGES.name()),
        (reader.first(&CONTAINERS, name)?.is_some(), CONTAINERS.name()),
        (reader.first(&SANDBOXES, name)?.is_some(), SANDBOXES.name()),
        (reader.first(&SNAPSHOTS, name)?.is_some(), SNAPSHOTS.name()),
        (reader.first(&BLOBS, name)?.is_some(), BLOBS.name()),
        (reader.first(&LEASES, name)?.is_some(), LEASES.name()),
        (reader.first(&MOUNTS, name)?.is_some(), MOUNTS.name()),
    ];
    Ok(found.into_iter().filter_map(|(held, what)| held.then_some(what)).collect())
}
