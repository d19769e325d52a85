//! Sandbox records: what a pod is, whether or not its shim lives.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use windlass_model::{Id, Namespace, Timestamp, TypedBytes, event::Event, snapshotter::Labels};

use crate::meta::{Table, schema};
use crate::records::{Record, Records, RuntimeRef};

/// A sandbox as its client described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id, unique in its namespace.
    pub id: Id,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// Which runtime boots it.
    #[serde(default)]
    pub runtime: RuntimeRef,
    /// Its specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<TypedBytes>,
    /// The controller that is to boot it; empty for the client's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandboxer: String,
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

/// The sandboxes of one namespace.
pub type Sandboxes = Records<SandboxRecord>;

impl SandboxRecord {
    /// A record with nothing but an id.
    pub fn new(id: Id) -> Self {
        Self {
            id,
            labels: Labels::new(),
            runtime: RuntimeRef::default(),
            spec: None,
            sandboxer: String::new(),
            extensions: BTreeMap::new(),
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        }
    }
}

impl Record for SandboxRecord {
    const WHAT: &'static str = "sandbox";
    const TABLE: Table<(Namespace, Id), Self> = schema::SANDBOXES;

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
        // Told when its shim has made it.
        None
    }
    fn updated(&self) -> Option<Event> {
        None
    }
    fn deleted(_id: String) -> Option<Event> {
        None
    }
}
