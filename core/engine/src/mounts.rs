//! Mounts that the daemon makes for its clients, each under a name of the client's choice.
//!
//! A client makes most mounts itself, with the words that a snapshot driver gave it; asked to activate such, the engine
//! answers that there is nothing for it to do. Only where the client wants them for a while the engine performs them, each
//! in a folder `<state>/mounts/<hash of namespace and name>/<number>`, and gives one bind mount of the last of them.
//!
//! The record is written before the first mount, and again when all are there. So whatever a crash or a reboot leaves, a
//! record without mounts or mounts without a finished record, is taken away when the core is opened. An activation made
//! under a lease ends with it, at the next collection; another one only when its client says so.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use windlass_model::snapshotter::Labels;
use windlass_model::{Context, Digest, Error, LeaseId, Mount, Namespace, Result, Timestamp};
use windlass_sys::mount::{is_mounted, mount_all, unmount};

use crate::core::Inner;
use crate::meta::schema::{LEASES, MOUNTS};
use crate::meta::{Db, Durability, Reader, Tx};
use crate::records::check_labels;
use crate::{Core, Tenant, leases, namespaces};

/// The most mounts of one activation.
const MOST: usize = 64;

/// A mount that the engine has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveMount {
    /// As it was asked for.
    pub mount: Mount,
    /// Where it is.
    pub point: PathBuf,
    /// Since when.
    pub mounted_at: Timestamp,
}

/// What is stored of an activation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// What the engine has mounted; empty until all of it is.
    #[serde(default)]
    pub active: Vec<ActiveMount>,
    /// What the client is to mount where it wants it.
    #[serde(default)]
    pub system: Vec<Mount>,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// The lease with which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

/// The activations of one namespace.
#[derive(Clone)]
pub struct Mounts {
    tenant: Tenant,
    lease: Option<LeaseId>,
}

/// An activation's place in the table: namespace, name.
type Key = (Namespace, String);

impl Mounts {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant, lease: None }
    }

    /// The same mounts; what is activated from now on ends with `lease`.
    pub fn under(self, lease: Option<LeaseId>) -> Self {
        Self { lease, ..self }
    }

    fn key(&self, name: &str) -> Key {
        (self.tenant.namespace().clone(), name.to_owned())
    }

    fn folder(&self, name: &str) -> PathBuf {
        folder(&self.tenant.core.0.state, &self.key(name))
    }

    /// Performs `mounts` one after the other, where they are wanted for a while (`temporary`).
    ///
    /// # Errors
    /// [`windlass_model::Kind::Unimplemented`] for mounts that the client is to make itself or whose type nobody here knows;
    /// [`windlass_model::Kind::AlreadyExists`] for the name; [`windlass_model::Kind::NotFound`] without the lease; what the
    /// kernel answers, in which case nothing stays.
    pub async fn activate(
        &self,
        name: &str,
        mounts: Vec<Mount>,
        temporary: bool,
        labels: Labels,
    ) -> Result<Activation> {
        check_labels(&labels)?;
        if name.is_empty() || mounts.is_empty() || mounts.len() > MOST {
            return Err(Error::invalid(format!("an activation needs a name and up to {MOST} mounts")));
        }
        if let Some(mount) = mounts.iter().find(|mount| mount.kind.contains('/')) {
            return Err(Error::unimplemented(format!("nothing here makes mounts of type {:?}", mount.kind)));
        }
        if !temporary {
            return Err(Error::unimplemented("these mounts need no daemon: the client makes them"));
        }
        let begun = Activation { labels, lease: self.lease.clone(), ..Activation::default() };
        self.begin(self.key(name), begun.clone()).await?;
        let folder = self.folder(name);
        let mounting = crate::blocking(move || {
            let made = perform(&folder, mounts);
            if made.is_err() {
                clear(&folder)?;
            }
            made
        });
        match mounting.await.context(|| format!("activate {name:?}")) {
            Ok(active) => {
                let last = active.last().map(|mount| mount.point.display().to_string()).unwrap_or_default();
                let bind =
                    Mount { kind: "bind".into(), source: last, options: vec!["rbind".into()], ..Mount::default() };
                let done = Activation { active, system: vec![bind], ..begun };
                self.put(self.key(name), Some(done.clone())).await?;
                Ok(done)
            }
            Err(error) => {
                self.put(self.key(name), None).await?;
                Err(error)
            }
        }
    }

    async fn begin(&self, key: Key, record: Activation) -> Result<()> {
        let events = self.tenant.events().clone();
        let change = move |tx: &mut Tx<'_>| {
            if tx.has(&MOUNTS, &key)? {
                return Err(Error::already_exists(format!("activation {:?} exists already", key.1)));
            }
            if let Some(lease) = &record.lease {
                leases::require(tx, &key.0, lease)?;
            }
            namespaces::ensure(tx, &events, &key.0)?;
            tx.put(&MOUNTS, &key, &record)
        };
        self.tenant.update(Durability::Crash, change).await
    }

    async fn put(&self, key: Key, record: Option<Activation>) -> Result<()> {
        let change = move |tx: &mut Tx<'_>| match record {
            Some(record) => tx.put(&MOUNTS, &key, &record),
            None => {
                tx.delete(&MOUNTS, &key);
                Ok(())
            }
        };
        self.tenant.update(Durability::Crash, change).await
    }

    /// Takes the mounts of an activation away, last one first, and forgets it.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::Unavailable`] while it is being activated.
    pub async fn deactivate(&self, name: &str) -> Result<()> {
        if self.get(name).await?.active.is_empty() {
            return Err(Error::unavailable(format!("{name:?} is being activated")));
        }
        let folder = self.folder(name);
        crate::blocking(move || clear(&folder)).await.context(|| format!("deactivate {name:?}"))?;
        self.put(self.key(name), None).await
    }

    /// What is known of an activation.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn get(&self, name: &str) -> Result<Activation> {
        self.tenant.core.0.db.view().find(&MOUNTS, &self.key(name))?.ok_or_else(|| missing(name))
    }

    /// All activations by name.
    pub async fn list(&self) -> Result<Vec<(String, Activation)>> {
        let found = self.tenant.core.0.db.view().scan(&MOUNTS, self.tenant.namespace())?;
        Ok(found.into_iter().map(|((_, name), record)| (name, record)).collect())
    }

    /// Changes the labels by `change`, alone among all writers.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::InvalidArgument`] for labels that are too long.
    pub async fn update_labels(
        &self,
        name: &str,
        change: impl FnOnce(&mut Labels) + Send + 'static,
    ) -> Result<Activation> {
        let key = self.key(name);
        let change = move |tx: &mut Tx<'_>| {
            let mut record = tx.find(&MOUNTS, &key)?.ok_or_else(|| missing(&key.1))?;
            change(&mut record.labels);
            check_labels(&record.labels)?;
            tx.put(&MOUNTS, &key, &record)?;
            Ok(record)
        };
        self.tenant.update(Durability::Crash, change).await
    }
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("activation {name:?} does not exist"))
}

/// The folder of all activations.
fn folders(state: &Path) -> PathBuf {
    state.join("mounts")
}

/// The folder of one; any name is a good file name this way.
fn folder(state: &Path, (namespace, name): &Key) -> PathBuf {
    folders(state).join(Digest::of(format!("{namespace}\0{name}").as_bytes()).hex())
}

/// Mounts one after the other. Blocks.
fn perform(folder: &Path, mounts: Vec<Mount>) -> Result<Vec<ActiveMount>> {
    let mut active = Vec::with_capacity(mounts.len());
    for (number, mount) in mounts.into_iter().enumerate() {
        let point = folder.join(number.to_string());
        fs::create_dir_all(&point).context(|| format!("make {}", point.display()))?;
        mount_all(std::slice::from_ref(&mount), &point)?;
        active.push(ActiveMount { mount, point, mounted_at: Timestamp::now() });
    }
    Ok(active)
}

/// Takes away the mounts in a folder, and the folder. What is mounted is never descended into. Blocks.
fn clear(folder: &Path) -> Result<()> {
    for number in (0..MOST).rev() {
        let point = folder.join(number.to_string());
        unmount(&point)?;
        match fs::remove_dir(&point) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Takes away what an earlier process left half made, or what a reboot left of it.
pub(crate) async fn sweep(db: &Db, state: &Path) -> Result<()> {
    let mut kept = Vec::new();
    let mut gone = Vec::new();
    for (key, record) in db.view().scan(&MOUNTS, &())? {
        let mut whole = !record.active.is_empty();
        for mount in &record.active {
            whole = whole && is_mounted(&mount.point)?;
        }
        if whole { kept.push(folder(state, &key)) } else { gone.push(key) }
    }
    let folders = folders(state);
    crate::blocking(move || {
        let entries = match fs::read_dir(&folders) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.context(|| format!("list {}", folders.display()))?,
        };
        for entry in entries {
            let path = entry?.path();
            if !kept.contains(&path) {
                clear(&path).context(|| format!("clear {}", path.display()))?;
            }
        }
        Ok(())
    })
    .await?;
    if gone.is_empty() {
        return Ok(());
    }
    db.update(Durability::Crash, move |tx| {
        gone.iter().for_each(|key| tx.delete(&MOUNTS, key));
        Ok(())
    })
    .await
}

/// Ends the activations whose lease has ended.
pub(crate) async fn expire(core: &Core) -> Result<()> {
    let Inner { db, .. } = &*core.0;
    let mut over = Vec::new();
    let view = db.view();
    for (key, record) in view.scan(&MOUNTS, &())? {
        if let Some(lease) = record.lease.filter(|_| !record.active.is_empty())
            && !view.has(&LEASES, &(key.0.clone(), lease))?
        {
            over.push(key);
        }
    }
    drop(view);
    for (namespace, name) in over {
        if let Err(error) = core.tenant(namespace).mounts().deactivate(&name).await {
            tracing::warn!(name, %error, "an activation whose lease has ended stays");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
