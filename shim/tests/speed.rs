//! What the shim costs; run by hand: `cargo nextest run -p windlass-shim --test speed --run-ignored all --no-capture`.

#![allow(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

mod rig;

use std::fs;
use std::time::{Duration, Instant};

use rig::Rig;
use windlass_wire::extension::PodOptions;

fn middle(name: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{name}: p50 {:?} p95 {:?}", times[times.len() / 2], times[times.len() * 95 / 100]);
}

/// User and system time of a process, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn pss(pid: u32) -> String {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let wanted =
        |line: &&str| ["Pss:", "Rss:", "Private_Dirty:", "Pss_Dirty:"].iter().any(|name| line.starts_with(name));
    rollup
        .lines()
        .filter(wanted)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn containers_and_execs() {
    let rig = Rig::new("speed").await;
    let begun = Instant::now();
    rig.boot(PodOptions {
        new_ipc: true,
        new_uts: true,
        cgroup: format!("{}/pod", rig.cgroup),
        shm_bytes: 1 << 20,
        ..Default::default()
    })
    .await;
    println!("boot: {:?}", begun.elapsed());
    println!("idle: {}", pss(rig.shim_pid()));
    let (mut creates, mut starts, mut execs, mut deletes, mut kills) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..20 {
        let id = format!("c{round}");
        rig.bundle(&id, "exec sleep 1000", false);
        let request = rig.request(&id, false);
        let begun = Instant::now();
        rig.task.create(rig::soon(), &request).await.unwrap();
        creates.push(begun.elapsed());
        let begun = Instant::now();
        rig.start(&id, "").await.unwrap();
        starts.push(begun.elapsed());
        for exec in 0..3 {
            let begun = Instant::now();
            rig.exec(&id, &format!("e{exec}"), "exit 0", false).await.unwrap();
            execs.push(begun.elapsed());
        }
        let begun = Instant::now();
        rig.kill(&id, 9).await.unwrap();
        rig.wait(&id, "").await.unwrap();
        kills.push(begun.elapsed());
        let begun = Instant::now();
        rig.delete(&id, "").await.unwrap();
        deletes.push(begun.elapsed());
    }
    middle("create", creates);
    middle("start", starts);
    middle("exec (mkfifo to delete)", execs);
    middle("kill and wait", kills);
    middle("delete", deletes);
    println!("after: {}", pss(rig.shim_pid()));
    println!("cpu of the shim: {} s", cpu(rig.shim_pid()));
    rig.stop().await;
    let begun = Instant::now();
    rig.shutdown().await;
    println!("shutdown: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn pods() {
    let (mut starts, mut boots, mut ends) = (vec![], vec![], vec![]);
    let mut rigs = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        let rig = Rig::new("pods").await;
        starts.push(begun.elapsed());
        let cgroup = format!("{}/pod", rig.cgroup);
        let begun = Instant::now();
        rig.boot(PodOptions { new_ipc: true, new_uts: true, cgroup, shm_bytes: 1 << 20, ..Default::default() }).await;
        boots.push(begun.elapsed());
        rigs.push(rig);
    }
    middle("start", starts);
    middle("create and start of the sandbox", boots);
    println!("one of 50: {}", pss(rigs[10].shim_pid()));
    rigs[10].run("c", "exec sleep 1000").await;
    rigs[10].exec("c", "e", "exit 0", false).await.unwrap();
    println!("one of 50 with a container: {}", pss(rigs[10].shim_pid()));
    for rig in &rigs {
        let begun = Instant::now();
        rig.stop().await;
        rig.shutdown().await;
        ends.push(begun.elapsed());
    }
    middle("stop and shutdown", ends);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn two_million_lines() {
    let rig = Rig::new("lines").await;
    let line = "x".repeat(139);
    let begun = Instant::now();
    rig.run("c", &format!("yes {line} | head -n 2000000")).await;
    rig.wait("c", "").await.unwrap();
    let pid = rig.shim_pid();
    println!("280 MB: {:?}, cpu {} s, {}", begun.elapsed(), cpu(pid), pss(pid));
    let log = fs::read(rig.dir.join("c.log")).unwrap();
    assert_eq!(log.iter().filter(|byte| **byte == b'\n').count(), 2_000_000);
    fs::remove_file(rig.dir.join("c.log")).unwrap();
    let before = cpu(pid);
    let begun = Instant::now();
    // A write for each line.
    rig.run("d", &format!("i=0; while [ $i -lt 300000 ]; do echo {line}; i=$((i+1)); done")).await;
    rig.wait("d", "").await.unwrap();
    println!("300000 single lines: {:?}, cpu {} s, {}", begun.elapsed(), cpu(pid) - before, pss(pid));
}
