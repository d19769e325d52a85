//! Bad neighbours: plugins, runtimes, registries, disks and shims that fail, hang or lie, and what the others feel of it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;
use windlass_test_e2e::edge::{self, Gate};
use windlass_test_e2e::image::{Compression, Image, Layer, Recipe, noise};
use windlass_test_e2e::trouble::{Fault, Guard, Troublemaker, Where};
use windlass_test_e2e::words::{AuthConfig, ContainerState, RunPodSandboxRequest};
use windlass_test_e2e::{Flavour, Node, Plan, code, cri, eventually, kernel, patient};

/// Mounts a tmpfs; the node unmounts it with everything else below its directory.
fn small_disk(path: &std::path::Path, mib: usize) -> Result<()> {
    std::fs::create_dir_all(path)?;
    let done =
        Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "w-small"]).arg(path).status()?;
    ensure!(done.success(), "mount of a tmpfs on {}", path.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_or_lies() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let failing =
        "echo '{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"no luck today\",\"details\":\"at all\"}'; exit 1";
    for (plugin, lines) in
        [("bridge", failing), ("portmap", failing), ("bridge", "echo rubbish; exit 0"), ("portmap", "exit 3")]
    {
        node.cni.replace_plugin(plugin, &edge::plugin_wrapper(&format!("/usr/lib/cni/{plugin}"), "ADD", lines))?;
        let answer = node.cri.run_pod(&node.pod("poor")).await;
        let status = answer.err().with_context(|| format!("{plugin} fails with {lines:?}, and the pod runs"))?;
        if lines == failing {
            ensure!(status.message().contains("no luck today"), "the plugin's message is not told: {status:?}");
        }
        node.cni.restore_plugin(plugin)?;
        node.cri.remove_everything().await?;
        node.assert_clean().await.with_context(|| format!("after {plugin} with {lines:?}"))?;
    }
    node.run(node.pod("poor"), &image, &["sleep", "1000"]).await.context("after the plugins are well again")?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_to_delete() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("stuck"), &image, &["sleep", "1000"]).await?;
    node.cni.replace_plugin("bridge", "#!/bin/sh\necho '{\"code\":11,\"msg\":\"not now\"}'; exit 1\n")?;
    let answer = node.cri.stop_pod(&pod.id).await;
    ensure!(answer.is_err(), "a network that is not taken down is not stopped");
    ensure!(
        node.state(&pod.container).await != Some(ContainerState::ContainerRunning),
        "its containers are down all the same"
    );
    node.cni.restore_plugin("bridge")?;
    node.cri.stop_pod(&pod.id).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_holds_only_its_own_pod() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let gate = Gate::open_at(node.dir(), "cni");
    node.cni.replace_plugin("portmap", &edge::plugin_wrapper("/usr/lib/cni/portmap", "ADD", &gate.wait_lines()))?;
    gate.shut()?;
    let (client, config) = (node.cri.clone(), node.pod("held"));
    let held = tokio::spawn(async move { client.run_pod(&config).await });
    gate.reached().await?;
    let begin = Instant::now();
    let other = node.run(node.host_pod("free"), &image, &["sleep", "1000"]).await?;
    node.cri.stop_pod(&other.id).await?;
    node.cri.remove_pod(&other.id).await?;
    ensure!(begin.elapsed() < patient(Duration::from_secs(5)), "another pod took {:?}", begin.elapsed());
    gate.open();
    let id = held.await?.context("the held pod")?;
    ensure!(node.cri.pod_status(&id).await?.network.is_some());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_on_both_ways_costs_one_pods_time() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it waits as long as its caller") {
        return Ok(());
    }
    let image = node.busybox().await?;
    node.cni.replace_plugin("portmap", "#!/bin/sh\nexec sleep 1000\n")?;
    let config = node.pod("hung");
    let begin = Instant::now();
    // A caller who does not wait is told where the work is.
    let late = eventually("a deadline of our own", Duration::from_secs(20), async || {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(2));
        // The transport's own answer to a late call may win the race.
        node.cri.runtime().run_pod_sandbox(request).await.err().filter(|late| late.code() == Code::DeadlineExceeded)
    })
    .await?;
    ensure!(late.message().contains("it is at: network for"), "{late:?}");
    let other = node.run(node.host_pod("free"), &image, &["sleep", "1000"]).await?;
    node.cri.stop_pod(&other.id).await?;
    node.cri.remove_pod(&other.id).await?;
    // The plugins' time for ADD is over before they are asked to DEL, and nobody waits for that.
    let answer = node.cri.run_pod(&config).await;
    ensure!(code(&answer) == Code::DeadlineExceeded, "{answer:?}");
    let took = begin.elapsed();
    ensure!((Duration::from_secs(55)..patient(Duration::from_secs(75))).contains(&took), "it took {took:?}");
    node.cni.restore_plugin("portmap")?;
    // Waits for the end of what is left of the first try.
    let pod = node.run(config, &image, &["sleep", "1000"]).await.context("after the plugin is well again")?;
    ensure!(node.cri.pod_status(&pod.id).await?.network.is_some());
    ensure!(node.cri.pods(None).await?.len() == 1);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_goes_on_and_its_retry_joins_it() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it does otherwise") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let gate = Gate::open_at(node.dir(), "cni");
    node.cni.replace_plugin("bridge", &edge::plugin_wrapper("/usr/lib/cni/bridge", "ADD", &gate.wait_lines()))?;
    gate.shut()?;
    let config = node.pod("retried");
    let dropped = tokio::time::timeout(Duration::from_millis(500), node.cri.run_pod(&config)).await;
    ensure!(dropped.is_err(), "the gate did not hold");
    gate.reached().await?;
    let retry = |config: windlass_test_e2e::words::PodSandboxConfig| {
        let client = node.cri.clone();
        tokio::spawn(async move { client.run_pod(&config).await })
    };
    let (one, two) = (retry(config.clone()), retry(config.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    let (one, two) = (one.await??, two.await??);
    ensure!(one == two && node.cri.pods(None).await?.len() == 1, "two retries, two pods: {one} {two}");
    node.add(&one, &config, cri::container("main", &image, &["sleep", "1000"])).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_fails_hangs_or_lies() -> Result<()> {
    let handlers = vec![("bad".to_owned(), "{dir}/bad".to_owned())];
    let mut node = Node::start_with(Plan { handlers, ..Plan::default() }).await?;
    let bad = node.dir().join("bad");
    let runc = "/usr/sbin/runc";
    edge::runtime_wrapper(&bad, runc, "none", "true")?;
    let image = node.busybox().await?;
    let config = node.pod("runtime");
    let pod = node.cri.run_pod_with(&config, "bad").await?;
    let attempt = |n: u32| {
        let mut what = cri::container("main", &image, &["sleep", "1000"]);
        what.metadata = Some(windlass_test_e2e::words::ContainerMetadata { name: "main".to_owned(), attempt: n });
        what
    };
    for (n, (verb, lines)) in
        [("create", "echo 'no such luck' >&2; exit 1"), ("create", "echo rubbish; exit 0"), ("start", "exit 1")]
            .iter()
            .enumerate()
    {
        edge::runtime_wrapper(&bad, runc, verb, lines)?;
        let id = node.cri.create(&pod, &attempt(n as u32), &config).await?;
        let answer = node.cri.start(&id).await;
        ensure!(answer.is_err(), "{verb} with {lines:?}: the container starts");
        let status = node.cri.container_status(&id).await?;
        ensure!(
            status.state == ContainerState::ContainerExited as i32 && status.exit_code != 0,
            "{verb} {lines:?}: {status:?}"
        );
        node.cri.remove(&id).await.with_context(|| format!("removal after {verb} with {lines:?}"))?;
    }
    let gate = Gate::open_at(node.dir(), "runtime");
    edge::runtime_wrapper(&bad, runc, "create", &gate.wait_lines())?;
    gate.shut()?;
    let id = node.cri.create(&pod, &attempt(7), &config).await?;
    let (client, theirs) = (node.cri.clone(), id.clone());
    let held = tokio::spawn(async move { client.start(&theirs).await });
    gate.reached().await?;
    let begin = Instant::now();
    let other = node.run(node.host_pod("free"), &image, &["sleep", "1000"]).await?;
    ensure!(node.cri.output(&other.container, &["echo", "well"]).await? == "well\n");
    ensure!(begin.elapsed() < patient(Duration::from_secs(5)), "another pod took {:?}", begin.elapsed());
    gate.open();
    held.await?.context("the held start")?;
    ensure!(node.state(&id).await == Some(ContainerState::ContainerRunning));
    ensure!(code(&node.cri.run_pod_with(&node.pod("nobody"), "no-such-handler").await) != Code::Ok);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_or_lies() -> Result<()> {
    let mut node = Node::start().await?;
    let registry = Troublemaker::start()?;
    let image = Recipe::new()
        .layer(Layer::busybox(Compression::Gzip)?)
        .layer(Layer::of_file(Compression::None, "more", &noise(300_000, 3))?)
        .build()?;
    let reference = registry.hold("trouble", "1", &image);
    let unknown = node.cri.pull(&reference.replace(":1", ":2").replace("127.0.0.1:2", "127.0.0.1:1")).await;
    ensure!(unknown.is_err());
    let nowhere = format!("{}/trouble:none", reference.split('/').next().unwrap_or_default());
    ensure!(code(&node.cri.pull(&nowhere).await) == Code::NotFound, "an unknown tag");
    ensure!(code(&node.cri.pull("UPPER CASE/is:bad").await) != Code::Ok);
    let layer = || Where::Blob(image.layers[1].clone());
    let mut faults = vec![
        (Where::Manifests, Fault::Status(401)),
        (Where::Manifests, Fault::Status(404)),
        (Where::Everything, Fault::Status(500)),
        (Where::Everything, Fault::Status(429)),
        (Where::Manifests, Fault::Corrupt),
        (Where::Manifests, Fault::Rubbish),
        (layer(), Fault::Rubbish),
        (layer(), Fault::Corrupt),
        (layer(), Fault::Truncate(1000)),
        (layer(), Fault::Status(404)),
    ];
    if node.setup.flavour == Flavour::Windlass {
        faults.push((layer(), Fault::Endless));
        // containerd has this layer already, from its pause image.
        faults.insert(0, (Where::Blob(image.layers[0].clone()), Fault::Corrupt));
    }
    for (place, fault) in faults {
        if node.setup.flavour == Flavour::Containerd && place == Where::Manifests && fault == Fault::Corrupt {
            continue;
        }
        registry.fail(place.clone(), fault.clone(), usize::MAX);
        let begin = Instant::now();
        let answer = node.cri.pull(&reference).await;
        println!(
            "{place:?} {fault:?}: {:?} after {:?}",
            answer.as_ref().err().map(|status| (status.code(), status.message().to_owned())),
            begin.elapsed()
        );
        ensure!(answer.is_err(), "{place:?} {fault:?}: the pull succeeds");
        ensure!(node.cri.image(&reference).await?.is_none(), "{place:?} {fault:?}: half an image is shown");
        ensure!(begin.elapsed() < patient(Duration::from_secs(60)), "{place:?} {fault:?} took {:?}", begin.elapsed());
        registry.heal();
        if node.setup.flavour == Flavour::Windlass {
            // What came before the connection broke is kept for a while, and the next failure ends it.
            let kept = kernel::entries_at(&node.setup.root.join("content/ingest"), 1).len();
            ensure!(kept == usize::from(matches!(fault, Fault::Truncate(_))), "{place:?} {fault:?}: {kept} ingests");
        }
    }
    if node.setup.flavour == Flavour::Windlass {
        node.assert_clean().await.context("after failed pulls")?;
        // One failure in passing is no failure.
        registry.fail(layer(), Fault::Truncate(100_000), 1);
        node.cri.pull(&reference).await.context("a connection that broke once")?;
        node.cri.remove_image(&reference).await?;
        registry.fail(Where::Everything, Fault::Status(429), 1);
    }
    node.cri.pull(&reference).await?;
    let pod = node.run(node.host_pod("well"), &reference, &["sleep", "1000"]).await?;
    ensure!(node.cri.output(&pod.container, &["sh", "-c", "wc -c < /more"]).await?.trim() == "300000");
    node.cri.remove_everything().await?;
    node.mark().await;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_who_is_there() -> Result<()> {
    let node = Node::start().await?;
    let registry = Troublemaker::start()?;
    let reference = registry.hold("private", "1", &Image::busybox()?);
    let known = |password: &str| {
        Some(AuthConfig { username: "ann".to_owned(), password: password.to_owned(), ..Default::default() })
    };
    let (user, password) = ("ann".to_owned(), "geheim".to_owned());
    for guard in [Guard::Basic(user.clone(), password.clone()), Guard::Token(user, password)] {
        registry.guard(guard.clone());
        ensure!(node.cri.pull(&reference).await.is_err(), "{guard:?} without credentials");
        let wrong = node.cri.pull_as(&reference, known("wrong")).await;
        let status = wrong.err().with_context(|| format!("{guard:?} with the wrong password"))?;
        ensure!(!status.message().contains("wrong\""), "a password in an error: {status:?}");
        node.cri.pull_as(&reference, known("geheim")).await.with_context(|| format!("{guard:?}"))?;
        node.cri.remove_image(&reference).await?;
        let auth = windlass_test_e2e::trouble::base64(b"ann:geheim");
        node.cri
            .pull_as(&reference, Some(AuthConfig { auth, ..Default::default() }))
            .await
            .context("credentials as `auth`")?;
        node.cri.remove_image(&reference).await?;
    }
    registry.guard(Guard::Token(String::new(), String::new()));
    node.cri.pull(&reference).await.context("a token for everybody")?;
    let log = std::fs::read_to_string(&node.setup.log)?;
    ensure!(!log.contains("geheim") && !log.contains("sesame"), "a secret in the daemon's log");
    node.cri.remove_image(&reference).await?;
    node.cri.remove_everything().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falls_silent_holds_only_its_own_pull() -> Result<()> {
    let mut node = Node::start().await?;
    let registry = Troublemaker::start()?;
    let image = Recipe::new().layer(Layer::of_file(Compression::None, "slow", &noise(100_000, 9))?).build()?;
    let reference = registry.hold("silent", "1", &image);
    registry.fail(Where::Blob(image.layers[0].clone()), Fault::Stall(1000), usize::MAX);
    let (client, theirs) = (node.cri.clone(), reference.clone());
    let held = tokio::spawn(async move { client.pull(&theirs).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begin = Instant::now();
    let well = node.busybox().await?;
    let pod = node.run(node.host_pod("free"), &well, &["true"]).await?;
    ensure!(begin.elapsed() < patient(Duration::from_secs(5)), "another pull took {:?}", begin.elapsed());
    node.exited(&pod.container).await?;
    ensure!(!held.is_finished(), "the silent pull ended too early");
    registry.heal();
    drop(registry);
    ensure!(tokio::time::timeout(Duration::from_secs(60), held).await??.is_err(), "a pull from a dead registry");
    node.cri.remove_everything().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cannot_leave_its_directory() -> Result<()> {
    let node = Node::start().await?;
    let outside = node.dir().join("logs/outside");
    std::fs::create_dir_all(&outside)?;
    let target = outside.to_string_lossy().into_owned();
    let climb = format!("../../../../../../../..{target}/climbed");
    let climbing = Layer::write(Compression::None, |layer| layer.raw(&climb, b"x").map(|_| ()))?;
    let linking = Layer::write(Compression::None, |layer| {
        layer.symlink("way", &target)?.raw("way/through-a-link", b"x")?.hard_link("stolen", "way/secret")?;
        Ok(())
    })?;
    std::fs::write(outside.join("secret"), "secret")?;
    for (name, layer) in [("climb", climbing), ("link", linking)] {
        let image = Recipe::new().layer(Layer::busybox(Compression::Gzip)?).layer(layer).build()?;
        let reference = node.registry.push(name, "1", &image)?;
        let answer = node.cri.pull(&reference).await;
        println!("{name}: {:?}", answer.as_ref().err().map(tonic::Status::message));
        let found = kernel::entries_at(&outside, 1);
        ensure!(found.len() == 1, "{name}: written outside: {found:?}");
        ensure!(
            std::fs::metadata(outside.join("secret")).map(|meta| std::os::unix::fs::MetadataExt::nlink(&meta))? == 1
        );
    }
    node.cri.remove_everything().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_and_no_more() -> Result<()> {
    let mut node = Node::start().await?;
    node.daemon.kill();
    small_disk(&node.setup.root, 48)?;
    node.resume().await?;
    node.mark().await;
    let image = node.busybox().await?;
    let pod = node.run(node.host_pod("steady"), &image, &["sleep", "1000"]).await?;
    let big = Recipe::new().layer(Layer::of_file(Compression::None, "big", &noise(60 << 20, 5))?).build()?;
    let reference = node.registry.push("big", "1", &big)?;
    let answer = node.cri.pull(&reference).await;
    println!("full: {:?}", answer.as_ref().err().map(|status| (status.code(), status.message().to_owned())));
    ensure!(answer.is_err() && node.cri.image(&reference).await?.is_none());
    ensure!(node.is_reference() || code(&answer) == Code::ResourceExhausted, "{answer:?}");
    ensure!(node.cri.output(&pod.container, &["echo", "well"]).await? == "well\n");
    if !node.is_reference() {
        let kept = kernel::entries_at(&node.setup.root.join("content/ingest"), 1);
        ensure!(kept.is_empty(), "a pull without room keeps {kept:?}");
    }
    // The same pull works where there is room.
    let larger = Command::new("mount").args(["-o", "remount,size=300m"]).arg(&node.setup.root).status()?;
    ensure!(larger.success(), "a larger disk");
    node.cri.pull(&reference).await.context("the same pull, with room")?;
    node.cri.remove_image(&reference).await?;
    node.cri.stop_pod(&pod.id).await?;
    node.cri.remove_pod(&pod.id).await?;
    let more = node.registry.push("small", "1", &Image::many_layers(1)?)?;
    eventually("room again after the failed pull", Duration::from_secs(20), async || node.cri.pull(&more).await.ok())
        .await?;
    node.cri.remove_everything().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_does_not_stop_the_container() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.host_pod("full");
    small_disk(std::path::Path::new(&config.log_directory), 1)?;
    node.mark().await;
    let script = "yes 0123456789012345678901234567890123456789 | head -n 60000; echo over > /over; while true; do echo later; sleep 0.1; done";
    let pod = node.run(config.clone(), &image, &["sh", "-c", script]).await?;
    eventually("the container writes on though its log is full", Duration::from_secs(20), async || {
        node.cri.output(&pod.container, &["cat", "/over"]).await.ok()
    })
    .await?;
    ensure!(node.state(&pod.container).await == Some(ContainerState::ContainerRunning));
    let log = std::path::Path::new(&config.log_directory).join("main.log");
    std::fs::OpenOptions::new().write(true).open(&log)?.set_len(0)?;
    node.cri.reopen_log(&pod.container).await?;
    eventually("logging goes on when there is room", Duration::from_secs(10), async || {
        node.raw_log("full", "main.log").iter().any(|line| line.ends_with(" stdout F later")).then_some(())
    })
    .await?;
    node.finish().await
}

fn shims(node: &Node) -> Vec<u32> {
    let all = kernel::processes_of(&node.tag()).into_iter();
    all.filter(|(pid, _)| kernel::is_shim(*pid)).map(|(pid, _)| pid).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_ends_its_containers() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let other = node.run(node.pod("other"), &image, &["sleep", "1000"]).await?;
    let known = shims(&node);
    let pod = node.run(node.pod("orphan"), &image, &["sleep", "1000"]).await?;
    let mine: Vec<_> = shims(&node).into_iter().filter(|pid| !known.contains(pid)).collect();
    ensure!(!mine.is_empty(), "no shim found");
    for pid in mine {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL)?;
    }
    let status = node.exited(&pod.container).await?;
    ensure!(status.exit_code != 0 && status.finished_at > 0, "{status:?}");
    eventually("its processes are gone", Duration::from_secs(10), async || {
        let parent = pod.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
        kernel::processes_of(&parent).is_empty().then_some(())
    })
    .await?;
    ensure!(node.cri.output(&other.container, &["echo", "well"]).await? == "well\n");
    node.cri.stop_pod(&pod.id).await?;
    node.cri.remove_pod(&pod.id).await?;
    node.run(node.pod("orphan"), &image, &["sleep", "1000"]).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_stopped_in_the_moment_its_shim_is_killed() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    for round in 0..8 {
        let pod = node.run(node.host_pod(&format!("dying-{round}")), &image, &["sleep", "1000"]).await?;
        for pid in shims(&node) {
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL)?;
        }
        tokio::time::sleep(Duration::from_micros(round * 500)).await;
        node.cri.stop_pod(&pod.id).await?;
        let state = node.state(&pod.container).await;
        ensure!(state == Some(ContainerState::ContainerExited), "{round}: {state:?}");
        node.cri.remove_pod(&pod.id).await?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_while_the_daemon_is_away() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("orphan"), &image, &["sleep", "1000"]).await?;
    node.daemon.kill();
    for pid in shims(&node) {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL)?;
    }
    node.resume().await?;
    let status = node.exited(&pod.container).await?;
    ensure!(status.exit_code != 0, "{status:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_shim_holds_only_its_own_pod() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.host_pod("frozen"), &image, &["sleep", "1000"]).await?;
    let frozen = shims(&node);
    for pid in &frozen {
        kill(Pid::from_raw(*pid as i32), Signal::SIGSTOP)?;
    }
    let (client, id) = (node.cri.clone(), pod.container.clone());
    let held = tokio::spawn(async move { client.exec(&id, &["echo", "late"], 30).await });
    let begin = Instant::now();
    let other = node.run(node.host_pod("free"), &image, &["sleep", "1000"]).await;
    let lists = (node.cri.pods(None).await, node.cri.containers(None).await);
    let elapsed = begin.elapsed();
    for pid in &frozen {
        kill(Pid::from_raw(*pid as i32), Signal::SIGCONT)?;
    }
    ensure!(elapsed < patient(Duration::from_secs(5)), "another pod took {elapsed:?}");
    other?;
    ensure!(lists.0?.len() == 2 && lists.1?.len() == 2);
    ensure!(held.await??.stdout == b"late\n");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it does otherwise") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let mut second = node.setup.clone();
    second.socket = node.dir().join("second.sock");
    second.config = node.dir().join("second.toml");
    second.log = node.dir().join("second.log");
    second.write_config()?;
    let mut child = second.spawn()?;
    let end =
        eventually("the second daemon gives up", Duration::from_secs(10), async || child.try_wait().ok().flatten())
            .await;
    child.kill().ok();
    child.wait().ok();
    let said = second.log_tail();
    ensure!(!end?.success() && said.contains(&*node.setup.root.to_string_lossy()), "it says: {said}");
    let pod = node.run(node.pod("first"), &image, &["sleep", "1000"]).await?;
    ensure!(node.cri.output(&pod.container, &["echo", "well"]).await? == "well\n");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_refused_with_its_line() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it does otherwise") {
        return Ok(());
    }
    let path = node.dir().join("wrong.toml");
    std::fs::write(&path, "version = 1\n\n[cri]\nsnapshotter = \"overlay\"\nsnapshoter = \"native\"\n")?;
    for check in [true, false] {
        let mut command = Command::new(windlass_test_e2e::daemon::bin_dir()?.join("windlassd"));
        command.arg("--config").arg(&path);
        if check {
            command.args(["config", "check"]);
        }
        let output = command.output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(!output.status.success() && said.contains("snapshoter") && said.contains('5'), "check {check}: {said}");
    }
    node.finish().await
}
