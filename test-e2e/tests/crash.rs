//! The daemon is killed while an edge binary or a registry holds a step; after the restart nothing leaks and a retry works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::edge::{self, Gate};
use windlass_test_e2e::image::{Compression, Layer, Recipe, noise};
use windlass_test_e2e::trouble::{Fault, Troublemaker, Where};
use windlass_test_e2e::words::{ContainerState, PodSandboxConfig};
use windlass_test_e2e::{Node, Plan, cri, number};

/// A node whose handler `held` is runc behind a gate at one of its commands.
async fn node_with_gate(verb: &str) -> Result<(Node, Gate)> {
    let handlers = vec![("held".to_owned(), "{dir}/held".to_owned())];
    let node = Node::start_with(Plan { handlers, ..Plan::default() }).await?;
    let gate = Gate::open_at(node.dir(), verb);
    edge::runtime_wrapper(&node.dir().join("held"), "/usr/sbin/runc", verb, &gate.wait_lines())?;
    Ok((node, gate))
}

/// The verbs at which a call is held.
#[derive(Clone, Copy, Debug)]
enum Held {
    Add,
    Del,
}

async fn killed_in_the_network(plugin: &str, held: Held, open_before_restart: bool) -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let gate = Gate::open_at(node.dir(), "cni");
    let command = if matches!(held, Held::Add) { "ADD" } else { "DEL" };
    node.cni.replace_plugin(
        plugin,
        &edge::plugin_wrapper(&format!("/usr/lib/cni/{plugin}"), command, &gate.wait_lines()),
    )?;
    let config = node.pod("cut");
    let call = match held {
        Held::Add => {
            gate.shut()?;
            let (cri, config) = (node.cri.clone(), config.clone());
            tokio::spawn(async move { cri.run_pod(&config).await.map(|_| ()) })
        }
        Held::Del => {
            let pod = node.run(config.clone(), &image, &["sleep", "1000"]).await?;
            gate.shut()?;
            let cri = node.cri.clone();
            tokio::spawn(async move { cri.stop_pod(&pod.id).await })
        }
    };
    gate.reached().await?;
    node.daemon.kill();
    ensure!(call.await?.is_err(), "a call on a dead daemon succeeded");
    if open_before_restart {
        gate.open();
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.resume().await?;
    } else {
        // The daemon must answer though its recovery meets the same hanging plugin.
        node.resume().await?;
        ensure!(node.cri.run_pod(&node.host_pod("beside")).await.is_ok(), "no other pod may feel it");
        gate.open();
    }
    retry_and_finish(node, &config, &image).await
}

/// What the kubelet does after a failure: the leftovers of the first attempt go, and a second attempt works.
async fn retry_and_finish(node: Node, config: &PodSandboxConfig, image: &str) -> Result<()> {
    let mut again = config.clone();
    if let Some(metadata) = &mut again.metadata {
        metadata.attempt += 1;
    }
    let old = node.cri.pods(None).await?;
    for pod in old.iter().filter(|pod| pod.metadata == config.metadata) {
        node.cri.stop_pod(&pod.id).await.context("stop of the cut pod")?;
        node.cri.remove_pod(&pod.id).await.context("removal of the cut pod")?;
    }
    let pod = node.run(again, image, &["sleep", "1000"]).await.context("second attempt")?;
    ensure!(node.cri.output(&pod.container, &["echo", "well"]).await? == "well\n");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_first_plugin_adds() -> Result<()> {
    killed_in_the_network("bridge", Held::Add, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_first_plugin_adds_and_goes_on_adding() -> Result<()> {
    killed_in_the_network("bridge", Held::Add, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_last_plugin_adds() -> Result<()> {
    killed_in_the_network("portmap", Held::Add, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_last_plugin_deletes() -> Result<()> {
    killed_in_the_network("portmap", Held::Del, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_first_plugin_deletes() -> Result<()> {
    killed_in_the_network("bridge", Held::Del, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_attempt_may_come_again() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it keeps the name of a pod that failed") {
        return Ok(());
    }
    let image = node.busybox().await?;
    // A bridge whose last port goes has no address for a moment, and the plugin stumbles over that; this one stays.
    node.run(node.pod("keeper"), &image, &["sleep", "1000"]).await?;
    let gate = Gate::open_at(node.dir(), "cni");
    node.cni.replace_plugin("bridge", &edge::plugin_wrapper("/usr/lib/cni/bridge", "ADD", &gate.wait_lines()))?;
    gate.shut()?;
    let config = node.pod("cut");
    let (cri, theirs) = (node.cri.clone(), config.clone());
    let call = tokio::spawn(async move { cri.run_pod(&theirs).await });
    gate.reached().await?;
    node.daemon.kill();
    ensure!(call.await?.is_err());
    gate.open();
    node.resume().await?;
    let pod = node.run(config.clone(), &image, &["sleep", "1000"]).await.context("the same attempt")?;
    ensure!(node.cri.run_pod(&config).await? == pod.id, "a living pod is answered, not made twice");
    ensure!(node.cri.pods(None).await?.len() == 2);
    node.finish().await
}

/// Holds `verb` of the OCI runtime, kills the daemon there, and sees that the container can be taken away and made anew.
async fn killed_in_the_runtime(verb: &str) -> Result<()> {
    let (mut node, gate) = node_with_gate(verb).await?;
    if verb == "delete" && node.excused("the state of the container stays unknown") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let config = node.pod("cut");
    let pod = node.cri.run_pod_with(&config, "held").await?;
    let id = node.cri.create(&pod, &cri::container("main", &image, &["sleep", "1000"]), &config).await?;
    let call = if verb == "create" || verb == "start" {
        gate.shut()?;
        let (cri, id) = (node.cri.clone(), id.clone());
        tokio::spawn(async move { cri.start(&id).await })
    } else {
        node.cri.start(&id).await?;
        gate.shut()?;
        let (cri, id) = (node.cri.clone(), id.clone());
        tokio::spawn(async move {
            if cri.stop(&id, 1).await.is_ok() { cri.remove(&id).await } else { Err(tonic::Status::unknown("")) }
        })
    };
    gate.reached().await?;
    node.daemon.kill();
    ensure!(call.await?.is_err(), "a call on a dead daemon succeeded");
    gate.open();
    node.resume().await?;
    let answer = node.cri.exec(&id, &["true"], 5).await;
    println!("{verb}: state {:?}, exec {}", node.state(&id).await, answer.is_ok());
    node.cri.stop(&id, 1).await.context("stop after the restart")?;
    node.cri.remove(&id).await.context("removal after the restart")?;
    let mut what = cri::container("main", &image, &["sleep", "1000"]);
    if let Some(metadata) = &mut what.metadata {
        metadata.attempt = 1;
    }
    let second = node.add(&pod, &config, what).await.context("second attempt")?;
    ensure!(node.state(&second).await == Some(ContainerState::ContainerRunning));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_runtime_creates() -> Result<()> {
    killed_in_the_runtime("create").await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_runtime_starts() -> Result<()> {
    killed_in_the_runtime("start").await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_runtime_deletes() -> Result<()> {
    killed_in_the_runtime("delete").await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_layer() -> Result<()> {
    let mut node = Node::start().await?;
    let registry = Troublemaker::start()?;
    let big = Layer::of_file(Compression::None, "big", &noise(6 << 20, 1))?;
    let image = Recipe::new().layer(Layer::busybox(Compression::Gzip)?).layer(big).build()?;
    let reference = registry.hold("big", "1", &image);
    registry.fail(Where::Blob(image.layers[1].clone()), Fault::Stall(3 << 20), usize::MAX);
    let (cri, theirs) = (node.cri.clone(), reference.clone());
    let call = tokio::spawn(async move { cri.pull(&theirs).await });
    windlass_test_e2e::eventually("the layer is asked for", Duration::from_secs(20), async || {
        registry
            .requests()
            .iter()
            .any(|request| request.starts_with("GET") && request.ends_with(&image.layers[1]))
            .then_some(())
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.daemon.kill();
    ensure!(call.await?.is_err());
    node.resume().await?;
    ensure!(node.cri.image(&reference).await?.is_none(), "half an image is shown");
    registry.heal();
    node.cri.pull(&reference).await.context("pull after the restart")?;
    let pod = node.run(node.host_pod("big"), &reference, &["sleep", "1000"]).await?;
    let size = node.cri.output(&pod.container, &["sh", "-c", "wc -c < /big"]).await?;
    ensure!(size.trim() == "6291456", "size {size}");
    node.cri.remove_everything().await?;
    // What was half downloaded and half unpacked is gone: only the image's own layers remain.
    let ingest = node.setup.root.join("content/ingest");
    let left = windlass_test_e2e::kernel::entries_at(&ingest, 1);
    ensure!(left.is_empty(), "ingests left: {left:?}");
    let layers = windlass_test_e2e::kernel::entries_at(&node.setup.root.join("snapshots/overlay"), 1);
    ensure!(layers.len() <= 2, "snapshots left: {layers:?}");
    node.mark().await;
    node.finish().await
}

/// One pod's life, with the daemon killed after `delay`, wherever that is.
async fn killed_after(node: &mut Node, name: &str, image: &str, delay: Duration) -> Result<()> {
    let config = node.pod(name);
    let (cri, theirs, image_name) = (node.cri.clone(), config.clone(), image.to_owned());
    let life = tokio::spawn(async move {
        let pod = cri.run_pod(&theirs).await?;
        let id = cri.create(&pod, &cri::container("main", &image_name, &["sleep", "1000"]), &theirs).await?;
        cri.start(&id).await?;
        cri.exec(&id, &["true"], 10).await?;
        cri.stop(&id, 0).await?;
        cri.remove(&id).await?;
        cri.stop_pod(&pod).await?;
        cri.remove_pod(&pod).await
    });
    tokio::time::sleep(delay).await;
    node.daemon.kill();
    let end = life.await?;
    node.resume().await?;
    println!(
        "killed after {delay:?}: {}",
        end.map_or_else(|status| status.message().to_owned(), |()| "it was over".to_owned())
    );
    node.cri.remove_everything().await.context("removal after the restart")?;
    let pod = node.run(config, image, &["sleep", "1000"]).await.context("the same pod again")?;
    node.cri.stop_pod(&pod.id).await?;
    node.cri.remove_pod(&pod.id).await?;
    node.assert_clean().await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_any_moment() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it leaves shims of pods that it was killed at") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let steps = number("WINDLASS_E2E_MOMENTS", 12);
    for step in 0..steps {
        let delay = Duration::from_millis((step * 12 + step % 3) as u64);
        killed_after(&mut node, &format!("moment-{step}"), &image, delay)
            .await
            .with_context(|| format!("killed after {delay:?}"))?;
    }
    node.finish().await
}
