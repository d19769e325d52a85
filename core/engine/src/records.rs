//! Records that clients describe whole: containers and sandboxes share one shelf.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use windlass_model::{Error, Id, Namespace, Result, Timestamp, TypedBytes, event::Event, snapshotter::Labels};

use crate::meta::{Durability, Reader, Table, Tx};
use crate::{Tenant, namespaces};

/// Which runtime a container or sandbox asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRef {
    /// A shim's name (`io.containerd.runc.v2`) or a handler's.
    pub name: String,
    /// Options for that runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<TypedBytes>,
}

/// What the shelf needs to know of a record.
pub trait Record: Clone + Serialize + DeserializeOwned + Send + 'static {
    /// What it is called in messages.
    const WHAT: &'static str;
    /// Where it is kept.
    const TABLE: Table<(Namespace, Id), Self>;
    /// Its id.
    fn id(&self) -> &Id;
    /// Its labels.
    fn labels(&self) -> &Labels;
    /// When it was made and last changed.
    fn times(&mut self) -> (&mut Timestamp, &mut Timestamp);
    /// The event of its creation, where there is one.
    fn created(&self) -> Option<Event>;
    /// The event of a change, where there is one.
    fn updated(&self) -> Option<Event>;
    /// The event of its removal, where there is one.
    fn deleted(id: String) -> Option<Event>;
}

/// All records of one kind in one namespace.
#[derive(Clone)]
pub struct Records<R> {
    tenant: Tenant,
    kind: PhantomData<fn() -> R>,
}

impl<R: Record> Records<R> {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant, kind: PhantomData }
    }

    fn missing(id: &Id) -> Error {
        Error::not_found(format!("{} {id} does not exist", R::WHAT))
    }

    /// The record.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn get(&self, id: &Id) -> Result<R> {
        let key = (self.tenant.namespace().clone(), id.clone());
        self.tenant.core.0.db.view().find(&R::TABLE, &key)?.ok_or_else(|| Self::missing(id))
    }

    /// All records, in the order of their ids.
    pub async fn list(&self) -> Result<Vec<R>> {
        let records = self.tenant.core.0.db.view().scan(&R::TABLE, self.tenant.namespace())?;
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// Keeps a new record; both of its times become now.
    ///
    /// # Errors
    /// [`windlass_model::Kind::AlreadyExists`]; [`windlass_model::Kind::InvalidArgument`] for labels that are too long.
    pub async fn create(&self, mut record: R, durability: Durability) -> Result<R> {
        check_labels(record.labels())?;
        let (events, namespace) = (self.tenant.events().clone(), self.tenant.namespace().clone());
        let change = move |tx: &mut Tx<'_>| {
            let key = (namespace.clone(), record.id().clone());
            if tx.has(&R::TABLE, &key)? {
                return Err(Error::already_exists(format!("{} {} exists already", R::WHAT, key.1)));
            }
            namespaces::ensure(tx, &events, &namespace)?;
            let now = Timestamp::now();
            let (created_at, updated_at) = record.times();
            (*created_at, *updated_at) = (now, now);
            tx.put(&R::TABLE, &key, &record)?;
            if let Some(event) = record.created() {
                events.after_commit(tx, &namespace, event);
            }
            Ok(record)
        };
        self.tenant.update(durability, change).await
    }

    /// Changes a record by `change`, alone among all writers; its id and time of creation stay.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`], and whatever `change` answers, in which case nothing changes.
    pub async fn update(
        &self,
        id: &Id,
        durability: Durability,
        change: impl FnOnce(&mut R) -> Result<()> + Send + 'static,
    ) -> Result<R> {
        let (events, namespace) = (self.tenant.events().clone(), self.tenant.namespace().clone());
        let key = (namespace.clone(), id.clone());
        let change = move |tx: &mut Tx<'_>| {
            let mut record: R = tx.find(&R::TABLE, &key)?.ok_or_else(|| Self::missing(&key.1))?;
            let made = *record.times().0;
            change(&mut record)?;
            if *record.id() != key.1 {
                return Err(Error::invalid(format!("{} {} cannot change its id", R::WHAT, key.1)));
            }
            check_labels(record.labels())?;
            let (created_at, updated_at) = record.times();
            (*created_at, *updated_at) = (made, Timestamp::now());
            tx.put(&R::TABLE, &key, &record)?;
            if let Some(event) = record.updated() {
                events.after_commit(tx, &namespace, event);
            }
            Ok(record)
        };
        self.tenant.update(durability, change).await
    }

    /// Forgets a record.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn delete(&self, id: &Id, durability: Durability) -> Result<()> {
        let (events, namespace) = (self.tenant.events().clone(), self.tenant.namespace().clone());
        let key = (namespace.clone(), id.clone());
        let change = move |tx: &mut Tx<'_>| {
            if !tx.has(&R::TABLE, &key)? {
                return Err(Self::missing(&key.1));
            }
            tx.delete(&R::TABLE, &key);
            if let Some(event) = R::deleted(key.1.into()) {
                events.after_commit(tx, &namespace, event);
            }
            Ok(())
        };
        self.tenant.update(durability, change).await?;
        self.tenant.core.0.collector.nudge();
        Ok(())
    }
}

/// Refuses labels that containerd would refuse: key and value together longer than 4096 bytes, or an empty key.
pub(crate) fn check_labels(labels: &Labels) -> Result<()> {
    const LONGEST: usize = 4096;
    match labels.iter().find(|(key, value)| key.is_empty() || key.len() + value.len() > LONGEST) {
        None => Ok(()),
        Some((key, _)) => {
            let start: String = key.chars().take(64).collect();
            Err(Error::invalid(format!("label {start:?} is empty or longer than {LONGEST} bytes")))
        }
    }
}
