//! The writer thread: order, grouping, syncs, failures.

use std::time::Duration;

use super::*;
use windlass_model::Kind;

const TEXTS: Table<(String, u64), String> = Table::new(0xfe, "texts");

fn key(name: &str, number: u64) -> (String, u64) {
    (name.into(), number)
}

async fn open() -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(folder.path()).await.unwrap();
    (folder, db)
}

/// Keeps the writer thread busy until the answer is dropped, so that a queue gathers.
fn hold(db: &Db) -> std::sync::mpsc::Sender<()> {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, begins) = std::sync::mpsc::channel();
    let wait = move |_: &mut Tx<'_>| {
        begun.send(()).unwrap();
        let _ = held.recv();
        Ok(())
    };
    db.post(Durability::Crash, wait, drop).unwrap();
    begins.recv().unwrap();
    release
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_one_write_and_one_sync() {
    let (_folder, db) = open().await;
    let before = db.metrics();
    let release = hold(&db);
    let callers: Vec<_> = (0..100)
        .map(|number| {
            let db = db.clone();
            let durability = if number % 2 == 0 { Durability::Power } else { Durability::Crash };
            tokio::spawn(async move {
                db.update(durability, move |tx| tx.put(&TEXTS, &key("a", number), &"text".into())).await
            })
        })
        .collect();
    while db.0.queue.len() < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The last of them may have its place but not yet be in it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(release);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    let after = db.metrics();
    assert_eq!(after.updates - before.updates, 101);
    assert_eq!(after.writes - before.writes, 1);
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!(db.view().scan(&TEXTS, &()).unwrap().len(), 100);
}

#[tokio::test]
async fn crash_writes_are_not_synced() {
    let (_folder, db) = open().await;
    let before = db.metrics();
    for number in 0..20 {
        db.update(Durability::Crash, move |tx| tx.put(&TEXTS, &key("a", number), &"text".into())).await.unwrap();
    }
    assert_eq!(db.metrics().syncs, before.syncs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_sees_the_closures_before_it_in_its_group() {
    let (_folder, db) = open().await;
    let release = hold(&db);
    let mut callers = Vec::new();
    for _ in 0..50 {
        let db = db.clone();
        callers.push(tokio::spawn(async move {
            db.update(Durability::Crash, |tx| {
                let count = tx.scan(&TEXTS, &"n".to_owned())?.len() as u64;
                if count > 0 {
                    assert!(tx.has(&TEXTS, &key("n", count - 1))?);
                }
                tx.put(&TEXTS, &key("n", count), &"x".into())
            })
            .await
        }));
    }
    drop(release);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(db.view().scan(&TEXTS, &"n".to_owned()).unwrap().len(), 50);
}

#[tokio::test]
async fn a_failing_closure_leaves_nothing() {
    let (_folder, db) = open().await;
    let failed = db
        .update(Durability::Power, |tx| {
            tx.put(&TEXTS, &key("a", 1), &"half".into())?;
            tx.after_commit(|| panic!("must not run"));
            Err::<(), _>(Error::precondition("no"))
        })
        .await;
    assert_eq!(failed.unwrap_err().kind(), Kind::FailedPrecondition);
    let panicked = db
        .update::<()>(Durability::Power, |tx| {
            tx.put(&TEXTS, &key("a", 2), &"half".into())?;
            panic!("on purpose")
        })
        .await;
    assert_eq!(panicked.unwrap_err().kind(), Kind::Internal);
    assert!(db.view().scan(&TEXTS, &()).unwrap().is_empty());
}

#[tokio::test]
async fn ranges_merge_what_is_written_and_what_is_not() {
    let (_folder, db) = open().await;
    db.update(Durability::Crash, |tx| {
        for number in [1, 3, 5, 7] {
            tx.put(&TEXTS, &key("a", number), &"old".into())?;
        }
        tx.put(&TEXTS, &key("b", 1), &"other".into())
    })
    .await
    .unwrap();
    let seen = db
        .update(Durability::Crash, |tx| {
            tx.put(&TEXTS, &key("a", 0), &"new".into())?;
            tx.put(&TEXTS, &key("a", 4), &"new".into())?;
            tx.put(&TEXTS, &key("a", 5), &"new".into())?;
            tx.put(&TEXTS, &key("a", 9), &"new".into())?;
            tx.delete(&TEXTS, &key("a", 3));
            tx.delete(&TEXTS, &key("a", 8));
            assert_eq!(tx.first(&TEXTS, &"a".to_owned())?, Some(key("a", 0)));
            tx.scan(&TEXTS, &"a".to_owned())
        })
        .await
        .unwrap();
    let seen: Vec<_> = seen.iter().map(|((_, number), text)| (*number, text.as_str())).collect();
    assert_eq!(seen, [(0, "new"), (1, "old"), (4, "new"), (5, "new"), (7, "old"), (9, "new")]);
}

#[tokio::test]
async fn what_follows_a_commit_runs_before_the_answer() {
    let (_folder, db) = open().await;
    for durability in [Durability::Crash, Durability::Power] {
        let (tell, told) = std::sync::mpsc::channel();
        db.update(durability, move |tx| {
            tx.after_commit(move || tell.send(()).unwrap());
            tx.put(&TEXTS, &key("a", 0), &"x".into())
        })
        .await
        .unwrap();
        told.try_recv().unwrap();
    }
}

#[tokio::test]
async fn a_view_does_not_change() {
    let (_folder, db) = open().await;
    let view = db.view();
    db.update(Durability::Crash, |tx| tx.put(&TEXTS, &key("a", 0), &"x".into())).await.unwrap();
    assert_eq!(view.find(&TEXTS, &key("a", 0)).unwrap(), None);
    assert_eq!(db.view().find(&TEXTS, &key("a", 0)).unwrap().as_deref(), Some("x"));
}

#[tokio::test]
async fn after_close_nothing_is_taken() {
    let (_folder, db) = open().await;
    db.close().await;
    let refused = db.update(Durability::Crash, |_| Ok(())).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Unavailable);
}
