//! The OCI runtime specification of a container, from its image's configuration and what the command line asks for.

mod capabilities;
mod devices;
mod wishes;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use prost_types::Any;
use serde_json::{Value, json};
use windlass_model::confinement::{KERNEL_MOUNTS, KernelMount, MASKED, PATH, READ_ONLY, SHARED_MEMORY};

use crate::image::Defaults;

pub(crate) use capabilities::own as own_capabilities;
pub(crate) use wishes::{Limits, Mount, ProcessWishes, Wishes};

/// The name of a specification in a message.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The name of a process of a specification in a message.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// The name of a specification's limits in a message.
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A part of a specification that travels by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Whole,
    Process,
    Resources,
}

/// Whom a program runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// What a specification is made from beside the wishes.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// The namespace of the daemon, which is a folder of cgroups.
    pub namespace: &'a str,
    /// The image's configuration.
    pub image: &'a Defaults,
    /// Whom the program runs as.
    pub user: &'a User,
    /// The root file system of a container that has no snapshot.
    pub rootfs: Option<&'a str>,
    /// True where the machine has cgroups of version 2 only.
    pub cgroup_v2: bool,
    /// Width and height of the terminal, where there is one.
    pub console: Option<(u32, u32)>,
    /// What this process may do, which is all that it can give.
    pub own_capabilities: u64,
}

/// A specification, or a part of it, as a message has it.
pub(crate) fn any(spec: &Value, part: Part) -> Any {
    let type_url = match part {
        Part::Whole => SPEC,
        Part::Process => PROCESS,
        Part::Resources => RESOURCES,
    };
    Any { type_url: type_url.into(), value: spec.to_string().into_bytes() }
}

/// The specification in a message; nothing where it is none.
pub(crate) fn of(any: Option<&Any>) -> Option<Value> {
    serde_json::from_slice(&any?.value).ok()
}

/// The specification of the container `id`.
///
/// # Errors
/// Where neither image nor command line names a program, or a wish cannot be had.
pub(crate) fn build(id: &str, wishes: &Wishes, parts: &Parts<'_>) -> Result<Value> {
    let cgroup = wishes.cgroup.clone().unwrap_or_else(|| format!("/{}/{id}", parts.namespace));
    let devices = devices::asked(&wishes.devices, wishes.privileged)?;
    let mut annotations: BTreeMap<_, _> = wishes.annotations.iter().cloned().collect();
    annotations.retain(|_, value| !value.is_empty());
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "process": process(wishes, parts)?,
        "root": { "path": parts.rootfs.unwrap_or("rootfs"), "readonly": wishes.read_only },
        "mounts": mounts(wishes),
        "annotations": annotations,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces(wishes, parts.cgroup_v2)?,
            "devices": devices.iter().map(devices::Device::place).collect::<Vec<_>>(),
            "resources": resources(wishes, &devices),
            "maskedPaths": if wishes.privileged { &[][..] } else { &MASKED[..] },
            "readonlyPaths": if wishes.privileged { &[][..] } else { &READ_ONLY[..] },
        },
    });
    if let Some(hostname) = &wishes.hostname {
        spec["hostname"] = hostname.as_str().into();
    }
    Ok(spec)
}

fn process(wishes: &Wishes, parts: &Parts<'_>) -> Result<Value> {
    let image = parts.image;
    let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let args = match wishes.command.as_slice() {
        [] => [words(&image.entrypoint), words(&image.cmd)].concat(),
        command => command.to_vec(),
    };
    if args.is_empty() {
        bail!("the image names no program: give a command");
    }
    let process = &wishes.process;
    let held = capabilities::held(&wishes.cap_add, &wishes.cap_drop, wishes.privileged, parts.own_capabilities)?;
    let mut made = json!({
        "terminal": process.tty,
        "user": user(parts.user),
        "args": args,
        "env": environment(&words(&image.env), process.tty, &process.env),
        "cwd": process.cwd.clone().or_else(|| image.working_dir.clone()).filter(|cwd| !cwd.is_empty())
            .map_or("/".into(), |cwd| if cwd.starts_with('/') { cwd } else { format!("/{cwd}") }),
        "capabilities": { "bounding": held, "effective": held, "permitted": held },
    });
    if let Some((width, height)) = parts.console {
        made["consoleSize"] = json!({ "width": width, "height": height });
    }
    // Where it is not wanted it is left out: to some runtimes its mere presence is a yes.
    if !wishes.allow_new_privs && !wishes.privileged {
        made["noNewPrivileges"] = true.into();
    }
    Ok(made)
}

/// The process of an exec: the container's own, with other arguments and what is asked for.
///
/// # Errors
/// Where the container's specification names no process.
pub(crate) fn exec(spec: &Value, args: &[String], wishes: &ProcessWishes, user_found: Option<&User>) -> Result<Value> {
    let Some(mut process) = spec.get("process").filter(|process| process.is_object()).cloned() else {
        bail!("the container's specification names no process");
    };
    let inherited = process["env"].as_array().cloned().unwrap_or_default();
    let inherited: Vec<String> = inherited.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    process["args"] = args.into();
    process["terminal"] = wishes.tty.into();
    if let Some(process) = process.as_object_mut() {
        process.remove("consoleSize");
    }
    if let Some((width, height)) = wishes.console() {
        process["consoleSize"] = json!({ "width": width, "height": height });
    }
    process["env"] = environment(&inherited, wishes.tty, &wishes.env).into();
    if let Some(cwd) = &wishes.cwd {
        process["cwd"] = cwd.as_str().into();
    }
    if let Some(found) = user_found {
        process["user"] = user(found);
    }
    Ok(process)
}

fn user(user: &User) -> Value {
    json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups })
}

/// The environment: ours, the image's, the wishes'; of two of one name the later stays, at the place of the first.
fn environment(image: &[String], tty: bool, wishes: &[String]) -> Vec<String> {
    let mut all: Vec<String> = vec![PATH.into()];
    let terminal = tty.then(|| "TERM=xterm".to_owned());
    for pair in image.iter().chain(&terminal).chain(wishes) {
        let name = pair.split('=').next().unwrap_or_default();
        if name.is_empty() {
            continue;
        }
        let same = |one: &String| one.split('=').next() == Some(name);
        match all.iter().position(same) {
            Some(at) => all[at].clone_from(pair),
            None => all.push(pair.clone()),
        }
    }
    all
}

fn mounts(wishes: &Wishes) -> Vec<Value> {
    let asked = |place: &str| wishes.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == place);
    let kernel = |(place, kind, source, options): KernelMount| {
        let writable = wishes.privileged && matches!(place, "/sys" | "/sys/fs/cgroup");
        let mut options = options.to_vec();
        if writable {
            options.retain(|option| *option != "ro");
            options.push("rw");
        }
        json!({ "destination": place, "type": kind, "source": source, "options": options })
    };
    let mut all: Vec<Value> =
        KERNEL_MOUNTS.into_iter().chain([SHARED_MEMORY]).filter(|(place, ..)| !asked(place)).map(kernel).collect();
    if wishes.net_host {
        for file in ["/etc/hosts", "/etc/resolv.conf"].into_iter().filter(|file| !asked(file)) {
            all.push(json!({ "destination": file, "type": "bind", "source": file, "options": ["rbind", "ro"] }));
        }
    }
    all.extend(wishes.mounts.iter().map(Mount::place));
    all
}

fn namespaces(wishes: &Wishes, cgroup_v2: bool) -> Result<Vec<Value>> {
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if !wishes.net_host {
        kinds.push("network");
    }
    if cgroup_v2 && !wishes.privileged {
        kinds.push("cgroup");
    }
    let mut all: BTreeMap<&str, Value> = kinds.iter().map(|kind| (*kind, json!({ "type": kind }))).collect();
    for (kind, path) in &wishes.namespaces {
        if !matches!(kind.as_str(), "pid" | "ipc" | "uts" | "network" | "cgroup" | "user" | "time") {
            bail!("{kind:?} is no kind of namespace that can be joined");
        }
        all.insert(kind, json!({ "type": kind, "path": path }));
    }
    Ok(all.into_values().collect())
}

fn resources(wishes: &Wishes, devices: &[devices::Device]) -> Value {
    let mut rules = vec![json!({ "allow": wishes.privileged, "access": "rwm" })];
    rules.extend(devices.iter().map(devices::Device::rule));
    let mut all = wishes.limits.resources();
    all["devices"] = rules.into();
    all
}

#[cfg(test)]
mod tests;
