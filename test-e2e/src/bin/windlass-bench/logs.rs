//! What it costs to carry two million log lines from a container to its log file.

use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use anyhow::Result;
use windlass_test_e2e::{Flavour, Node, eventually, kernel, number};

use crate::table::Table;

/// CPU of the daemon and of all helpers, without the program that writes.
fn cpu(node: &Node) -> f64 {
    let skip = node.registry.pid();
    let helpers = kernel::processes_of(&node.tag())
        .into_iter()
        .filter(|(pid, _)| *pid != skip && (*pid == node.daemon.pid() || kernel::is_shim(*pid)));
    helpers.map(|(pid, _)| kernel::process_cpu_ms(pid)).sum()
}

fn ends_with_over(path: &std::path::Path) -> bool {
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    let mut tail = Vec::new();
    file.seek(SeekFrom::End(-64)).is_ok() && file.read_to_end(&mut tail).is_ok() && tail.ends_with(b" stdout F over\n")
}

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let lines = number("BENCH_LINES", 2_000_000);
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let mut table = Table::new(&format!("{lines} log lines of 100 bytes"), &columns);
    for flavour in flavours {
        let column = crate::name(*flavour);
        let mut node = crate::node(*flavour).await?;
        let image = node.busybox().await?;
        let line = "0123456789".repeat(10);
        let script =
            format!("while [ ! -e /go ]; do usleep 10000; done; yes {line} | head -n {lines}; echo over; sleep 100000");
        let pod = node.run(node.host_pod("log"), &image, &["sh", "-c", &script]).await?;
        let before = cpu(&node);
        let begin = Instant::now();
        node.cri.output(&pod.container, &["touch", "/go"]).await?;
        let log = node.dir().join("logs/log/main.log");
        eventually("the last line", Duration::from_secs(300), async || ends_with_over(&log).then_some(())).await?;
        let wall = begin.elapsed().as_secs_f64();
        table.number("CPU of daemon and helpers", column, (cpu(&node) - before) / 1000.0, "s");
        table.number("wall", column, wall, "s");
        table.number("log file", column, std::fs::metadata(&log)?.len() as f64 / 1e6, "MB");
        node.finish_measured().await?;
    }
    table.print();
    Ok(())
}
