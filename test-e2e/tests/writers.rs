//! Many clients that write records at once share the flushes of the disk.

use std::time::Duration;

use anyhow::{Result, ensure};
use windlass_test_e2e::flushes::{self, Flushes};
use windlass_test_e2e::writers::{Record, write};
use windlass_test_e2e::{Flavour, Node, Plan};

const CLIENTS: usize = 20;
const EACH: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_share_their_flushes() -> Result<()> {
    let node = Node::start_with(Plan { wrap: flushes::wrap(), ..Plan::default() }).await?;
    for record in Record::ALL {
        let counted = Flushes::since_now(node.dir())?;
        let took = write(&node.setup.socket, record, "w", CLIENTS, EACH).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let flushes = counted.so_far()?.len();
        let each = flushes as f64 / took.len() as f64;
        println!("{}: {} writes, {flushes} flushes, {each:.3} for each", record.name(), took.len());
        if node.setup.flavour == Flavour::Windlass {
            ensure!(each < 0.7, "{each} flushes for each {}", record.name());
            ensure!(flushes > 0, "nothing was flushed");
        }
    }
    node.finish().await
}
