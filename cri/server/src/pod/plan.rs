//! Reads a RunPodSandbox request: a [`PodPlan`] that can be carried out, or the field that is wrong. Touches nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};
use windlass_cri_api::v1;
use windlass_engine::tasks::PodOptions;
use windlass_model::{Error, Id, Result};
use windlass_sys::idmap::IdMap;

use super::users;
use crate::container::{limits, security};
use crate::names::pod_name;
use crate::network::bandwidth;
use crate::selinux::{self, Asker};
use crate::{CgroupDriver, Runtime, ServerConfig};

/// The longest host name that the kernel takes, in bytes.
const LONGEST_HOSTNAME: usize = 64;
/// The longest of the names that make a pod unique, in bytes: a DNS name's limit.
const LONGEST_NAME: usize = 253;
/// How many search domains a `resolv.conf` may have (Kubernetes' own limit).
const MOST_SEARCHES: usize = 32;
/// What the containers of a pod share as `/dev/shm`, in bytes: the size that Kubernetes users know.
const SHM: u64 = 64 * 1024 * 1024;
/// The shim is killed for memory only after everything else of its pod.
const SHIM_OOM_SCORE: i32 = -998;

/// Kernel parameters of the ipc namespace; `fs.mqueue.` and `net.` are whole families.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];
/// What an unprivileged program may do in a network that is the pod's alone, as containerd 2 and Docker have it.
const NET_DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// What is to be made for a pod.
#[derive(Clone, Debug)]
pub(crate) struct PodPlan {
    /// Its unique name.
    pub(crate) name: String,
    /// The request's configuration.
    pub(crate) config: v1::PodSandboxConfig,
    /// The handler in force.
    pub(crate) handler: String,
    /// The handler as asked for.
    pub(crate) asked_handler: String,
    /// What that handler is.
    pub(crate) runtime: Runtime,
    /// The cgroup that the kubelet made for the pod; `None`: we make one.
    pub(crate) cgroup_parent: Option<String>,
    /// The network of its own; `None`: the host's.
    pub(crate) network: Option<PlannedNetwork>,
    /// What the shim makes, but for the cgroup, which needs the id.
    pub(crate) options: PodOptions,
    /// The ids of a user namespace of the pod's own; `None`: the host's.
    pub(crate) users: Option<IdMap>,
    /// The text of `resolv.conf`; `None`: the host's.
    pub(crate) resolv_conf: Option<String>,
}

/// What the plugins are told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedNetwork {
    /// Values for the capabilities that plugins may ask for.
    pub(crate) capabilities: Map<String, Value>,
}

impl PodPlan {
    /// Checks a request against the configuration.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] naming the field.
    pub(crate) fn new(request: v1::RunPodSandboxRequest, server: &ServerConfig) -> Result<Self> {
        let v1::RunPodSandboxRequest { config, runtime_handler: asked_handler } = request;
        let config = config.ok_or_else(|| Error::invalid("config is missing"))?;
        let metadata = config.metadata.as_ref().ok_or_else(|| Error::invalid("config.metadata is missing"))?;
        check_metadata(metadata)?;
        let linux = config.linux.clone().unwrap_or_default();
        let context = linux.security_context.unwrap_or_default();
        if context.run_as_group.is_some() && context.run_as_user.is_none() {
            return Err(invalid("linux.security_context.run_as_group", "needs run_as_user"));
        }
        check_ids(&context)?;
        selinux::check(context.selinux_options.as_ref(), "config.")?;
        let sharing = Sharing::new(&context.namespace_options.unwrap_or_default())?;
        check_hostname(&config.hostname)?;
        if !config.log_directory.is_empty()
            && (!config.log_directory.starts_with('/') || config.log_directory.contains('\0'))
        {
            return Err(invalid("log_directory", "is not an absolute path"));
        }
        for (field, asked) in [("overhead", &linux.overhead), ("resources", &linux.resources)] {
            asked.iter().try_for_each(|asked| limits::check(asked, &format!("config.linux.{field}")))?;
        }
        let handler = if asked_handler.is_empty() { &server.default_runtime } else { &asked_handler };
        let runtime = server.runtimes.get(handler).cloned();
        let runtime =
            runtime.ok_or_else(|| Error::invalid(format!("runtime_handler {handler:?} is not configured")))?;
        if sharing.users.is_some() && runtime.shim.is_some() {
            let why = format!("is nothing that the shim of runtime_handler {handler:?} is known to do");
            return Err(invalid("linux.security_context.namespace_options.userns_options", why));
        }
        Ok(Self {
            name: pod_name(metadata),
            handler: handler.clone(),
            cgroup_parent: cgroup_parent(&linux.cgroup_parent, server.cgroup_driver)?,
            network: if sharing.host_network { None } else { Some(PlannedNetwork::new(&config)?) },
            options: PodOptions {
                hostname: if sharing.host_network { String::new() } else { config.hostname.clone() },
                new_ipc: !sharing.host_ipc,
                new_uts: !sharing.host_network,
                shared_pid: sharing.pod_pid,
                sysctls: sysctls(&linux.sysctls, &sharing)?,
                systemd_cgroup: server.cgroup_driver == CgroupDriver::Systemd,
                oom_score_adj: SHIM_OOM_SCORE,
                shm_bytes: if sharing.host_ipc { 0 } else { SHM },
                shm_owner: sharing.users.as_ref().map_or((0, 0), IdMap::root),
                runtime_binary: runtime.binary.clone(),
                ..PodOptions::default()
            },
            resolv_conf: resolv_conf(config.dns_config.as_ref())?,
            users: sharing.users,
            config,
            asked_handler,
            runtime,
        })
    }

    /// What the pod asks of SELinux.
    pub(crate) fn selinux(&self) -> Asker<'_> {
        let context = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        Asker { options: context.and_then(|context| context.selinux_options.as_ref()), ..Asker::default() }
    }

    /// `CNI_ARGS` for the pod, in the words that plugins for Kubernetes know.
    pub(crate) fn cni_args(&self, id: &Id) -> String {
        let metadata = self.config.metadata.clone().unwrap_or_default();
        let v1::PodSandboxMetadata { name, uid, namespace, .. } = metadata;
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
        )
    }
}

/// What a pod shares with the host, and its containers with each other.
struct Sharing {
    host_network: bool,
    host_ipc: bool,
    pod_pid: bool,
    users: Option<IdMap>,
}

impl Sharing {
    fn new(options: &v1::NamespaceOption) -> Result<Self> {
        use v1::NamespaceMode::{Container, Node, Pod};
        let mode = |field: &str, value: i32, allowed: &[v1::NamespaceMode]| {
            let field = format!("linux.security_context.namespace_options.{field}");
            let mode =
                v1::NamespaceMode::try_from(value).map_err(|_| invalid(&field, format!("{value} is unknown")))?;
            if allowed.contains(&mode) {
                return Ok(mode);
            }
            Err(invalid(&field, format!("{} makes no sense for a pod", mode.as_str_name())))
        };
        let network = mode("network", options.network, &[Pod, Node])?;
        let ipc = mode("ipc", options.ipc, &[Pod, Node])?;
        let pid = mode("pid", options.pid, &[Pod, Container, Node])?;
        let field = "linux.security_context.namespace_options";
        let users = users::map(options.userns_options.as_ref(), &format!("config.{field}.userns_options"))?;
        // Of the host's network a pod's users may use what every user may; of the others they could not even have a view.
        if users.is_some() {
            for (name, mode) in [("ipc", ipc), ("pid", pid)] {
                if mode == Node {
                    return Err(invalid(
                        &format!("{field}.{name}"),
                        "is the host's, which a user namespace cannot use",
                    ));
                }
            }
        }
        Ok(Self { host_network: network == Node, host_ipc: ipc == Node, pod_pid: pid == Pod, users })
    }
}

impl PlannedNetwork {
    fn new(config: &v1::PodSandboxConfig) -> Result<Self> {
        let mut capabilities = Map::new();
        let mappings = port_mappings(&config.port_mappings)?;
        if !mappings.is_empty() {
            capabilities.insert("portMappings".into(), mappings.into());
        }
        if let Some(limits) = bandwidth::limits(|name| config.annotations.get(name).map(String::as_str))? {
            capabilities.insert("bandwidth".into(), limits);
        }
        if let Some(v1::DnsConfig { servers, searches, options }) = &config.dns_config {
            let dns = json!({"servers": servers, "searches": searches, "options": options});
            capabilities.insert("dns".into(), dns);
        }
        Ok(Self { capabilities })
    }
}

fn invalid(field: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("config.{field}: {why}"))
}

/// The parts of a pod's name become part of keys and of the plugins' arguments.
fn check_metadata(metadata: &v1::PodSandboxMetadata) -> Result<()> {
    let v1::PodSandboxMetadata { name, uid, namespace, .. } = metadata;
    for (field, text) in [("metadata.name", name), ("metadata.namespace", namespace), ("metadata.uid", uid)] {
        if text.is_empty() {
            return Err(invalid(field, "is empty"));
        }
        if text.len() > LONGEST_NAME {
            return Err(invalid(field, format!("is longer than {LONGEST_NAME} bytes")));
        }
        if text.contains(|sign: char| sign.is_control() || sign.is_whitespace() || "/;=".contains(sign)) {
            return Err(invalid(field, format!("{text:?} has blanks or one of '/', ';', '='")));
        }
    }
    Ok(())
}

/// The ids and profiles of a pod mean something only to runtimes that run a program of its own for it; they are checked
/// all the same.
fn check_ids(context: &v1::LinuxSandboxSecurityContext) -> Result<()> {
    let is_id = |id: &i64| (0..i64::from(u32::MAX)).contains(id);
    let field = |name: &str| format!("linux.security_context.{name}");
    for (name, id) in [("run_as_user", &context.run_as_user), ("run_as_group", &context.run_as_group)] {
        if let Some(id) = id.as_ref().filter(|id| !is_id(&id.value)) {
            return Err(invalid(&field(name), format!("{} is no id", id.value)));
        }
    }
    if let Some(group) = context.supplemental_groups.iter().find(|group| !is_id(group)) {
        return Err(invalid(&field("supplemental_groups"), format!("{group} is no id")));
    }
    #[allow(deprecated)]
    security::profile(context.seccomp.as_ref(), &context.seccomp_profile_path, "seccomp")?;
    security::profile(context.apparmor.as_ref(), "", "apparmor").map(drop)
}

fn check_hostname(hostname: &str) -> Result<()> {
    if hostname.len() > LONGEST_HOSTNAME {
        return Err(invalid("hostname", format!("is longer than {LONGEST_HOSTNAME} bytes")));
    }
    if hostname.contains(|sign: char| sign.is_control() || sign.is_whitespace() || sign == '/') {
        return Err(invalid("hostname", format!("{hostname:?} is no host name")));
    }
    Ok(())
}

/// The kubelet writes a path also where systemd makes the cgroups; its last part is the slice.
fn cgroup_parent(asked: &str, driver: CgroupDriver) -> Result<Option<String>> {
    if asked.is_empty() {
        return Ok(None);
    }
    if asked.split('/').any(|part| part == "..") || asked.contains(['\0', '\n', ':']) {
        return Err(invalid("linux.cgroup_parent", format!("{asked:?} is no cgroup")));
    }
    let last = asked.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match driver {
        _ if last.is_empty() => Err(invalid("linux.cgroup_parent", "is the root cgroup")),
        CgroupDriver::Systemd if last.ends_with(".slice") => Ok(Some(last.into())),
        CgroupDriver::Systemd => Err(invalid("linux.cgroup_parent", format!("{asked:?} is no systemd slice"))),
        CgroupDriver::Cgroupfs => Ok(Some(format!("/{}", asked.trim_matches('/')))),
    }
}

/// The parameters to set, each of which must belong to a namespace that is the pod's own.
fn sysctls(asked: &std::collections::HashMap<String, String>, sharing: &Sharing) -> Result<BTreeMap<String, String>> {
    let mut sysctls = BTreeMap::new();
    for (name, value) in asked {
        let field = format!("linux.sysctls[{name:?}]");
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let clean = |part: &&str| !part.is_empty() && part.bytes().all(known);
        // Both separators of sysctl(8), but only one of them in one name.
        let separator = if name.contains('/') { '/' } else { '.' };
        let parts: Vec<&str> = name.split(separator).collect();
        if parts.len() < 2 || !parts.iter().all(clean) {
            return Err(invalid(&field, "is no name of a kernel parameter"));
        }
        if value.contains(['\0', '\n']) {
            return Err(invalid(&field, "the value has more than one line"));
        }
        let dotted = parts.join(".");
        let (namespace, hosts) = match parts.first() {
            Some(&"net") => ("network", sharing.host_network),
            _ if dotted.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&dotted.as_str()) => {
                ("ipc", sharing.host_ipc)
            }
            _ if dotted == "kernel.domainname" => ("uts", sharing.host_network),
            _ => return Err(invalid(&field, "would change the host: it belongs to no namespace of the pod")),
        };
        if hosts {
            return Err(invalid(
                &field,
                format!("would change the host: the pod has no {namespace} namespace of its own"),
            ));
        }
        sysctls.insert(dotted, value.clone());
    }
    if !sharing.host_network {
        for (name, value) in NET_DEFAULTS {
            sysctls.entry(name.into()).or_insert_with(|| value.into());
        }
    }
    Ok(sysctls)
}

/// `resolv.conf` (resolv.conf(5)); `None` without a configuration.
fn resolv_conf(dns: Option<&v1::DnsConfig>) -> Result<Option<String>> {
    let Some(v1::DnsConfig { servers, searches, options }) = dns else { return Ok(None) };
    for (field, words) in [("servers", servers), ("searches", searches), ("options", options)] {
        let broken =
            |word: &&String| word.is_empty() || word.contains(|sign: char| sign.is_whitespace() || sign.is_control());
        if let Some(word) = words.iter().find(broken) {
            return Err(invalid(&format!("dns_config.{field}"), format!("{word:?} is not one word")));
        }
    }
    if searches.len() > MOST_SEARCHES {
        return Err(invalid("dns_config.searches", format!("are more than {MOST_SEARCHES}")));
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// The mappings as the capability `portMappings` has them; those without a host port are only documentation.
fn port_mappings(asked: &[v1::PortMapping]) -> Result<Vec<Value>> {
    let mut mappings = Vec::new();
    for (index, mapping) in asked.iter().enumerate() {
        let field = |name: &str| format!("port_mappings[{index}].{name}");
        let port = |name: &str, value: i32| {
            u16::try_from(value).map_err(|_| invalid(&field(name), format!("{value} is no port")))
        };
        let protocol = match v1::Protocol::try_from(mapping.protocol) {
            Ok(v1::Protocol::Tcp) => "tcp",
            Ok(v1::Protocol::Udp) => "udp",
            Ok(v1::Protocol::Sctp) => "sctp",
            Err(_) => return Err(invalid(&field("protocol"), format!("{} is unknown", mapping.protocol))),
        };
        if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<IpAddr>().is_err() {
            return Err(invalid(&field("host_ip"), format!("{:?} is no IP address", mapping.host_ip)));
        }
        let (container, host) =
            (port("container_port", mapping.container_port)?, port("host_port", mapping.host_port)?);
        if host == 0 {
            continue;
        }
        if container == 0 {
            return Err(invalid(&field("container_port"), "is needed with a host_port"));
        }
        mappings.push(
            json!({"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": mapping.host_ip}),
        );
    }
    Ok(mappings)
}

#[cfg(test)]
mod tests;
