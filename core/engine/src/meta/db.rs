//! One writer thread in front of RocksDB: closures in, groups of them out as one write each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use windlass_model::{Error, Result};
use super::{Key, Reader, Table};

/// How much a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// `kill -9` of the daemon: in the write-ahead log, not synced.
    Crash,
    /// Also a power cut: the write-ahead log is synced before the answer.
    Power,
}

/// The database; clones are the same one.
#[derive(Clone)]
pub struct Db(Arc<()>);

/// Counters of what the database did, for tests and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics { pub updates: u64, pub writes: u64, pub syncs: u64 }

/// A transaction: sees the committed state, the earlier closures of its group, and its own writes.
pub struct Tx<'a> { own: BTreeMap<Vec<u8>, Option<Vec<u8>>>, _a: &'a () }

/// The committed state at one moment.
pub struct View<'a>(&'a ());

impl Db {
    pub async fn open(folder: &Path) -> Result<Self> { let _ = folder; Err(Error::unimplemented("Db::open")) }
    #[cfg(test)]
    pub(super) fn open_raw(folder: &Path) -> Result<Self> { let _ = folder; Err(Error::unimplemented("Db::open")) }
    pub async fn update<T: Send + 'static>(&self, durability: Durability, change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> { let _ = (durability, change); Err(Error::unimplemented("Db::update")) }
    pub fn post(&self, durability: Durability, change: impl FnOnce(&mut Tx<'_>) -> Result<()> + Send + 'static) -> Result<()> { let _ = (durability, change); Err(Error::unimplemented("Db::post")) }
    pub fn view(&self) -> View<'_> { View(&()) }
    pub fn read<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> { look(&self.view()) }
    pub fn metrics(&self) -> Metrics { Metrics::default() }
    pub async fn close(&self) {}
}

impl Tx<'_> {
    pub fn put<K: Key, V: serde::Serialize>(&mut self, table: &Table<K, V>, key: &K, value: &V) -> Result<()> { self.own.insert(table.key(key), Some(table.bytes(value)?)); Ok(()) }
    pub fn delete<K: Key, V>(&mut self, table: &Table<K, V>, key: &K) { self.own.insert(table.key(key), None); }
    pub fn after_commit(&mut self, act: impl FnOnce() + Send + 'static) { let _ = act; }
}
impl Reader for Tx<'_> {
    fn bytes(&self, _key: &[u8]) -> Result<Option<Vec<u8>>> { Ok(None) }
    fn range(&self, _prefix: &[u8], _each: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool>) -> Result<()> { Ok(()) }
}
impl Reader for View<'_> {
    fn bytes(&self, _key: &[u8]) -> Result<Option<Vec<u8>>> { Ok(None) }
    fn range(&self, _prefix: &[u8], _each: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool>) -> Result<()> { Ok(()) }
}
