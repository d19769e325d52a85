//! How RocksDB is opened: small, quiet, and without syncs that nobody asked for.
//!
//! RocksDB syncs by itself only where a memtable becomes a table file: at most once for each [`MEMTABLE`] bytes of
//! records, on a thread of its own. (It must: the log it deletes afterwards was not synced.) Everything else that would
//! write or sync in the background is off: statistics, the info log, log recycling.
//!
//! What the log holds when the database is opened stays in the log: turning it into a table file would make a daemon's
//! start wait for four syncs of the disk. But RocksDB never syncs such an older log again, and a newer one that was synced
//! is worth nothing behind a gap. So the older ones are kept at hand here, to be synced before the first of the newer.

use std::fs::File;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options, ReadOptions,
};
use windlass_model::{Context, Error, Kind, Result};

/// RocksDB with its one column family.
pub(super) type Rocks = DB;

/// Bytes of records in memory before they become a table file; up to two of these are in memory.
const MEMTABLE: usize = 4 << 20;
/// Bytes of blocks of table files in memory, their indexes included.
const BLOCK_CACHE: usize = 1 << 20;

/// What [`Options`] has no function for.
const MORE: &str = "avoid_flush_during_recovery=true";

/// The write-ahead logs of earlier openings that may not be on the disk yet.
#[derive(Debug, Default)]
pub(super) struct OlderLogs(Vec<File>);

pub(super) fn open(folder: &Path) -> Result<(Rocks, OlderLogs)> {
    std::fs::create_dir_all(folder)?;
    let doing = || format!("open database {}", folder.display());
    let older = OlderLogs::find(folder).context(doing)?;
    let rocks =
        options().and_then(|options| DB::open(&options, folder)).map_err(|error| rocks_error(&doing(), error))?;
    Ok((rocks, older))
}

impl OlderLogs {
    fn find(folder: &Path) -> std::io::Result<Self> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                found.push(File::open(path)?);
            }
        }
        Ok(Self(found))
    }

    /// Syncs them, once.
    ///
    /// # Errors
    /// What the disk answers; then it may be tried again.
    pub(super) fn sync(&mut self) -> Result<()> {
        while let Some(log) = self.0.last() {
            log.sync_data().context(|| "sync an older log of records".into())?;
            self.0.pop();
        }
        Ok(())
    }
}

fn options() -> std::result::Result<Options, rocksdb::Error> {
    let mut options = Options::default().get_options_from_string(MORE)?;
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE));
    blocks.set_cache_index_and_filter_blocks(true);
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
    Ok(options)
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
        LogLevel::Warn => tracing::warn!(target: "rocksdb", "{}", message.trim_end()),
        // The header, its whole configuration at every start, passes the logger's level and comes as news.
        _ => tracing::trace!(target: "rocksdb", "{}", message.trim_end()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, ending: &str) -> usize {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(ending)).count()
    }

    #[test]
    fn opening_leaves_the_log_a_log_and_remembers_to_sync_it() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20u32 {
            let (rocks, mut older) = open(folder.path()).unwrap();
            assert_eq!(older.0.is_empty(), round == 0, "round {round}");
            for earlier in 0..round {
                assert_eq!(rocks.get(earlier.to_be_bytes()).unwrap().unwrap(), [7; 100]);
            }
            rocks.put(round.to_be_bytes(), [7; 100]).unwrap();
            older.sync().unwrap();
            assert!(older.0.is_empty());
            assert_eq!(files(folder.path(), ".sst"), 0, "round {round} wrote a table file");
        }
    }

    #[test]
    fn older_logs_go_once_their_records_are_in_a_table_file() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..8u32 {
            let (rocks, _) = open(folder.path()).unwrap();
            for number in 0..1000u32 {
                rocks.put((round * 1000 + number).to_be_bytes(), [1; 1000]).unwrap();
            }
        }
        let (rocks, _) = open(folder.path()).unwrap();
        assert_eq!(rocks.iterator(rocksdb::IteratorMode::Start).count(), 8000);
        assert!(files(folder.path(), ".log") <= 6, "{} logs", files(folder.path(), ".log"));
    }
}
