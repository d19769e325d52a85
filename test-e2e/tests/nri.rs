//! Plugins of the Node Resource Interface: what they hear, what they change, and what becomes of those that fail.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::Message;
use tonic::Code;
use windlass_test_e2e::newer;
use windlass_test_e2e::node::Plan;
use windlass_test_e2e::nri::{
    self, About, Adjustment, Answer, Created, Decide, Device, Judged, Judgement, Linux, Memory, Mount, Plugin,
    Resources, Rlimit, Update, UpdateLinux, UpdateRequest, Updates, Variable, event, int, yes,
};
use windlass_test_e2e::words::{self, ContainerState};
use windlass_test_e2e::{Node, code, cri};

/// How long plugins have for an answer here.
const PATIENCE: Duration = Duration::from_secs(2);

async fn node() -> Result<(Node, PathBuf)> {
    let more = "[cri.nri]\nenable = true\nsocket = \"{dir}/nri.sock\"\nplugin_dir = \"{dir}/plugins\"\n\
                plugin_config_dir = \"{dir}/conf\"\n";
    let mut node = Node::start_with(Plan { more_config: more.to_owned(), ..Plan::default() }).await?;
    node.busybox().await?;
    let socket = node.dir().join("nri.sock");
    Ok((node, socket))
}

fn image(node: &Node) -> String {
    format!("{}/busybox:1", node.registry.host())
}

fn indifferent() -> Decide {
    Box::new(|_, _| Some(Ok(Vec::new())))
}

/// Answers one method; has nothing to say to others.
fn on(wanted: &'static str, answer: impl Fn(&[u8]) -> Answer + Send + 'static) -> Decide {
    Box::new(move |method, payload| if method == wanted { answer(payload) } else { Some(Ok(Vec::new())) })
}

fn adjusted(adjust: Adjustment) -> Answer {
    yes(&Created { adjust: Some(adjust), update: vec![] })
}

fn variable(key: &str, value: &str) -> Adjustment {
    let env = vec![Variable { key: key.to_owned(), value: value.to_owned() }];
    Adjustment { env, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_hears_of_every_step_once_and_in_order() -> Result<()> {
    let (node, socket) = node().await?;
    let plugin = Plugin::connect(&socket, "00", "listener", 0, indifferent())?;
    ensure!(plugin.joined().await?.pods.is_empty());
    let configure = plugin.heard().into_iter().find(|heard| heard.method == "Configure").context("no Configure")?;
    let configure = nri::Configure::decode(configure.payload.as_slice())?;
    ensure!(configure.runtime_name == "windlass" && configure.request_timeout == 2000, "{configure:?}");

    let config = node.pod("steps");
    let pod = node.run(config.clone(), &image(&node), &["sleep", "3600"]).await?;
    let started = plugin.heard().into_iter().find(|heard| heard.method == "PostStartContainer").context("no start")?;
    let about = About::decode(started.payload.as_slice())?;
    let (told, container) = (about.pod.context("no pod")?, about.container.context("no container")?);
    ensure!(
        told.name == "steps" && told.namespace == "e2e" && told.uid == "uid-steps" && !told.ips.is_empty(),
        "{told:?}"
    );
    ensure!(container.name == "main" && container.state == 3 && container.pid > 0, "{container:?}");
    ensure!(container.args == ["sleep", "3600"] && container.env.iter().any(|pair| pair == "HOSTNAME=steps"));
    let limits = words::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    let request = words::UpdateContainerResourcesRequest {
        container_id: pod.container.clone(),
        linux: Some(limits),
        ..Default::default()
    };
    node.cri.runtime().update_container_resources(request).await?;
    let request = newer::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        resources: Some(words::LinuxContainerResources { cpu_shares: 512, ..Default::default() }),
        ..Default::default()
    };
    node.cri.newer().ask::<nri::Empty>("UpdatePodSandboxResources", &request).await?;
    node.cri.stop(&pod.container, 0).await?;
    node.cri.stop(&pod.container, 0).await?;
    node.cri.remove(&pod.container).await?;
    // One that ends by itself.
    let brief = node.add(&pod.id, &config, cri::container("brief", &image(&node), &["sh", "-c", "exit 3"])).await?;
    node.exited(&brief).await?;
    windlass_test_e2e::eventually("its end is told", Duration::from_secs(10), async || {
        plugin.steps_of(&brief).contains(&"StopContainer".to_owned()).then_some(())
    })
    .await?;
    for _ in 0..2 {
        node.cri.stop_pod(&pod.id).await?;
    }
    node.cri.remove_pod(&pod.id).await?;
    let begin = [
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
    ];
    let end = ["StopContainer", "RemoveContainer"];
    let whole = [&begin[..], &["UpdateContainer", "PostUpdateContainer"], &end].concat();
    ensure!(plugin.steps_of(&pod.container) == whole, "{:?}", plugin.steps_of(&pod.container));
    // Its end may be told before its start is.
    let mut steps = plugin.steps_of(&brief);
    ensure!(steps.first().is_some_and(|first| first == "CreateContainer"), "{steps:?}");
    ensure!(steps.last().is_some_and(|last| last == "RemoveContainer"), "{steps:?}");
    steps.sort();
    let mut expected = [&begin[..], &end].concat();
    expected.sort_unstable();
    ensure!(steps == expected, "{steps:?}");
    let steps = plugin.steps_of_pod(&pod.id);
    let update = ["UpdatePodSandbox", "PostUpdatePodSandbox"];
    let whole = [&["RunPodSandbox"][..], &update, &["StopPodSandbox", "RemovePodSandbox"]].concat();
    ensure!(steps == whole, "{steps:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_becomes_what_plugins_want() -> Result<()> {
    let (mut node, socket) = node().await?;
    std::fs::write(node.dir().join("shown"), "from the host")?;
    let source = node.dir().join("shown").to_string_lossy().into_owned();
    let device = Device { path: "/dev/mine".to_owned(), kind: "c".to_owned(), major: 1, minor: 3 };
    let adjust = Adjustment {
        annotations: HashMap::from([("org.example".to_owned(), "plugin".to_owned())]),
        mounts: vec![Mount {
            destination: "/shown".to_owned(),
            kind: "bind".to_owned(),
            source,
            options: vec!["bind".to_owned(), "ro".to_owned()],
        }],
        linux: Some(Linux {
            devices: vec![device],
            resources: Some(Resources {
                memory: Some(Memory { limit: int(64 << 20) }),
                pids: int(40),
                ..Default::default()
            }),
            ..Default::default()
        }),
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), hard: 333, soft: 222 }],
        args: vec!["sh".to_owned(), "-c".to_owned(), "echo $FIRST-$SECOND; sleep 3600".to_owned()],
        ..variable("FIRST", "one")
    };
    let first = Plugin::connect(&socket, "10", "first", 0, on("CreateContainer", move |_| adjusted(adjust.clone())))?;
    first.joined().await?;
    // The later plugin sees what the earlier one did.
    let seen = Arc::new(AtomicBool::new(false));
    let noted = seen.clone();
    let decide = on("CreateContainer", move |payload| {
        let about = About::decode(payload).unwrap_or_default();
        let env = about.container.map(|container| container.env).unwrap_or_default();
        noted.store(env.iter().any(|pair| pair == "FIRST=one"), Ordering::SeqCst);
        adjusted(variable("SECOND", "two"))
    });
    let second = Plugin::connect(&socket, "20", "second", 0, decide)?;
    second.joined().await?;

    let config = node.pod("wanted");
    let pod = node.cri.run_pod(&config).await?;
    let what = cri::container("main", &image(&node), &["false"]);
    let id = node.cri.create(&pod, &what, &config).await?;
    ensure!(seen.load(Ordering::SeqCst), "the second plugin did not see the first one's variable");
    // What they wanted outlives the daemon and themselves.
    drop((first, second));
    node.restart().await?;
    node.cri.start(&id).await?;
    windlass_test_e2e::eventually("the plugins' command runs", Duration::from_secs(10), async || {
        node.raw_log("wanted", "main.log").iter().any(|line| line.ends_with(" one-two")).then_some(())
    })
    .await?;
    ensure!(node.cri.output(&id, &["cat", "/shown"]).await? == "from the host");
    ensure!(node.cri.exec(&id, &["sh", "-c", "echo x > /shown"], 20).await?.exit_code != 0);
    ensure!(node.cri.output(&id, &["stat", "-c", "%t:%T", "/dev/mine"]).await? == "1:3\n");
    node.cri.output(&id, &["sh", "-c", "echo x > /dev/mine"]).await?;
    let limits = node.cri.output(&id, &["cat", "/proc/1/limits"]).await?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).context("no line of files")?;
    ensure!(files.split_whitespace().skip(3).take(2).eq(["222", "333"]), "{files}");
    let status = node.cri.container_status(&id).await?;
    let limit = status.resources.and_then(|resources| resources.linux).map(|linux| linux.memory_limit_in_bytes);
    ensure!(limit == Some(64 << 20), "{limit:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_makes_the_step_fail_and_leaves_nothing() -> Result<()> {
    let (node, socket) = node().await?;
    let decide: Decide = Box::new(|method, payload| {
        let about = About::decode(payload).unwrap_or_default();
        let pod = about.pod.map(|pod| pod.name).unwrap_or_default();
        let container = about.container.map(|container| container.name).unwrap_or_default();
        match (method, pod.as_str(), container.as_str()) {
            ("RunPodSandbox", "refused", _) => Some(Err("no such pod here".to_owned())),
            ("CreateContainer", _, "unmade") | ("StartContainer", _, "unstarted") => {
                Some(Err("not this one".to_owned()))
            }
            ("StopContainer" | "StopPodSandbox" | "RemoveContainer" | "RemovePodSandbox", ..) => {
                Some(Err("it must live".to_owned()))
            }
            _ => Some(Ok(Vec::new())),
        }
    });
    let plugin = Plugin::connect(&socket, "00", "no", 0, decide)?;
    plugin.joined().await?;
    let refused = node.cri.run_pod(&node.pod("refused")).await;
    ensure!(refused.as_ref().is_err_and(|status| status.message().contains("no such pod here")), "{refused:?}");
    ensure!(node.cri.pods(None).await?.is_empty());
    let config = node.pod("other");
    let pod = node.cri.run_pod(&config).await?;
    let unmade = node.cri.create(&pod, &cri::container("unmade", &image(&node), &["true"]), &config).await;
    ensure!(unmade.as_ref().is_err_and(|status| status.message().contains("not this one")), "{unmade:?}");
    ensure!(node.cri.containers(None).await?.is_empty());
    let unstarted = node.cri.create(&pod, &cri::container("unstarted", &image(&node), &["true"]), &config).await?;
    ensure!(node.cri.start(&unstarted).await.is_err());
    ensure!(node.state(&unstarted).await == Some(ContainerState::ContainerExited));
    // Ends cannot be refused.
    let id = node.add(&pod, &config, cri::container("main", &image(&node), &["sleep", "3600"])).await?;
    node.cri.stop(&id, 0).await?;
    node.cri.remove(&id).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_plugins_cannot_want_the_same_and_a_judge_may_reject_it() -> Result<()> {
    let (node, socket) = node().await?;
    let wants = |value: &'static str| on("CreateContainer", move |_| adjusted(variable("SAME", value)));
    let first = Plugin::connect(&socket, "10", "first", 0, wants("1"))?;
    first.joined().await?;
    let second = Plugin::connect(&socket, "20", "second", 0, wants("2"))?;
    second.joined().await?;
    let config = node.pod("conflict");
    let pod = node.cri.run_pod(&config).await?;
    let create = async |name: &str| {
        node.cri.create(&pod, &cri::container(name, &image(&node), &["sleep", "3600"]), &config).await
    };
    let answer = create("both").await;
    let names =
        |status: &tonic::Status| status.message().contains("10-first") && status.message().contains("20-second");
    ensure!(answer.as_ref().is_err_and(names), "{answer:?}");
    drop(second);
    let judge = on("ValidateContainerAdjustment", |payload| {
        let adjust = Judged::decode(payload).unwrap_or_default().adjust.unwrap_or_default();
        let reject = adjust.env.iter().any(|pair| pair.key == "SAME");
        yes(&Judgement { reject, reason: "nobody may".to_owned() })
    });
    let judge = Plugin::connect(&socket, "30", "judge", nri::mask(&[event::VALIDATE]), judge)?;
    judge.joined().await?;
    let answer = create("judged").await;
    ensure!(answer.as_ref().is_err_and(|status| status.message().contains("nobody may")), "{answer:?}");
    ensure!(judge.steps_of_pod(&pod).is_empty(), "the judge hears only what it asked for");
    drop(judge);
    create("alone").await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_or_talks_rubbish_is_cut_off() -> Result<()> {
    let (node, socket) = node().await?;
    let hanging = Plugin::connect(&socket, "00", "hangs", 0, on("CreateContainer", |_| None))?;
    hanging.joined().await?;
    let other = Plugin::connect(&socket, "10", "works", 0, indifferent())?;
    other.joined().await?;
    let config = node.pod("hang");
    let pod = node.run(config.clone(), &image(&node), &["sleep", "3600"]).await?;
    ensure!(other.steps_of(&pod.container).len() == 5, "{:?}", other.steps_of(&pod.container));
    windlass_test_e2e::eventually("it is cut off", PATIENCE * 5, async || hanging.is_cut_off().then_some(())).await?;
    // From here on nobody waits for it.
    node.add(&pod.id, &config, cri::container("next", &image(&node), &["sleep", "3600"])).await?;

    let frames: [&[u8]; 4] = [
        &[0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 2, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 1, 9, 0],
        &[0, 0, 0, 1, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0xff],
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for frame in frames {
        let mut stranger = UnixStream::connect(&socket)?;
        stranger.set_read_timeout(Some(Duration::from_secs(20)))?;
        stranger.write_all(frame)?;
        let closed = stranger.read(&mut [0; 16]);
        ensure!(matches!(closed, Ok(0)) || closed.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    }
    for (index, name) in [("0", "short"), ("aa", "letters"), ("00", ""), ("00", "a/b")] {
        ensure!(Plugin::connect(&socket, index, name, 0, indifferent()).is_err(), "{index}-{name}");
    }
    let greedy = Plugin::connect(&socket, "00", "greedy", 1 << 30, indifferent())?;
    windlass_test_e2e::eventually("it is cut off", Duration::from_secs(10), async || greedy.is_cut_off().then_some(()))
        .await?;
    node.cri.version().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_plugin_is_told_everything_and_changes_it() -> Result<()> {
    let (node, socket) = node().await?;
    let pod = node.run(node.pod("early"), &image(&node), &["sleep", "3600"]).await?;
    let change = |id: &str, limit: i64, ignore_failure: bool| Update {
        id: id.to_owned(),
        linux: Some(UpdateLinux {
            resources: Some(Resources { memory: Some(Memory { limit: int(limit) }), ..Default::default() }),
        }),
        ignore_failure,
    };
    let first = change(&pod.container, 80 << 20, false);
    let decide: Decide = Box::new(move |method, payload| match method {
        "Synchronize" => yes(&Updates { update: vec![first.clone()] }),
        "UpdateContainer" => {
            // It never lets a limit go below 70 MiB.
            let mut request = UpdateRequest::decode(payload).unwrap_or_default();
            let id = request.container.take().unwrap_or_default().id;
            yes(&Updates { update: vec![Update { id, ..change_floor() }] })
        }
        _ => Some(Ok(Vec::new())),
    });
    let plugin = Plugin::connect(&socket, "00", "late", 0, decide)?;
    let told = plugin.joined().await?;
    ensure!(told.pods.iter().any(|one| one.id == pod.id && one.pid > 0), "{told:?}");
    let container = told.containers.iter().find(|one| one.id == pod.container).context("the container is not told")?;
    ensure!(container.state == 3 && container.args == ["sleep", "3600"], "{container:?}");
    let limit = async || {
        let status = node.cri.container_status(&pod.container).await.ok()?;
        Some(status.resources?.linux?.memory_limit_in_bytes)
    };
    let reaches = async |wanted: i64| {
        windlass_test_e2e::eventually("the limit changes", Duration::from_secs(10), async || {
            (limit().await == Some(wanted)).then_some(())
        })
        .await
    };
    reaches(80 << 20).await?;
    let wanted = vec![
        change(&pod.container, 90 << 20, false),
        change("nobody", 1 << 20, false),
        change("nobody-else", 1 << 20, true),
    ];
    let failed: Updates = plugin.call("UpdateContainers", &Updates { update: wanted })?;
    ensure!(failed.update.len() == 1 && failed.update[0].id == "nobody", "{failed:?}");
    reaches(90 << 20).await?;
    ensure!(plugin.call::<nri::Empty>("NoSuchMethod", &nri::Empty {}).is_err());
    let request = words::UpdateContainerResourcesRequest {
        container_id: pod.container.clone(),
        linux: Some(words::LinuxContainerResources { memory_limit_in_bytes: 50 << 20, ..Default::default() }),
        ..Default::default()
    };
    node.cri.runtime().update_container_resources(request).await?;
    reaches(70 << 20).await?;
    node.finish().await
}

fn change_floor() -> Update {
    let resources = Resources { memory: Some(Memory { limit: int(70 << 20) }), ..Default::default() };
    Update { linux: Some(UpdateLinux { resources: Some(resources) }), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_plugin_starts_and_ends_with_the_daemon() -> Result<()> {
    let (mut node, _) = node().await?;
    let (plugins, conf) = (node.dir().join("plugins"), node.dir().join("conf"));
    std::fs::create_dir_all(&plugins)?;
    std::fs::create_dir_all(&conf)?;
    let lines = node.dir().join("lines");
    std::fs::copy(env!("CARGO_BIN_EXE_windlass-nri-plugin"), plugins.join("05-installed"))?;
    std::fs::write(conf.join("installed.conf"), format!("{}\n", lines.display()))?;
    // One that cannot run keeps nobody from starting.
    std::fs::write(plugins.join("06-broken"), "no program")?;
    std::fs::set_permissions(plugins.join("06-broken"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    node.restart().await?;
    let pod = node.run(node.pod("installed"), &image(&node), &["sleep", "3600"]).await?;
    ensure!(node.cri.output(&pod.container, &["sh", "-c", "echo $PLUGIN_05"]).await? == "was here\n");
    let told = std::fs::read_to_string(&lines)?;
    ensure!(told.starts_with("Configure\nSynchronize\nRunPodSandbox\nCreateContainer\n"), "{told}");
    std::fs::remove_dir_all(&plugins)?;
    node.restart().await?;
    windlass_test_e2e::eventually("the plugin ends", Duration::from_secs(10), async || {
        let left = windlass_test_e2e::kernel::processes_of(&node.tag());
        (!left.iter().any(|(_, command)| command.contains("05-installed"))).then_some(())
    })
    .await?;
    ensure!(code(&node.cri.version().await) == Code::Ok);
    node.finish().await
}
