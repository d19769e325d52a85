//! The bus and what is kept of it: order, restarts, listeners that come back, floods.

use std::path::Path;

use windlass_model::{Id, Kind};

use super::*;
use crate::meta::{Db, Durability};
use crate::{Core, testing};

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

fn oom(container: impl ToString) -> Event {
    Event::TaskOom { container: container.to_string() }
}

fn container(envelope: &Envelope) -> &str {
    match &envelope.event {
        Event::TaskOom { container } | Event::TaskExit { container, .. } => container,
        other => panic!("{other:?}"),
    }
}

async fn core(folder: &Path) -> Core {
    testing::open(folder).await.unwrap().0
}

fn tasks(who: &str, after: Option<u64>) -> Watch {
    let wanted = Box::new(|envelope: &Envelope| envelope.event.topic().starts_with("/tasks/"));
    Watch { namespaces: None, wanted, after, who: who.into() }
}

/// What a listener gets until it would have to wait.
async fn heard(watcher: &mut Watcher) -> Vec<String> {
    let mut found = Vec::new();
    let pause = std::time::Duration::from_millis(50);
    while let Ok(next) = tokio::time::timeout(pause, watcher.next()).await {
        found.push(container(&next.unwrap()).to_owned());
    }
    found
}

#[tokio::test]
async fn a_listener_that_says_where_it_was_gets_the_rest_and_then_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let first = core(folder.path()).await;
    let one = first.events().publish(&namespace("a"), oom(1));
    first.events().publish(&namespace("b"), oom(2));
    first.close().await;
    let second = core(folder.path()).await;
    second.events().publish(&namespace("a"), oom(3));
    let mut watcher = second.watch(tasks("x", Some(one))).await.unwrap();
    second.events().publish(&namespace("b"), oom(4));
    assert_eq!(heard(&mut watcher).await, ["2", "3", "4"]);
    let only = Some(BTreeSet::from([namespace("b")]));
    let mut watcher = second.watch(Watch { namespaces: only, ..tasks("x", Some(0)) }).await.unwrap();
    second.events().publish(&namespace("a"), oom(5));
    assert_eq!(heard(&mut watcher).await, ["2", "4"]);
    drop(watcher);
    second.close().await;
}

#[tokio::test]
async fn a_plain_listener_gets_what_happened_while_it_was_cut_off_and_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let first = core(folder.path()).await;
    first.events().publish(&namespace("a"), oom("before"));
    let mut watcher = first.watch(tasks("dockerd", None)).await.unwrap();
    first.events().publish(&namespace("a"), oom("had"));
    assert_eq!(heard(&mut watcher).await, ["had"]);
    first.events().close();
    assert_eq!(watcher.next().await.unwrap_err().kind(), Kind::Unavailable);
    drop(watcher);
    first.events().publish(&namespace("a"), oom("missed"));
    first.close().await;

    let second = core(folder.path()).await;
    second.events().publish(&namespace("a"), oom("early"));
    // Another one that asks for something else gets nothing old.
    let mut other = second.watch(tasks("ctr", None)).await.unwrap();
    let mut watcher = second.watch(tasks("dockerd", None)).await.unwrap();
    second.events().publish(&namespace("a"), oom("live"));
    assert_eq!(heard(&mut watcher).await, ["missed", "early", "live"]);
    assert_eq!(heard(&mut other).await, ["live"]);
    // One more of the same kind is a new one, and one that goes by itself is not waited for.
    let mut twin = second.watch(tasks("dockerd", None)).await.unwrap();
    assert!(heard(&mut twin).await.is_empty());
    drop((watcher, twin, other));
    second.events().publish(&namespace("a"), oom("unheard"));
    let mut again = second.watch(tasks("dockerd", None)).await.unwrap();
    assert!(heard(&mut again).await.is_empty());
    drop(again);
    second.close().await;
}

#[tokio::test]
async fn a_listener_of_a_daemon_that_was_killed_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let first = core(folder.path()).await;
    let mut watcher = first.watch(tasks("dockerd", None)).await.unwrap();
    first.events().publish(&namespace("a"), oom("had"));
    assert_eq!(heard(&mut watcher).await, ["had"]);
    first.events().publish(&namespace("a"), oom("kept"));
    first.events().settle().await.unwrap();
    // As a kill does: the seat is not given up.
    watcher.seat.as_mut().unwrap().keep();
    drop(watcher);
    first.close().await;
    let second = core(folder.path()).await;
    let mut watcher = second.watch(tasks("dockerd", None)).await.unwrap();
    assert_eq!(heard(&mut watcher).await, ["kept"]);
    drop(watcher);
    second.close().await;
}

#[tokio::test]
async fn what_a_shim_tells_again_is_told_once_also_by_the_next_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let exit =
        |at| Event::TaskExit { container: "c".into(), process: "e".into(), pid: 7, status: 1, at: Timestamp(at) };
    let first = core(folder.path()).await;
    let mut watcher = first.watch(tasks("dockerd", None)).await.unwrap();
    for _ in 0..2 {
        first.events().publish_once(&namespace("a"), exit(1), Timestamp::now());
        first.events().publish_once(&namespace("a"), oom("o"), Timestamp(1));
    }
    first.events().settle().await.unwrap();
    assert_eq!(heard(&mut watcher).await, ["c", "o"]);
    watcher.seat.as_mut().unwrap().keep();
    drop(watcher);
    first.close().await;
    let second = core(folder.path()).await;
    // As a shim does that had no answer.
    second.events().publish_once(&namespace("a"), exit(1), Timestamp::now());
    second.events().publish_once(&namespace("a"), oom("o"), Timestamp(1));
    let mut watcher = second.watch(tasks("dockerd", None)).await.unwrap();
    second.events().publish_once(&namespace("a"), exit(2), Timestamp::now());
    assert_eq!(heard(&mut watcher).await, ["c"]);
    drop(watcher);
    second.close().await;
}

#[tokio::test]
async fn a_listener_that_does_not_read_is_cut_off_and_finds_all_of_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let core = core(folder.path()).await;
    let mut slow = core.watch(tasks("slow", None)).await.unwrap();
    for number in 0..=BACKLOG {
        core.events().publish(&namespace("a"), oom(number));
    }
    core.events().settle().await.unwrap();
    assert_eq!(slow.next().await.unwrap_err().kind(), Kind::ResourceExhausted);
    drop(slow);
    let mut again = core.watch(tasks("slow", None)).await.unwrap();
    assert_eq!(heard(&mut again).await.len(), BACKLOG + 1);
    drop(again);
    core.close().await;
}

#[tokio::test]
async fn a_flood_in_one_namespace_reaches_no_listener_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let core = core(folder.path()).await;
    let mut receiver = core.events().subscribe_to(&namespace("k8s.io"));
    core.events().publish(&namespace("k8s.io"), oom("mine"));
    for number in 0..2 * BACKLOG {
        core.events().publish(&namespace("flood"), oom(number));
    }
    core.events().publish(&namespace("k8s.io"), oom("mine too"));
    for expected in ["mine", "mine too"] {
        match receiver.recv().await {
            Some(Received::Event(envelope)) => assert_eq!(container(&envelope), expected),
            other => panic!("{other:?}"),
        }
    }
    core.close().await;
}

#[tokio::test]
async fn the_oldest_go_and_whoever_wants_them_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let core = core(folder.path()).await;
    let first = core.events().publish(&namespace("a"), oom("first"));
    core.events().publish(&namespace("quiet"), oom("stays"));
    for number in 0..journal::KEPT + 600 {
        core.events().publish(&namespace("a"), oom(number));
    }
    core.events().settle().await.unwrap();
    // The batch after the one that made it too much cuts it down.
    core.events().publish(&namespace("a"), oom("last"));
    core.events().settle().await.unwrap();
    let error = core.watch(tasks("x", Some(first))).await.err().unwrap();
    assert_eq!(error.kind(), Kind::OutOfRange);
    let quiet = Some(BTreeSet::from([namespace("quiet")]));
    let mut watcher = core.watch(Watch { namespaces: quiet, ..tasks("x", Some(first)) }).await.unwrap();
    assert_eq!(heard(&mut watcher).await, ["stays"]);
    drop(watcher);
    let kept = core.events().0.journal.after(&namespace("a"), 0, false).unwrap();
    // How many, the sizes of the batches decide.
    assert!(kept.len() <= journal::KEPT + journal::SLACK, "{}", kept.len());
    core.close().await;
}

#[tokio::test]
async fn hints_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(folder.path()).await.unwrap();
    let config = Config { hints: BTreeSet::from([namespace("k8s.io")]) };
    let events = Events::open(&db, config).await.unwrap();
    events.publish(&namespace("k8s.io"), oom(1));
    events.publish(&namespace("moby"), oom(2));
    events.settle().await.unwrap();
    let before = db.metrics();
    for number in 0..100 {
        events.publish(&namespace("k8s.io"), oom(number));
    }
    db.update(Durability::Crash, |_| Ok(())).await.unwrap();
    assert_eq!(db.metrics().writes, before.writes);
    assert_eq!(events.0.journal.namespaces(), [namespace("moby")]);
    assert_eq!(db.metrics().syncs, before.syncs);
    drop(events);
    db.close().await;
}

#[tokio::test]
async fn the_end_of_a_task_that_was_started_again_is_no_news() {
    let folder = tempfile::tempdir().unwrap();
    let core = core(folder.path()).await;
    let id: Id = "c".parse().unwrap();
    let mut watcher = core.watch(tasks("dockerd", None)).await.unwrap();
    watcher.seat.as_mut().unwrap().keep();
    drop(watcher);
    let exit = |pid| Event::TaskExit { container: "c".into(), process: "c".into(), pid, status: 1, at: Timestamp(1) };
    core.events().publish(&namespace("a"), exit(7));
    core.roster().pretend(&namespace("a"), &id, 8);
    let mut watcher = core.watch(tasks("dockerd", None)).await.unwrap();
    core.events().publish(&namespace("a"), exit(8));
    assert_eq!(heard(&mut watcher).await.len(), 1);
    drop(watcher);
    core.close().await;
}
