//! The layout of the database, in one picture.
//!
//! One RocksDB column family, so that there is one memtable and one write-ahead log. A key is a tag byte and components
//! (see [`super::table`]); a value is JSON, which tolerates added fields. Durability is chosen at each write: C survives
//! `kill -9` of the daemon, P also survives power loss.
//!
//! ```text
//! tag   table            key                                      value             written by     durability
//! 0x00  SETTINGS         name                                     u64               meta           P
//! 0x10  NAMESPACES       namespace                                NamespaceRecord   namespaces     as the write that made it
//! 0x20  LEASES           namespace, lease                         LeaseRecord       leases         P
//! 0x21  LEASED           namespace, lease, kind, id               ()                leases         P
//! 0x30  BLOBS            namespace, digest                        BlobRecord        content        P
//! 0x40  IMAGES           namespace, name                          ImageRecord       images         P
//! 0x50  SNAPSHOTS        namespace, driver, key                   SnapshotRecord    snapshots      C, committed P
//! 0x51  SNAPSHOT_CHILDREN namespace, driver, parent's key, key    ()                snapshots      as its SNAPSHOTS record
//! 0x60  CONTAINERS       namespace, container                     ContainerRecord   containers     the caller's choice
//! 0x70  SANDBOXES        namespace, sandbox                       SandboxRecord     sandboxes      the caller's choice
//! 0x78  MOUNTS           namespace, name                          Activation        mounts         C
//! 0x80  EVENTS           namespace, number                        Envelope          events         C
//! 0x81  EVENTS_GONE      namespace                                u64               events         C
//! 0x82  SUBSCRIPTIONS    seat                                     SubscriptionRecord events        C
//! ```
//!
//! SETTINGS holds `schema` (the layout's version, checked before anything else is read), and the ends of the reserved
//! number blocks `events.next` and `snapshots.next`.
//!
//! EVENTS_GONE has the number of the newest event that is no longer kept.
//!
//! A blob's bytes are not here but in `<root>/content/blobs/sha256/<hex>`; a BLOBS record says that a namespace knows
//! them. Blobs on the way are folders under `<root>/content/ingest`, without a record. A snapshot's files are its
//! driver's, under the number in its record.

use windlass_model::event::Envelope;
use windlass_model::{Digest, Id, LeaseId, Namespace};

use super::Table;
use crate::containers::ContainerRecord;
use crate::content::BlobRecord;
use crate::events::SubscriptionRecord;
use crate::images::ImageRecord;
use crate::leases::LeaseRecord;
use crate::mounts::Activation;
use crate::namespaces::NamespaceRecord;
use crate::sandboxes::SandboxRecord;
use crate::snapshots::SnapshotRecord;

/// The version of this layout. Raise it together with a step in [`super::migrate`].
pub(crate) const VERSION: u64 = 1;

pub(crate) const SETTINGS: Table<String, u64> = Table::new(0x00, "settings");
pub(crate) const NAMESPACES: Table<Namespace, NamespaceRecord> = Table::new(0x10, "namespaces");
pub(crate) const LEASES: Table<(Namespace, LeaseId), LeaseRecord> = Table::new(0x20, "leases");
pub(crate) const LEASED: Table<(Namespace, LeaseId, String, String), ()> = Table::new(0x21, "leased");
pub(crate) const BLOBS: Table<(Namespace, Digest), BlobRecord> = Table::new(0x30, "blobs");
pub(crate) const IMAGES: Table<(Namespace, String), ImageRecord> = Table::new(0x40, "images");
pub(crate) const SNAPSHOTS: Table<(Namespace, String, String), SnapshotRecord> = Table::new(0x50, "snapshots");
pub(crate) const SNAPSHOT_CHILDREN: Table<(Namespace, String, String, String), ()> =
    Table::new(0x51, "snapshot children");
pub(crate) const CONTAINERS: Table<(Namespace, Id), ContainerRecord> = Table::new(0x60, "containers");
pub(crate) const SANDBOXES: Table<(Namespace, Id), SandboxRecord> = Table::new(0x70, "sandboxes");
pub(crate) const MOUNTS: Table<(Namespace, String), Activation> = Table::new(0x78, "mounts");
pub(crate) const EVENTS: Table<(Namespace, u64), Envelope> = Table::new(0x80, "events");
pub(crate) const EVENTS_GONE: Table<Namespace, u64> = Table::new(0x81, "events gone");
pub(crate) const SUBSCRIPTIONS: Table<u64, SubscriptionRecord> = Table::new(0x82, "subscriptions");

/// Names in SETTINGS.
pub(crate) mod setting {
    /// The layout's version.
    pub(crate) const SCHEMA: &str = "schema";
    /// The end of the block of event numbers in use.
    pub(crate) const EVENTS: &str = "events.next";
    /// The end of the block of snapshot numbers in use.
    pub(crate) const SNAPSHOTS: &str = "snapshots.next";
}
