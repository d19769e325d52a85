//! What many clients wait for that write records at once, and how often the disk is flushed for each of their writes.
//!
//! Times are taken on daemons that run freely, of all flavours in turns, so that the disk is as busy for one as for the other;
//! flushes are counted on others under strace.

use std::time::Duration;

use anyhow::Result;
use windlass_test_e2e::flushes::{self, Flushes};
use windlass_test_e2e::writers::{Record, write};
use windlass_test_e2e::{Flavour, Node, Plan, number};

use crate::table::Table;

/// How many records each client writes while flushes are counted.
const COUNTED: usize = 20;
/// How many records each client writes before it is the other daemon's turn.
const TURN: usize = 10;

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let (clients, each) = (number("BENCH_CLIENTS", 20), number("BENCH_WRITES", 100));
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let title = format!("{clients} clients write {each} records each at once: p50 / p95, flushes for each write");
    let mut table = Table::new(&title, &columns);
    let mut nodes = Vec::new();
    for flavour in flavours {
        nodes.push(crate::node(*flavour).await?);
    }
    for record in Record::ALL {
        for turn in 0..each.div_ceil(TURN) {
            for node in &nodes {
                let took = write(&node.setup.socket, record, &format!("t{turn}"), clients, TURN).await?;
                took.into_iter().for_each(|took| table.time(record.name(), crate::name(node.setup.flavour), took));
            }
        }
    }
    for node in nodes {
        node.finish_measured().await?;
    }
    for flavour in flavours {
        let column = crate::name(*flavour);
        let node = Node::start_with(Plan { flavour: *flavour, wrap: flushes::wrap(), ..Plan::default() }).await?;
        for record in Record::ALL {
            let counted = Flushes::since_now(node.dir())?;
            let written = write(&node.setup.socket, record, "counted", clients, COUNTED).await?.len();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let flushes = counted.so_far()?.len() as f64 / written as f64;
            table.number(&format!("flushes for each {}", record.name()), column, flushes, "");
        }
        node.finish_measured().await?;
    }
    table.print();
    Ok(())
}
