//! Pods with a user namespace: root inside is nobody outside, and everything that the pod is given is its own.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::words::{self, IdMapping, UserNamespace};
use windlass_test_e2e::{Node, Plan, code, cri, newer};

const FIRST: u32 = 200_000;
const LENGTH: u32 = 65_536;

fn mapping() -> Vec<IdMapping> {
    vec![IdMapping { host_id: FIRST, container_id: 0, length: LENGTH }]
}

fn pod(node: &Node, name: &str, change: impl FnOnce(&mut words::NamespaceOption)) -> words::PodSandboxConfig {
    let mut config = node.pod(name);
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    if let Some(options) = context.and_then(|context| context.namespace_options.as_mut()) {
        options.userns_options =
            Some(UserNamespace { mode: words::NamespaceMode::Pod as i32, uids: mapping(), gids: mapping() });
        change(options);
    }
    config
}

/// Root of a user namespace must be able to walk to what is its own, as it can below `/run` and `/var/lib`.
fn open(node: &Node) -> Result<()> {
    for folder in [node.dir().to_owned(), node.dir().join("state")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    }
    Ok(())
}

async fn a_pod_has_users_of_its_own(plan: Plan) -> Result<()> {
    let mut node = Node::start_with(plan).await?;
    open(&node)?;
    let image = node.busybox().await?;
    let volume = node.dir().join("logs").join("volume");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("kept"), "kept")?;
    let mut config = pod(&node, "users", |_| ());
    if let Some(linux) = &mut config.linux {
        linux.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
        linux.sysctls.insert("net.ipv4.ip_local_port_range".into(), "1024 65000".into());
    }
    let sandbox = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sh", "-c", "echo started; exec sleep 1000"]);
    what.mounts.push(words::Mount {
        container_path: "/volume".into(),
        host_path: volume.to_string_lossy().into_owned(),
        uid_mappings: mapping(),
        gid_mappings: mapping(),
        ..Default::default()
    });
    let id = node.add(&sandbox, &config, what).await?;
    let shell = async |script: &str| node.cri.output(&id, &["sh", "-c", script]).await;

    let map = shell("cat /proc/self/uid_map /proc/1/gid_map").await?;
    for line in map.lines() {
        let numbers: Vec<&str> = line.split_whitespace().collect();
        ensure!(numbers == ["0", "200000", "65536"], "{map}");
    }
    // What the image, the pod and the volume have is root's inside.
    let owners = shell("stat -c %u:%g / /bin /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm /volume/kept").await?;
    ensure!(owners.lines().all(|line| line == "0:0") && owners.lines().count() == 7, "{owners}");
    shell("echo new > /root-file && echo new > /volume/new && echo x > /dev/shm/x && echo x >> /etc/hosts").await?;
    let written = fs::metadata(volume.join("new"))?;
    ensure!((written.uid(), written.gid()) == (0, 0), "a mapped mount stores the ids of its own: {}", written.uid());

    // Root inside may do in the pod's own network what it may not outside.
    let mut admin =
        cri::container("admin", &image, &["sh", "-c", "ip link set lo down && ip link set lo up && echo may"]);
    if let Some(context) = admin.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.capabilities =
            Some(words::Capability { add_capabilities: vec!["NET_ADMIN".into()], ..Default::default() });
    }
    let admin = node.add(&sandbox, &config, admin).await?;
    let ended = node.exited(&admin).await?;
    ensure!(ended.exit_code == 0, "{ended:?}: {:?}", node.raw_log("users", "admin.log"));
    ensure!(shell("cat /proc/sys/kernel/shm_rmid_forced").await?.trim() == "1");
    ensure!(shell("cat /proc/sys/net/ipv4/ip_local_port_range").await?.split_whitespace().eq(["1024", "65000"]));
    ensure!(shell("hostname").await? == "users\n");

    // Outside, the program is nobody who matters.
    let (pid, _) = windlass_test_e2e::kernel::processes_of(&node.tag())
        .into_iter()
        .find(|(_, command)| command.contains("sleep") && command.contains("1000"))
        .or_else(|| sleeper().map(|pid| (pid, String::new())))
        .context("the program is not to be seen")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.lines().any(|line| line.starts_with("Uid:\t200000\t")), "{status}");

    windlass_test_e2e::eventually("the log", Duration::from_secs(5), async || {
        node.raw_log("users", "main.log").iter().any(|line| line.ends_with("stdout F started")).then_some(())
    })
    .await?;
    node.cri.stop_pod(&sandbox).await?;
    node.finish().await
}

/// A process of a user namespace of ours that sleeps.
fn sleeper() -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let map = fs::read_to_string(entry.path().join("uid_map")).ok()?;
        (command == b"sleep\x001000\x00" && map.split_whitespace().nth(1) == Some("200000")).then_some(pid)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside() -> Result<()> {
    a_pod_has_users_of_its_own(Plan::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside_under_runc() -> Result<()> {
    let handlers = vec![("runc".to_owned(), "/usr/sbin/runc".to_owned())];
    a_pod_has_users_of_its_own(Plan { handlers, default_handler: "runc".into(), ..Plan::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cgroups_of_version_2_are_seen_by_users_of_their_own() -> Result<()> {
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        eprintln!("cgroups are version 1 here: nothing to see");
        return Ok(());
    }
    let mut node = Node::start().await?;
    open(&node)?;
    let image = node.busybox().await?;
    let config = pod(&node, "second", |_| ());
    let sandbox = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sleep", "1000"]);
    if let Some(linux) = &mut what.linux {
        linux.resources =
            Some(words::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
    }
    let id = node.add(&sandbox, &config, what).await?;
    let shell = async |script: &str| node.cri.output(&id, &["sh", "-c", script]).await;
    ensure!(shell("cat /proc/self/cgroup").await?.trim() == "0::/", "it sees where it is on the host");
    ensure!(shell("cat /sys/fs/cgroup/memory.max").await?.trim() == (64 << 20).to_string());
    let refused = shell("(echo max > /sys/fs/cgroup/memory.max) 2>/dev/null || echo no").await?;
    ensure!(refused == "no\n", "{refused}");
    node.cri.stop_pod(&sandbox).await?;
    node.finish().await
}

async fn users_of_its_own_on_the_hosts_network(plan: Plan) -> Result<()> {
    let mut node = Node::start_with(plan).await?;
    open(&node)?;
    let status: newer::StatusResponse = node.cri.newer().ask("Status", &words::StatusRequest::default()).await?;
    ensure!(status.features.is_some_and(|features| features.user_namespaces_host_network));
    let image = node.busybox().await?;
    let config = pod(&node, "outside", |options| options.network = words::NamespaceMode::Node as i32);
    let sandbox = node.cri.run_pod(&config).await?;
    let what = cri::container("main", &image, &["sleep", "1000"]);
    let id = node.add(&sandbox, &config, what).await?;
    let shell = async |script: &str| node.cri.output(&id, &["sh", "-c", script]).await;
    let map = shell("cat /proc/self/uid_map").await?;
    ensure!(map.split_whitespace().eq(["0", "200000", "65536"]), "{map}");
    let network = fs::read_link("/proc/self/ns/net")?;
    ensure!(
        shell("readlink /proc/self/ns/net").await?.trim() == network.to_string_lossy(),
        "the network is the host's"
    );
    ensure!(shell("ls /sys/class/net").await?.contains("lo") && shell("ls /sys/fs").await?.contains("cgroup"));
    let refused =
        shell("(ip link set lo down || touch /sys/x || mount -o remount,rw /sys) 2>/dev/null || echo no").await?;
    ensure!(refused == "no\n", "{refused}");
    node.cri.stop_pod(&sandbox).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_is_used_by_users_of_its_own() -> Result<()> {
    users_of_its_own_on_the_hosts_network(Plan::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_is_used_by_users_of_its_own_under_runc() -> Result<()> {
    let handlers = vec![("runc".to_owned(), "/usr/sbin/runc".to_owned())];
    users_of_its_own_on_the_hosts_network(Plan { handlers, default_handler: "runc".into(), ..Plan::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace_belongs_to_the_users_too() -> Result<()> {
    let mut node = Node::start().await?;
    open(&node)?;
    let image = node.busybox().await?;
    let config = pod(&node, "shared", |options| options.pid = words::NamespaceMode::Pod as i32);
    let sandbox = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", &image, &["sleep", "1000"]);
    if let Some(context) = what.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.namespace_options =
            Some(words::NamespaceOption { pid: words::NamespaceMode::Pod as i32, ..Default::default() });
    }
    let id = node.add(&sandbox, &config, what).await?;
    let first = node.cri.output(&id, &["sh", "-c", "stat -c %u /proc/1; echo $$"]).await?;
    let lines: Vec<&str> = first.lines().collect();
    ensure!(lines.first() == Some(&"0") && lines.get(1) != Some(&"1"), "{first}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_cannot_be_are_refused_before_anything_is_made() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    type Change = fn(&mut words::NamespaceOption);
    fn users(options: &mut words::NamespaceOption) -> &mut UserNamespace {
        options.userns_options.get_or_insert_default()
    }
    let cases: [(&str, Change); 9] = [
        ("userns_options.uids", |options| users(options).uids.clear()),
        ("userns_options.gids", |options| users(options).gids.clear()),
        ("userns_options.uids", |options| users(options).uids[0].length = 0),
        ("userns_options.uids", |options| users(options).uids[0].container_id = 1),
        ("userns_options.gids", |options| {
            users(options).gids.push(IdMapping { host_id: 5, container_id: 100, length: 1 });
        }),
        ("userns_options.uids", |options| users(options).uids[0].host_id = u32::MAX),
        ("userns_options.mode", |options| users(options).mode = words::NamespaceMode::Target as i32),
        ("userns_options.uids", |options| users(options).mode = words::NamespaceMode::Node as i32),
        ("namespace_options.ipc", |options| options.ipc = words::NamespaceMode::Node as i32),
    ];
    for (field, change) in cases {
        let refused = node.cri.run_pod(&pod(&node, "wrong", change)).await;
        ensure!(code(&refused) == Code::InvalidArgument, "{field}: {refused:?}");
        let message = refused.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(message.contains(field), "{field}: {message}");
    }
    ensure!(node.cri.pods(None).await?.is_empty());

    open(&node)?;
    let config = pod(&node, "strict", |_| ());
    let sandbox = node.cri.run_pod(&config).await?;
    let context = |change: fn(&mut words::LinuxContainerSecurityContext)| {
        let mut what = cri::container("main", &image, &["true"]);
        what.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).map(change);
        what
    };
    for (field, what) in [
        ("run_as_user", context(|context| context.run_as_user = Some(words::Int64Value { value: 70_000 }))),
        ("supplemental_groups", context(|context| context.supplemental_groups = vec![70_000])),
        (
            "userns_options",
            context(|context| {
                let other = vec![IdMapping { host_id: 7, container_id: 0, length: 1 }];
                let mode = words::NamespaceMode::Pod as i32;
                context.namespace_options.get_or_insert_default().userns_options =
                    Some(UserNamespace { mode, uids: other.clone(), gids: other });
            }),
        ),
    ] {
        let refused = node.cri.create(&sandbox, &what, &config).await;
        ensure!(code(&refused) == Code::InvalidArgument, "{field}: {refused:?}");
        ensure!(refused.is_err_and(|status| status.message().contains(field)), "{field}");
    }
    node.finish().await
}
