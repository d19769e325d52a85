//! What pods and containers use: processors, memory, disk, network, pressure; metrics; and that nobody who hangs delays it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;
use windlass_test_e2e::newer::{ContainerStats, One};
use windlass_test_e2e::words::{
    ContainerStatsFilter, ContainerStatsRequest, ImageFsInfoRequest, ListContainerStatsRequest,
    ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest, ListPodSandboxStatsRequest, Metric, PodSandboxStats,
    PodSandboxStatsRequest, UInt64Value,
};
use windlass_test_e2e::{Node, code, cri, eventually, kernel};

/// Long enough for a layer to be measured anew on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(value: &Option<UInt64Value>) -> u64 {
    value.as_ref().map_or(0, |value| value.value)
}

async fn stats(node: &Node, container: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: container.to_owned() };
    let answer: One<ContainerStats> = node.cri.newer().ask("ContainerStats", &request).await?;
    answer.item.context("no stats")
}

async fn pod_stats(node: &Node, pod: &str) -> Result<PodSandboxStats, tonic::Status> {
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.to_owned() };
    let answer = node.cri.runtime().pod_sandbox_stats(request).await?.into_inner();
    answer.stats.ok_or_else(|| tonic::Status::data_loss("no stats"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_shows_what_it_uses() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.host_pod("uses");
    let pod = node.cri.run_pod(&config).await?;
    let script =
        "head -c 8388608 /dev/zero > /written; head -c 16777216 /dev/zero > /dev/shm/held; while :; do :; done";
    let mut what = cri::container("burns", &image, &["sh", "-c", script]);
    what.labels.insert("colour".to_owned(), "red".to_owned());
    if let Some(resources) = what.linux.as_mut().and_then(|linux| linux.resources.as_mut()) {
        resources.memory_limit_in_bytes = 256 << 20;
    }
    let burns = node.add(&pod, &config, what).await?;
    let sleeps = node.add(&pod, &config, cri::container("sleeps", &image, &["sleep", "100000"])).await?;

    let used = eventually("the processor time is seen", PATIENCE, async || {
        let used = stats(&node, &burns).await.ok()?;
        (number(&used.cpu?.usage_nano_cores) > 50_000_000).then_some(used)
    })
    .await?;
    let (cpu, attributes) = (used.cpu.context("no cpu")?, used.attributes.context("no attributes")?);
    ensure!(attributes.id == burns && attributes.metadata.context("no metadata")?.name == "burns");
    ensure!(attributes.labels.get("colour").map(String::as_str) == Some("red"));
    ensure!(cpu.timestamp > 0 && number(&cpu.usage_core_nano_seconds) > 0);
    let later = eventually("the processor time grows", PATIENCE, async || {
        let cpu = stats(&node, &burns).await.ok()?.cpu?;
        (number(&cpu.usage_core_nano_seconds) > number(&used.cpu?.usage_core_nano_seconds)).then_some(cpu)
    })
    .await?;
    ensure!(later.timestamp > cpu.timestamp, "the same moment with another value");

    let memory = eventually("the memory is seen", PATIENCE, async || {
        let memory = stats(&node, &burns).await.ok()?.memory?;
        (number(&memory.working_set_bytes) >= 16 << 20).then_some(memory)
    })
    .await?;
    let working_set = number(&memory.working_set_bytes);
    ensure!(working_set <= number(&memory.usage_bytes), "working set {working_set}");
    let available = number(&memory.available_bytes);
    ensure!(available + working_set == 256 << 20, "{available} available beside {working_set}");
    ensure!(number(&memory.page_faults) > 0 && number(&memory.rss_bytes) < 16 << 20);

    let layer = eventually("what it wrote is seen", PATIENCE, async || {
        let layer = stats(&node, &burns).await.ok()?.writable_layer?;
        (number(&layer.used_bytes) >= 8 << 20).then_some(layer)
    })
    .await?;
    ensure!(number(&layer.used_bytes) < 16 << 20 && number(&layer.inodes_used) > 0 && layer.timestamp > 0);
    let quiet = stats(&node, &sleeps).await?;
    ensure!(number(&quiet.writable_layer.context("no layer")?.used_bytes) < 1 << 20, "the layer of another");
    ensure!(number(&quiet.cpu.context("no cpu")?.usage_nano_cores) < 50_000_000, "the processor time of another");

    // Images and what containers wrote are told apart, on the file system that the layers name.
    let request = ImageFsInfoRequest {};
    let info = node.cri.image_service().image_fs_info(request).await?.into_inner();
    let images = info.image_filesystems.first().context("no file system of images")?;
    ensure!(images.fs_id == layer.fs_id, "{info:?}");
    // Version 1.6 of the reference does not tell them apart.
    if !node.is_reference() {
        let containers = info.container_filesystems.first().context("no file system of containers")?;
        ensure!(containers.fs_id == layer.fs_id, "{info:?}");
        ensure!(number(&containers.used_bytes) >= 8 << 20 && number(&containers.inodes_used) > 0, "{containers:?}");
        ensure!(number(&images.used_bytes) < 8 << 20, "what a container wrote counts as an image: {images:?}");
    }
    ensure!(number(&images.used_bytes) > 1 << 20 && number(&images.inodes_used) > 1, "{images:?}");

    // The kernel tells of pressure with version 2 alone.
    let psi = later.psi.is_some();
    let told = Path::new("/sys/fs/cgroup/cgroup.controllers").exists() && Path::new("/proc/pressure/cpu").exists();
    ensure!(node.is_reference() || psi == told, "pressure: {psi}, by the kernel {told}");
    if let Some(some) = later.psi.and_then(|psi| psi.some) {
        ensure!((0.0..=100.0).contains(&some.avg10), "{some:?}");
    }

    // Of one that has ended there is what it wrote, and nothing that is running.
    node.cri.stop(&burns, 0).await?;
    let request = ListContainerStatsRequest {
        filter: Some(ContainerStatsFilter { pod_sandbox_id: pod.clone(), ..Default::default() }),
    };
    let listed = node.cri.runtime().list_container_stats(request).await?.into_inner().stats;
    ensure!(listed.len() == 2, "{} containers", listed.len());
    let ended = listed.iter().find(|one| one.attributes.as_ref().is_some_and(|attributes| attributes.id == burns));
    let ended = ended.context("the ended container is not listed")?;
    ensure!(
        ended.cpu.is_none()
            && ended.memory.is_none()
            && number(&ended.writable_layer.clone().context("no layer")?.used_bytes) > 0
    );
    let missing = node.cri.runtime().container_stats(ContainerStatsRequest { container_id: "none".to_owned() }).await;
    ensure!(code(&missing) == Code::NotFound);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_shows_its_network_and_its_containers() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("version 1.6 tells less of a pod") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let config = node.pod("talks");
    let pod = node.cri.run_pod(&config).await?;
    let gateway = format!("{}1", node.cni.prefix);
    let script = format!("while :; do ping -c 1 -W 1 -s 1000 {gateway} >/dev/null; sleep 0.2; done");
    let talks = node.add(&pod, &config, cri::container("talks", &image, &["sh", "-c", &script])).await?;
    let quiet = node.run(node.host_pod("quiet"), &image, &["sleep", "100000"]).await?;

    let first = pod_stats(&node, &pod).await?.linux.context("not of Linux")?;
    let sent = |network: &Option<windlass_test_e2e::words::NetworkUsage>| {
        network.as_ref().and_then(|network| network.default_interface.as_ref()).map(|link| number(&link.tx_bytes))
    };
    let before = sent(&first.network).context("no network")?;
    let used = eventually("bytes are sent", PATIENCE, async || {
        let used = pod_stats(&node, &pod).await.ok()?;
        (sent(&used.linux.as_ref()?.network)? >= before + 2000).then_some(used)
    })
    .await?;
    let attributes = used.attributes.context("no attributes")?;
    ensure!(attributes.id == pod && attributes.metadata == config.metadata && attributes.labels == config.labels);
    let linux = used.linux.context("not of Linux")?;
    let network = linux.network.context("no network")?;
    let default = network.default_interface.context("no default interface")?;
    ensure!(default.name == "eth0" && network.timestamp > 0);
    ensure!(
        network.interfaces.iter().any(|link| link.name == "eth0")
            && network.interfaces.iter().all(|link| link.name != "lo")
    );
    ensure!(number(&default.rx_errors) == 0 && number(&default.tx_errors) == 0);
    ensure!(number(&linux.process.context("no processes")?.process_count) >= 1);
    ensure!(linux.containers.len() == 1 && linux.containers[0].attributes.as_ref().is_some_and(|one| one.id == talks));
    let (whole, part) = (linux.cpu.context("no cpu")?, linux.containers[0].cpu.context("no cpu")?);
    ensure!(number(&whole.usage_core_nano_seconds) >= number(&part.usage_core_nano_seconds) / 2, "{whole:?} {part:?}");
    ensure!(number(&linux.memory.context("no memory")?.usage_bytes) > 0);

    let host = pod_stats(&node, &quiet.id).await?.linux.context("not of Linux")?;
    ensure!(host.network.is_none(), "the host's network is not the pod's: {:?}", host.network);

    let list = async || {
        let request = ListPodSandboxStatsRequest { filter: None };
        let stats = node.cri.runtime().list_pod_sandbox_stats(request).await?.into_inner().stats;
        let ids = stats.into_iter().filter_map(|one| one.attributes).map(|attributes| attributes.id);
        Ok::<_, tonic::Status>(ids.collect::<BTreeSet<_>>())
    };
    ensure!(list().await? == BTreeSet::from([pod.clone(), quiet.id.clone()]));
    // A pod that is down has nothing to tell, and takes the others' nothing away.
    node.cri.stop_pod(&pod).await?;
    ensure!(code(&pod_stats(&node, &pod).await) == Code::Unavailable);
    ensure!(list().await? == BTreeSet::from([quiet.id.clone()]));
    ensure!(code(&pod_stats(&node, "none").await) == Code::NotFound);
    node.finish().await
}

/// Stops or lets go on all processes of a container, as `docker pause` does.
fn freeze(node: &Node, container: &str, frozen: bool) -> Result<()> {
    let ours = kernel::cgroups_below(&node.tag()).into_iter().filter(|path| path.to_string_lossy().contains(container));
    for folder in ours {
        for (file, word) in [
            ("freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
            ("cgroup.freeze", if frozen { "1" } else { "0" }),
        ] {
            if folder.join(file).exists() {
                std::fs::write(folder.join(file), word)?;
                return Ok(());
            }
        }
    }
    anyhow::bail!("container {container} has no freezer")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_does_not_delay_the_others() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it asks every shim, and waits for each") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let mut pods = Vec::new();
    for number in 0..4 {
        pods.push(node.run(node.pod(&format!("p{number}")), &image, &["sleep", "100000"]).await?);
    }
    // One container is frozen, the shim of another pod does not answer, and a third shim is dead.
    freeze(&node, &pods[0].container, true)?;
    let shim_of = |pod: &str| -> Result<Pid> {
        let bundle = node.dir().join("state/bundles/k8s.io").join(pod);
        Ok(Pid::from_raw(std::fs::read_to_string(bundle.join("shim.pid"))?.trim().parse()?))
    };
    let stuck = shim_of(&pods[1].id)?;
    kill(stuck, Signal::SIGSTOP)?;
    kill(shim_of(&pods[2].id)?, Signal::SIGKILL)?;

    let mut runtime = node.cri.runtime();
    for _ in 0..3 {
        let listed = runtime.list_container_stats(ListContainerStatsRequest { filter: None }).await?.into_inner().stats;
        let told: HashSet<_> = listed
            .iter()
            .filter(|one| one.cpu.as_ref().is_some_and(|cpu| number(&cpu.usage_core_nano_seconds) > 0))
            .filter_map(|one| one.attributes.as_ref().map(|attributes| attributes.id.clone()))
            .collect();
        for at in [0, 1, 3] {
            ensure!(told.contains(&pods[at].container), "container {at} is not told of");
        }
        let listed =
            runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter: None }).await?.into_inner().stats;
        let told: HashSet<_> = listed
            .iter()
            .filter(|one| one.linux.as_ref().is_some_and(|linux| linux.network.is_some()))
            .filter_map(|one| one.attributes.as_ref().map(|attributes| attributes.id.clone()))
            .collect();
        for at in [0, 1, 3] {
            ensure!(told.contains(&pods[at].id), "pod {at} is not told of");
        }
        let metrics = runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await?.into_inner().pod_metrics;
        ensure!(metrics.len() >= 3, "metrics of {} pods", metrics.len());
    }
    kill(stuck, Signal::SIGCONT)?;
    freeze(&node, &pods[0].container, false)?;
    // While the engine makes sure that a shim is dead it answers nothing else about its pod; the kubelet asks again.
    eventually("the pod of the dead shim stops", PATIENCE, async || node.cri.stop_pod(&pods[2].id).await.ok()).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_whole_and_agree_with_their_descriptors() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("version 1.6 has no metrics over the CRI") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let config = node.pod("metrics");
    let pod = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sh", "-c", "head -c 4096 /dev/zero > /written; sleep 100000"]);
    if let Some(resources) = what.linux.as_mut().and_then(|linux| linux.resources.as_mut()) {
        (resources.cpu_period, resources.cpu_quota, resources.cpu_shares) = (100_000, 50_000, 512);
        resources.memory_limit_in_bytes = 64 << 20;
    }
    let container = node.add(&pod, &config, what).await?;
    let ended = node.add(&pod, &config, cri::container("ended", &image, &["true"])).await?;
    node.exited(&ended).await?;

    let mut runtime = node.cri.runtime();
    let descriptors = runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await?.into_inner().descriptors;
    let keys: BTreeMap<_, _> = descriptors.iter().map(|one| (one.name.clone(), one.label_keys.clone())).collect();
    ensure!(keys.len() == descriptors.len() && keys.len() == 56, "{} families", keys.len());
    ensure!(descriptors.iter().all(|one| !one.help.is_empty() && !one.label_keys.is_empty()));

    // What it wrote is measured soon after it was asked for.
    let told = eventually("all is measured", PATIENCE, async || {
        let answer = runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.ok()?.into_inner();
        let [told] = <[_; 1]>::try_from(answer.pod_metrics).ok()?;
        let of_one = &told.container_metrics.first()?.metrics;
        of_one.iter().any(|metric| metric.name == "container_fs_usage_bytes").then_some(told)
    })
    .await?;
    ensure!(told.pod_sandbox_id == pod && told.container_metrics.len() == 1, "the ended container has metrics");
    let of_container = &told.container_metrics[0];
    ensure!(of_container.container_id == container);
    let all: Vec<&Metric> = told.metrics.iter().chain(&of_container.metrics).collect();
    let mut series = HashSet::new();
    for metric in &all {
        let keys = keys.get(&metric.name).with_context(|| format!("{} has no descriptor", metric.name))?;
        ensure!(keys.len() == metric.label_values.len(), "{}: {:?}", metric.name, metric.label_values);
        ensure!(series.insert((&metric.name, &metric.label_values)), "{} comes twice", metric.name);
        ensure!(metric.timestamp > 0 && metric.value.is_some());
    }
    let label = |metric: &Metric, key: &str| {
        let at = keys[&metric.name].iter().position(|one| one == key)?;
        metric.label_values.get(at).cloned()
    };
    let find =
        |name: &str| all.iter().find(|metric| metric.name == name).copied().with_context(|| format!("no {name}"));
    let usage = find("container_memory_usage_bytes")?;
    for (key, value) in [
        ("pod", "metrics"),
        ("namespace", "e2e"),
        ("container", "main"),
        ("name", container.as_str()),
        ("image", image.as_str()),
    ] {
        ensure!(label(usage, key).as_deref() == Some(value), "{key}: {:?}", label(usage, key));
    }
    ensure!(label(usage, "id").is_some_and(|id| id.starts_with('/') && id.contains(&container)));
    ensure!(label(find("container_network_receive_bytes_total")?, "interface").as_deref() == Some("eth0"));
    let value = |name: &str| find(name).map(|metric| number(&metric.value));
    ensure!(value("container_spec_memory_limit_bytes")? == 64 << 20);
    ensure!(value("container_spec_cpu_quota")? == 50_000 && value("container_spec_cpu_period")? == 100_000);
    ensure!((500..=524).contains(&value("container_spec_cpu_shares")?), "{}", value("container_spec_cpu_shares")?);
    let status = node.cri.container_status(&container).await?;
    ensure!(value("container_start_time_seconds")? == status.started_at as u64 / 1_000_000_000);
    ensure!(value("container_last_seen")? >= value("container_start_time_seconds")?);
    ensure!(value("container_processes")? >= 1 && value("container_threads")? >= 1);
    ensure!(value("container_file_descriptors")? >= 3 && value("container_ulimits_soft")? > 0);
    ensure!(value("container_memory_usage_bytes")? > 0 && value("container_fs_usage_bytes")? > 0);
    ensure!(value("container_fs_inodes_total")? >= value("container_fs_inodes_free")?);

    // The kernel says nothing of these on some machines; all others are there.
    let there: HashSet<_> = all.iter().map(|metric| metric.name.as_str()).collect();
    let maybe = |name: &str| {
        ["_hugetlb_", "_pressure_", "_blkio_", "_fs_reads", "_fs_writes"].iter().any(|part| name.contains(part))
    };
    let missing: Vec<_> = keys.keys().filter(|name| !there.contains(name.as_str()) && !maybe(name)).collect();
    ensure!(missing.is_empty(), "{missing:?}");
    node.finish().await
}
