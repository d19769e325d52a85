//! How long the daemon is away: from the start of its process to its first answer, with pods running.

use anyhow::Result;
use windlass_test_e2e::{Flavour, number};

use crate::table::Table;

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let count = number("BENCH_PODS", 50);
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let mut table = Table::new(&format!("killed and started again with {count} pods, 10 times: p50 / p95"), &columns);
    for flavour in flavours {
        let column = crate::name(*flavour);
        let mut node = crate::node(*flavour).await?;
        let image = node.busybox().await?;
        for n in 0..count {
            node.run(node.host_pod(&format!("p{n}")), &image, &["sleep", "100000"]).await?;
        }
        for _ in 0..10 {
            node.restart().await?;
            table.time("start to first answer", column, node.daemon.first_answer);
            let begin = std::time::Instant::now();
            anyhow::ensure!(
                node.cri.containers(None).await?.len() == count,
                "containers are missing after the restart"
            );
            table.time("and the list of containers", column, begin.elapsed());
        }
        node.finish_measured().await?;
    }
    table.print();
    Ok(())
}
