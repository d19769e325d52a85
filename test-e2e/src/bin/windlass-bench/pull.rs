//! A cold pull of a big image from a registry on the loopback interface.

use std::time::Instant;

use anyhow::Result;
use windlass_test_e2e::image::{Compression, Image, Layer, Recipe, noise};
use windlass_test_e2e::{Flavour, kernel, number};

use crate::table::Table;

/// An image whose eight layers together have about `mib` MiB when packed, and twice that unpacked.
fn big(mib: usize) -> Result<Image> {
    const FILES: usize = 64;
    let mut recipe = Recipe::new();
    for layer in 0..8 {
        recipe = recipe.layer(Layer::write(Compression::Gzip, |writer| {
            for file in 0..FILES {
                // Half of each byte is noise, so that gzip has something to do.
                let mut data = noise((mib << 21) / 8 / FILES, (layer * FILES + file) as u64 + 1);
                data.iter_mut().for_each(|byte| *byte = b'a' + (*byte & 0x0f));
                writer.file(&format!("layer{layer}/file{file}"), 0o644, &data)?;
            }
            Ok(())
        })?);
    }
    recipe.build()
}

/// Measures and prints one table.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let mib = number("BENCH_PULL_MB", 300);
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let image = big(mib)?;
    let packed: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
    let mut table = Table::new(&format!("cold pull, 8 layers, {} MB packed, loopback", packed / 1_000_000), &columns);
    for flavour in flavours {
        let column = crate::name(*flavour);
        let node = crate::node(*flavour).await?;
        let reference = node.registry.push("big", "1", &image)?;
        rustix::fs::sync();
        let cpu = kernel::cgroup_cpu_ms(&node.tag());
        let begin = Instant::now();
        node.cri.pull(&reference).await?;
        table.number("wall", column, begin.elapsed().as_secs_f64(), "s");
        table.number("CPU", column, (kernel::cgroup_cpu_ms(&node.tag()) - cpu) / 1000.0, "s");
        node.cri.remove_everything().await?;
    }
    table.print();
    Ok(())
}
