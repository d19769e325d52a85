//! A pod's whole life: pull, run, create, start, log, exec, stop, remove, and what the lists say meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::image::{Compression, Family, Image, Layer, Recipe};
use windlass_test_e2e::words::{
    ContainerFilter, ContainerState, ContainerStateValue, PodSandboxFilter, PodSandboxState,
};
use windlass_test_e2e::words::{Mount, PodSandboxStateValue};
use windlass_test_e2e::{Node, code, cri, patient};

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_life_of_a_pod() -> Result<()> {
    let mut node = Node::start().await?;
    let version = node.cri.version().await?;
    ensure!(version.version == "0.1.0", "version {}", version.version);
    ensure!(
        !version.runtime_name.is_empty()
            && !version.runtime_version.is_empty()
            && !version.runtime_api_version.is_empty()
    );
    let conditions = node.cri.conditions().await?;
    ensure!(
        conditions.get("RuntimeReady") == Some(&true) && conditions.get("NetworkReady") == Some(&true),
        "{conditions:?}"
    );

    let image = node.busybox().await?;
    let config = node.pod("life");
    let pod = node.cri.run_pod(&config).await?;
    let status = node.cri.pod_status(&pod).await?;
    ensure!(status.state == PodSandboxState::SandboxReady as i32 && status.id == pod && status.created_at > 0);
    ensure!(status.metadata == config.metadata && status.labels == config.labels);
    let ip = status.network.context("no network")?.ip;
    ensure!(ip.starts_with(&node.cni.prefix), "pod address {ip}");

    let script = "echo to-out; echo to-err >&2; trap 'echo bye; exit 7' TERM; while true; do sleep 0.05; done";
    let what = cri::container("main", &image, &["sh", "-c", script]);
    let id = node.cri.create(&pod, &what, &config).await?;
    ensure!(node.state(&id).await == Some(ContainerState::ContainerCreated));
    let before = now_nanos();
    node.cri.start(&id).await?;
    ensure!(node.state(&id).await == Some(ContainerState::ContainerRunning));
    let status = node.cri.container_status(&id).await?;
    ensure!(status.started_at >= before && status.created_at <= status.started_at && status.finished_at == 0);
    ensure!(status.log_path.ends_with("/life/main.log"), "log path {}", status.log_path);
    ensure!(!status.image_ref.is_empty() && status.image.is_some_and(|image| !image.image.is_empty()));

    windlass_test_e2e::eventually("both lines", Duration::from_secs(5), async || {
        (node.raw_log("life", "main.log").len() == 2).then_some(())
    })
    .await?;
    let log = node.raw_log("life", "main.log");
    ensure!(log.iter().any(|line| line.ends_with(" stdout F to-out")), "{log:?}");
    ensure!(log.iter().any(|line| line.ends_with(" stderr F to-err")), "{log:?}");

    ensure!(node.cri.output(&id, &["hostname"]).await? == "life\n");
    node.cri.stop(&id, 10).await?;
    let status = node.cri.container_status(&id).await?;
    ensure!(status.state == ContainerState::ContainerExited as i32 && status.exit_code == 7, "{status:?}");
    ensure!(status.finished_at >= status.started_at && status.reason == "Error", "{status:?}");
    ensure!(node.raw_log("life", "main.log").iter().any(|line| line.ends_with(" stdout F bye")));

    node.cri.remove(&id).await?;
    ensure!(code(&node.cri.container_status(&id).await) == Code::NotFound);
    node.cri.stop_pod(&pod).await?;
    ensure!(node.cri.pod_status(&pod).await?.state == PodSandboxState::SandboxNotready as i32);
    node.cri.remove_pod(&pod).await?;
    ensure!(code(&node.cri.pod_status(&pod).await) == Code::NotFound);
    node.finish().await
}

fn now_nanos() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_may_be_repeated() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("again"), &image, &["sleep", "1000"]).await?;
    node.cri.stop(&pod.container, 0).await?;
    node.cri.stop(&pod.container, 0).await?;
    ensure!(node.cri.container_status(&pod.container).await?.exit_code == 137);
    ensure!(code(&node.cri.start(&pod.container).await) != Code::Ok, "an ended container does not start again");
    node.cri.remove(&pod.container).await?;
    node.cri.remove(&pod.container).await?;
    node.cri.stop(&pod.container, 0).await.ok();
    node.cri.stop_pod(&pod.id).await?;
    node.cri.stop_pod(&pod.id).await?;
    node.cri.remove_pod(&pod.id).await?;
    node.cri.remove_pod(&pod.id).await?;
    node.cri.remove_pod("0000000000000000000000000000000000000000000000000000000000000000").await?;
    ensure!(code(&node.cri.start("unknown").await) == Code::NotFound);
    ensure!(code(&node.cri.exec("unknown", &["true"], 1).await) == Code::NotFound);
    ensure!(code(&node.cri.pod_status("unknown").await) == Code::NotFound);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_running_pod_takes_its_containers_along() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("whole"), &image, &["sleep", "1000"]).await?;
    let other = node.add(&pod.id, &pod.config, cri::container("other", &image, &["sleep", "1000"])).await?;
    node.cri.stop_pod(&pod.id).await?;
    node.cri.stop_pod(&pod.id).await?;
    for id in [&pod.container, &other] {
        ensure!(node.exited(id).await?.exit_code == 137);
    }
    node.cri.remove_pod(&pod.id).await?;
    ensure!(node.cri.containers(None).await?.is_empty());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_answers_output_and_code() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("exec"), &image, &["sleep", "1000"]).await?;
    let id = &pod.container;
    let answer = node.cri.exec(id, &["sh", "-c", "echo out; echo err >&2; exit 42"], 0).await?;
    ensure!(answer.stdout == b"out\n" && answer.stderr == b"err\n" && answer.exit_code == 42, "{answer:?}");
    let answer = node.cri.exec(id, &["sh", "-c", "kill -9 $$"], 0).await?;
    ensure!(answer.exit_code == 137, "killed: {}", answer.exit_code);
    ensure!(code(&node.cri.exec(id, &["no-such-program"], 5).await) != Code::Ok);
    ensure!(code(&node.cri.exec(id, &[], 5).await) != Code::Ok);

    let begin = Instant::now();
    let answer = node.cri.exec(id, &["sleep", "100"], 1).await;
    ensure!(code(&answer) == Code::DeadlineExceeded, "{answer:?}");
    ensure!(begin.elapsed() < patient(Duration::from_secs(8)), "a time-out of 1 s took {:?}", begin.elapsed());
    windlass_test_e2e::eventually("the timed-out process is gone", Duration::from_secs(5), async || {
        let list = node.cri.output(id, &["ps"]).await.ok()?;
        (!list.contains("sleep 100\n")).then_some(())
    })
    .await?;

    let answer = node.cri.exec(id, &["sh", "-c", "yes 0123456789abcde | head -c 3145728"], 30).await?;
    ensure!(answer.stdout.len() == 3 << 20, "3 MiB of output: {}", answer.stdout.len());
    ensure!(answer.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"));
    // A child that keeps the pipes open must not keep the answer back for ever.
    let begin = Instant::now();
    let answer = node.cri.exec(id, &["sh", "-c", "sleep 30 & echo done"], 10).await;
    let prompt = begin.elapsed() < patient(Duration::from_secs(8));
    ensure!(prompt || node.is_reference(), "{answer:?} after {:?}", begin.elapsed());
    node.cri.stop(id, 0).await?;
    ensure!(code(&node.cri.exec(id, &["true"], 1).await) != Code::Ok, "exec in an ended container");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_execs_at_once() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("many"), &image, &["sleep", "1000"]).await?;
    let calls = (0..30).map(|n| {
        let (cri, id) = (node.cri.clone(), pod.container.clone());
        async move {
            let text = format!("echo {n}; exit {n}");
            let answer = cri.exec(&id, &["sh", "-c", &text], 30).await?;
            ensure!(answer.exit_code == n && answer.stdout == format!("{n}\n").into_bytes(), "{n}: {answer:?}");
            Ok(())
        }
    });
    futures::future::try_join_all(calls).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_filters() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let mut config = node.host_pod("red");
    config.labels.insert("colour".to_owned(), "red".to_owned());
    config.annotations.insert("note".to_owned(), "ünïcode ✓".to_owned());
    let red = node.run(config, &image, &["sleep", "1000"]).await?;
    let blue = node.run(node.host_pod("blue"), &image, &["true"]).await?;
    node.exited(&blue.container).await?;
    node.cri.stop_pod(&blue.id).await?;

    let ids = async |filter: PodSandboxFilter| -> Result<Vec<String>> {
        Ok(node.cri.pods(Some(filter)).await?.into_iter().map(|pod| pod.id).collect())
    };
    let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state as i32 });
    ensure!(node.cri.pods(None).await?.len() == 2);
    ensure!(
        ids(PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..Default::default() }).await?
            == std::slice::from_ref(&red.id)
    );
    ensure!(
        ids(PodSandboxFilter { state: state(PodSandboxState::SandboxNotready), ..Default::default() }).await?
            == std::slice::from_ref(&blue.id)
    );
    let label_selector = HashMap::from([("colour".to_owned(), "red".to_owned())]);
    ensure!(
        ids(PodSandboxFilter { label_selector: label_selector.clone(), ..Default::default() }).await?
            == std::slice::from_ref(&red.id)
    );
    ensure!(ids(PodSandboxFilter { id: blue.id.clone(), label_selector, ..Default::default() }).await?.is_empty());
    ensure!(
        ids(PodSandboxFilter { id: red.id[..12].to_owned(), ..Default::default() }).await?
            == std::slice::from_ref(&red.id),
        "short id"
    );
    let listed = node.cri.pods(None).await?.into_iter().find(|pod| pod.id == red.id).context("red is not listed")?;
    ensure!(listed.annotations.get("note").is_some_and(|note| note == "ünïcode ✓"));

    let running = Some(ContainerStateValue { state: ContainerState::ContainerRunning as i32 });
    let found = node.cri.containers(Some(ContainerFilter { state: running, ..Default::default() })).await?;
    ensure!(found.len() == 1 && found[0].id == red.container && found[0].pod_sandbox_id == red.id);
    let of_blue = ContainerFilter { pod_sandbox_id: blue.id.clone(), ..Default::default() };
    let found = node.cri.containers(Some(of_blue)).await?;
    ensure!(found.len() == 1 && found[0].state == ContainerState::ContainerExited as i32);
    let status = node.cri.container_status(&blue.container).await?;
    ensure!(status.exit_code == 0 && status.reason == "Completed", "{status:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_what_it_was_promised() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let shared = node.dir().join("logs/shared");
    std::fs::create_dir_all(&shared)?;
    std::fs::write(shared.join("hello"), "from the host\n")?;
    let mut what = cri::container("main", &image, &["sh", "-c", "echo \"$GREETING $0 $1\"; sleep 1000"]);
    what.args = vec!["zero".to_owned(), "one".to_owned()];
    what.envs.push(windlass_test_e2e::words::KeyValue { key: "GREETING".to_owned(), value: "hello".to_owned() });
    what.working_dir = "/tmp/made/for/it".to_owned();
    let host_path = shared.to_string_lossy().into_owned();
    what.mounts.push(Mount { container_path: "/rw".to_owned(), host_path: host_path.clone(), ..Default::default() });
    what.mounts.push(Mount { container_path: "/ro/deep".to_owned(), host_path, readonly: true, ..Default::default() });
    if let Some(linux) = &mut what.linux {
        if let Some(resources) = &mut linux.resources {
            resources.memory_limit_in_bytes = 64 << 20;
            resources.cpu_shares = 512;
        }
        if let Some(context) = &mut linux.security_context {
            context.run_as_user = Some(windlass_test_e2e::words::Int64Value { value: 1000 });
            context.supplemental_groups = vec![4242];
        }
    }
    let config = node.pod("promised");
    let pod = node.cri.run_pod(&config).await?;
    let id = node.add(&pod, &config, what).await?;
    windlass_test_e2e::eventually("the greeting", Duration::from_secs(5), async || {
        node.raw_log("promised", "main.log").iter().any(|line| line.ends_with("hello zero one")).then_some(())
    })
    .await?;
    ensure!(node.cri.output(&id, &["pwd"]).await? == "/tmp/made/for/it\n");
    ensure!(node.cri.output(&id, &["id", "-u"]).await? == "1000\n");
    let groups = node.cri.output(&id, &["id", "-G"]).await?;
    ensure!(groups.contains("4242") && groups.contains("1001"), "groups {groups}");
    ensure!(node.cri.output(&id, &["cat", "/rw/hello", "/ro/deep/hello"]).await? == "from the host\n".repeat(2));
    ensure!(node.cri.exec(&id, &["touch", "/ro/deep/no"], 5).await?.exit_code != 0, "a read-only mount was written");
    let parents = node.cgroup_parents();
    let limits: Vec<_> = parents.iter().flat_map(|parent| windlass_test_e2e::kernel::cgroups_below(parent)).collect();
    let limited = |path: &std::path::PathBuf| {
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
        read("memory.limit_in_bytes") == "67108864" || read("memory.max") == "67108864"
    };
    ensure!(limits.iter().any(limited), "no cgroup of the pod has the memory limit");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_keep_every_byte() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no end of line'; sleep 0.2";
    let pod = node.run(node.host_pod("log"), &image, &["sh", "-c", script]).await?;
    node.exited(&pod.container).await?;
    let lines = node.raw_log("log", "main.log");
    let mut text = String::new();
    for line in &lines {
        let mut words = line.splitn(4, ' ');
        let (time, stream, flag, rest) = (words.next(), words.next(), words.next(), words.next());
        ensure!(time.is_some_and(|time| time.len() >= 20 && time.contains('T')), "time in {line:?}");
        ensure!(stream == Some("stdout"), "stream in {line:?}");
        text.push_str(rest.unwrap_or_default());
        match flag {
            Some("F") => text.push('\n'),
            Some("P") => {}
            other => anyhow::bail!("flag {other:?}"),
        }
    }
    let expected = format!("{}\nno end of line", "x".repeat(40000));
    ensure!(text.trim_end_matches('\n') == expected, "{} bytes in {} lines", text.len(), lines.len());
    ensure!(lines.len() >= 3, "a line of 40 000 bytes is cut into parts");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_reopened_after_rotation() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let script = "n=0; while true; do n=$((n+1)); echo line $n; usleep 2000; done";
    let pod = node.run(node.host_pod("rotate"), &image, &["sh", "-c", script]).await?;
    let log = node.dir().join("logs/rotate/main.log");
    let filled = async |at_least: usize| {
        windlass_test_e2e::eventually("log lines", Duration::from_secs(10), async || {
            (node.raw_log("rotate", "main.log").len() > at_least).then_some(())
        })
        .await
    };
    filled(20).await?;
    std::fs::rename(&log, log.with_extension("log.1"))?;
    node.cri.reopen_log(&pod.container).await?;
    filled(20).await?;
    node.cri.stop(&pod.container, 0).await?;
    let mut all = node.raw_log("rotate", "main.log.1");
    all.extend(node.raw_log("rotate", "main.log"));
    for (at, line) in all.iter().enumerate() {
        ensure!(line.ends_with(&format!(" stdout F line {}", at + 1)), "line {} is {line:?}", at + 1);
    }
    ensure!(code(&node.cri.reopen_log(&pod.container).await) != Code::Ok, "reopen for an ended container");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_every_kind() -> Result<()> {
    let node = Node::start().await?;
    let stack = |family, index: bool, compression| -> Result<Image> {
        let mut recipe = Recipe::new().family(family).layer(Layer::busybox(compression)?).layer(Layer::write(
            compression,
            |layer| {
                layer.dir("deep", 0o755)?.file("deep/old", 0o644, b"old")?.file("gone", 0o644, b"gone")?;
                layer
                    .file("deep/target", 0o4755, b"t")?
                    .hard_link("deep/link", "deep/target")?
                    .symlink("deep/soft", "/deep/target")?;
                Ok(())
            },
        )?);
        recipe = recipe.layer(Layer::write(compression, |layer| {
            layer.dir("deep", 0o755)?.file("deep/.wh..wh..opq", 0o644, b"")?.file("deep/new", 0o640, b"new")?;
            layer.file(".wh.gone", 0o644, b"")?;
            Ok(())
        })?);
        if index {
            recipe = recipe.index();
        }
        recipe.build()
    };
    let kinds = [
        ("oci-gzip", stack(Family::Oci, false, Compression::Gzip)?),
        ("oci-plain-index", stack(Family::Oci, true, Compression::None)?),
        ("oci-zstd", stack(Family::Oci, false, Compression::Zstd)?),
        ("docker-gzip-index", stack(Family::Docker, true, Compression::Gzip)?),
    ];
    for (name, image) in kinds {
        let reference = node.registry.push(name, "1", &image)?;
        let answer = node.cri.pull(&reference).await.with_context(|| format!("pull of {name}"))?;
        let found = node.cri.image(&reference).await?.with_context(|| format!("{name} after its pull"))?;
        ensure!(found.id == image.id, "{name}: id {} instead of {}", found.id, image.id);
        ensure!(found.repo_tags == [reference.clone()], "{name}: {:?}", found.repo_tags);
        ensure!(
            found.repo_digests.iter().any(|digest| digest.ends_with(&image.top().digest())),
            "{:?}",
            found.repo_digests
        );
        ensure!(found.size > 0 && !answer.is_empty());
        let pod = node.run(node.host_pod(name), &answer, &["sleep", "1000"]).await.with_context(|| name.to_owned())?;
        let listing =
            node.cri.output(&pod.container, &["sh", "-c", "ls -A /deep; test -e /gone || echo no gone"]).await?;
        ensure!(listing == "new\nno gone\n", "{name}: {listing:?}");
        node.cri.stop_pod(&pod.id).await?;
        node.cri.remove_pod(&pod.id).await?;
        let by_digest = format!("{}@{}", reference.trim_end_matches(":1"), image.top().digest());
        node.cri.pull(&by_digest).await.with_context(|| format!("pull of {by_digest}"))?;
        node.cri.remove_image(&reference).await?;
        node.cri.remove_image(&image.id).await?;
        ensure!(
            node.cri.image(&reference).await?.is_none() && node.cri.image(&by_digest).await?.is_none(),
            "{name} is still there"
        );
    }
    ensure!(node.cri.image("127.0.0.1:1/unknown:1").await?.is_none());
    node.cri.remove_image("127.0.0.1:1/unknown:1").await?;
    let info =
        node.cri.image_service().image_fs_info(windlass_test_e2e::words::ImageFsInfoRequest {}).await?.into_inner();
    let first = info.image_filesystems.first().context("no image file system")?;
    ensure!(first.fs_id.as_ref().is_some_and(|id| id.mountpoint.starts_with('/')) && first.timestamp > 0);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_may_share_its_process_namespace() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let mut config = node.pod("shared");
    let shared = windlass_test_e2e::words::NamespaceOption::default();
    if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.namespace_options = Some(shared.clone());
    }
    let pod = node.cri.run_pod(&config).await?;
    let container = |name: &str, seconds: &str| {
        let mut what = cri::container(name, &image, &["sleep", seconds]);
        if let Some(context) = what.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            context.namespace_options = Some(shared.clone());
        }
        what
    };
    let one = node.add(&pod, &config, container("one", "1001")).await?;
    let two = node.add(&pod, &config, container("two", "1002")).await?;
    let list = node.cri.output(&one, &["ps"]).await?;
    ensure!(list.contains("sleep 1001") && list.contains("sleep 1002"), "{list}");
    ensure!(
        !node.cri.output(&two, &["cat", "/proc/1/cmdline"]).await?.contains("100"),
        "the init is a container's process"
    );
    node.cri.stop(&one, 0).await?;
    ensure!(node.state(&two).await == Some(ContainerState::ContainerRunning), "one's end took two along");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_memory_has_a_name() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.host_pod("oom");
    let pod = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sh", "-c", "sleep 0.3; tail /dev/zero"]);
    if let Some(resources) = what.linux.as_mut().and_then(|linux| linux.resources.as_mut()) {
        resources.memory_limit_in_bytes = 24 << 20;
        resources.memory_swap_limit_in_bytes = 24 << 20;
    }
    let id = node.add(&pod, &config, what).await?;
    let status = node.exited(&id).await?;
    ensure!(status.exit_code == 137 && status.reason == "OOMKilled", "{status:?}");
    node.finish().await
}
