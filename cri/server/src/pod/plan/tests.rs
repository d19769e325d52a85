//! Requests, good and bad, against the plans they make.

use std::collections::HashMap;

use windlass_model::Kind;

use super::*;

fn server(driver: CgroupDriver) -> ServerConfig {
    let runc = Runtime { binary: Some("/usr/sbin/runc".into()), shim: None };
    ServerConfig {
        root: "/nonexistent/root".into(),
        state: "/nonexistent/state".into(),
        snapshotter: "overlay".into(),
        cgroup_driver: driver,
        default_runtime: "windlass".into(),
        runtimes: [("windlass".to_string(), Runtime::default()), ("runc".to_string(), runc)].into(),
        share_images: Vec::new(),
        pinned_images: Vec::new(),
        cni_conf_template: None,
        max_log_line: 16384,
        selinux: false,
        shim: "/bin/true".into(),
        nri: None,
        cni_conf_dir: "/nonexistent/net.d".into(),
        cni_bin_dirs: Vec::new(),
        streaming: crate::streaming::StreamingConfig::default(),
    }
}

fn request() -> v1::RunPodSandboxRequest {
    let metadata =
        v1::PodSandboxMetadata { name: "web".into(), uid: "u-1".into(), namespace: "shop".into(), attempt: 2 };
    let config = v1::PodSandboxConfig { metadata: Some(metadata), hostname: "web-0".into(), ..Default::default() };
    v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

fn with(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<PodPlan> {
    let mut request = request();
    change(request.config.as_mut().unwrap());
    PodPlan::new(request, &server(CgroupDriver::Cgroupfs))
}

fn sharing(change: impl FnOnce(&mut v1::NamespaceOption)) -> v1::LinuxPodSandboxConfig {
    let mut options = v1::NamespaceOption::default();
    change(&mut options);
    let context = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() }
}

const NODE: i32 = v1::NamespaceMode::Node as i32;

fn refused(result: Result<PodPlan>, field: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    assert!(error.to_string().contains(field), "{field}: {error}");
}

#[test]
fn a_plain_pod_has_namespaces_of_its_own() {
    let plan = with(|_| {}).unwrap();
    assert_eq!(plan.name, "web/shop/u-1/2");
    assert_eq!((plan.handler.as_str(), plan.asked_handler.as_str()), ("windlass", ""));
    assert!(plan.options.new_ipc && plan.options.new_uts && plan.options.shared_pid);
    assert_eq!((plan.options.hostname.as_str(), plan.options.shm_bytes), ("web-0", 64 << 20));
    assert_eq!(plan.options.sysctls["net.ipv4.ip_unprivileged_port_start"], "0");
    assert!(plan.network.as_ref().unwrap().capabilities.is_empty());
    assert_eq!((plan.cgroup_parent.as_deref(), plan.resolv_conf.as_deref()), (None, None));
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1";
    assert_eq!(plan.cni_args(&"abc".parse().unwrap()), args);
}

#[test]
fn a_pod_on_the_hosts_network_keeps_the_hosts_name_and_sets_nothing() {
    let plan = with(|config| {
        config.linux = Some(sharing(|options| (options.network, options.ipc, options.pid) = (NODE, NODE, NODE)));
    });
    let options = plan.unwrap().options;
    assert!(!options.new_uts && !options.new_ipc && !options.shared_pid);
    assert!(options.sysctls.is_empty() && options.hostname.is_empty() && options.shm_bytes == 0);
}

#[test]
fn a_pod_without_a_name_is_refused() {
    let empty = v1::RunPodSandboxRequest::default();
    refused(PodPlan::new(empty, &server(CgroupDriver::Cgroupfs)), "config is missing");
    refused(with(|config| config.metadata = None), "metadata");
    refused(with(|config| config.metadata.as_mut().unwrap().name.clear()), "metadata.name");
    refused(with(|config| config.metadata.as_mut().unwrap().uid.clear()), "metadata.uid");
    refused(with(|config| config.metadata.as_mut().unwrap().namespace.clear()), "metadata.namespace");
    refused(with(|config| config.metadata.as_mut().unwrap().name = "x;K8S_POD_NAME=y".into()), "metadata.name");
    refused(with(|config| config.metadata.as_mut().unwrap().name = "x".repeat(300)), "metadata.name");
    refused(with(|config| config.hostname = "x".repeat(65)), "hostname");
    refused(with(|config| config.hostname = "a\nb".into()), "hostname");
    refused(with(|config| config.log_directory = "relative".into()), "log_directory");
}

#[test]
fn modes_that_a_pod_cannot_have_are_refused() {
    for mode in [v1::NamespaceMode::Target as i32, v1::NamespaceMode::Container as i32, 17] {
        refused(with(|config| config.linux = Some(sharing(|options| options.network = mode))), "network");
        refused(with(|config| config.linux = Some(sharing(|options| options.ipc = mode))), "ipc");
    }
    let target = v1::NamespaceMode::Target as i32;
    refused(with(|config| config.linux = Some(sharing(|options| options.pid = target))), "pid");
    let bare = v1::UserNamespace { mode: v1::NamespaceMode::Pod as i32, ..Default::default() };
    let users = |own: v1::UserNamespace| sharing(|options| options.userns_options = Some(own));
    refused(with(|config| config.linux = Some(users(bare.clone()))), "userns_options.uids");
    let ids = vec![v1::IdMapping { host_id: 100_000, container_id: 0, length: 10 }];
    let own = v1::UserNamespace { uids: ids.clone(), gids: ids, ..bare };
    let plan = with(|config| config.linux = Some(users(own.clone()))).unwrap();
    assert_eq!((plan.users.unwrap().root(), plan.options.shm_owner), ((100_000, 100_000), (100_000, 100_000)));
    let host = sharing(|options| (options.userns_options, options.ipc) = (Some(own), NODE));
    refused(with(|config| config.linux = Some(host)), "namespace_options.ipc");
    let hosts = v1::UserNamespace { mode: NODE, ..Default::default() };
    with(|config| config.linux = Some(sharing(|options| options.userns_options = Some(hosts)))).unwrap();
    let group =
        v1::LinuxSandboxSecurityContext { run_as_group: Some(v1::Int64Value { value: 1 }), ..Default::default() };
    let linux = v1::LinuxPodSandboxConfig { security_context: Some(group), ..Default::default() };
    refused(with(|config| config.linux = Some(linux)), "run_as_group");
}

#[test]
fn handlers_are_looked_up() {
    let mut asked = request();
    asked.runtime_handler = "runc".into();
    let plan = PodPlan::new(asked.clone(), &server(CgroupDriver::Cgroupfs)).unwrap();
    assert_eq!((plan.asked_handler.as_str(), plan.options.runtime_binary), ("runc", Some("/usr/sbin/runc".into())));
    asked.runtime_handler = "kata".into();
    refused(PodPlan::new(asked, &server(CgroupDriver::Cgroupfs)), "runtime_handler \"kata\"");
}

#[test]
fn cgroup_parents_follow_the_driver() {
    let parent = |text: &str, driver| {
        let mut request = request();
        let linux = v1::LinuxPodSandboxConfig { cgroup_parent: text.into(), ..Default::default() };
        request.config.as_mut().unwrap().linux = Some(linux);
        PodPlan::new(request, &server(driver))
    };
    let plan = parent("kubepods/burstable/pod1/", CgroupDriver::Cgroupfs).unwrap();
    assert_eq!(plan.cgroup_parent.as_deref(), Some("/kubepods/burstable/pod1"));
    let plan = parent("/kubepods.slice/kubepods-pod1.slice", CgroupDriver::Systemd).unwrap();
    assert_eq!(plan.cgroup_parent.as_deref(), Some("kubepods-pod1.slice"));
    assert!(plan.options.systemd_cgroup);
    refused(parent("/kubepods/pod1", CgroupDriver::Systemd), "cgroup_parent");
    for bad in ["/", "//", "/a/../b", "a:b:c", "a\nb"] {
        refused(parent(bad, CgroupDriver::Cgroupfs), "cgroup_parent");
    }
}

#[test]
fn only_parameters_of_the_pods_own_namespaces_are_set() {
    let set = |name: &str, value: &str, host: bool| {
        with(|config| {
            let mut linux =
                if host { sharing(|options| (options.network, options.ipc) = (NODE, NODE)) } else { sharing(|_| {}) };
            linux.sysctls = HashMap::from([(name.to_string(), value.to_string())]);
            config.linux = Some(linux);
        })
    };
    let name = |plan: Result<PodPlan>, name: &str| plan.unwrap().options.sysctls.contains_key(name);
    assert!(name(set("net.core.somaxconn", "9", false), "net.core.somaxconn"));
    assert!(name(set("net/core/somaxconn", "9", false), "net.core.somaxconn"));
    assert!(name(set("kernel.shm_rmid_forced", "1", false), "kernel.shm_rmid_forced"));
    assert!(name(set("fs.mqueue.msg_max", "1", false), "fs.mqueue.msg_max"));
    let kept = set("net.ipv4.ip_unprivileged_port_start", "80", false).unwrap();
    assert_eq!(kept.options.sysctls["net.ipv4.ip_unprivileged_port_start"], "80");
    for bad in [
        "",
        "net",
        "net..x",
        "net.x.",
        "../x",
        "net/../../x",
        "vm.swappiness",
        "kernel.pid_max",
        "netx.y",
        "net.a b",
        "net/ipv4/conf/eth0.1/forwarding",
    ] {
        refused(set(bad, "1", false), "linux.sysctls");
    }
    refused(set("net.core.somaxconn", "1\n2", false), "more than one line");
    refused(set("net.core.somaxconn", "1", true), "network namespace");
    refused(set("kernel.sem", "1", true), "ipc namespace");
}

#[test]
fn resolv_conf_is_written_from_the_request() {
    let dns = |servers: &[&str], searches: &[&str], options: &[&str]| {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<String>>();
        let dns = v1::DnsConfig { servers: words(servers), searches: words(searches), options: words(options) };
        with(|config| config.dns_config = Some(dns))
    };
    let plan = dns(&["10.0.0.10", "fd00::1"], &["svc.local", "local"], &["ndots:5", "rotate"]).unwrap();
    let text = "search svc.local local\nnameserver 10.0.0.10\nnameserver fd00::1\noptions ndots:5 rotate\n";
    assert_eq!(plan.resolv_conf.as_deref(), Some(text));
    assert_eq!(plan.network.unwrap().capabilities["dns"]["servers"][0], "10.0.0.10");
    assert_eq!(dns(&[], &[], &[]).unwrap().resolv_conf, None);
    refused(dns(&["1.1.1.1\nsearch evil"], &[], &[]), "dns_config.servers");
    refused(dns(&[], &["x"; 33], &[]), "dns_config.searches");
}

#[test]
fn port_mappings_without_a_host_port_are_dropped() {
    let map = |mapping: v1::PortMapping| with(|config| config.port_mappings = vec![mapping]);
    let full = v1::PortMapping { protocol: 1, container_port: 53, host_port: 5353, host_ip: "127.0.0.1".into() };
    let plan = map(full.clone()).unwrap();
    let expected = json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}]);
    assert_eq!(plan.network.unwrap().capabilities["portMappings"], expected);
    let plan = map(v1::PortMapping { host_port: 0, ..full.clone() }).unwrap();
    assert!(plan.network.unwrap().capabilities.is_empty());
    refused(map(v1::PortMapping { protocol: 9, ..full.clone() }), "port_mappings[0].protocol");
    refused(map(v1::PortMapping { host_port: 70_000, ..full.clone() }), "port_mappings[0].host_port");
    refused(map(v1::PortMapping { host_port: -1, ..full.clone() }), "port_mappings[0].host_port");
    refused(map(v1::PortMapping { container_port: 0, ..full.clone() }), "port_mappings[0].container_port");
    refused(map(v1::PortMapping { host_ip: "home".into(), ..full }), "port_mappings[0].host_ip");
    let limited = with(|config| {
        config.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
    });
    assert_eq!(limited.unwrap().network.unwrap().capabilities["bandwidth"]["ingressRate"], 10_000_000);
}
