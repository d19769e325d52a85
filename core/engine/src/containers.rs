//! Container records: what a container is, whether or not it runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use windlass_model::{Id, Namespace, Timestamp, TypedBytes, event::Event, snapshotter::Labels};

use crate::meta::{Table, schema};
use crate::records::{Record, Records, RuntimeRef};

/// A container as its client described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id, unique in its namespace.
    pub id: Id,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// The name of the image it came from; may be empty.
    #[serde(default)]
    pub image: String,
    /// Which runtime runs it.
    #[serde(default)]
    pub runtime: RuntimeRef,
    /// Its OCI runtime specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<TypedBytes>,
    /// The driver of its root file system; empty where it has none of ours.
    #[serde(default)]
    pub snapshotter: String,
    /// The key of its root file system; kept from the garbage collector as long as this record is.
    #[serde(default)]
    pub snapshot_key: String,
    /// The pod it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Id>,
    /// What else clients keep with it, by name.
    #[serde(default)]
    pub extensions: BTreeMap<String, TypedBytes>,
    /// When it was recorded.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// The containers of one namespace.
pub type Containers = Records<ContainerRecord>;

impl ContainerRecord {
    /// A record with nothing but an id.
    pub fn new(id: Id) -> Self {
        Self {
            id,
            labels: Labels::new(),
            image: String::new(),
            runtime: RuntimeRef::default(),
            spec: None,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            sandbox: None,
            extensions: BTreeMap::new(),
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        }
    }
}

impl Record for ContainerRecord {
    const WHAT: &'static str = "container";
    const TABLE: Table<(Namespace, Id), Self> = schema::CONTAINERS;

    fn id(&self) -> &Id {
        &self.id
    }
    fn labels(&self) -> &Labels {
        &self.labels
    }
    fn times(&mut self) -> (&mut Timestamp, &mut Timestamp) {
        (&mut self.created_at, &mut self.updated_at)
    }
    fn created(&self) -> Option<Event> {
        Some(Event::ContainerCreate {
            id: self.id.to_string(),
            image: self.image.clone(),
            runtime: self.runtime.name.clone(),
            options: self.runtime.options.clone(),
        })
    }
    fn updated(&self) -> Option<Event> {
        Some(Event::ContainerUpdate {
            id: self.id.to_string(),
            image: self.image.clone(),
            labels: self.labels.clone(),
            snapshot_key: self.snapshot_key.clone(),
        })
    }
    fn deleted(id: String) -> Option<Event> {
        Some(Event::ContainerDelete { id })
    }
}
