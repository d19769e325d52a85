//! The benchmark: the same pods on Windlass and on containerd, one after the other, and one table for both.

mod exec;
mod logs;
mod memory;
mod metadata;
mod pods;
mod pull;
mod restart;
mod stats;
mod table;
mod tenants;

use anyhow::{Result, bail};
use windlass_test_e2e::{Flavour, Node, Plan};

/// Every benchmark.
const ALL: [&str; 9] = ["pods", "memory", "logs", "pull", "restart", "exec", "stats", "tenants", "metadata"];

/// The daemons to measure, as `BENCH_RUNTIMES` names them; by default all that are installed.
fn flavours() -> Vec<Flavour> {
    let wanted = std::env::var("BENCH_RUNTIMES").unwrap_or_else(|_| "windlass containerd".to_owned());
    let mut found = Vec::new();
    for word in wanted.split_whitespace() {
        match word {
            "windlass" => found.push(Flavour::Windlass),
            "containerd" if std::path::Path::new("/usr/bin/containerd").exists() => found.push(Flavour::Containerd),
            other => eprintln!("{other}: not installed, not measured"),
        }
    }
    found
}

/// A node whose daemon lives in a cgroup beside those of its pods, so that the CPU time of all can be read in one place.
pub async fn node(flavour: Flavour) -> Result<Node> {
    let script = "for root in /sys/fs/cgroup/cpuacct /sys/fs/cgroup; do \
                  mkdir -p $root/{tag}/daemon 2>/dev/null && echo $$ > $root/{tag}/daemon/cgroup.procs && break; done; exec \"$@\"";
    let wrap = ["sh", "-c", script, "sh"].iter().map(|word| (*word).to_owned()).collect();
    Node::start_with(Plan { flavour, wrap, ..Plan::default() }).await
}

/// How the table calls a daemon.
pub fn name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Windlass => "windlass",
        Flavour::Containerd => "containerd+runc",
    }
}

fn describe_machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "kernel {}, {cpus} x {}",
        read("/proc/sys/kernel/osrelease").trim(),
        model.trim_start_matches([':', ' ', '\t'])
    );
    println!("load {} (only a quiet machine gives numbers worth keeping)", read("/proc/loadavg").trim());
    for (command, argument) in [("containerd", "--version"), ("runc", "--version")] {
        if let Ok(output) = std::process::Command::new(command).arg(argument).output() {
            println!("{}", String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default());
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        wanted = vec!["pods".to_owned(), "memory".to_owned()];
    }
    if wanted.iter().any(|word| word == "all") {
        wanted = ALL.map(str::to_owned).to_vec();
    }
    describe_machine();
    let flavours = flavours();
    for word in wanted {
        match word.as_str() {
            "pods" => pods::measure(&flavours).await?,
            "memory" => memory::measure(&flavours).await?,
            "logs" => logs::measure(&flavours).await?,
            "pull" => pull::measure(&flavours).await?,
            "restart" => restart::measure(&flavours).await?,
            "exec" => exec::measure(&flavours).await?,
            "stats" => stats::measure(&flavours).await?,
            "tenants" => tenants::measure(&flavours).await?,
            "metadata" => metadata::measure(&flavours).await?,
            other => bail!("no such benchmark: {other} (one of {}, or all)", ALL.join(", ")),
        }
    }
    Ok(())
}
