//! The database on a disk that is full, and then is not. Needs the right to mount.

use std::fs;
use std::path::Path;
use std::time::Duration;

use windlass_model::{Kind, Mount};

use super::{Db, Durability, Reader, Table};

const TEXTS: Table<u64, String> = Table::new(0xfb, "texts");

/// Unmounts, also where the test fails.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        windlass_sys::mount::unmount(self.0).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let small =
        Mount { kind: "tmpfs".into(), source: "tmpfs".into(), options: vec!["size=24m".into()], ..Mount::default() };
    if let Err(error) = windlass_sys::mount::mount_all(&[small], folder.path()) {
        eprintln!("skipped: {error}");
        return;
    }
    let _mounted = Mounted(folder.path());
    let db = Db::open(&folder.path().join("meta")).await.unwrap();
    let put = |number: u64, size: usize, durability| {
        db.update(durability, move |tx| tx.put(&TEXTS, &number, &"x".repeat(size)))
    };
    put(0, 10, Durability::Power).await.unwrap();
    // Fill up, then write until the log has no room.
    let ballast = folder.path().join("ballast");
    fs::write(&ballast, vec![0; 12 << 20]).unwrap();
    let mut refused = None;
    let mut kept = 0;
    for number in 1..1000 {
        match put(number, 100_000, Durability::Crash).await {
            Ok(()) => kept = number,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.kind(), Kind::ResourceExhausted, "{refused}");
    for number in 0..=kept {
        assert!(db.view().has(&TEXTS, &number).unwrap(), "{number}");
    }
    fs::remove_file(&ballast).unwrap();
    // RocksDB looks every five seconds whether there is room again.
    let mut last = None;
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        last = Some(put(5000, 100_000, Durability::Power).await);
        if last.as_ref().unwrap().is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    last.unwrap().unwrap();
}
