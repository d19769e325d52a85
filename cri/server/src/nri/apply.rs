//! Puts what plugins want into a container's specification, which is JSON by then.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use windlass_cri_api::nri::{self, ContainerAdjustment, LinuxContainerAdjustment, LinuxResources};
use windlass_model::{Error, Result};

/// The parts of applying that others know how to do.
pub(crate) struct Skills<'a> {
    /// Injects devices of the Container Device Interface by their full names.
    pub(crate) cdi: &'a dyn Fn(&mut Value, &[String]) -> Result<()>,
    /// The nearest score that this machine can give for one that is wanted.
    pub(crate) oom_score: &'a dyn Fn(i64) -> i32,
}

/// Changes `spec` as `adjust` says.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for what cannot stand in a specification,
/// [`windlass_model::Kind::Unimplemented`] for what this runtime cannot do.
pub(crate) fn apply(spec: &mut Value, adjust: &ContainerAdjustment, skills: &Skills<'_>) -> Result<()> {
    keyed(object(spec, &["annotations"]), &adjust.annotations, |value| json!(value));
    env(list(spec, &["process", "env"]), &adjust.env);
    if !adjust.args.is_empty() {
        object(spec, &["process"]).insert("args".into(), json!(adjust.args));
    }
    if let Some(wanted) = &adjust.hooks {
        hooks(spec, wanted);
    }
    if !adjust.cdi_devices.is_empty() {
        let names: Vec<_> = adjust.cdi_devices.iter().map(|device| device.name.clone()).collect();
        (skills.cdi)(spec, &names)?;
    }
    if let Some(wanted) = &adjust.linux {
        linux(spec, wanted, skills)?;
    }
    mounts(spec, &adjust.mounts);
    rlimits(spec, &["process", "rlimits"], adjust);
    // What plugins write is checked by the words of the specification itself.
    serde_json::from_value::<oci_spec::runtime::Spec>(spec.clone())
        .map(drop)
        .map_err(|error| Error::invalid(format!("what plugins want makes no specification: {error}")))
}

/// Changes a process that is to run beside a container's first one, so that it finds the same environment and limits.
pub(crate) fn apply_beside(process: &mut Value, adjust: &ContainerAdjustment) {
    env(list(process, &["env"]), &adjust.env);
    rlimits(process, &["rlimits"], adjust);
}

fn rlimits(spec: &mut Value, path: &[&str], adjust: &ContainerAdjustment) {
    for limit in &adjust.rlimits {
        let limits = list(spec, path);
        limits.retain(|known| known["type"] != limit.r#type);
        limits.push(json!({"type": limit.r#type, "hard": limit.hard, "soft": limit.soft}));
    }
}

/// The object at `path`, made where it is not there.
fn object<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = fields(spec);
    for name in path {
        at = fields(at.entry(*name).or_insert(Value::Null));
    }
    at
}

/// A value as an object, made one where it is something else.
fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object")
}

/// The list at `path`, made where it is not there.
fn list<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Vec<Value> {
    let (last, parents) = path.split_last().expect("a list has a name");
    let at = object(spec, parents).entry(*last).or_insert(Value::Null);
    if !at.is_array() {
        *at = Value::Array(Vec::new());
    }
    at.as_array_mut().expect("it was made a list")
}

fn keyed<V>(fields: &mut Map<String, Value>, wanted: &HashMap<String, V>, value: impl Fn(&V) -> Value) {
    wanted.keys().filter_map(|key| key.strip_prefix('-')).for_each(|key| drop(fields.remove(key)));
    for (key, one) in wanted.iter().filter(|(key, _)| !key.starts_with('-')) {
        fields.insert(key.clone(), value(one));
    }
}

/// A variable that is there keeps its place.
fn env(env: &mut Vec<Value>, wanted: &[nri::KeyValue]) {
    let named = |known: &Value, name: &str| known.as_str().and_then(|pair| pair.split('=').next()) == Some(name);
    for pair in wanted {
        if let Some(name) = pair.key.strip_prefix('-') {
            env.retain(|known| !named(known, name));
            continue;
        }
        let text = json!(format!("{}={}", pair.key, pair.value));
        match env.iter_mut().find(|known| named(known, &pair.key)) {
            Some(known) => *known = text,
            None => env.push(text),
        }
    }
}

fn hooks(spec: &mut Value, wanted: &nri::Hooks) {
    let kinds = [
        ("prestart", &wanted.prestart),
        ("createRuntime", &wanted.create_runtime),
        ("createContainer", &wanted.create_container),
        ("startContainer", &wanted.start_container),
        ("poststart", &wanted.poststart),
        ("poststop", &wanted.poststop),
    ];
    for (name, more) in kinds.into_iter().filter(|(_, more)| !more.is_empty()) {
        let hooks = list(spec, &["hooks", name]);
        for hook in more {
            let mut made = json!({"path": hook.path});
            if !hook.args.is_empty() {
                made["args"] = json!(hook.args);
            }
            if !hook.env.is_empty() {
                made["env"] = json!(hook.env);
            }
            if let Some(timeout) = &hook.timeout {
                made["timeout"] = json!(timeout.value);
            }
            hooks.push(made);
        }
    }
}

fn mounts(spec: &mut Value, wanted: &[nri::Mount]) {
    if wanted.is_empty() {
        return;
    }
    let mut root = spec["linux"]["rootfsPropagation"].as_str().map(str::to_owned);
    let mounts = list(spec, &["mounts"]);
    for mount in wanted {
        let (place, removed) =
            mount.destination.strip_prefix('-').map_or((&*mount.destination, false), |at| (at, true));
        mounts.retain(|known| known["destination"] != place);
        if removed {
            continue;
        }
        let kind = if mount.r#type.is_empty() { "bind" } else { &mount.r#type };
        mounts.push(json!({
            "destination": place, "type": kind, "source": mount.source, "options": mount.options,
        }));
        let has = |names: [&str; 2]| mount.options.iter().any(|option| names.contains(&option.as_str()));
        if has(["rshared", "shared"]) {
            root = Some("shared".into());
        } else if has(["rslave", "slave"]) && root.as_deref() != Some("shared") {
            root = Some("slave".into());
        }
    }
    // One that lies in another comes after it.
    mounts.sort_by_key(|mount| {
        mount["destination"].as_str().unwrap_or_default().split('/').filter(|word| !word.is_empty()).count()
    });
    if let Some(root) = root {
        object(spec, &["linux"]).insert("rootfsPropagation".into(), json!(root));
    }
}

fn linux(spec: &mut Value, wanted: &LinuxContainerAdjustment, skills: &Skills<'_>) -> Result<()> {
    for device in &wanted.devices {
        devices(spec, device);
    }
    if !wanted.cgroups_path.is_empty() {
        object(spec, &["linux"]).insert("cgroupsPath".into(), json!(wanted.cgroups_path));
    }
    if let Some(score) = &wanted.oom_score_adj {
        object(spec, &["process"]).insert("oomScoreAdj".into(), json!((skills.oom_score)(score.value)));
    }
    if let Some(priority) = &wanted.io_priority {
        let made = match priority.class() {
            nri::IoPrioClass::IoprioClassNone => Value::Null,
            class => json!({"class": class.as_str_name(), "priority": priority.priority}),
        };
        set(object(spec, &["process"]), "ioPriority", made);
    }
    if let Some(scheduler) = &wanted.scheduler {
        set(object(spec, &["process"]), "scheduler", schedule(scheduler));
    }
    if let Some(policy) = &wanted.seccomp_policy {
        object(spec, &["linux"]).insert("seccomp".into(), seccomp(policy));
    }
    let namespaces = list(spec, &["linux", "namespaces"]);
    for namespace in &wanted.namespaces {
        let kind = namespace.r#type.strip_prefix('-').unwrap_or(&namespace.r#type);
        namespaces.retain(|known| known["type"] != kind);
        if kind == namespace.r#type {
            let mut made = json!({"type": kind});
            if !namespace.path.is_empty() {
                made["path"] = json!(namespace.path);
            }
            namespaces.push(made);
        }
    }
    if !wanted.sysctl.is_empty() {
        keyed(object(spec, &["linux", "sysctl"]), &wanted.sysctl, |value| json!(value));
    }
    if !wanted.net_devices.is_empty() {
        keyed(object(spec, &["linux", "netDevices"]), &wanted.net_devices, |device| json!({"name": device.name}));
    }
    if let Some(policy) = &wanted.memory_policy {
        let flags: Vec<_> = policy.flags().map(|flag| flag.as_str_name()).collect();
        let made = json!({"mode": policy.mode().as_str_name(), "nodes": policy.nodes, "flags": flags});
        object(spec, &["linux"]).insert("memoryPolicy".into(), made);
    }
    if let Some(rdt) = &wanted.rdt {
        intel_rdt(spec, rdt);
    }
    wanted.resources.as_ref().map_or(Ok(()), |wanted| resources(spec, wanted))
}

fn devices(spec: &mut Value, device: &nri::LinuxDevice) {
    let (path, removed) = device.path.strip_prefix('-').map_or((&*device.path, false), |path| (path, true));
    let devices = list(spec, &["linux", "devices"]);
    devices.retain(|known| known["path"] != path);
    if removed {
        return;
    }
    let mut made = json!({"path": path, "type": device.r#type, "major": device.major, "minor": device.minor});
    let numbers = [
        ("fileMode", device.file_mode.map(|mode| mode.value)),
        ("uid", device.uid.map(|uid| uid.value)),
        ("gid", device.gid.map(|gid| gid.value)),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            made[name] = json!(value);
        }
    }
    devices.push(made);
    let rule = json!({
        "allow": true, "type": device.r#type, "major": device.major, "minor": device.minor, "access": "rwm",
    });
    list(spec, &["linux", "resources", "devices"]).push(rule);
}

fn resources(spec: &mut Value, wanted: &LinuxResources) -> Result<()> {
    if let Some(class) = wanted.blockio_class.as_ref().filter(|class| !class.value.is_empty()) {
        return Err(Error::unimplemented(format!("there is no class {:?} of block I/O", class.value)));
    }
    if let Some(class) = &wanted.rdt_class {
        let made = if class.value.is_empty() { Value::Null } else { json!({"closID": class.value}) };
        set(object(spec, &["linux"]), "intelRdt", made);
    }
    if let Some(cpu) = &wanted.cpu {
        let fields = object(spec, &["linux", "resources", "cpu"]);
        let numbers = [
            ("shares", cpu.shares.map(|one| json!(one.value))),
            ("quota", cpu.quota.map(|one| json!(one.value))),
            ("period", cpu.period.map(|one| json!(one.value))),
            ("realtimeRuntime", cpu.realtime_runtime.map(|one| json!(one.value))),
            ("realtimePeriod", cpu.realtime_period.map(|one| json!(one.value))),
            ("cpus", Some(json!(cpu.cpus)).filter(|_| !cpu.cpus.is_empty())),
            ("mems", Some(json!(cpu.mems)).filter(|_| !cpu.mems.is_empty())),
        ];
        numbers.into_iter().for_each(|(name, value)| value.into_iter().for_each(|value| set(fields, name, value)));
    }
    if let Some(memory) = &wanted.memory {
        let fields = object(spec, &["linux", "resources", "memory"]);
        let (old_limit, old_swap) =
            (fields.get("limit").and_then(Value::as_i64), fields.get("swap").and_then(Value::as_i64));
        let limit = memory.limit.map(|limit| limit.value);
        let swap = memory.swap.map(|swap| swap.value).or_else(|| super::words::swap(limit?, old_limit?, old_swap?));
        let numbers = [
            ("limit", memory.limit.map(|one| json!(one.value))),
            ("swap", swap.map(|swap| json!(swap))),
            ("reservation", memory.reservation.map(|one| json!(one.value))),
            ("kernel", memory.kernel.map(|one| json!(one.value))),
            ("kernelTCP", memory.kernel_tcp.map(|one| json!(one.value))),
            ("swappiness", memory.swappiness.map(|one| json!(one.value))),
            ("disableOOMKiller", memory.disable_oom_killer.map(|one| json!(one.value))),
            ("useHierarchy", memory.use_hierarchy.map(|one| json!(one.value))),
        ];
        numbers.into_iter().for_each(|(name, value)| value.into_iter().for_each(|value| set(fields, name, value)));
    }
    for limit in &wanted.hugepage_limits {
        let limits = list(spec, &["linux", "resources", "hugepageLimits"]);
        limits.retain(|known| known["pageSize"] != limit.page_size);
        limits.push(json!({"pageSize": limit.page_size, "limit": limit.limit}));
    }
    if !wanted.unified.is_empty() {
        keyed(object(spec, &["linux", "resources", "unified"]), &wanted.unified, |value| json!(value));
    }
    for rule in &wanted.devices {
        let mut made = json!({"allow": rule.allow, "access": rule.access});
        if !rule.r#type.is_empty() {
            made["type"] = json!(rule.r#type);
        }
        for (name, value) in [("major", &rule.major), ("minor", &rule.minor)] {
            if let Some(value) = value {
                made[name] = json!(value.value);
            }
        }
        list(spec, &["linux", "resources", "devices"]).push(made);
    }
    if let Some(pids) = &wanted.pids {
        object(spec, &["linux", "resources", "pids"]).insert("limit".into(), json!(pids.limit));
    }
    Ok(())
}

fn intel_rdt(spec: &mut Value, wanted: &nri::LinuxRdt) {
    if wanted.remove {
        object(spec, &["linux"]).remove("intelRdt");
    }
    if wanted.clos_id.is_none() && wanted.schemata.is_none() && wanted.enable_monitoring.is_none() {
        return;
    }
    let fields = object(spec, &["linux", "intelRdt"]);
    let parts = [
        ("closID", wanted.clos_id.as_ref().map(|one| json!(one.value))),
        ("schemata", wanted.schemata.as_ref().map(|one| json!(one.value))),
        ("enableMonitoring", wanted.enable_monitoring.map(|one| json!(one.value))),
    ];
    parts.into_iter().for_each(|(name, value)| value.into_iter().for_each(|value| set(fields, name, value)));
}

fn schedule(wanted: &nri::LinuxScheduler) -> Value {
    if wanted.policy() == nri::LinuxSchedulerPolicy::SchedNone {
        return Value::Null;
    }
    let flags: Vec<_> = wanted.flags().map(|flag| flag.as_str_name()).collect();
    json!({
        "policy": wanted.policy().as_str_name(), "nice": wanted.nice, "priority": wanted.priority, "flags": flags,
        "runtime": wanted.runtime, "deadline": wanted.deadline, "period": wanted.period,
    })
}

fn seccomp(wanted: &nri::LinuxSeccomp) -> Value {
    let syscall = |one: &nri::LinuxSyscall| {
        let args: Vec<_> = one
            .args
            .iter()
            .map(|arg| json!({"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op}))
            .collect();
        let mut made = json!({"names": one.names, "action": one.action});
        if !args.is_empty() {
            made["args"] = json!(args);
        }
        if let Some(errno) = &one.errno_ret {
            made["errnoRet"] = json!(errno.value);
        }
        made
    };
    let mut made = json!({
        "defaultAction": wanted.default_action,
        "syscalls": wanted.syscalls.iter().map(syscall).collect::<Vec<_>>(),
    });
    if let Some(errno) = &wanted.default_errno {
        made["defaultErrnoRet"] = json!(errno.value);
    }
    for (name, words) in [("architectures", &wanted.architectures), ("flags", &wanted.flags)] {
        if !words.is_empty() {
            made[name] = json!(words);
        }
    }
    for (name, word) in [("listenerPath", &wanted.listener_path), ("listenerMetadata", &wanted.listener_metadata)] {
        if !word.is_empty() {
            made[name] = json!(word);
        }
    }
    made
}

/// Sets a field; nothing: removes it.
fn set(fields: &mut Map<String, Value>, name: &str, value: Value) {
    match value {
        Value::Null => drop(fields.remove(name)),
        value => drop(fields.insert(name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Value {
        json!({
            "ociVersion": "1.1.0",
            "process": {"cwd": "/", "args": ["sh"], "env": ["A=1", "B=2"], "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/a", "type": "bind", "source": "/1"}, {"destination": "/a/b", "source": "/2"}],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        })
    }

    fn applied(adjust: ContainerAdjustment) -> Result<Value> {
        let mut spec = spec();
        let cdi = |_: &mut Value, names: &[String]| Err(Error::not_found(names.join(",")));
        let skills = Skills { cdi: &cdi, oom_score: &|score| score.max(100) as i32 };
        apply(&mut spec, &adjust, &skills).map(|()| spec)
    }

    fn pair(key: &str, value: &str) -> nri::KeyValue {
        nri::KeyValue { key: key.into(), value: value.into() }
    }

    #[test]
    fn nothing_wanted_changes_nothing_that_matters() {
        let made = applied(ContainerAdjustment::default()).unwrap();
        for part in ["mounts", "root"] {
            assert_eq!(made[part], spec()[part]);
        }
        assert_eq!(made["process"]["env"], spec()["process"]["env"]);
    }

    #[test]
    fn variables_keep_their_places() {
        let env = vec![pair("-B", ""), pair("A", "3"), pair("C", "4")];
        let made = applied(ContainerAdjustment { env, ..Default::default() }).unwrap();
        assert_eq!(made["process"]["env"], json!(["A=3", "C=4"]));
    }

    #[test]
    fn a_process_beside_the_first_finds_the_same() {
        let rlimits = vec![nri::PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 2, soft: 1 }];
        let adjust = ContainerAdjustment { env: vec![pair("A", "3")], rlimits, ..Default::default() };
        let mut process = spec()["process"].clone();
        apply_beside(&mut process, &adjust);
        assert_eq!((&process["env"][0], &process["rlimits"][0]["hard"]), (&json!("A=3"), &json!(2)));
    }

    #[test]
    fn mounts_are_replaced_and_sorted() {
        let mount = |destination: &str, options: &[&str]| nri::Mount {
            destination: destination.into(),
            source: "/new".into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Default::default()
        };
        let mounts = vec![mount("-/a", &[]), mount("/x/y/z", &["rbind", "rslave"]), mount("/x", &["bind"])];
        let made = applied(ContainerAdjustment { mounts, ..Default::default() }).unwrap();
        let places: Vec<_> =
            made["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].clone()).collect();
        assert_eq!(places, ["/x", "/a/b", "/x/y/z"]);
        assert_eq!(made["linux"]["rootfsPropagation"], "slave");
    }

    #[test]
    fn every_part_of_linux_is_reached() {
        let int64 = |value| Some(nri::OptionalInt64 { value });
        let linux = LinuxContainerAdjustment {
            devices: vec![nri::LinuxDevice {
                path: "/dev/x".into(),
                r#type: "c".into(),
                major: 1,
                minor: 5,
                ..Default::default()
            }],
            resources: Some(LinuxResources {
                memory: Some(nri::LinuxMemory { limit: int64(9), ..Default::default() }),
                cpu: Some(nri::LinuxCpu { cpus: "0".into(), quota: int64(7), ..Default::default() }),
                pids: Some(nri::LinuxPids { limit: 3 }),
                unified: [("memory.high".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            }),
            cgroups_path: "/mine".into(),
            oom_score_adj: Some(nri::OptionalInt { value: 5 }),
            io_priority: Some(nri::LinuxIoPriority { class: nri::IoPrioClass::IoprioClassBe.into(), priority: 4 }),
            namespaces: vec![
                nri::LinuxNamespace { r#type: "-pid".into(), ..Default::default() },
                nri::LinuxNamespace { r#type: "network".into(), path: "/n".into() },
            ],
            sysctl: [("net.x".to_owned(), "1".to_owned())].into(),
            seccomp_policy: Some(nri::LinuxSeccomp { default_action: "SCMP_ACT_ALLOW".into(), ..Default::default() }),
            ..Default::default()
        };
        let made = applied(ContainerAdjustment { linux: Some(linux), ..Default::default() }).unwrap();
        let (linux, process) = (&made["linux"], &made["process"]);
        assert_eq!(linux["devices"][0]["minor"], 5);
        assert_eq!(linux["resources"]["devices"][0]["allow"], true);
        assert_eq!(linux["resources"]["memory"], json!({"limit": 9}));
        assert_eq!(
            (&linux["resources"]["cpu"]["cpus"], &linux["resources"]["pids"]["limit"]),
            (&json!("0"), &json!(3))
        );
        assert_eq!((&linux["cgroupsPath"], &linux["sysctl"]["net.x"]), (&json!("/mine"), &json!("1")));
        assert_eq!(linux["namespaces"], json!([{"type": "mount"}, {"type": "network", "path": "/n"}]));
        assert_eq!(
            (&process["oomScoreAdj"], &process["ioPriority"]["class"]),
            (&json!(100), &json!("IOPRIO_CLASS_BE"))
        );
        assert_eq!(linux["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let with = |linux| applied(ContainerAdjustment { linux: Some(linux), ..Default::default() });
        let seccomp = nri::LinuxSeccomp { default_action: "NO_SUCH".into(), ..Default::default() };
        let refused = with(LinuxContainerAdjustment { seccomp_policy: Some(seccomp), ..Default::default() });
        assert_eq!(refused.unwrap_err().kind(), windlass_model::Kind::InvalidArgument);
        let class = Some(nri::OptionalString { value: "gold".into() });
        let resources = Some(LinuxResources { blockio_class: class, ..Default::default() });
        let refused = with(LinuxContainerAdjustment { resources, ..Default::default() });
        assert_eq!(refused.unwrap_err().kind(), windlass_model::Kind::Unimplemented);
        let cdi_devices = vec![nri::CdiDevice { name: "v/c=d".into() }];
        assert!(applied(ContainerAdjustment { cdi_devices, ..Default::default() }).is_err());
    }
}
