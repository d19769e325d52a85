//! Status and UpdateRuntimeConfig: whether the node can run pods and why not, and the network that it is told to make;
//! GC and STATUS of the network's plugins.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tonic::{Code, Request, Status};
use windlass_test_e2e::words::{
    NetworkConfig, PodSandboxStatusRequest, RuntimeCondition, RuntimeConfig, StatusRequest, StatusResponse,
    UpdateRuntimeConfigRequest,
};
use windlass_test_e2e::{Node, Plan, eventually, http};

async fn status(node: &Node, verbose: bool) -> Result<StatusResponse> {
    Ok(node.cri.runtime().status(Request::new(StatusRequest { verbose })).await?.into_inner())
}

async fn condition(node: &Node, name: &str) -> Result<RuntimeCondition> {
    let conditions = status(node, false).await?.status.context("no status")?.conditions;
    conditions.into_iter().find(|condition| condition.r#type == name).context(name.to_owned())
}

async fn configure(node: &Node, ranges: &str) -> Result<(), Status> {
    let network_config = Some(NetworkConfig { pod_cidr: ranges.into() });
    let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
    node.cri.runtime().update_runtime_config(Request::new(request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_says_why_it_does_not_hold() -> Result<()> {
    let node = Node::start().await?;
    for name in ["RuntimeReady", "NetworkReady"] {
        let fine = condition(&node, name).await?;
        ensure!(fine.status && fine.reason.is_empty() && fine.message.is_empty(), "{fine:?}");
    }
    let list = node.setup.cni_conf.join("10-test.conflist");
    let text = fs::read(&list)?;
    fs::write(&list, "{broken")?;
    let broken = condition(&node, "NetworkReady").await?;
    ensure!(!broken.status && broken.reason == "NetworkPluginNotReady", "{broken:?}");
    ensure!(broken.message.contains("10-test.conflist"), "{broken:?}");
    fs::remove_file(&list)?;
    let missing = condition(&node, "NetworkReady").await?;
    ensure!(!missing.status && missing.message.contains("no network configuration"), "{missing:?}");
    fs::write(&list, text)?;
    ensure!(condition(&node, "NetworkReady").await?.status);

    // A small file system over the daemon's own: it has less left than a pod needs.
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "full"]).arg(&node.setup.root).status()?;
    ensure!(mounted.success(), "mount: {mounted}");
    let full = condition(&node, "RuntimeReady").await;
    let unmounted = Command::new("umount").arg(&node.setup.root).status()?;
    ensure!(unmounted.success(), "umount: {unmounted}");
    let full = full?;
    ensure!(!full.status && full.reason == "DiskFull" && full.message.contains("root"), "{full:?}");
    ensure!(condition(&node, "RuntimeReady").await?.status);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_name_their_features_and_a_verbose_status_the_configuration() -> Result<()> {
    let node = Node::start().await?;
    let answer = status(&node, true).await?;
    let default =
        answer.runtime_handlers.iter().find(|handler| handler.name.is_empty()).context("no default handler")?;
    let named = answer.runtime_handlers.iter().find(|handler| handler.name == "windlass").context("windlass")?;
    ensure!(default.features == named.features || !node.setup.default_handler.is_empty(), "{answer:?}");
    ensure!(named.features.is_some_and(|features| features.recursive_read_only_mounts), "{named:?}");
    let info = |key: &str| answer.info.get(key).with_context(|| key.to_owned());
    let config: Value = serde_json::from_str(info("config")?)?;
    ensure!(config["root"] == node.setup.root.to_string_lossy().as_ref(), "{config}");
    let network: Value = serde_json::from_str(info("cniconfig")?)?;
    ensure!(network["name"] == node.cni.name(), "{network}");
    ensure!(info("lastCNILoadStatus")? == "OK");
    ensure!(status(&node, false).await?.info.is_empty());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_stages_are_counted_and_told() -> Result<()> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let more_config = format!("[metrics]\naddress = \"{free}\"\n");
    let mut node = Node::start_with(Plan { more_config, ..Plan::default() }).await?;
    if node.excused("its metrics have other names") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let pod = node.run(node.pod("counted"), &image, &["sleep", "1000"]).await?;
    node.cri.exec("nobody", &["true"], 1).await.err().context("nobody runs a program")?;
    let answer = http::request(&free.to_string(), "GET", "/metrics", &[], b"")?;
    let text = String::from_utf8(answer.body)?;
    for line in [
        "windlass_cri_calls_total{call=\"RunPodSandbox\",code=\"Ok\"} 1",
        "windlass_cri_calls_total{call=\"ExecSync\",code=\"NotFound\"} 1",
        "windlass_cri_call_duration_seconds_count{call=\"StartContainer\"} 1",
        "windlass_stages_total{stage=\"network\"} 1",
        "windlass_pods{rung=\"ready\"} 1",
        "windlass_containers{rung=\"running\"} 1",
        "windlass_shims 1",
    ] {
        ensure!(text.lines().any(|one| one == line), "{line} is not in {text}");
    }
    let info = async |verbose: bool| {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose };
        Ok::<_, anyhow::Error>(node.cri.runtime().pod_sandbox_status(request).await?.into_inner().info)
    };
    ensure!(info(false).await?.is_empty());
    let told: Value = serde_json::from_str(info(true).await?.get("info").context("no info")?)?;
    let stages: Vec<_> = told["timeline"].as_array().into_iter().flatten().map(|stage| &stage["stage"]).collect();
    ensure!(stages == ["namespaces", "network", "shim"], "{told}");
    ensure!(told["timeline"].as_array().into_iter().flatten().all(|stage| stage["tookMs"].is_number()), "{told}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_written_from_a_template_once() -> Result<()> {
    let mut node = Node::start().await?;
    // Without a template nothing happens.
    configure(&node, "10.1.0.0/24").await?;
    let template = node.dir().join("cni.template");
    let text = fs::read_to_string(&node.setup.config)?;
    let with = format!("[cri.cni]\nconf_template = {template:?}\n");
    fs::write(&node.setup.config, text.replacen("[cri.cni]\n", &with, 1))?;
    fs::write(
        &template,
        r#"{"cniVersion":"1.0.0","name":"made","plugins":[{"type":"bridge","bridge":"BRIDGE","ipam":{"type":"host-local",
        "dataDir":"DATA","ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}],
        "routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}}]}"#
            .replace("BRIDGE", &node.cni.bridge)
            .replace("DATA", &node.cni.data_dir.to_string_lossy()),
    )?;
    node.restart().await?;
    let made = node.setup.cni_conf.join("10-windlass-net.conflist");
    // There is a network: it stays the only one.
    configure(&node, "10.1.0.0/24").await?;
    ensure!(!made.exists(), "a second network was made");
    let present = node.setup.cni_conf.join("10-test.conflist");
    let before = fs::read(&present)?;
    fs::remove_file(&present)?;
    let wrong = configure(&node, "10.1.0.0/99").await.err().context("10.1.0.0/99")?;
    ensure!(wrong.code() == Code::InvalidArgument && wrong.message().contains("pod_cidr"), "{wrong:?}");
    configure(&node, "").await?;
    ensure!(!made.exists(), "made of nothing");
    let range = format!("{}0/24", node.cni.prefix);
    configure(&node, &range).await?;
    let written: Value = serde_json::from_slice(&fs::read(&made)?)?;
    ensure!(written["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] == range.as_str(), "{written}");
    ensure!(written["plugins"][0]["ipam"]["routes"][0]["dst"] == "0.0.0.0/0", "{written}");
    ensure!(condition(&node, "NetworkReady").await?.status);
    let pod = node.cri.run_pod(&node.pod("made")).await?;
    let ip = node.cri.pod_status(&pod).await?.network.context("no network")?.ip;
    ensure!(ip.starts_with(&node.cni.prefix), "{ip}");
    configure(&node, "10.9.0.0/24").await?;
    ensure!(serde_json::from_slice::<Value>(&fs::read(&made)?)? == written, "it was written anew");
    node.cri.stop_pod(&pod).await?;
    node.cri.remove_pod(&pod).await?;
    fs::remove_file(&made)?;
    fs::write(&present, before)?;
    fs::remove_dir_all(node.cni.data_dir.join("made")).ok();
    node.finish().await
}

/// A plugin that writes down what it is asked, gives one address, and is not ready while a file is there.
const ASKED: &str = r#"#!/bin/sh
input=$(cat | tr -d '\n')
echo "$CNI_COMMAND $CNI_CONTAINERID $input" >> 'DIR/asked'
case "$CNI_COMMAND" in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.7.7.7/24","interface":0}]}' ;;
STATUS) [ ! -e 'DIR/not-ready' ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"the overlay is down"}'; exit 1; } ;;
esac
"#;

fn asked(dir: &Path, verb: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join("asked")).unwrap_or_default();
    text.lines().filter(|line| line.split(' ').next() == Some(verb)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_of_1_1_are_asked_for_their_status_and_told_which_pods_there_are() -> Result<()> {
    let mut node = Node::start().await?;
    let dir = node.dir().to_owned();
    node.cni.replace_plugin("asked", &ASKED.replace("DIR", &dir.to_string_lossy()))?;
    let present = node.setup.cni_conf.join("10-test.conflist");
    let before = fs::read(&present)?;
    fs::write(&present, r#"{"cniVersion":"1.1.0","name":"asked","plugins":[{"type":"asked"}]}"#)?;
    ensure!(condition(&node, "NetworkReady").await?.status && asked(&dir, "STATUS").len() == 1);
    fs::write(dir.join("not-ready"), "")?;
    let not = condition(&node, "NetworkReady").await?;
    ensure!(!not.status && not.message.contains("the overlay is down"), "{not:?}");
    fs::remove_file(dir.join("not-ready"))?;
    let pod = node.cri.run_pod(&node.pod("kept")).await?;
    ensure!(node.cri.pod_status(&pod).await?.network.context("no network")?.ip == "10.7.7.7");
    let collections = asked(&dir, "GC").len();
    node.restart().await?;
    eventually("a GC", Duration::from_secs(20), async || (asked(&dir, "GC").len() > collections).then_some(())).await?;
    let told = asked(&dir, "GC").pop().context("no GC")?;
    let valid = format!(r#"{{"containerID":"{pod}","ifname":"eth0"}}"#);
    ensure!(told.contains("cni.dev/valid-attachments") && told.contains(&valid), "{told}");
    node.cri.stop_pod(&pod).await?;
    node.cri.remove_pod(&pod).await?;
    fs::write(&present, r#"{"cniVersion":"1.1.0","name":"asked","disableGC":true,"plugins":[{"type":"asked"}]}"#)?;
    let collections = asked(&dir, "GC").len();
    node.restart().await?;
    // What would be asked at the start is asked before a pod is attached.
    let pod = node.cri.run_pod(&node.pod("other")).await?;
    ensure!(asked(&dir, "GC").len() == collections, "a GC that nobody may do");
    node.cri.stop_pod(&pod).await?;
    node.cri.remove_pod(&pod).await?;
    fs::write(&present, before)?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_makes_no_sense_makes_no_pod() -> Result<()> {
    let node = Node::start().await?;
    let bad = r#"#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.300/24"}]}'
"#;
    node.cni.replace_plugin("portmap", bad)?;
    let refused = node.cri.run_pod(&node.pod("bad")).await.err().context("10.0.0.300")?;
    ensure!(refused.message().contains("ips[0].address"), "{refused:?}");
    node.cni.restore_plugin("portmap")?;
    ensure!(node.cri.pods(None).await?.is_empty());
    node.finish().await
}
