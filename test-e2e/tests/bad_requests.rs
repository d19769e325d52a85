//! Requests with one wrong field each: refused with the field's name before anything is made.

use anyhow::{Result, ensure};
use prost::Message as _;
use tonic::Code;
use windlass_test_e2e::newer::{self, Bytes, IMAGES, RUNTIME, joined};
use windlass_test_e2e::words::{self, ContainerConfig, PodSandboxConfig};
use windlass_test_e2e::{Node, code, cri};

type PodChange = fn(&mut PodSandboxConfig);
type ContainerChange = fn(&mut ContainerConfig);

fn linux(config: &mut PodSandboxConfig) -> &mut words::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn options(config: &mut PodSandboxConfig) -> &mut words::NamespaceOption {
    linux(config).security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

fn context(config: &mut ContainerConfig) -> &mut words::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn resources(config: &mut ContainerConfig) -> &mut words::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

fn mount(config: &mut ContainerConfig, change: impl FnOnce(&mut words::Mount)) {
    let mut mount = words::Mount { container_path: "/mnt".into(), host_path: "/tmp".into(), ..Default::default() };
    change(&mut mount);
    config.mounts.push(mount);
}

fn device(config: &mut ContainerConfig, change: impl FnOnce(&mut words::Device)) {
    let mut device =
        words::Device { container_path: "/dev/x".into(), host_path: "/dev/null".into(), permissions: "rw".into() };
    change(&mut device);
    config.devices.push(device);
}

fn one(value: i64) -> Option<words::Int64Value> {
    Some(words::Int64Value { value })
}

const PODS: &[(&str, PodChange)] = &[
    ("metadata", |c| c.metadata = None),
    ("metadata.name", |c| c.metadata.get_or_insert_default().name.clear()),
    ("metadata.namespace", |c| c.metadata.get_or_insert_default().namespace.clear()),
    ("metadata.uid", |c| c.metadata.get_or_insert_default().uid.clear()),
    ("metadata.name", |c| c.metadata.get_or_insert_default().name = "a/b".into()),
    ("metadata.name", |c| c.metadata.get_or_insert_default().name = "a".repeat(300)),
    ("hostname", |c| c.hostname = "h".repeat(65)),
    ("hostname", |c| c.hostname = "a b".into()),
    ("log_directory", |c| c.log_directory = "relative".into()),
    ("log_directory", |c| c.log_directory = "/a\0b".into()),
    ("linux.overhead.memory_limit_in_bytes", |c| {
        linux(c).overhead.get_or_insert_default().memory_limit_in_bytes = -2;
    }),
    ("linux.resources.cpu_quota", |c| linux(c).resources.get_or_insert_default().cpu_quota = 5),
    ("selinux_options.level", |c| {
        let wrong = words::SeLinuxOption { level: "low".into(), ..Default::default() };
        linux(c).security_context.get_or_insert_default().selinux_options = Some(wrong);
    }),
    ("dns_config.servers", |c| c.dns_config.get_or_insert_default().servers = vec!["1.1.1.1\nx".into()]),
    ("dns_config.searches", |c| c.dns_config.get_or_insert_default().searches = vec!["a".into(); 33]),
    ("dns_config.options", |c| c.dns_config.get_or_insert_default().options = vec![String::new()]),
    ("port_mappings[0].protocol", |c| {
        c.port_mappings.push(words::PortMapping { protocol: 9, container_port: 1, ..Default::default() });
    }),
    ("port_mappings[0].host_port", |c| {
        c.port_mappings.push(words::PortMapping { host_port: 70_000, container_port: 1, ..Default::default() });
    }),
    ("port_mappings[0].container_port", |c| {
        c.port_mappings.push(words::PortMapping { host_port: 7000, ..Default::default() });
    }),
    ("port_mappings[0].host_ip", |c| {
        let host_ip = "nowhere".into();
        c.port_mappings.push(words::PortMapping { host_port: 7, container_port: 1, host_ip, ..Default::default() });
    }),
    ("linux.cgroup_parent", |c| linux(c).cgroup_parent = "/a/../b".into()),
    ("linux.sysctls", |c| drop(linux(c).sysctls.insert("kernel.panic".into(), "1".into()))),
    ("linux.sysctls", |c| drop(linux(c).sysctls.insert("net..x".into(), "1".into()))),
    ("linux.sysctls", |c| drop(linux(c).sysctls.insert("net.core.somaxconn".into(), "1\n2".into()))),
    ("namespace_options.network", |c| options(c).network = words::NamespaceMode::Container as i32),
    ("namespace_options.ipc", |c| options(c).ipc = 17),
    ("namespace_options.pid", |c| options(c).pid = words::NamespaceMode::Target as i32),
    ("linux.security_context.run_as_group", |c| {
        linux(c).security_context.get_or_insert_default().run_as_group = one(1);
    }),
    ("linux.security_context.run_as_user", |c| {
        linux(c).security_context.get_or_insert_default().run_as_user = one(-1);
    }),
    ("linux.security_context.supplemental_groups", |c| {
        linux(c).security_context.get_or_insert_default().supplemental_groups = vec![-1];
    }),
    ("linux.security_context.seccomp", |c| {
        let seccomp = words::SecurityProfile { profile_type: 9, ..Default::default() };
        linux(c).security_context.get_or_insert_default().seccomp = Some(seccomp);
    }),
    ("linux.security_context.apparmor", |c| {
        let apparmor = words::SecurityProfile { profile_type: 2, ..Default::default() };
        linux(c).security_context.get_or_insert_default().apparmor = Some(apparmor);
    }),
];

const CONTAINERS: &[(&str, ContainerChange)] = &[
    ("metadata", |c| c.metadata = None),
    ("metadata.name", |c| c.metadata.get_or_insert_default().name.clear()),
    ("metadata.name", |c| c.metadata.get_or_insert_default().name = "n".repeat(300)),
    ("image.image", |c| c.image = None),
    ("command", |c| c.command = vec!["a\0b".into()]),
    ("args", |c| c.args = vec!["a\0b".into()]),
    ("working_dir", |c| c.working_dir = "relative".into()),
    ("log_path", |c| c.log_path = "../outside".into()),
    ("log_path", |c| c.log_path = "/absolute".into()),
    ("envs[0]", |c| c.envs = vec![words::KeyValue { key: String::new(), value: "x".into() }]),
    ("envs[0]", |c| c.envs = vec![words::KeyValue { key: "A=B".into(), value: "x".into() }]),
    ("envs[0]", |c| c.envs = vec![words::KeyValue { key: "A".into(), value: "x\0y".into() }]),
    ("mounts[0].container_path", |c| mount(c, |m| m.container_path = "relative".into())),
    ("mounts[0].container_path", |c| mount(c, |m| m.container_path.clear())),
    ("mounts[0].container_path", |c| mount(c, |m| m.container_path = "/".into())),
    ("mounts[0].host_path", |c| mount(c, |m| m.host_path.clear())),
    ("mounts[0].host_path", |c| mount(c, |m| m.host_path = "/a\0b".into())),
    ("mounts[0].propagation", |c| mount(c, |m| m.propagation = 9)),
    ("mounts[0].recursive_read_only", |c| mount(c, |m| m.recursive_read_only = true)),
    ("mounts[0].recursive_read_only", |c| {
        mount(c, |m| {
            (m.recursive_read_only, m.readonly) = (true, true);
            m.propagation = words::MountPropagation::PropagationHostToContainer as i32;
        });
    }),
    ("mounts[0].uids", |c| {
        mount(c, |m| m.gid_mappings = vec![words::IdMapping { host_id: 1, container_id: 0, length: 1 }]);
    }),
    ("devices[0].host_path", |c| device(c, |d| d.host_path = "null".into())),
    ("devices[0].host_path", |c| device(c, |d| d.host_path = "/etc/passwd".into())),
    ("devices[0].container_path", |c| device(c, |d| d.container_path = "x".into())),
    ("devices[0].container_path", |c| device(c, |d| d.container_path = "/dev/\0".into())),
    ("devices[0].host_path", |c| device(c, |d| d.host_path = "/dev/\0".into())),
    ("devices[0].permissions", |c| device(c, |d| d.permissions = "rwx".into())),
    ("CDI_devices[0].name", |c| c.cdi_devices = vec![words::CdiDevice { name: "gpu".into() }]),
    ("annotations[\"cdi.k8s.io/a\"]", |c| drop(c.annotations.insert("cdi.k8s.io/a".into(), "gpu".into()))),
    ("linux.resources.cpu_quota", |c| resources(c).cpu_quota = -5),
    ("linux.resources.cpu_shares", |c| resources(c).cpu_shares = -1),
    ("linux.resources.memory_limit_in_bytes", |c| resources(c).memory_limit_in_bytes = -7),
    ("linux.resources.oom_score_adj", |c| resources(c).oom_score_adj = 1001),
    ("linux.resources.cpuset_cpus", |c| resources(c).cpuset_cpus = "one".into()),
    ("linux.resources.unified", |c| drop(resources(c).unified.insert("../x".into(), "1".into()))),
    ("run_as_user", |c| context(c).run_as_user = one(-1)),
    ("run_as_user", |c| context(c).run_as_user = one(1 << 32)),
    ("run_as_group", |c| context(c).run_as_group = one(5)),
    ("run_as_username", |c| {
        context(c).run_as_user = one(1);
        context(c).run_as_username = "root".into();
    }),
    ("supplemental_groups", |c| context(c).supplemental_groups = vec![-1]),
    ("supplemental_groups_policy", |c| context(c).supplemental_groups_policy = 7),
    ("capabilities", |c| {
        let add_capabilities = vec!["FLY".into()];
        context(c).capabilities = Some(words::Capability { add_capabilities, ..Default::default() });
    }),
    ("capabilities", |c| {
        let add_ambient_capabilities = vec!["FLY".into()];
        context(c).capabilities = Some(words::Capability { add_ambient_capabilities, ..Default::default() });
    }),
    ("privileged", |c| context(c).privileged = true),
    ("masked_paths", |c| context(c).masked_paths = vec!["proc".into()]),
    ("readonly_paths", |c| context(c).readonly_paths = vec!["proc".into()]),
    ("namespace_options.pid", |c| context(c).namespace_options.get_or_insert_default().pid = 9),
    ("namespace_options.network", |c| context(c).namespace_options.get_or_insert_default().network = 9),
    ("namespace_options.ipc", |c| context(c).namespace_options.get_or_insert_default().ipc = 9),
    ("selinux_options.type", |c| {
        context(c).selinux_options = Some(words::SeLinuxOption { r#type: "a:b".into(), ..Default::default() });
    }),
    ("linux.resources.cpuset_mems", |c| resources(c).cpuset_mems = "0-".into()),
    ("linux.resources.cpu_period", |c| resources(c).cpu_period = 5),
    ("linux.resources.memory_swap_limit_in_bytes", |c| resources(c).memory_swap_limit_in_bytes = -5),
    ("linux.resources.hugepage_limits[0].page_size", |c| {
        resources(c).hugepage_limits = vec![words::HugepageLimit { page_size: "big".into(), limit: 1 }];
    }),
    ("namespace_options.target_id", |c| {
        context(c).namespace_options.get_or_insert_default().pid = words::NamespaceMode::Target as i32;
    }),
    ("seccomp", |c| {
        context(c).seccomp = Some(words::SecurityProfile { profile_type: 2, ..Default::default() });
    }),
    ("seccomp", |c| {
        context(c).seccomp = Some(words::SecurityProfile { profile_type: 9, ..Default::default() });
    }),
    ("apparmor", |c| {
        context(c).apparmor = Some(words::SecurityProfile { profile_type: 2, ..Default::default() });
    }),
];

/// Judges an answer that is to be a refusal of `field`.
fn refused<T: std::fmt::Debug>(field: &str, answer: Result<T, tonic::Status>) -> Result<()> {
    ensure!(code(&answer) == Code::InvalidArgument, "{field}: {answer:?}");
    let message = answer.err().map(|status| status.message().to_owned()).unwrap_or_default();
    ensure!(message.contains(field), "{field} is not named: {message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_field_is_refused_by_name_before_anything_is_made() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it looks at other fields, and later") {
        return Ok(());
    }
    let image = node.busybox().await?;
    for (field, change) in PODS {
        let mut config = node.pod("bad");
        change(&mut config);
        refused(field, node.cri.run_pod(&config).await)?;
    }
    ensure!(node.cri.pods(None).await?.is_empty(), "something was made");

    let config = node.pod("good");
    let pod = node.cri.run_pod(&config).await?;
    for (field, change) in CONTAINERS {
        let mut what = cri::container("bad", &image, &["true"]);
        change(&mut what);
        refused(field, node.cri.create(&pod, &what, &config).await)?;
    }
    let older = words::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(cri::container("bad", &image, &["true"])),
        sandbox_config: Some(config.clone()),
    };
    let newer = newer::ContainerConfig { stop_signal: 99, ..Default::default() };
    let newer = newer::CreateContainerRequest { config: Some(newer) };
    refused("stop_signal", node.cri.newer().call(RUNTIME, "CreateContainer", joined(&older, &newer)).await)?;
    ensure!(node.cri.containers(None).await?.is_empty(), "something was made");

    let id = node.add(&pod, &config, cri::container("good", &image, &["sleep", "1000"])).await?;
    refused("cmd", node.cri.exec(&id, &[], 1).await)?;
    refused("cmd", node.cri.exec(&id, &["a\0b"], 1).await)?;
    refused("timeout", node.cri.exec(&id, &["true"], -1).await)?;
    other_calls(&node, &pod, &id).await?;
    let kept = node.cri.container_status(&id).await?;
    ensure!(kept.state == words::ContainerState::ContainerRunning as i32, "{kept:?}");
    node.finish().await
}

/// The calls that neither make a pod nor a container.
async fn other_calls(node: &Node, pod: &str, id: &str) -> Result<()> {
    let ask = async |service: &str, method: &str, field: &str, request: Vec<u8>| {
        refused(field, node.cri.newer().call(service, method, Bytes(request)).await)
    };
    let state = Some(words::ContainerStateValue { state: 9 });
    let filter = Some(words::ContainerFilter { state, ..Default::default() });
    let containers = words::ListContainersRequest { filter };
    ask(RUNTIME, "ListContainers", "filter.state", containers.encode_to_vec()).await?;
    let state = Some(words::PodSandboxStateValue { state: 9 });
    let filter = Some(words::PodSandboxFilter { state, ..Default::default() });
    let pods = words::ListPodSandboxRequest { filter };
    ask(RUNTIME, "ListPodSandbox", "filter.state", pods.encode_to_vec()).await?;
    let limits = |change: fn(&mut words::LinuxContainerResources)| {
        let mut limits = words::LinuxContainerResources::default();
        change(&mut limits);
        Some(limits)
    };
    let update = words::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: limits(|limits| limits.memory_limit_in_bytes = -3),
        ..Default::default()
    };
    ask(RUNTIME, "UpdateContainerResources", "linux.memory_limit_in_bytes", update.encode_to_vec()).await?;
    let windows = words::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        windows: Some(words::WindowsContainerResources::default()),
        ..Default::default()
    };
    ask(RUNTIME, "UpdateContainerResources", "windows", windows.encode_to_vec()).await?;
    let pod_limits = newer::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.to_owned(),
        resources: limits(|limits| limits.cpu_shares = -1),
        ..Default::default()
    };
    ask(RUNTIME, "UpdatePodSandboxResources", "resources.cpu_shares", pod_limits.encode_to_vec()).await?;
    let exec = words::ExecRequest { container_id: id.to_owned(), cmd: vec!["true".into()], ..Default::default() };
    ask(RUNTIME, "Exec", "stdin, stdout, stderr", exec.encode_to_vec()).await?;
    let exec = words::ExecRequest { tty: true, stdout: true, stderr: true, ..exec };
    ask(RUNTIME, "Exec", "stderr", exec.encode_to_vec()).await?;
    let exec = words::ExecRequest { cmd: Vec::new(), stderr: false, ..exec };
    ask(RUNTIME, "Exec", "cmd", exec.encode_to_vec()).await?;
    let attach = words::AttachRequest { container_id: id.to_owned(), ..Default::default() };
    ask(RUNTIME, "Attach", "stdin, stdout, stderr", attach.encode_to_vec()).await?;
    let forward = words::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![80, 70_000] };
    ask(RUNTIME, "PortForward", "port", forward.encode_to_vec()).await?;
    let network = Some(words::NetworkConfig { pod_cidr: "10.0.0.0/99".into() });
    let network =
        words::UpdateRuntimeConfigRequest { runtime_config: Some(words::RuntimeConfig { network_config: network }) };
    ask(RUNTIME, "UpdateRuntimeConfig", "pod_cidr", network.encode_to_vec()).await?;
    for (image, auth) in [("", ""), ("UPPER//case", ""), ("registry.example/a", "no base64")] {
        let auth = words::AuthConfig { auth: auth.into(), ..Default::default() };
        let field = if auth.auth.is_empty() { "image.image" } else { "auth.auth" };
        let pull = words::PullImageRequest { image: Some(cri::image(image)), auth: Some(auth), ..Default::default() };
        ask(IMAGES, "PullImage", field, pull.encode_to_vec()).await?;
    }
    ask(IMAGES, "RemoveImage", "image.image", Vec::new()).await?;
    ask(IMAGES, "ImageStatus", "image.image", Vec::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_says_so() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("it has it") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let config = node.pod("kept");
    let pod = node.cri.run_pod(&config).await?;
    let id = node.add(&pod, &config, cri::container("main", &image, &["sleep", "1000"])).await?;
    let location = node.dir().join("checkpoint.tar").to_string_lossy().into_owned();
    let request = words::CheckpointContainerRequest { container_id: id, location, timeout: 1 };
    let refused = node.cri.newer().call(RUNTIME, "CheckpointContainer", Bytes(request.encode_to_vec())).await;
    ensure!(code(&refused) == Code::Unimplemented, "{refused:?}");
    ensure!(!node.dir().join("checkpoint.tar").exists());
    node.finish().await
}
