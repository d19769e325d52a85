//! The demonstration: one pod from a registry to its log, with the time of each CRI call, and everything cleaned after it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::daemon::bin_dir;
use windlass_test_e2e::image::Image;
use windlass_test_e2e::words::PortMapping;
use windlass_test_e2e::{Node, cri, eventually, http, registry};

/// Prints a call with its time, and hands its answer on.
async fn timed<T, E: std::error::Error + Send + Sync + 'static>(
    name: &str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    let begin = Instant::now();
    let answer = call.await;
    let mark = if answer.is_ok() { "" } else { "  FAILED" };
    println!("  {name:<22} {:>8.1} ms{mark}", begin.elapsed().as_secs_f64() * 1000.0);
    answer.with_context(|| name.to_owned())
}

#[tokio::main]
async fn main() -> Result<()> {
    println!("windlassd from {}", bin_dir()?.display());
    let mut node = Node::start().await?;
    println!(
        "node in {}: registry {}, bridge {}, first answer after {:?}",
        node.dir().display(),
        node.registry.host(),
        node.cni.bridge,
        node.daemon.first_answer
    );
    let reference = node.registry.push("demo", "1", &Image::many_layers(3)?)?;
    println!("pushed {reference}\n");

    timed("PullImage", node.cri.pull(&reference)).await?;
    node.mark().await;
    let port = registry::free_port()?;
    let mut config = node.pod("demo");
    config.port_mappings.push(PortMapping { container_port: 80, host_port: i32::from(port), ..Default::default() });
    let pod = timed("RunPodSandbox", node.cri.run_pod(&config)).await?;
    let status = timed("PodSandboxStatus", node.cri.pod_status(&pod)).await?;
    let script = "echo hello from a pod > /www/index.html; echo serving on $(hostname); exec httpd -f -p 80 -h /www";
    let what = cri::container("main", &reference, &["sh", "-c", script]);
    let id = timed("CreateContainer", node.cri.create(&pod, &what, &config)).await?;
    timed("StartContainer", node.cri.start(&id)).await?;
    let exec = timed("ExecSync", node.cri.exec(&id, &["sh", "-c", "echo uid $(id -u) on $(hostname)"], 10)).await?;
    let ip = status.network.context("the pod has no network")?.ip;
    let page = eventually("the pod's page", Duration::from_secs(10), async || {
        let answer = http::request(&format!("127.0.0.1:{port}"), "GET", "/index.html", &[], &[]).ok()?;
        (answer.status == 200).then(|| String::from_utf8_lossy(&answer.body).into_owned())
    })
    .await?;
    let log = node.raw_log("demo", "main.log");
    timed("StopContainer", node.cri.stop(&id, 0)).await?;
    timed("RemoveContainer", node.cri.remove(&id)).await?;
    timed("StopPodSandbox", node.cri.stop_pod(&pod)).await?;
    timed("RemovePodSandbox", node.cri.remove_pod(&pod)).await?;

    println!("\npod IP       {ip}");
    println!("log line     {}", log.first().context("no log line")?);
    println!("exec output  {}", String::from_utf8_lossy(&exec.stdout).trim());
    println!("page         {} (through host port {port})", page.trim());
    ensure!(exec.exit_code == 0 && page == "hello from a pod\n" && log[0].ends_with(" stdout F serving on demo"));
    timed("RemoveImage", node.cri.remove_image(&reference)).await?;
    let dir = node.dir().to_owned();
    node.finish().await.context("something is left behind")?;
    ensure!(!dir.exists(), "{} is left behind", dir.display());
    println!("\nall clean");
    Ok(())
}
