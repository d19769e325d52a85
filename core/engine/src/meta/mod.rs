//! The records: typed tables in RocksDB, written by one thread in groups, read by anyone.

mod changes;
mod db;
mod migrate;
mod queue;
mod rocks;
pub(crate) mod schema;
mod sequence;
mod table;

pub use db::{Db, Durability, Metrics, Tx, View};
pub(crate) use queue::Lane;
pub(crate) use sequence::Sequence;
pub use table::{Key, Reader, Table};

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod full_tests;
