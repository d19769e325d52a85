//! `windlass tasks metrics`: what containers take of the machine, told in the messages of cgroups of both versions.
//!
//! Of `io.containerd.cgroups.v1.Metrics` and `io.containerd.cgroups.v2.Metrics` those fields are read that are shown
//! here; field numbers are those of `cgroup1/stats/metrics.proto` and `cgroup2/stats/metrics.proto`.

use anyhow::Result;
use containerd_client::services::v1::MetricsRequest;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::types::Metric;
use prost::Message;
use serde::Serialize;
use tonic::transport::Channel;

use crate::client::{Daemon, answered};
use crate::human;
use crate::output::{Output, Row};

/// A limit from here on is none.
const UNLIMITED: u64 = i64::MAX as u64 / 4096 * 4096;

/// What a container takes; 0 where the kernel does not say.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Metrics {
    id: String,
    at: i64,
    cpu_nanoseconds: u64,
    memory_bytes: u64,
    memory_limit_bytes: Option<u64>,
    anonymous_bytes: u64,
    page_cache_bytes: u64,
    swap_bytes: u64,
    processes: u64,
    process_limit: Option<u64>,
}

impl Row for Metrics {
    const HEADS: &'static [&'static str] = &["TASK", "CPU", "MEMORY", "LIMIT", "CACHE", "PROCESSES", "LIMIT"];

    fn cells(&self) -> Vec<String> {
        let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "-".into());
        vec![
            self.id.clone(),
            format!("{:.2} s", self.cpu_nanoseconds as f64 / 1e9),
            human::size(self.memory_bytes),
            or_none(self.memory_limit_bytes.map(human::size)),
            human::size(self.page_cache_bytes),
            self.processes.to_string(),
            or_none(self.process_limit.map(|limit| limit.to_string())),
        ]
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Version1 {
    #[prost(message, optional, tag = "2")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "3")]
    cpu: Option<Cpu1>,
    #[prost(message, optional, tag = "4")]
    memory: Option<Memory1>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
    #[prost(uint64, tag = "2")]
    limit: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Cpu1 {
    #[prost(message, optional, tag = "1")]
    usage: Option<CpuUsage1>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CpuUsage1 {
    #[prost(uint64, tag = "1")]
    total: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Memory1 {
    #[prost(uint64, tag = "18")]
    total_cache: u64,
    #[prost(uint64, tag = "19")]
    total_rss: u64,
    #[prost(message, optional, tag = "33")]
    usage: Option<Entry1>,
    #[prost(message, optional, tag = "34")]
    swap: Option<Entry1>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry1 {
    #[prost(uint64, tag = "1")]
    limit: u64,
    #[prost(uint64, tag = "2")]
    usage: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Version2 {
    #[prost(message, optional, tag = "1")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "2")]
    cpu: Option<Cpu2>,
    #[prost(message, optional, tag = "4")]
    memory: Option<Memory2>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Cpu2 {
    #[prost(uint64, tag = "1")]
    usage_usec: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Memory2 {
    #[prost(uint64, tag = "1")]
    anon: u64,
    #[prost(uint64, tag = "2")]
    file: u64,
    #[prost(uint64, tag = "32")]
    usage: u64,
    #[prost(uint64, tag = "33")]
    usage_limit: u64,
    #[prost(uint64, tag = "34")]
    swap_usage: u64,
}

pub(super) async fn run(
    ids: Vec<String>,
    daemon: &Daemon,
    mut client: TasksClient<Channel>,
    output: &Output,
) -> Result<()> {
    let filters = ids.iter().map(|id| format!("id=={id:?}")).collect();
    let answer = client.metrics(daemon.request(MetricsRequest { filters })).await.map_err(answered)?;
    let mut rows = answer.into_inner().metrics.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    // One that was asked for and is not told of is not there.
    if let Some(missing) = ids.iter().find(|id| !rows.iter().any(|row| row.id == **id)) {
        anyhow::bail!("there is no task {missing:?} that runs");
    }
    rows.sort_by(|one, other| one.id.cmp(&other.id));
    output.rows(&rows)
}

fn read(metric: Metric) -> Result<Metrics> {
    let (id, at) = (metric.id, human::nanos(metric.timestamp.as_ref()));
    let Some(data) = metric.data else { return Ok(Metrics { id, at, ..Default::default() }) };
    let limit = |limit: u64| (1..UNLIMITED).contains(&limit).then_some(limit);
    let mut told = Metrics { id, at, ..Default::default() };
    let pids = if data.type_url.ends_with("io.containerd.cgroups.v2.Metrics") {
        let Version2 { pids, cpu, memory } = Version2::decode(data.value.as_slice())?;
        let memory = memory.unwrap_or_default();
        told.cpu_nanoseconds = cpu.unwrap_or_default().usage_usec.saturating_mul(1000);
        told.memory_bytes = memory.usage;
        told.memory_limit_bytes = limit(memory.usage_limit);
        told.anonymous_bytes = memory.anon;
        told.page_cache_bytes = memory.file;
        told.swap_bytes = memory.swap_usage;
        pids
    } else {
        let Version1 { pids, cpu, memory } = Version1::decode(data.value.as_slice())?;
        let memory = memory.unwrap_or_default();
        let usage = memory.usage.unwrap_or_default();
        told.cpu_nanoseconds = cpu.and_then(|cpu| cpu.usage).unwrap_or_default().total;
        told.memory_bytes = usage.usage;
        told.memory_limit_bytes = limit(usage.limit);
        told.anonymous_bytes = memory.total_rss;
        told.page_cache_bytes = memory.total_cache;
        // Version 1 counts memory and swap together.
        told.swap_bytes = memory.swap.unwrap_or_default().usage.saturating_sub(usage.usage);
        pids
    };
    let pids = pids.unwrap_or_default();
    told.processes = pids.current;
    told.process_limit = limit(pids.limit);
    Ok(told)
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    fn metric(name: &str, message: &impl Message) -> Metric {
        let data = Any { type_url: format!("io.containerd.cgroups.{name}.Metrics"), value: message.encode_to_vec() };
        Metric { id: "a".into(), data: Some(data), timestamp: None }
    }

    #[test]
    fn both_versions_tell_the_same() {
        let pids = Some(Pids { current: 3, limit: 9 });
        let one = Version1 {
            pids: pids.clone(),
            cpu: Some(Cpu1 { usage: Some(CpuUsage1 { total: 5_000_000 }) }),
            memory: Some(Memory1 {
                total_cache: 2,
                total_rss: 1,
                usage: Some(Entry1 { limit: UNLIMITED, usage: 100 }),
                swap: Some(Entry1 { limit: UNLIMITED, usage: 107 }),
            }),
        };
        let two = Version2 {
            pids,
            cpu: Some(Cpu2 { usage_usec: 5000 }),
            memory: Some(Memory2 { anon: 1, file: 2, usage: 100, usage_limit: u64::MAX, swap_usage: 7 }),
        };
        let (one, two) = (read(metric("v1", &one)).expect("good"), read(metric("v2", &two)).expect("good"));
        assert_eq!(one, two);
        assert_eq!((one.memory_limit_bytes, one.process_limit, one.swap_bytes), (None, Some(9), 7));
        assert_eq!(one.cells()[1], "0.01 s");
    }

    #[test]
    fn what_is_missing_is_nothing() {
        assert_eq!(read(metric("v2", &Version2::default())).expect("good").processes, 0);
        assert!(read(Metric { data: None, ..Default::default() }).is_ok());
        let broken = Any { type_url: "io.containerd.cgroups.v2.Metrics".into(), value: vec![0xff] };
        assert!(read(Metric { data: Some(broken), ..Default::default() }).is_err());
    }
}
