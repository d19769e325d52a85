//! The time of many execs, with and without streams, and what the daemon and the shim hold before and after them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use windlass_test_e2e::{Flavour, Node, channels, kernel, number};

use crate::table::Table;

/// What processes hold.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    descriptors: usize,
    threads: usize,
    pss_kib: u64,
}

impl Held {
    fn of(pids: &[u32]) -> Self {
        pids.iter().fold(Self::default(), |sum, pid| Self {
            descriptors: sum.descriptors + kernel::descriptors(*pid).len(),
            threads: sum.threads + std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count),
            pss_kib: sum.pss_kib + kernel::memory_kib(*pid, "smaps_rollup", "Pss"),
        })
    }

    fn note(self, table: &mut Table, who: &str, when: &str, column: &str) {
        table.number(&format!("{who}: descriptors {when}"), column, self.descriptors as f64, "");
        table.number(&format!("{who}: threads {when}"), column, self.threads as f64, "");
        table.number(&format!("{who}: Pss {when}"), column, self.pss_kib as f64, "KiB");
    }
}

/// Looks at the daemon and at the shim, when they have come to rest.
async fn look(node: &Node, when: &str, table: &mut Table) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let column = crate::name(node.setup.flavour);
    let all = kernel::processes_of(&node.tag()).into_iter();
    let shims: Vec<u32> = all.map(|(pid, _)| pid).filter(|pid| kernel::is_shim(*pid)).collect();
    Held::of(&[node.daemon.pid()]).note(table, "daemon", when, column);
    Held::of(&shims).note(table, "shim", when, column);
}

async fn measure_one(flavour: Flavour, execs: usize, streams: usize, table: &mut Table) -> Result<()> {
    let column = crate::name(flavour);
    let mut node = crate::node(flavour).await?;
    let image = node.busybox().await?;
    let pod = node.run(node.host_pod("execs"), &image, &["sleep", "100000"]).await?;
    for _ in 0..50 {
        node.cri.exec(&pod.container, &["true"], 10).await?;
        channels::exec(&node.cri, &pod.container, &["true"], "oe").await?.finish().await?;
    }
    look(&node, "before", table).await;
    for _ in 0..execs {
        let begin = Instant::now();
        let answer = node.cri.exec(&pod.container, &["echo", "hello"], 10).await?;
        table.time("ExecSync", column, begin.elapsed());
        ensure!(answer.exit_code == 0 && answer.stdout == b"hello\n", "{answer:?}");
    }
    look(&node, &format!("after {execs} ExecSync"), table).await;
    for _ in 0..streams {
        let begin = Instant::now();
        let session = channels::exec(&node.cri, &pod.container, &["echo", "hello"], "oe").await?;
        let ended = session.finish().await?;
        table.time("Exec over WebSocket, to its status", column, begin.elapsed());
        ensure!(ended.code() == Some(0) && ended.stdout == b"hello\n", "{ended:?}");
    }
    look(&node, &format!("after {streams} streams"), table).await;
    node.finish_measured().await
}

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let (execs, streams) = (number("BENCH_EXECS", 10_000), number("BENCH_STREAMS", 1000));
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let title = format!("{execs} ExecSync and {streams} streaming execs in one container, one at a time: p50 / p95");
    let mut table = Table::new(&title, &columns);
    for flavour in flavours {
        measure_one(*flavour, execs, streams, &mut table).await?;
    }
    table.print();
    Ok(())
}
