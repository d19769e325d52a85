//! How RocksDB is opened: small, quiet, and without syncs that nobody asked for.
//!
//! RocksDB syncs by itself only where a memtable becomes a table file: at most once for each [`MEMTABLE`] bytes of
//! records, on a thread of its own. (It must: the log it deletes afterwards was not synced.) Everything else that would
//! write or sync in the background is off: statistics, the info log, log recycling.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options, ReadOptions,
};
use windlass_model::{Error, Kind, Result};

/// RocksDB with its one column family.
pub(super) type Rocks = DB;

/// Bytes of records in memory before they become a table file; up to two of these are in memory.
const MEMTABLE: usize = 4 << 20;
/// Bytes of blocks of table files in memory, their indexes included.
const BLOCK_CACHE: usize = 1 << 20;

pub(super) fn open(folder: &Path) -> Result<Rocks> {
    std::fs::create_dir_all(folder)?;
    DB::open(&options(), folder).map_err(|error| rocks_error(&format!("open database {}", folder.display()), error))
}

fn options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE));
    blocks.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(MEMTABLE);
    options.set_max_write_buffer_number(2);
    options.set_max_open_files(64);
    options.set_max_background_jobs(2);
    options.set_target_file_size_base(8 << 20);
    options.set_max_manifest_file_size(1 << 20);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_keep_log_file_num(1);
    options.set_recycle_log_file_num(0);
    // After a power cut the log is good up to its last sync at least; it is read to the first batch that is not whole.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, log));
    options
}

/// Iterates over the keys with `prefix` without filling the small cache.
pub(super) fn scanning(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_range(rocksdb::PrefixRange(prefix));
    options.fill_cache(false);
    options
}

fn log(level: LogLevel, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{}", message.trim_end()),
        // The header is its whole configuration, at every start.
        LogLevel::Header => tracing::trace!(target: "rocksdb", "{}", message.trim_end()),
        _ => tracing::warn!(target: "rocksdb", "{}", message.trim_end()),
    }
}

/// Gives an error of RocksDB a kind.
pub(super) fn rocks_error(doing: &str, error: rocksdb::Error) -> Error {
    let text = error.as_ref();
    // RocksDB tells a full disk only by its text; the kind is that of every failed read or write.
    let full = ["No space left on device", "NoSpace", "Disk quota exceeded"].iter().any(|words| text.contains(words));
    let kind = match error.kind() {
        _ if full => Kind::ResourceExhausted,
        rocksdb::ErrorKind::Corruption => Kind::DataLoss,
        rocksdb::ErrorKind::Busy | rocksdb::ErrorKind::TryAgain | rocksdb::ErrorKind::TimedOut => Kind::Unavailable,
        rocksdb::ErrorKind::ShutdownInProgress => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Error::with_source(kind, doing, error)
}
