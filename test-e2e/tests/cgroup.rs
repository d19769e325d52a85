//! What a cgroup promises: devices, where the shim is accounted, and what is below a container's cgroup.
#![allow(missing_docs)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::words::Device;
use windlass_test_e2e::{Node, cri, eventually, kernel};

/// The cgroup of a process in the hierarchy of `controller`, or in the one of version 2.
fn cgroup_of(pid: u32, controller: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        Some((names.to_owned(), path.to_owned()))
    };
    let lines: Vec<_> = text.lines().filter_map(of).collect();
    let found = lines.iter().find(|(names, _)| names.split(',').any(|name| name == controller));
    let found = found.or_else(|| lines.iter().find(|(names, _)| names.is_empty()));
    found.map(|(_, path)| path.clone()).with_context(|| format!("process {pid} is in no cgroup: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_devices_that_were_given_can_be_used() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.host_pod("devices");
    let pod = node.run(config.clone(), &image, &["sleep", "1000"]).await?;
    // Everybody may make a node (CAP_MKNOD is among the usual capabilities); using it is another matter. 1:11 is the
    // kernel's log and 7:0 the first loop device, neither of which a container has.
    let script = "mknod /kmsg c 1 11 && mknod /loop b 7 0 || exit 3
        head -c 1 /kmsg && exit 4; head -c 1 /loop && exit 5
        echo x > /dev/null && head -c 1 /dev/zero > /dev/null && head -c 4 /dev/urandom > /dev/null && : > /dev/full && echo fine";
    let answer = node.cri.exec(&pod.container, &["sh", "-c", script], 30).await?;
    let error = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(answer.stdout == b"fine\n", "{} {error}", answer.exit_code);
    ensure!(error.matches("Operation not permitted").count() == 2, "{error}");

    let mut given = cri::container("given", &image, &["sleep", "1000"]);
    given.devices = vec![Device {
        host_path: "/dev/zero".to_owned(),
        container_path: "/dev/nil".to_owned(),
        permissions: "r".to_owned(),
    }];
    let given = node.add(&pod.id, &config, given).await?;
    ensure!(node.cri.output(&given, &["sh", "-c", "head -c 3 /dev/nil | wc -c"]).await?.trim() == "3");

    let mut trusted = cri::container("trusted", &image, &["sleep", "1000"]);
    if let Some(context) = trusted.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.privileged = true;
    }
    let mut own = node.host_pod("trusted");
    if let Some(context) = own.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.privileged = true;
    }
    let sandbox = node.cri.run_pod(&own).await?;
    let trusted = node.add(&sandbox, &own, trusted).await?;
    // Reading waits where there is no message; opening is what is allowed or not.
    let opened = node.cri.output(&trusted, &["sh", "-c", "mknod /kmsg c 1 11 && exec 3< /kmsg && echo open"]).await?;
    ensure!(opened == "open\n", "{opened}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_pays_for_its_shim() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.host_pod("payer"), &image, &["sleep", "1000"]).await?;
    let parent = node.cgroup_parents().pop().context("no pod cgroup")?;
    let tag = node.tag();
    let shims: Vec<_> = kernel::processes_of(&tag).into_iter().filter(|(pid, _)| kernel::is_shim(*pid)).collect();
    if !node.is_reference() {
        ensure!(!shims.is_empty(), "no shim");
        for (pid, command) in shims {
            let cgroup = cgroup_of(pid, "memory")?;
            ensure!(Path::new(&cgroup).starts_with(&parent), "{command} is in {cgroup}, the pod in {parent}");
        }
    }
    let sleeper = kernel::processes_of(&tag).into_iter().find(|(_, command)| command.starts_with("sleep 1000"));
    let sleeper = sleeper.context("the container does not run")?.0;
    let cgroup = cgroup_of(sleeper, "memory")?;
    ensure!(Path::new(&cgroup).starts_with(&parent) && cgroup != parent, "the container is in {cgroup}");
    // What comes in later is in the same cgroup.
    node.cri.output(&pod.container, &["sh", "-c", "sleep 999 > /dev/null 2>&1 & true"]).await?;
    let guest = eventually("the guest", Duration::from_secs(10), async || {
        kernel::processes_of(&tag).into_iter().find(|(_, command)| command.starts_with("sleep 999"))
    });
    let guest = cgroup_of(guest.await?.0, "memory")?;
    ensure!(guest == cgroup, "exec goes to {guest}, the container is in {cgroup}");
    node.finish().await
}
