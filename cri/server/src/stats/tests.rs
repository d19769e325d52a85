//! A pass over folders that look like cgroups, one of which never answers.

use std::fs;
use std::path::Path;

use super::*;

fn stats_on(root: &Path) -> Stats {
    let stats = Stats::default();
    stats.layout.set(Layout::V2(root.into())).unwrap();
    stats
}

fn target(name: &str) -> Target {
    Target { id: name.parse().unwrap(), cgroup: format!("/{name}"), began: None, init: 0, network: None }
}

fn cgroup(root: &Path, name: &str, micros: u64) {
    fs::create_dir_all(root.join(name)).unwrap();
    fs::write(root.join(name).join("cpu.stat"), format!("usage_usec {micros}\n")).unwrap();
    fs::write(root.join(name).join("cgroup.procs"), "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_ask_at_once_share_a_pass() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..40 {
        cgroup(root.path(), &format!("c{number}"), number);
    }
    let stats = stats_on(root.path());
    let targets: Vec<_> = (0..41).map(|number| target(&format!("c{number}"))).collect();
    let first = stats.read(targets.clone(), Depth::Usage).await.unwrap();
    assert_eq!(first.len(), 40, "the one without a cgroup is left out");
    assert_eq!(first["c7"].usage.cpu_nanos, 7000);
    cgroup(root.path(), "c7", 8);
    let again = stats.read(targets.clone(), Depth::Usage).await.unwrap();
    assert!(Arc::ptr_eq(&first["c7"], &again["c7"]), "a fresh reading is shared");
    let deep = stats.read(vec![target("c7")], Depth::Everything).await.unwrap();
    assert_eq!((deep["c7"].usage.cpu_nanos, deep["c7"].more.is_some()), (8000, true));
    stats.keep(&HashSet::from(["c7".parse().unwrap()]));
    assert_eq!(stats.readings.0.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_answers_delays_the_others_once_and_little() {
    let root = tempfile::tempdir().unwrap();
    for name in ["good1", "good2"] {
        cgroup(root.path(), name, 1);
    }
    // To open a pipe that nobody writes to takes for ever.
    let hung: Vec<String> = (0..6).map(|number| format!("hung{number}")).collect();
    for name in &hung {
        fs::create_dir_all(root.path().join(name)).unwrap();
        let made = std::process::Command::new("mkfifo").arg(root.path().join(name).join("cpu.stat")).status();
        assert!(made.unwrap().success());
    }
    let stats = stats_on(root.path());
    let mut targets: Vec<_> = hung.iter().map(|name| target(name)).collect();
    targets.extend([target("good1"), target("good2")]);
    let read = stats.read(targets.clone(), Depth::Usage).await.unwrap();
    assert_eq!(read.len(), 2, "{:?}", read.keys());
    cgroup(root.path(), "good1", 2);
    tokio::time::sleep(FRESH).await;
    let again = stats.read(targets, Depth::Usage).await.unwrap();
    assert_eq!(again["good1"].usage.cpu_nanos, 2000);
    // Lets the readers go.
    for name in &hung {
        fs::OpenOptions::new().write(true).open(root.path().join(name).join("cpu.stat")).unwrap();
    }
}
