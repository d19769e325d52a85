//! Numbers that are never given out twice, not even after a crash, without a write for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use windlass_model::Result;

use super::schema::SETTINGS;
use super::{Db, Durability, Reader, Tx};

/// How many numbers one record covers. What is left of a block at exit is skipped.
const BLOCK: u64 = 1 << 16;

/// A counter whose reserved end is in the database and whose next number is in memory.
///
/// The next block is asked for when half of this one is used, so taking a number never waits.
#[derive(Clone)]
pub(crate) struct Sequence(Arc<Inner>);

struct Inner {
    db: Db,
    setting: &'static str,
    next: AtomicU64,
    end: AtomicU64,
    extending: AtomicBool,
}

impl Sequence {
    /// Starts after everything given out before and not below `floor`.
    pub(crate) async fn open(db: &Db, setting: &'static str, floor: u64) -> Result<Self> {
        let start = db.view().find(&SETTINGS, &setting.to_owned())?.unwrap_or(0).max(floor).max(1);
        let end = start + BLOCK;
        // Not worth a sync, here and below: a power cut leaves nobody who saw the numbers of an unsynced block, but for
        // what lies on disks, and that is below the floor.
        db.update(Durability::Crash, move |tx| tx.put(&SETTINGS, &setting.into(), &end)).await?;
        let (next, end) = (AtomicU64::new(start), AtomicU64::new(end));
        Ok(Self(Arc::new(Inner { db: db.clone(), setting, next, end, extending: AtomicBool::new(false) })))
    }

    /// The next number.
    pub(crate) fn take(&self) -> u64 {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        if number + BLOCK / 2 >= self.0.end.load(Ordering::Acquire) {
            self.extend();
        }
        number
    }

    /// Asks for the next block, unless that is under way.
    fn extend(&self) {
        if self.0.extending.swap(true, Ordering::AcqRel) {
            return;
        }
        let (me, end) = (self.clone(), self.0.next.load(Ordering::Relaxed) + BLOCK);
        let setting = self.0.setting;
        let change = move |tx: &mut Tx<'_>| tx.put(&SETTINGS, &setting.into(), &end);
        let done = move |written: Result<()>| {
            match written {
                Ok(()) => me.0.end.store(end, Ordering::Release),
                // The next number asks again.
                Err(error) => tracing::warn!(%error, setting, "numbers could not be reserved"),
            }
            me.0.extending.store(false, Ordering::Release);
        };
        if self.0.db.post(Durability::Crash, change, done).is_err() {
            self.0.extending.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_grow_across_restarts_and_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let db = Db::open(folder.path()).await.unwrap();
            let sequence = Sequence::open(&db, "test", 0).await.unwrap();
            for step in 0..2 * BLOCK {
                let number = sequence.take();
                assert!(number > last);
                last = number;
                if step % (BLOCK / 4) == 0 {
                    // Waits for posted extensions by a write behind them.
                    db.update(Durability::Crash, |_| Ok(())).await.unwrap();
                }
            }
            db.update(Durability::Crash, |_| Ok(())).await.unwrap();
            db.close().await;
        }
    }
}
