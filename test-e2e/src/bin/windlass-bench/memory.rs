//! What pods cost in memory: the daemon, the helper processes, and the whole machine.

use std::time::Duration;

use anyhow::Result;
use windlass_test_e2e::{Flavour, Node, kernel, number};

use crate::table::Table;

/// Processes that are there because of pods and are not the pods' own programs.
fn helpers(node: &Node) -> Vec<u32> {
    let own = [node.daemon.pid(), node.registry.pid()];
    let all = kernel::processes_of(&node.tag()).into_iter();
    all.filter(|(pid, command)| !own.contains(pid) && !command.contains("sleep 100000")).map(|(pid, _)| pid).collect()
}

fn pss(pid: u32) -> f64 {
    kernel::memory_kib(pid, "smaps_rollup", "Pss") as f64
}

async fn look(node: &Node, pods: usize, table: &mut Table) -> f64 {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let column = crate::name(node.setup.flavour);
    let available = kernel::available_kib() as f64;
    let daemon = node.daemon.pid();
    let helpers = helpers(node);
    let sum: f64 = helpers.iter().map(|pid| pss(*pid)).sum();
    table.number(
        &format!("daemon Rss, {pods} pods"),
        column,
        kernel::memory_kib(daemon, "status", "VmRSS") as f64 / 1024.0,
        "MB",
    );
    table.number(&format!("daemon Pss, {pods} pods"), column, pss(daemon) / 1024.0, "MB");
    if pods > 0 {
        table.number(&format!("helper processes a pod, {pods} pods"), column, helpers.len() as f64 / pods as f64, "");
        table.number(&format!("helper processes, Pss a pod, {pods} pods"), column, sum / pods as f64, "KiB");
    }
    available
}

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let count = number("BENCH_PODS", 50);
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let mut table = Table::new("memory, host network, one sleeping busybox a pod", &columns);
    for flavour in flavours {
        let mut node = crate::node(*flavour).await?;
        let image = node.busybox().await?;
        look(&node, 0, &mut table).await;
        node.run(node.host_pod("first"), &image, &["sleep", "100000"]).await?;
        let with_one = look(&node, 1, &mut table).await;
        for n in 1..count {
            node.run(node.host_pod(&format!("more-{n}")), &image, &["sleep", "100000"]).await?;
        }
        let with_all = look(&node, count, &mut table).await;
        let each = (with_one - with_all) / (count.max(2) - 1) as f64;
        table.number("one more pod takes from the machine", crate::name(*flavour), each, "KiB");
        node.finish_measured().await?;
    }
    table.print();
    Ok(())
}
