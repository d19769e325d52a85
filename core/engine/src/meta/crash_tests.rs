//! The database after `kill -9`: a child writes, dies at a random moment, and everything it was told is kept is there.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Db, Durability, Reader, Table};

/// Two tables, always written together: a batch is whole where both agree.
const LEFT: Table<u64, String> = Table::new(0xfc, "left");
const RIGHT: Table<u64, String> = Table::new(0xfd, "right");

const FOLDER: &str = "WINDLASS_CRASH_TEST_FOLDER";

/// Not a test by itself: the child. Writes pairs until it is killed and prints the number of each that was acknowledged.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let db = Db::open(folder.as_ref()).await.unwrap();
        let start = db.view().scan(&LEFT, &()).unwrap().last().map_or(0, |(number, _)| number + 1);
        let writers = (0..4).map(|lane| {
            let db = db.clone();
            tokio::spawn(async move {
                for number in (start + lane..).step_by(4) {
                    let durability = if number % 50 == 0 { Durability::Power } else { Durability::Crash };
                    // Long enough that memtables become table files while the test runs.
                    let text = format!("{number} {}", "x".repeat(2000));
                    db.update(durability, move |tx| {
                        tx.put(&LEFT, &number, &text)?;
                        tx.put(&RIGHT, &number, &text)
                    })
                    .await
                    .unwrap();
                    println!("\nkept {number}");
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

/// Runs the child for `life`, kills it, and gives the numbers it was told are kept.
fn run_child(folder: &std::path::Path, life: Duration) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "meta::crash_tests::child", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        // A line cut off by the kill has no end and is not counted.
        output
            .split(b'\n')
            .map_while(Result::ok)
            .filter_map(|line| String::from_utf8(line).ok()?.strip_prefix("kept ")?.parse().ok())
            .collect::<Vec<u64>>()
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut kept = reader.join().unwrap();
    // The last line may be the front of a longer number.
    kept.pop();
    kept
}

#[tokio::test]
async fn acknowledged_writes_survive_kill_and_no_batch_is_halved() {
    let folder = tempfile::tempdir().unwrap();
    let mut kept = Vec::new();
    let mut random = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id());
    for _ in 0..8 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        kept.extend(run_child(folder.path(), Duration::from_millis(120 + (random >> 33) % 300)));
        let db = Db::open(folder.path()).await.unwrap();
        let left = db.view().scan(&LEFT, &()).unwrap();
        assert_eq!(left, db.view().scan(&RIGHT, &()).unwrap());
        for number in &kept {
            let text = db.view().find(&LEFT, number).unwrap();
            assert!(text.is_some_and(|text| text.starts_with(&format!("{number} "))), "{number} is lost");
        }
        db.close().await;
    }
    assert!(kept.len() > 100, "the child did too little: {}", kept.len());
}
