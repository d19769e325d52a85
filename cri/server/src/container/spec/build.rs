//! Puts the OCI runtime specification together, and the process of an exec.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxDevice, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Process,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use windlass_cri_api::v1;
use windlass_model::confinement::PATH;
use windlass_model::environment::encode;
use windlass_model::{Context as _, Error, Result};

use super::{Host, PodFacts, apparmor, host, mounts, resources, seccomp, security};
use crate::CgroupDriver;
use crate::container::plan::wrong;
use crate::container::record::{Container, ImageDefaults};

/// What a specification is made from, beside the container itself.
pub(crate) struct Parts<'a> {
    /// The pod.
    pub(crate) pod: &'a PodFacts,
    /// The machine.
    pub(crate) host: &'a Host,
    /// Who makes cgroups.
    pub(crate) driver: CgroupDriver,
    /// The cgroup under which the container's own is made.
    pub(crate) cgroup_parent: &'a str,
    /// The process whose pid namespace is joined (`TARGET`).
    pub(crate) target: Option<u32>,
    /// Folders for the image's volumes: place, source.
    pub(crate) volumes: &'a [(PathBuf, PathBuf)],
}

/// The specification of `container`.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the field; what the kernel says of a device or a profile.
pub(crate) fn spec(container: &Container, parts: &Parts<'_>) -> Result<Spec> {
    let broken = |error| Error::internal(format!("specification of container {}: {error}", container.id));
    let config = &container.config;
    let context = context(config);
    let privileged = context.is_some_and(|context| context.privileged);
    let mounts = mounts::mounts(config, parts.volumes, parts.pod, privileged)?;
    let read_only = context.is_some_and(|context| context.readonly_rootfs);
    let root = RootBuilder::default().path("rootfs").readonly(read_only).build().map_err(broken)?;
    let args = args(config, &container.defaults)?;
    SpecBuilder::default()
        .version("1.1.0")
        .root(root)
        .process(process(container, parts.host, &parts.pod.hostname, args)?)
        .mounts(mounts.mounts)
        .annotations(annotations(container, parts.pod))
        .linux(linux(container, parts, mounts.root_propagation)?)
        .build()
        .map(|mut spec| {
            // The pod's namespace has its name already, and the host's must keep its own; the crate's default is its author's.
            spec.set_hostname(None);
            spec
        })
        .map_err(broken)
}

/// Checks what a container asks of the machine: profiles that must be there, devices, file systems. Blocks.
///
/// # Errors
/// Naming the field, or the profile or file that is missing or wrong.
pub(crate) fn check(config: &v1::ContainerConfig, host: &Host) -> Result<()> {
    let context = context(config);
    if let Some(profile) = apparmor::profile(context, host)? {
        apparmor::ensure(&profile)?;
    }
    let effective = security::capabilities(context, host)?.effective().clone().unwrap_or_default();
    seccomp::seccomp(context, &effective)?;
    devices(config, context.is_some_and(|context| context.privileged))?;
    mounts::check_sources(config)
}

/// A process of `container` that runs `args`: its first one, or an exec's.
pub(crate) fn process(container: &Container, host: &Host, hostname: &str, args: Vec<String>) -> Result<Process> {
    let broken = |error| Error::internal(format!("process of container {}: {error}", container.id));
    let config = &container.config;
    let context = context(config);
    let user = UserBuilder::default()
        .uid(container.user.uid)
        .gid(container.user.gid)
        .additional_gids(container.user.groups.clone())
        .build()
        .map_err(broken)?;
    let asked = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(user)
        .args(args)
        .env(environment(config, &container.defaults, hostname))
        .cwd(working_dir(config, &container.defaults))
        .capabilities(security::capabilities(context, host)?)
        .rlimits(Vec::new())
        .oom_score_adj(resources::oom_score(asked.map_or(0, |asked| asked.oom_score_adj), host));
    if let Some(labels) = container.selinux.as_ref().filter(|labels| !labels.process.is_empty()) {
        process = process.selinux_label(labels.process.clone());
    }
    if let Some(profile) = apparmor::profile(context, host)? {
        process = process.apparmor_profile(profile);
    }
    let mut process = process.build().map_err(broken)?;
    // Where it is not asked for it is left out: the built-in runtime takes its mere presence for a yes when it decides
    // how early to load a seccomp filter.
    process.set_no_new_privileges(context.filter(|context| context.no_new_privs).map(|_| true));
    Ok(process)
}

fn context(config: &v1::ContainerConfig) -> Option<&v1::LinuxContainerSecurityContext> {
    config.linux.as_ref().and_then(|linux| linux.security_context.as_ref())
}

fn linux(container: &Container, parts: &Parts<'_>, root_propagation: Option<&str>) -> Result<Linux> {
    let broken = |error| Error::internal(format!("specification of container {}: {error}", container.id));
    let config = &container.config;
    let context = context(config);
    let privileged = context.is_some_and(|context| context.privileged);
    let none = v1::LinuxContainerResources::default();
    let asked = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()).unwrap_or(&none);
    let mut limits = resources::resources(asked, parts.host)?;
    let devices = devices(config, privileged)?;
    limits.set_devices(Some(resources::device_rules(privileged, &devices)?));
    let (masked, read_only) = security::hidden_paths(context);
    let mut linux = LinuxBuilder::default()
        .resources(limits)
        .cgroups_path(resources::cgroup_path(parts.driver, parts.cgroup_parent, &container.id))
        .namespaces(namespaces(context, parts)?)
        .devices(devices.into_iter().map(|(device, _)| device).collect::<Vec<_>>())
        .masked_paths(masked)
        .readonly_paths(read_only);
    if let Some((map, _)) = &parts.pod.users {
        linux = linux.uid_mappings(mounts::mappings(map.uids())?).gid_mappings(mounts::mappings(map.gids())?);
    }
    if let Some(labels) = container.selinux.as_ref().filter(|labels| !labels.mount.is_empty()) {
        linux = linux.mount_label(labels.mount.clone());
    }
    if let Some(propagation) = root_propagation {
        linux = linux.rootfs_propagation(propagation);
    }
    let effective = security::capabilities(context, parts.host)?.effective().clone().unwrap_or_default();
    if let Some(filter) = seccomp::seccomp(context, &effective)? {
        linux = linux.seccomp(filter);
    }
    linux.build().map_err(broken)
}

/// Devices with the access that their cgroup allows.
fn devices(config: &v1::ContainerConfig, privileged: bool) -> Result<Vec<(LinuxDevice, String)>> {
    if privileged {
        return Ok(host::all_devices()?.into_iter().map(|device| (device, "rwm".into())).collect());
    }
    let mut all = Vec::new();
    for (at, asked) in config.devices.iter().enumerate() {
        let source = Path::new(&asked.host_path);
        let place = if asked.container_path.is_empty() { source } else { Path::new(&asked.container_path) };
        let access = if asked.permissions.is_empty() { "rwm" } else { &asked.permissions };
        let found = host::devices(source, place).context(|| format!("devices[{at}].host_path"))?;
        all.extend(found.into_iter().map(|device| (device, access.to_owned())));
    }
    Ok(all)
}

fn namespaces(context: Option<&v1::LinuxContainerSecurityContext>, parts: &Parts<'_>) -> Result<Vec<LinuxNamespace>> {
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    let shared = parts.pod.namespaces();
    let own = context.and_then(|context| context.namespace_options.as_ref()).unwrap_or(&shared);
    let mut all = vec![(LinuxNamespaceType::Mount, None)];
    if let Some((_, pin)) = &parts.pod.users {
        all.push((LinuxNamespaceType::User, Some(pin.clone())));
    }
    if let Some(netns) = &parts.pod.netns {
        all.push((LinuxNamespaceType::Network, Some(netns.clone())));
        all.push((LinuxNamespaceType::Uts, Some(parts.pod.namespace("uts"))));
    }
    if shared.ipc() != Node {
        all.push((LinuxNamespaceType::Ipc, Some(parts.pod.namespace("ipc"))));
    }
    // A container that joins its pod gets what the pod has, be it no namespace at all; the process that stands for the
    // pod has a pid namespace of the pod's only where that is shared.
    let pid = if own.pid() == Pod { shared.pid() } else { own.pid() };
    match pid {
        Container => all.push((LinuxNamespaceType::Pid, None)),
        Pod => all.push((LinuxNamespaceType::Pid, Some(parts.pod.namespace("pid")))),
        Target => {
            let pid = parts.target.ok_or_else(|| Error::precondition("the target container does not run"))?;
            all.push((LinuxNamespaceType::Pid, Some(format!("/proc/{pid}/ns/pid").into())));
        }
        Node => {}
    }
    if parts.host.cgroup_v2 && !context.is_some_and(|context| context.privileged) {
        all.push((LinuxNamespaceType::Cgroup, None));
    }
    let made = all.into_iter().map(|(kind, path)| {
        let one = LinuxNamespaceBuilder::default().typ(kind);
        match path {
            Some(path) => one.path(path).build(),
            None => one.build(),
        }
    });
    made.collect::<Result<_, _>>().map_err(|error| Error::internal(format!("namespaces: {error}")))
}

/// What is run: the request's command replaces the image's entry point and arguments, its arguments only the latter.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] where neither says anything.
pub(crate) fn args(config: &v1::ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>> {
    let (command, args) = match (config.command.as_slice(), config.args.as_slice()) {
        ([], []) => (image.entrypoint.as_slice(), image.cmd.as_slice()),
        ([], args) => (image.entrypoint.as_slice(), args),
        (command, args) => (command, args),
    };
    let all = [command, args].concat();
    match all.first() {
        None => Err(wrong("command", "is empty, and so are the image's entrypoint and command")),
        Some(_) => Ok(all),
    }
}

fn working_dir(config: &v1::ContainerConfig, image: &ImageDefaults) -> PathBuf {
    let asked = [&config.working_dir, &image.working_dir].into_iter().find(|path| !path.is_empty());
    // Images write relative paths now and then, and mean them from the root.
    Path::new("/").join(asked.map_or("/", String::as_str))
}

/// The environment: ours, the image's, the request's; of two of one name the later stays, at the place of the first.
/// Only the built-in runtime understands values that are not UTF-8; for others they were refused when the container was
/// asked for.
fn environment(config: &v1::ContainerConfig, image: &ImageDefaults, hostname: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::with_capacity(3 + image.env.len() + config.envs.len());
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut set = |pair: String| {
        let name = pair.split('=').next().unwrap_or_default().to_owned();
        match places.get(&name) {
            Some(at) => all[*at] = pair,
            None => {
                places.insert(name, all.len());
                all.push(pair);
            }
        }
    };
    set(PATH.into());
    set(format!("HOSTNAME={hostname}"));
    if config.tty {
        set("TERM=xterm".into());
    }
    image.env.iter().filter(|pair| pair.find('=').is_some_and(|at| at > 0)).for_each(|pair| set(pair.clone()));
    config.envs.iter().for_each(|pair| set(encode(&pair.key, &pair.value)));
    all
}

/// The annotations that tools know containers of Kubernetes by.
fn annotations(container: &Container, pod: &PodFacts) -> HashMap<String, String> {
    let sandbox = pod.config.metadata.clone().unwrap_or_default();
    let config = &container.config;
    let named = config.image.as_ref().map(|image| match image.user_specified_image.as_str() {
        "" => image.image.clone(),
        named => named.to_owned(),
    });
    let name = config.metadata.as_ref().map(|metadata| metadata.name.clone());
    [
        ("container-type", "container".to_owned()),
        ("sandbox-id", pod.id.to_string()),
        ("sandbox-name", sandbox.name),
        ("sandbox-namespace", sandbox.namespace),
        ("sandbox-uid", sandbox.uid),
        ("container-name", name.unwrap_or_default()),
        ("image-name", named.unwrap_or_default()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value))
    .collect()
}

#[cfg(test)]
#[path = "build_tests.rs"]
pub(super) mod tests;
