//! A pod's network as others see it: its address, its ports, its names, and the host's network when it asks for that.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::words::{DnsConfig, PodSandboxConfig, PortMapping};
use windlass_test_e2e::{Node, cri, eventually, http, registry};

const SERVER: &[&str] = &["sh", "-c", "echo hello > /www/index.html; httpd -f -p 80 -h /www"];

async fn page(host: &str) -> Result<String> {
    let host = host.to_owned();
    eventually("the page", Duration::from_secs(10), async || {
        let answer = http::request(&host, "GET", "/index.html", &[], &[]).ok()?;
        (answer.status == 200).then(|| String::from_utf8_lossy(&answer.body).into_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_reached_by_its_address_and_its_port() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let port = registry::free_port()?;
    let mut config = node.pod("server");
    config.port_mappings.push(PortMapping { container_port: 80, host_port: i32::from(port), ..Default::default() });
    let pod = node.run(config, &image, SERVER).await?;
    let network = node.cri.pod_status(&pod.id).await?.network.context("no network in the status")?;
    ensure!(network.ip.starts_with(&node.cni.prefix), "address {}", network.ip);
    ensure!(page(&format!("{}:80", network.ip)).await? == "hello\n");
    ensure!(page(&format!("127.0.0.1:{port}")).await? == "hello\n");

    let addresses = node.cri.output(&pod.container, &["ip", "addr"]).await?;
    ensure!(addresses.contains(&network.ip) && addresses.contains("127.0.0.1"), "{addresses}");
    if windlass_test_e2e::cni::has_ipv6() {
        let v6 = network.additional_ips.first().context("no second address")?;
        ensure!(v6.ip.starts_with("fd00:") && addresses.contains(&v6.ip), "{v6:?} in {addresses}");
    }
    let other = node.run(node.pod("client"), &image, &["sleep", "1000"]).await?;
    let url = format!("http://{}/index.html", network.ip);
    ensure!(node.cri.output(&other.container, &["wget", "-q", "-O", "-", &url]).await? == "hello\n");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_of_a_pod_share_one_network() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("both"), &image, SERVER).await?;
    let other = node.add(&pod.id, &pod.config, cri::container("other", &image, &["sleep", "1000"])).await?;
    eventually("localhost answers", Duration::from_secs(5), async || {
        let page = node.cri.output(&other, &["wget", "-q", "-O", "-", "http://127.0.0.1/index.html"]).await.ok()?;
        (page == "hello\n").then_some(())
    })
    .await?;
    // One shm for the pod, too.
    node.cri.output(&pod.container, &["sh", "-c", "echo shared > /dev/shm/word"]).await?;
    ensure!(node.cri.output(&other, &["cat", "/dev/shm/word"]).await? == "shared\n");
    ensure!(node.cri.output(&other, &["df", "/dev/shm"]).await?.contains("65536"), "shm is not 64 MiB");
    for file in ["ipc", "uts", "net"] {
        let link = format!("/proc/1/ns/{file}");
        let one = node.cri.output(&pod.container, &["readlink", &link]).await?;
        let two = node.cri.output(&other, &["readlink", &link]).await?;
        let host = std::fs::read_link(format!("/proc/self/ns/{file}"))?;
        ensure!(one == two, "namespace {file}: {one} and {two}");
        ensure!(one.trim() != host.to_string_lossy(), "namespace {file} is the host's");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_kernel_settings() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let mut config: PodSandboxConfig = node.pod("names");
    config.hostname = "my-host".to_owned();
    config.dns_config = Some(DnsConfig {
        servers: vec!["10.96.0.10".to_owned()],
        searches: vec!["e2e.svc.cluster.local".to_owned(), "cluster.local".to_owned()],
        options: vec!["ndots:5".to_owned()],
    });
    if let Some(linux) = &mut config.linux {
        linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned());
        linux.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
    }
    let pod = node.run(config, &image, &["sleep", "1000"]).await?;
    let read = async |path: &str| node.cri.output(&pod.container, &["cat", path]).await;
    ensure!(node.cri.output(&pod.container, &["hostname"]).await? == "my-host\n");
    let resolv = read("/etc/resolv.conf").await?;
    ensure!(
        resolv.contains("nameserver 10.96.0.10") && resolv.contains("search e2e.svc.cluster.local cluster.local"),
        "{resolv}"
    );
    ensure!(resolv.contains("options ndots:5"), "{resolv}");
    ensure!(read("/proc/sys/net/ipv4/ip_unprivileged_port_start").await? == "1024\n");
    ensure!(read("/proc/sys/kernel/shm_rmid_forced").await? == "1\n");
    ensure!(read("/etc/hostname").await? == "my-host\n");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_is_the_hosts() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.host_pod("host"), &image, &["sleep", "1000"]).await?;
    let inside = node.cri.output(&pod.container, &["readlink", "/proc/1/ns/net"]).await?;
    ensure!(inside.trim() == std::fs::read_link("/proc/self/ns/net")?.to_string_lossy(), "{inside}");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    ensure!(node.cri.output(&pod.container, &["hostname"]).await? == host);
    ensure!(node.cni.reservations().is_empty(), "an address was taken for a pod on the host's network");
    let status = node.cri.pod_status(&pod.id).await?;
    ensure!(
        status.network.is_none_or(|network| network.ip.is_empty()),
        "the kubelet fills in the host's address itself"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_the_node_says_so() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    std::fs::remove_file(node.cni.conf_dir.join("10-test.conflist"))?;
    let ready = async |wanted: bool| {
        eventually("NetworkReady follows the directory", Duration::from_secs(10), async || {
            let conditions = node.cri.conditions().await.ok()?;
            (conditions.get("NetworkReady") == Some(&wanted)).then_some(())
        })
        .await
    };
    ready(false).await?;
    ensure!(node.cri.run_pod(&node.pod("early")).await.is_err(), "a pod without a network to be in");
    let host = node.run(node.host_pod("host"), &image, &["sleep", "1000"]).await?;
    node.cni.write(&[])?;
    ready(true).await?;
    // containerd keeps the name of a pod that failed.
    let name = if node.is_reference() { "late" } else { "early" };
    let pod = node.run(node.pod(name), &image, &["sleep", "1000"]).await?;
    ensure!(pod.id != host.id);
    node.finish().await
}
