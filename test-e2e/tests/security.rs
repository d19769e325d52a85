//! What a container may see and do: bytes of its environment, read-only trees, groups, profiles, paths of `/proc`.

use std::fs;

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::newer::{self, RUNTIME, joined};
use windlass_test_e2e::words::{self, ContainerConfig, CreateContainerResponse, PodSandboxConfig};
use windlass_test_e2e::{Node, Plan, code, cri};

/// CreateContainer with a variable of any bytes.
async fn create_with(
    node: &Node,
    pod: &str,
    config: &PodSandboxConfig,
    what: &ContainerConfig,
    value: &[u8],
) -> Result<String, tonic::Status> {
    let older = words::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(what.clone()),
        sandbox_config: Some(config.clone()),
    };
    let envs = vec![newer::KeyValue { key: "BYTES".into(), value: value.to_vec() }];
    let newer = newer::ContainerConfig { envs, ..Default::default() };
    let newer = newer::CreateContainerRequest { config: Some(newer) };
    let answer = node.cri.newer().call(RUNTIME, "CreateContainer", joined(&older, &newer)).await?;
    Ok(answer.read::<CreateContainerResponse>()?.container_id)
}

fn context(what: &mut ContainerConfig) -> &mut words::LinuxContainerSecurityContext {
    what.linux.get_or_insert_default().security_context.get_or_insert_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_hold_any_bytes() -> Result<()> {
    let handlers = vec![("runc".to_owned(), "/usr/sbin/runc".to_owned())];
    let mut node = Node::start_with(Plan { handlers, ..Plan::default() }).await?;
    if node.excused("its specifications are text") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let config = node.pod("bytes");
    let pod = node.cri.run_pod(&config).await?;
    let dump = "printf %s \"$BYTES\" | od -An -tx1 | tr -d ' \\n'; echo";
    let what = cri::container("main", &image, &["sh", "-c", &format!("{dump}; exec sleep 1000")]);
    if windlass_test_e2e::asked::handler().is_some() {
        let refused = create_with(&node, &pod, &config, &what, b"\xff").await;
        ensure!(code(&refused) == Code::InvalidArgument, "{refused:?}");
        return node.finish().await;
    }
    let id = create_with(&node, &pod, &config, &what, b"a=\xff\xfe\x80b").await?;
    node.cri.start(&id).await?;
    windlass_test_e2e::eventually("the bytes", std::time::Duration::from_secs(10), async || {
        node.raw_log("bytes", "main.log").first().filter(|line| line.ends_with("stdout F 613dfffe8062")).map(drop)
    })
    .await?;
    ensure!(node.cri.output(&id, &["sh", "-c", dump]).await? == "613dfffe8062\n", "an exec has them too");

    let mut other = node.pod("text");
    other.hostname = "text".into();
    let request = words::RunPodSandboxRequest { config: Some(other.clone()), runtime_handler: "runc".into() };
    let answer: words::RunPodSandboxResponse = node.cri.newer().ask("RunPodSandbox", &request).await?;
    let refused = create_with(&node, &answer.pod_sandbox_id, &other, &what, b"\xff").await;
    ensure!(code(&refused) == Code::InvalidArgument, "{refused:?}");
    ensure!(refused.is_err_and(|status| status.message().contains("BYTES")), "the variable is named");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_read_only_to_its_leaves_where_asked() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let tree = node.dir().join("tree");
    let inner = tree.join("inner");
    fs::create_dir_all(&inner)?;
    nix::mount::mount(Some("tmpfs"), &inner, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)?;
    let config = node.pod("tree");
    let pod = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sleep", "1000"]);
    for (place, recursive_read_only) in [("/plain", false), ("/deep", true)] {
        what.mounts.push(words::Mount {
            container_path: place.into(),
            host_path: tree.to_string_lossy().into_owned(),
            readonly: true,
            recursive_read_only,
            ..Default::default()
        });
    }
    let id = node.add(&pod, &config, what).await?;
    let writes = async |path: &str| anyhow::Ok(node.cri.exec(&id, &["touch", path], 10).await?.exit_code == 0);
    ensure!(!writes("/plain/x").await? && !writes("/deep/x").await?);
    ensure!(writes("/plain/inner/x").await?, "plain read-only stops at the next mount");
    ensure!(!writes("/deep/inner/x").await?, "recursive read-only does not");
    let status = node.cri.container_status(&id).await?;
    ensure!(status.mounts.iter().any(|mount| mount.recursive_read_only && mount.container_path == "/deep"));
    node.cri.stop_pod(&pod).await?;
    nix::mount::umount2(&inner, nix::mount::MntFlags::MNT_DETACH)?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_ids_and_capabilities_are_as_asked() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.pod("asked");
    let pod = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sleep", "1000"]);
    *context(&mut what) = words::LinuxContainerSecurityContext {
        masked_paths: vec!["/proc/version".into(), "/proc/no-such-file".into()],
        readonly_paths: vec!["/proc/sys".into()],
        run_as_user: Some(words::Int64Value { value: 1234 }),
        run_as_group: Some(words::Int64Value { value: 4321 }),
        supplemental_groups: vec![77, 78],
        supplemental_groups_policy: words::SupplementalGroupsPolicy::Strict as i32,
        no_new_privs: true,
        capabilities: Some(words::Capability {
            drop_capabilities: vec!["ALL".into()],
            add_ambient_capabilities: vec!["NET_RAW".into()],
            ..Default::default()
        }),
        namespace_options: Some(words::NamespaceOption {
            pid: words::NamespaceMode::Container as i32,
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = node.add(&pod, &config, what).await?;
    ensure!(node.cri.output(&id, &["cat", "/proc/version"]).await?.is_empty(), "a masked path is empty");
    for process in ["1", "self"] {
        let status = node.cri.output(&id, &["cat", &format!("/proc/{process}/status")]).await?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).context(name.to_owned())
        };
        ensure!(field("Uid")? == ["1234"; 4] && field("Gid")? == ["4321"; 4], "{status}");
        let mut groups = field("Groups")?;
        groups.sort();
        ensure!(groups == ["4321", "77", "78"], "{status}");
        ensure!(field("NoNewPrivs")? == ["1"], "{status}");
        // NET_RAW is the 13th.
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
            ensure!(field(set)? == ["0000000000002000"], "{set}: {status}");
        }
    }
    let user = node.cri.container_status(&id).await?.user.and_then(|user| user.linux).context("no user")?;
    ensure!((user.uid, user.gid, user.supplemental_groups.as_slice()) == (1234, 4321, &[4321, 77, 78][..]), "{user:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_not_there_is_named_before_anything_is_made() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.pod("profile");
    let pod = node.cri.run_pod(&config).await?;
    let broken = node.dir().join("broken.json");
    fs::write(&broken, "{\"defaultAction\": \"SCMP_ACT_MAYBE\"}")?;
    for path in [node.dir().join("missing.json"), broken] {
        let mut what = cri::container("main", &image, &["true"]);
        let localhost_ref = path.to_string_lossy().into_owned();
        context(&mut what).seccomp = Some(words::SecurityProfile { profile_type: 2, localhost_ref });
        let refused = node.cri.create(&pod, &what, &config).await;
        ensure!(code(&refused) != Code::Ok, "{}", path.display());
        let message = refused.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(message.contains(&*path.to_string_lossy()), "{message}");
    }
    ensure!(node.cri.containers(None).await?.is_empty());
    node.finish().await
}

/// AppArmor as the kernel has it: on or off.
fn apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

#[tokio::test(flavor = "multi_thread")]
async fn apparmor_confines_by_default_and_says_what_is_missing() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let config = node.pod("apparmor");
    let pod = node.cri.run_pod(&config).await?;
    let with = |kind: i32, name: &str| {
        let mut what = cri::container("main", &image, &["sleep", "1000"]);
        let asked = words::SecurityProfile { profile_type: kind, localhost_ref: name.into() };
        context(&mut what).apparmor = Some(asked);
        what
    };
    let missing = node.cri.create(&pod, &with(2, "w-no-such-profile"), &config).await;
    ensure!(code(&missing) != Code::Ok, "a profile that is not loaded: {missing:?}");
    if !apparmor() {
        println!("this kernel has no AppArmor: only its error is judged");
        let refused = node.cri.create(&pod, &with(0, ""), &config).await;
        ensure!(refused.is_err_and(|status| status.message().contains("AppArmor")));
        return node.finish().await;
    }
    ensure!(missing.is_err_and(|status| status.message().contains("w-no-such-profile")));
    let id = node.add(&pod, &config, with(0, "")).await?;
    let mine = node.cri.output(&id, &["cat", "/proc/1/attr/current", "/proc/self/attr/current"]).await?;
    let mut lines = mine.lines();
    let (first, exec) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    ensure!(first == exec && first.ends_with("(enforce)"), "{mine}");
    ensure!(node.cri.exec(&id, &["sh", "-c", "echo x > /proc/sysrq-trigger"], 10).await?.exit_code != 0);
    let mut free = with(1, "");
    free.metadata = Some(words::ContainerMetadata { name: "free".into(), attempt: 0 });
    let free = node.add(&pod, &config, free).await?;
    let profile = node.cri.output(&free, &["cat", "/proc/1/attr/current"]).await?;
    ensure!(profile.starts_with("unconfined"), "{profile}");
    node.finish().await
}
