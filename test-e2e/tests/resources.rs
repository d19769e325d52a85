//! Limits of containers and pods that are changed while they run, before they run, and across a restart of the daemon;
//! read where the kernel keeps them, in cgroups of either version.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tonic::{Code, Request};
use windlass_test_e2e::words::{
    ContainerStatusRequest, HugepageLimit, LinuxContainerResources, PodSandboxStatusRequest,
    UpdateContainerResourcesRequest,
};
use windlass_test_e2e::{Node, Plan, code, cri, eventually, newer};

const MIB: i64 = 1 << 20;

/// A node with `runc` beside the built-in runtime.
async fn node() -> Result<Node> {
    Node::start_with(Plan { handlers: vec![("runc".into(), "/usr/sbin/runc".into())], ..Plan::default() }).await
}

async fn update(node: &Node, id: &str, linux: LinuxContainerResources) -> Result<(), tonic::Status> {
    let request = UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux), ..Default::default() };
    node.cri.runtime().update_container_resources(Request::new(request)).await.map(drop)
}

/// The container's first process.
async fn pid(node: &Node, id: &str) -> Result<u64> {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
    let info = node.cri.runtime().container_status(Request::new(request)).await?.into_inner().info;
    let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
    info["pid"].as_u64().filter(|pid| *pid > 0).context("no pid")
}

/// What the kernel keeps for a process, in a file of version 1 of a controller or of version 2.
fn kept(pid: u64, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>());
    let of_v1 = lines.clone().find(|line| !line[0].is_empty() && line[0].split(',').any(|name| name == controller));
    let file = match of_v1 {
        Some(line) => PathBuf::from(format!("/sys/fs/cgroup/{controller}{}/{v1}", line[1])),
        None => {
            let line = lines.find(|line| line[0].is_empty()).context("no cgroup")?;
            PathBuf::from(format!("/sys/fs/cgroup{}/{v2}", line[1]))
        }
    };
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// Quota and period.
fn time(pid: u64) -> Result<(i64, i64)> {
    if let Ok(quota) = kept(pid, "cpu", "cpu.cfs_quota_us", "no such file") {
        return Ok((quota.parse()?, kept(pid, "cpu", "cpu.cfs_period_us", "")?.parse()?));
    }
    let both = kept(pid, "cpu", "", "cpu.max")?;
    let (quota, period) = both.split_once(' ').context("cpu.max")?;
    Ok((quota.parse().unwrap_or(-1), period.parse()?))
}

fn memory(pid: u64) -> Result<i64> {
    Ok(kept(pid, "memory", "memory.limit_in_bytes", "memory.max")?.parse().unwrap_or(-1))
}

/// Memory and swap together; nothing where the kernel does not count swap.
fn with_swap(pid: u64) -> Option<i64> {
    if let Ok(both) = kept(pid, "memory", "memory.memsw.limit_in_bytes", "no such file") {
        return both.parse().ok();
    }
    let swap: i64 = kept(pid, "memory", "no such file", "memory.swap.max").ok()?.parse().ok()?;
    Some(memory(pid).ok()? + swap)
}

fn first_cpu(pid: u64) -> Result<String> {
    // Not every kernel has the controller.
    let Ok(cpus) = kept(pid, "cpuset", "cpuset.cpus", "cpuset.cpus.effective") else { return Ok(String::new()) };
    Ok(cpus.split([',', '-']).next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_running_container_grow_and_shrink_and_stay_after_a_restart() -> Result<()> {
    let mut node = node().await?;
    let image = node.busybox().await?;
    for handler in ["", "runc"] {
        let config = node.pod(&format!("live{handler}"));
        let pod = node.cri.run_pod_with(&config, handler).await?;
        let mut what = cri::container("main", &image, &["sleep", "1000"]);
        let first = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 64 * MIB,
            oom_score_adj: 500,
            ..Default::default()
        };
        what.linux.as_mut().context("linux")?.resources = Some(first.clone());
        let id = node.add(&pod, &config, what).await?;
        let pid = pid(&node, &id).await?;
        ensure!(time(pid)? == (50_000, 100_000) && memory(pid)? == 64 * MIB, "as made");
        let shares = kept(pid, "cpu", "cpu.shares", "cpu.weight")?;

        // Everything at once, all of it larger; the period shorter, so that the share grows in between.
        let larger = LinuxContainerResources {
            cpu_shares: 2048,
            cpu_quota: 60_000,
            cpu_period: 50_000,
            memory_limit_in_bytes: 128 * MIB,
            cpuset_cpus: first_cpu(pid)?,
            oom_score_adj: 600,
            ..Default::default()
        };
        update(&node, &id, larger.clone()).await?;
        ensure!(time(pid)? == (60_000, 50_000) && memory(pid)? == 128 * MIB, "larger: {:?}", time(pid)?);
        ensure!(kept(pid, "cpu", "cpu.shares", "cpu.weight")? != shares, "the shares are still {shares}");
        if !larger.cpuset_cpus.is_empty() {
            ensure!(kept(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")? == larger.cpuset_cpus, "cpuset");
        }
        ensure!(with_swap(pid).is_none_or(|both| both == 128 * MIB), "swap: {:?}", with_swap(pid));
        ensure!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim() == "600", "oom_score_adj");

        // One limit, smaller; what is not said stays.
        update(&node, &id, LinuxContainerResources { memory_limit_in_bytes: 32 * MIB, ..Default::default() }).await?;
        ensure!(memory(pid)? == 32 * MIB && time(pid)? == (60_000, 50_000), "smaller");
        ensure!(with_swap(pid).is_none_or(|both| both == 32 * MIB), "swap: {:?}", with_swap(pid));
        update(&node, &id, LinuxContainerResources { cpu_quota: -1, ..Default::default() }).await?;
        ensure!(time(pid)?.0 == -1 && memory(pid)? == 32 * MIB, "no quota");

        let expected = LinuxContainerResources { cpu_quota: -1, memory_limit_in_bytes: 32 * MIB, ..larger };
        let told = async |node: &Node| -> Result<LinuxContainerResources> {
            let status = node.cri.container_status(&id).await?;
            status.resources.and_then(|resources| resources.linux).context("no resources")
        };
        ensure!(told(&node).await? == expected, "{:?}", told(&node).await?);
        node.restart().await?;
        ensure!(told(&node).await? == expected, "after a restart: {:?}", told(&node).await?);
        ensure!(memory(pid)? == 32 * MIB, "after a restart");
        node.cri.stop_pod(&pod).await?;
        node.cri.remove_pod(&pod).await?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_run_yet_starts_with_its_new_limits() -> Result<()> {
    let mut node = node().await?;
    let image = node.busybox().await?;
    let config = node.pod("early");
    let pod = node.cri.run_pod(&config).await?;
    let id = node.cri.create(&pod, &cri::container("main", &image, &["sleep", "1000"]), &config).await?;
    let wanted = LinuxContainerResources { memory_limit_in_bytes: 48 * MIB, cpu_quota: 20_000, ..Default::default() };
    update(&node, &id, wanted).await?;
    node.restart().await?;
    node.cri.start(&id).await?;
    let pid = pid(&node, &id).await?;
    ensure!(memory(pid)? == 48 * MIB && time(pid)?.0 == 20_000, "{} {:?}", memory(pid)?, time(pid)?);
    node.cri.stop(&id, 0).await?;
    // One that has ended is only written down, and one that is gone is not found.
    update(&node, &id, LinuxContainerResources { cpu_quota: 30_000, ..Default::default() }).await?;
    node.cri.remove(&id).await?;
    ensure!(code(&update(&node, &id, LinuxContainerResources::default()).await) == Code::NotFound);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_below_what_is_used_is_refused_and_changes_nothing() -> Result<()> {
    let mut node = node().await?;
    let image = node.busybox().await?;
    for handler in ["", "runc"] {
        let config = node.pod(&format!("full{handler}"));
        let pod = node.cri.run_pod_with(&config, handler).await?;
        let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; echo full; sleep 1000";
        let mut what = cri::container("main", &image, &["sh", "-c", script]);
        let limits =
            LinuxContainerResources { memory_limit_in_bytes: 100 * MIB, cpu_shares: 512, ..Default::default() };
        what.linux.as_mut().context("linux")?.resources = Some(limits);
        let id = node.add(&pod, &config, what).await?;
        let name = format!("full{handler}");
        eventually("the memory is used", Duration::from_secs(20), async || {
            node.raw_log(&name, "main.log").iter().any(|line| line.ends_with(" F full")).then_some(())
        })
        .await?;
        let pid = pid(&node, &id).await?;
        let shares = kept(pid, "cpu", "cpu.shares", "cpu.weight")?;
        let wish = LinuxContainerResources { memory_limit_in_bytes: 8 * MIB, cpu_shares: 64, ..Default::default() };
        let refused = update(&node, &id, wish).await.err().context("8 MiB were enough for 40")?;
        ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
        ensure!(refused.message().contains("memory_limit_in_bytes"), "{refused:?}");
        ensure!(memory(pid)? == 100 * MIB, "{handler}: the limit is {}", memory(pid)?);
        ensure!(kept(pid, "cpu", "cpu.shares", "cpu.weight")? == shares, "{handler}: half of it was done");
        let status = node.cri.container_status(&id).await?;
        let told = status.resources.and_then(|resources| resources.linux).context("no resources")?;
        ensure!((told.memory_limit_in_bytes, told.cpu_shares) == (100 * MIB, 512), "{told:?}");
        node.cri.stop_pod(&pod).await?;
        node.cri.remove_pod(&pod).await?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_limits_are_refused_by_name() -> Result<()> {
    let mut node = node().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("wrong"), &image, &["sleep", "1000"]).await?;
    let none = LinuxContainerResources::default;
    let unified = |name: &str| HashMap::from([(name.to_owned(), "1".to_owned())]);
    let page = |size: &str| vec![HugepageLimit { page_size: size.into(), limit: 1 }];
    for (field, wrong) in [
        ("linux.cpu_period", LinuxContainerResources { cpu_period: 10, ..none() }),
        ("linux.cpu_quota", LinuxContainerResources { cpu_quota: 10, ..none() }),
        ("linux.cpu_shares", LinuxContainerResources { cpu_shares: -1, ..none() }),
        ("linux.memory_limit_in_bytes", LinuxContainerResources { memory_limit_in_bytes: -5, ..none() }),
        (
            "linux.memory_swap_limit_in_bytes",
            LinuxContainerResources { memory_limit_in_bytes: 64 * MIB, memory_swap_limit_in_bytes: 32 * MIB, ..none() },
        ),
        ("linux.cpuset_cpus", LinuxContainerResources { cpuset_cpus: "all".into(), ..none() }),
        ("linux.cpuset_mems", LinuxContainerResources { cpuset_mems: "1-".into(), ..none() }),
        ("linux.oom_score_adj", LinuxContainerResources { oom_score_adj: 5000, ..none() }),
        ("linux.unified", LinuxContainerResources { unified: unified("../../cgroup.procs"), ..none() }),
        ("linux.hugepage_limits[0]", LinuxContainerResources { hugepage_limits: page("huge"), ..none() }),
    ] {
        let refused = update(&node, &pod.container, wrong).await.err().context(field)?;
        ensure!(refused.code() == Code::InvalidArgument && refused.message().contains(field), "{field}: {refused:?}");
    }
    let beyond = LinuxContainerResources { cpuset_cpus: "4000".into(), cpu_shares: 99, ..none() };
    let pid = pid(&node, &pod.container).await?;
    let shares = kept(pid, "cpu", "cpu.shares", "cpu.weight")?;
    ensure!(update(&node, &pod.container, beyond).await.is_err(), "processor 4000 is there");
    ensure!(kept(pid, "cpu", "cpu.shares", "cpu.weight")? == shares, "half of it was done");
    let status = node.cri.container_status(&pod.container).await?;
    ensure!(status.resources.and_then(|all| all.linux).is_none_or(|linux| linux.cpuset_cpus.is_empty()));
    let mut what = cri::container("other", &image, &["sleep", "1000"]);
    what.linux.as_mut().context("linux")?.resources = Some(LinuxContainerResources { cpu_quota: 5, ..none() });
    let refused = node.cri.create(&pod.id, &what, &pod.config).await.err().context("a quota of 5 µs")?;
    ensure!(refused.code() == Code::InvalidArgument && refused.message().contains("cpu_quota"), "{refused:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_version_2_reach_the_cgroup_or_are_refused() -> Result<()> {
    let mut node = node().await?;
    let image = node.busybox().await?;
    let config = node.pod("unified");
    let pod = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sleep", "1000"]);
    let wanted = HashMap::from([
        ("memory.high".to_owned(), (60 * MIB).to_string()),
        ("memory.oom.group".to_owned(), "1".to_owned()),
    ]);
    what.linux.as_mut().context("linux")?.resources =
        Some(LinuxContainerResources { unified: wanted, ..Default::default() });
    let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !is_v2 {
        let refused = node.cri.create(&pod, &what, &config).await.err().context("version 2 on version 1")?;
        ensure!(refused.code() == Code::InvalidArgument && refused.message().contains("unified"), "{refused:?}");
        return node.finish().await;
    }
    let id = node.add(&pod, &config, what).await?;
    let pid = pid(&node, &id).await?;
    ensure!(kept(pid, "", "", "memory.high")? == (60 * MIB).to_string(), "memory.high");
    ensure!(kept(pid, "", "", "memory.oom.group")? == "1", "memory.oom.group");
    let change = HashMap::from([("memory.high".to_owned(), "max".to_owned())]);
    update(&node, &id, LinuxContainerResources { unified: change, ..Default::default() }).await?;
    ensure!(kept(pid, "", "", "memory.high")? == "max" && kept(pid, "", "", "memory.oom.group")? == "1");
    let unknown = HashMap::from([("memory.nonsense".to_owned(), "1".to_owned())]);
    let refused = update(&node, &id, LinuxContainerResources { unified: unknown, ..Default::default() }).await;
    ensure!(refused.is_err(), "memory.nonsense");
    node.finish().await
}

/// What a verbose status tells of a pod.
async fn pod_info(node: &Node, pod: &str) -> Result<Value> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: true };
    let info = node.cri.runtime().pod_sandbox_status(Request::new(request)).await?.into_inner().info;
    Ok(serde_json::from_str(info.get("info").context("no info")?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_limits_are_kept_and_where_the_cgroup_is_ours_set() -> Result<()> {
    let mut node = node().await?;
    let image = node.busybox().await?;
    let mut config = node.pod("whole");
    config.linux.as_mut().context("linux")?.cgroup_parent.clear();
    let pod = node.run(config, &image, &["sleep", "1000"]).await?;
    let limits = |memory: i64| newer::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: Some(LinuxContainerResources { memory_limit_in_bytes: 8 * MIB, ..Default::default() }),
        resources: Some(LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() }),
    };
    let ask = async |request: newer::UpdatePodSandboxResourcesRequest| {
        node.cri.newer().ask::<newer::UpdatePodSandboxResourcesRequest>("UpdatePodSandboxResources", &request).await
    };
    ask(limits(120 * MIB)).await?;
    let info = pod_info(&node, &pod.id).await?;
    ensure!(info["resources"]["memoryLimitInBytes"] == 120 * MIB, "{info}");
    ensure!(info["overhead"]["memoryLimitInBytes"] == 8 * MIB, "{info}");
    let parent = info["cgroupParent"].as_str().context("cgroupParent")?.to_owned();
    let places =
        [format!("/sys/fs/cgroup/memory{parent}/memory.limit_in_bytes"), format!("/sys/fs/cgroup{parent}/memory.max")];
    // With systemd's driver a pod without a parent has no cgroup of its own.
    if let Some(limit) = places.iter().find_map(|place| fs::read_to_string(place).ok()) {
        ensure!(limit.trim() == (128 * MIB).to_string(), "{parent}: {limit}");
    }
    let wrong = newer::UpdatePodSandboxResourcesRequest {
        overhead: Some(LinuxContainerResources { cpu_quota: 3, ..Default::default() }),
        ..limits(0)
    };
    let refused = ask(wrong).await.err().context("a quota of 3 µs")?;
    ensure!(refused.code() == Code::InvalidArgument && refused.message().contains("overhead.cpu_quota"), "{refused:?}");
    let unknown = newer::UpdatePodSandboxResourcesRequest { pod_sandbox_id: "unknown".into(), ..limits(0) };
    ensure!(code(&ask(unknown).await) == Code::NotFound);
    node.restart().await?;
    let info = pod_info(&node, &pod.id).await?;
    ensure!(info["resources"]["memoryLimitInBytes"] == 120 * MIB, "after a restart: {info}");
    node.finish().await
}
