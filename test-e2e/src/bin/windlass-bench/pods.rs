//! The time of each CRI call in a pod's life, one pod at a time and ten at once; CPU of a life; pods per second.

use std::time::Instant;

use anyhow::Result;
use futures::stream::{self, StreamExt, TryStreamExt};
use windlass_test_e2e::words::PodSandboxConfig;
use windlass_test_e2e::{Cri, Flavour, Node, cri, kernel, number};

use crate::table::Table;

/// A pod that is up.
struct Up {
    pod: String,
    container: String,
}

/// Times of calls, by the calls' names.
type Laps = Vec<(&'static str, std::time::Duration)>;

fn config(node: &Node, network: &str, name: &str) -> PodSandboxConfig {
    if network == "host" { node.host_pod(name) } else { node.pod(name) }
}

async fn lap<T>(
    laps: &mut Laps,
    name: &'static str,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T> {
    let begin = Instant::now();
    let answer = call.await?;
    laps.push((name, begin.elapsed()));
    Ok(answer)
}

async fn up(client: Cri, config: PodSandboxConfig, image: String) -> Result<(Up, Laps)> {
    let mut laps = Laps::new();
    let pod = lap(&mut laps, "RunPodSandbox", client.run_pod(&config)).await?;
    let mut what = cri::container("main", &image, &["sleep", "100000"]);
    if let (Some(own), Some(pods)) = (
        what.linux
            .as_mut()
            .and_then(|linux| linux.security_context.as_mut())
            .and_then(|context| context.namespace_options.as_mut()),
        config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.as_ref()),
    ) {
        own.network = pods.network;
    }
    let begin = Instant::now();
    let container = lap(&mut laps, "CreateContainer", client.create(&pod, &what, &config)).await?;
    lap(&mut laps, "StartContainer", client.start(&container)).await?;
    laps.push(("CreateContainer + StartContainer", begin.elapsed()));
    Ok((Up { pod, container }, laps))
}

async fn exec(client: Cri, container: String) -> Result<Laps> {
    let mut laps = Laps::new();
    lap(&mut laps, "ExecSync", client.exec(&container, &["true"], 10)).await?;
    Ok(laps)
}

async fn down(client: Cri, up: Up) -> Result<Laps> {
    let mut laps = Laps::new();
    lap(&mut laps, "StopContainer", client.stop(&up.container, 0)).await?;
    lap(&mut laps, "RemoveContainer", client.remove(&up.container)).await?;
    let begin = Instant::now();
    lap(&mut laps, "StopPodSandbox", client.stop_pod(&up.pod)).await?;
    lap(&mut laps, "RemovePodSandbox", client.remove_pod(&up.pod)).await?;
    laps.push(("StopPodSandbox + RemovePodSandbox", begin.elapsed()));
    Ok(laps)
}

fn note(table: &mut Table, column: &str, laps: Laps) {
    laps.into_iter().for_each(|(name, took)| table.time(name, column, took));
}

/// One pod after the other, of each network in turn: what the machine does meanwhile, and what it remembers of pods before, is
/// the same for all.
async fn one_at_a_time(node: &Node, image: &str, networks: &[&str], count: usize, tables: &mut [Table]) -> Result<()> {
    let column = crate::name(node.setup.flavour);
    let mut cpu = vec![0.0; networks.len()];
    for n in 0..=count {
        for (at, network) in networks.iter().enumerate() {
            let before = kernel::cgroup_cpu_ms(&node.tag());
            let config = config(node, network, &format!("one-{network}-{n}"));
            let (up, mut laps) = up(node.cri.clone(), config, image.to_owned()).await?;
            laps.extend(exec(node.cri.clone(), up.container.clone()).await?);
            laps.extend(down(node.cri.clone(), up).await?);
            // The first pod warms caches and is not counted.
            if n > 0 {
                cpu[at] += kernel::cgroup_cpu_ms(&node.tag()) - before;
                note(&mut tables[2 * at], column, laps);
            }
        }
    }
    for (at, spent) in cpu.into_iter().enumerate() {
        tables[2 * at].number("CPU of a pod's whole life", column, spent / count as f64, "ms");
    }
    Ok(())
}

async fn ten_at_once(node: &Node, image: &str, network: &str, count: usize, table: &mut Table) -> Result<()> {
    let column = crate::name(node.setup.flavour);
    let configs: Vec<_> = (0..count).map(|n| config(node, network, &format!("ten-{network}-{n}"))).collect();
    let begin = Instant::now();
    let going_up = configs.into_iter().map(|config| up(node.cri.clone(), config, image.to_owned()));
    let ups: Vec<(Up, Laps)> = stream::iter(going_up).buffer_unordered(10).try_collect().await?;
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    let mut pods = Vec::new();
    for (up, laps) in ups {
        note(table, column, laps);
        pods.push(up);
    }
    let execs = pods.iter().map(|up| exec(node.cri.clone(), up.container.clone()));
    let execs: Vec<Laps> = stream::iter(execs).buffer_unordered(10).try_collect().await?;
    execs.into_iter().for_each(|laps| note(table, column, laps));
    let begin = Instant::now();
    let downs = pods.into_iter().map(|up| down(node.cri.clone(), up));
    let downs: Vec<Laps> = stream::iter(downs).buffer_unordered(10).try_collect().await?;
    let down_rate = count as f64 / begin.elapsed().as_secs_f64();
    downs.into_iter().for_each(|laps| note(table, column, laps));
    table.number("pods up per second", column, rate, "/s");
    table.number("pods down per second", column, down_rate, "/s");
    Ok(())
}

/// Measures and prints four tables: host network and CNI, one at a time and ten at once.
pub async fn measure(flavours: &[Flavour]) -> Result<()> {
    let count = number("BENCH_PODS", 50);
    let columns: Vec<_> = flavours.iter().map(|flavour| crate::name(*flavour)).collect();
    let title = |network: &str, how: &str| format!("{count} pods, {network}, {how}: p50 / p95");
    let networks = [("host", "host network"), ("cni", "CNI bridge + portmap")];
    let mut tables: Vec<Table> = Vec::new();
    for (_, network) in networks {
        tables.push(Table::new(&title(network, "one at a time"), &columns));
        tables.push(Table::new(&title(network, "10 in parallel"), &columns));
    }
    for flavour in flavours {
        let mut node = crate::node(*flavour).await?;
        let image = node.busybox().await?;
        one_at_a_time(&node, &image, &networks.map(|(network, _)| network), count, &mut tables).await?;
        for (at, (network, _)) in networks.iter().enumerate() {
            ten_at_once(&node, &image, network, count, &mut tables[2 * at + 1]).await?;
        }
        node.finish_measured().await?;
    }
    tables.iter().for_each(Table::print);
    Ok(())
}
