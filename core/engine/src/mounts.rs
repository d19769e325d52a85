//! Mounts that the daemon makes for its clients, each list of them an activation under a name of the client's choice.
//!
//! A client makes most mounts itself, with the words that a snapshot driver gave it; asked to activate such, the engine
//! answers that there is nothing for it to do. It does what no client can: loop devices, file systems and folders that are
//! made first, and mounts that name others before them ([`plan`]); or all of it, where the client wants it for a while.
//! Each mount is in a folder `<state>/mounts/<id>/<number>`, a loop device a link there. What may be mounted is in
//! [`ground`].
//!
//! An activation outlives the daemon. Its record is written before anything is done, before a folder or file is made, and
//! after each mount ([`ladder`]); so when the core is opened, what was whole and still is stays, and all else is undone
//! ([`sweep`]). No activation outlives the machine. It ends when its client says so or when nothing keeps it: its lease,
//! labels (`gc.bref.*`, `gc.root`, `gc.expire`), or a `gc.ref.mount` of something else; without any of them it is left
//! alone for a while ([`crate::gc::GRACE`]).

mod format;
mod ground;
mod ladder;
mod make;
mod options;
mod plan;
mod sweep;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use windlass_model::snapshotter::Labels;
use windlass_model::{Context, Error, Kind, LeaseId, Mount, Namespace, Result, Timestamp};

use self::ladder::{Home, Ladder};
use self::make::Made;
use self::plan::{MOST, Plan};
use crate::meta::schema::MOUNTS;
use crate::meta::{Durability, Reader, Tx};
use crate::records::check_labels;
use crate::{Tenant, leases, namespaces};
pub(crate) use sweep::{discard, sweep};

/// The most mounts of all activations of one namespace.
const MOST_OF_ALL: usize = 1024;

/// A mount that the engine has made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveMount {
    /// As it was asked for, with its texts filled in.
    pub mount: Mount,
    /// Where it is; of a loop device, the link to it.
    pub point: PathBuf,
    /// Since when.
    pub mounted_at: Timestamp,
    /// The loop device that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<PathBuf>,
}

/// What is stored of an activation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// What its folder is called; no other has had it.
    #[serde(default)]
    id: String,
    /// What the engine has mounted.
    #[serde(default)]
    pub active: Vec<ActiveMount>,
    /// What the client is to mount where it wants it.
    #[serde(default)]
    pub system: Vec<Mount>,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// The lease that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// When it was begun.
    #[serde(default)]
    pub created_at: Timestamp,
    /// Everything is done.
    #[serde(default)]
    is_whole: bool,
    /// What is taken away if it does not become whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    made: Vec<Made>,
}

/// The activations of one namespace.
#[derive(Clone)]
pub struct Mounts {
    tenant: Tenant,
    lease: Option<LeaseId>,
}

/// An activation's place in the table: namespace, name.
type Key = (Namespace, String);

impl ActiveMount {
    /// What it shows: the loop device that it is, or its source.
    fn source(&self) -> String {
        self.device.as_ref().map_or_else(|| self.mount.source.clone(), |device| device.display().to_string())
    }
}

impl Activation {
    /// True once everything is done; before, it is nobody's to take away.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// What its folder is called.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl Mounts {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant, lease: None }
    }

    /// The same mounts; what is activated from now on is held by `lease`.
    pub fn under(self, lease: Option<LeaseId>) -> Self {
        Self { lease, ..self }
    }

    fn key(&self, name: &str) -> Key {
        (self.tenant.namespace().clone(), name.to_owned())
    }

    /// Does what the client cannot do of `mounts`, or everything where they are wanted for a while (`temporary`). To be run to its
    /// end; what a crash leaves of it is undone when the core is opened.
    ///
    /// # Errors
    /// [`Kind::Unimplemented`] for mounts that the client is to make itself or whose type nobody here knows;
    /// [`Kind::PermissionDenied`] for what this namespace may not have mounted; [`Kind::AlreadyExists`] for the name;
    /// [`Kind::NotFound`] without the lease; [`Kind::ResourceExhausted`] where the namespace has too many; what the
    /// kernel answers. Nothing stays then.
    pub async fn activate(
        &self,
        name: &str,
        mounts: Vec<Mount>,
        temporary: bool,
        labels: Labels,
    ) -> Result<Activation> {
        check_labels(&labels)?;
        let plan = Plan::new(name, mounts, temporary)?;
        let begun = Activation {
            id: uuid::Uuid::new_v4().simple().to_string(),
            labels,
            lease: self.lease.clone(),
            created_at: Timestamp::now(),
            ..Activation::default()
        };
        let mut ladder = Ladder::new(self.clone(), self.key(name), begun.clone())?;
        self.begin(self.key(name), begun, plan.mounted.len()).await?;
        match ladder.climb(plan, temporary).await {
            Ok(()) => Ok(ladder.record),
            Err(error) => {
                let (home, made) = (self.home(&ladder.record), ladder.record.made);
                // Where that fails, the record stays for the next start.
                crate::blocking(move || ladder::undo(&home, &made)).await.context(|| format!("undo {name:?}"))?;
                self.forget(self.key(name), ladder.record.id).await?;
                Err(error).context(|| format!("activate {name:?}"))
            }
        }
    }

    fn home(&self, record: &Activation) -> Home {
        Home::of(&self.tenant.core.0.state, &record.id)
    }

    /// Records an activation of `count` mounts.
    async fn begin(&self, key: Key, record: Activation, count: usize) -> Result<()> {
        let events = self.tenant.events().clone();
        let change = move |tx: &mut Tx<'_>| {
            if tx.has(&MOUNTS, &key)? {
                return Err(Error::already_exists(format!("activation {:?} exists already", key.1)));
            }
            let mut all = count.max(1);
            tx.each(&MOUNTS, &key.0, &mut |_, other| {
                all += if other.is_whole { other.active.len().max(1) } else { MOST };
                Ok(())
            })?;
            if all > MOST_OF_ALL {
                let message = format!("namespace {} would have more than {MOST_OF_ALL} mounts", key.0);
                return Err(Error::new(Kind::ResourceExhausted, message));
            }
            if let Some(lease) = &record.lease {
                leases::require(tx, &key.0, lease)?;
            }
            namespaces::ensure(tx, &events, &key.0)?;
            tx.put(&MOUNTS, &key, &record)
        };
        self.tenant.update(Durability::Crash, change).await
    }

    /// Writes how far an activation is; its labels are others' to change.
    async fn put(&self, key: Key, mut record: Activation) -> Result<()> {
        let change = move |tx: &mut Tx<'_>| {
            record.labels = tx.find(&MOUNTS, &key)?.ok_or_else(|| missing(&key.1))?.labels;
            tx.put(&MOUNTS, &key, &record)
        };
        self.tenant.update(Durability::Crash, change).await
    }

    /// Deletes the record, if it is still of that activation.
    async fn forget(&self, key: Key, id: String) -> Result<()> {
        let change = move |tx: &mut Tx<'_>| {
            if tx.find(&MOUNTS, &key)?.is_some_and(|record| record.id == id) {
                tx.delete(&MOUNTS, &key);
            }
            Ok(())
        };
        self.tenant.update(Durability::Crash, change).await
    }

    /// Takes the mounts of an activation away, last one first, and forgets it. What was made in snapshots is theirs.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Unavailable`] while it is being activated.
    pub async fn deactivate(&self, name: &str) -> Result<()> {
        let record = self.get(name).await?;
        if !record.is_whole {
            return Err(Error::unavailable(format!("{name:?} is being activated")));
        }
        let home = self.home(&record);
        crate::blocking(move || ladder::clear(&home)).await.context(|| format!("deactivate {name:?}"))?;
        self.forget(self.key(name), record.id).await
    }

    /// What is known of an activation.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
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
    /// [`Kind::NotFound`]; [`Kind::InvalidArgument`] for labels that are too long.
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

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
