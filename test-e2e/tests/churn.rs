//! Many pods come and go, ten at a time, and in every ten the daemon is killed once; nothing is left of them.

use std::time::Duration;

use anyhow::{Result, bail};
use windlass_test_e2e::words::PodSandboxConfig;
use windlass_test_e2e::{Cri, Node, cri, number};

/// Removes every attempt of a pod, and repeats that as the kubelet does, over the daemon's absence too.
async fn remove(socket: &std::path::Path, name: &str) -> Result<()> {
    let mut last = None;
    for _ in 0..150 {
        if let Ok(cri) = Cri::connect(socket).await {
            match remove_once(&cri, name).await {
                Ok(()) => return Ok(()),
                Err(status) => last = Some(status),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("removal of {name}: {last:?}")
}

async fn remove_once(cri: &Cri, name: &str) -> Result<(), tonic::Status> {
    for pod in cri.pods(None).await?.into_iter().filter(|pod| pod.metadata.as_ref().is_some_and(|own| own.name == name))
    {
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
    }
    Ok(())
}

/// A kubelet's way with one pod: whatever fails is tried again with the next attempt, and in the end all is removed.
async fn live(socket: std::path::PathBuf, config: PodSandboxConfig, image: String) -> Result<()> {
    let name = config.metadata.clone().unwrap_or_default().name;
    let mut config = config;
    for attempt in 0..20 {
        if let Some(metadata) = &mut config.metadata {
            metadata.attempt = attempt;
        }
        let Ok(client) = Cri::connect(&socket).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if full_life(&client, &config, &image).await.is_ok() {
            break;
        }
    }
    remove(&socket, &name).await
}

async fn full_life(client: &Cri, config: &PodSandboxConfig, image: &str) -> Result<(), tonic::Status> {
    let pod = client.run_pod(config).await?;
    let id = client.create(&pod, &cri::container("main", image, &["sh", "-c", "echo up; sleep 1000"]), config).await?;
    client.start(&id).await?;
    client.exec(&id, &["true"], 10).await?;
    client.stop(&id, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_many_pods() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let total = number("WINDLASS_E2E_CHURN", 20);
    for batch in 0..total.div_ceil(10) {
        let pods: Vec<_> = (0..10)
            .map(|n| {
                let name = format!("c{batch}-{n}");
                let config = if n % 2 == 0 { node.pod(&name) } else { node.host_pod(&name) };
                tokio::spawn(live(node.setup.socket.clone(), config, image.clone()))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(30 + (batch as u64 * 97) % 700)).await;
        node.restart().await?;
        for pod in pods {
            pod.await??;
        }
    }
    if node.excused("it leaves shims and namespaces of pods that it was killed at") {
        return Ok(());
    }
    node.finish().await
}
