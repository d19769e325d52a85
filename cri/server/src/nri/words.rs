//! Pods and containers in the words of plugins.

use std::collections::HashMap;

use serde_json::Value;
use windlass_cri_api::{nri, v1};

use crate::container::Container;
use crate::container::record::Rung;
use crate::pod::Pod;

/// A pod. `pid` is the process that stands for its namespaces; 0: none.
pub(super) fn pod(pod: &Pod, pid: u32) -> nri::PodSandbox {
    let metadata = pod.metadata();
    let linux = pod.config.linux.clone().unwrap_or_default();
    let network = pod.attachment.as_ref().map(|attachment| attachment.netns.display().to_string());
    let namespaces = network.map(|path| nri::LinuxNamespace { r#type: "network".into(), path });
    nri::PodSandbox {
        id: pod.id.to_string(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
        linux: Some(nri::LinuxPodSandbox {
            pod_overhead: linux.overhead.as_ref().map(resources),
            pod_resources: linux.resources.as_ref().map(resources),
            cgroup_parent: linux.cgroup_parent,
            cgroups_path: pod.cgroup_parent.clone(),
            namespaces: namespaces.into_iter().collect(),
            resources: None,
        }),
        pid,
        ips: pod.addresses().iter().map(ToString::to_string).collect(),
    }
}

/// A container with its specification, which is `Null` where there is none any more.
pub(super) fn container(container: &Container, spec: &Value) -> nri::Container {
    let config = &container.config;
    let process = &spec["process"];
    let mut annotations = map(&spec["annotations"]);
    annotations.extend(config.annotations.clone());
    let end = container.end.as_ref();
    let image = config.image.clone().unwrap_or_default();
    let named = if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    nri::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        name: config.metadata.clone().unwrap_or_default().name,
        state: state(container).into(),
        labels: config.labels.clone(),
        annotations,
        args: strings(&process["args"]),
        env: strings(&process["env"]),
        mounts: items(&spec["mounts"]).map(mount).collect(),
        hooks: spec.get("hooks").filter(|hooks| hooks.is_object()).map(hooks),
        linux: Some(linux(container, spec)),
        pid: container.pid,
        rlimits: items(&process["rlimits"]).map(rlimit).collect(),
        created_at: container.created_at.nanos(),
        started_at: container.started_at.nanos(),
        finished_at: end.map_or(0, |end| end.at.nanos()),
        exit_code: end.map_or(0, |end| end.code),
        status_reason: container.reason().to_owned(),
        status_message: end.map(|end| end.message.clone()).unwrap_or_default(),
        cdi_devices: config.cdi_devices.iter().map(|device| nri::CdiDevice { name: device.name.clone() }).collect(),
        user: process.get("user").map(|user| nri::User {
            uid: unsigned(&user["uid"]).unwrap_or_default() as u32,
            gid: unsigned(&user["gid"]).unwrap_or_default() as u32,
            additional_gids: items(&user["additionalGids"])
                .filter_map(|gid| u32::try_from(gid.as_u64()?).ok())
                .collect(),
        }),
        image: Some(nri::Image {
            name: named,
            digest: container.image_ref.split_once('@').map(|(_, digest)| digest.to_owned()).unwrap_or_default(),
            config_digest: container.image_id.clone(),
        }),
    }
}

fn state(container: &Container) -> nri::ContainerState {
    match container.rung {
        Rung::Reserved | Rung::Created | Rung::Starting => nri::ContainerState::ContainerCreated,
        Rung::Running => nri::ContainerState::ContainerRunning,
        Rung::Exited | Rung::Removing => nri::ContainerState::ContainerStopped,
    }
}

fn linux(container: &Container, spec: &Value) -> nri::LinuxContainer {
    let (linux, process) = (&spec["linux"], &spec["process"]);
    let context = container.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let profile = context.and_then(|context| context.seccomp.as_ref());
    nri::LinuxContainer {
        namespaces: items(&linux["namespaces"])
            .map(|one| nri::LinuxNamespace { r#type: string(&one["type"]), path: string(&one["path"]) })
            .collect(),
        devices: items(&linux["devices"]).map(device).collect(),
        resources: linux.get("resources").map(spec_resources),
        oom_score_adj: process["oomScoreAdj"].as_i64().map(|value| nri::OptionalInt { value }),
        cgroups_path: string(&linux["cgroupsPath"]),
        io_priority: process.get("ioPriority").filter(|one| one.is_object()).map(|one| nri::LinuxIoPriority {
            class: nri::IoPrioClass::from_str_name(&string(&one["class"])).unwrap_or_default().into(),
            priority: one["priority"].as_i64().and_then(|value| i32::try_from(value).ok()).unwrap_or_default(),
        }),
        seccomp_profile: profile.map(|profile| nri::SecurityProfile {
            profile_type: profile.profile_type,
            localhost_ref: profile.localhost_ref.clone(),
        }),
        seccomp_policy: linux.get("seccomp").filter(|policy| policy.is_object()).map(seccomp),
        sysctl: map(&linux["sysctl"]),
        net_devices: linux["netDevices"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, one)| (name.clone(), nri::LinuxNetDevice { name: string(&one["name"]) }))
            .collect(),
        scheduler: None,
        rdt: linux.get("intelRdt").filter(|rdt| rdt.is_object()).map(|rdt| nri::LinuxRdt {
            clos_id: rdt["closID"].as_str().map(|value| nri::OptionalString { value: value.into() }),
            schemata: Some(nri::OptionalRepeatedString { value: strings(&rdt["schemata"]) }),
            enable_monitoring: rdt["enableMonitoring"].as_bool().map(|value| nri::OptionalBool { value }),
            remove: false,
        }),
    }
}

/// Resources in the kubelet's words as plugins know them.
pub(super) fn resources(asked: &v1::LinuxContainerResources) -> nri::LinuxResources {
    let nonzero = |value: i64| (value != 0).then_some(nri::OptionalInt64 { value });
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let unsigned = |value: i64| positive(value).map(|value| nri::OptionalUInt64 { value });
    nri::LinuxResources {
        memory: Some(nri::LinuxMemory {
            limit: nonzero(asked.memory_limit_in_bytes),
            swap: nonzero(asked.memory_swap_limit_in_bytes),
            ..Default::default()
        }),
        cpu: Some(nri::LinuxCpu {
            shares: unsigned(asked.cpu_shares),
            quota: nonzero(asked.cpu_quota),
            period: unsigned(asked.cpu_period),
            cpus: asked.cpuset_cpus.clone(),
            mems: asked.cpuset_mems.clone(),
            ..Default::default()
        }),
        hugepage_limits: asked
            .hugepage_limits
            .iter()
            .map(|limit| nri::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: asked.unified.clone(),
        ..Default::default()
    }
}

/// What of a plugin's resources the kubelet has words for; what is not set is zero or empty, which means no change.
pub(crate) fn cri_resources(wanted: &nri::LinuxResources) -> v1::LinuxContainerResources {
    let (memory, cpu) = (wanted.memory.unwrap_or_default(), wanted.cpu.clone().unwrap_or_default());
    let signed = |value: Option<nri::OptionalInt64>| value.map_or(0, |value| value.value);
    let unsigned =
        |value: Option<nri::OptionalUInt64>| value.map_or(0, |value| i64::try_from(value.value).unwrap_or(i64::MAX));
    v1::LinuxContainerResources {
        cpu_period: unsigned(cpu.period),
        cpu_quota: signed(cpu.quota),
        cpu_shares: unsigned(cpu.shares),
        memory_limit_in_bytes: signed(memory.limit),
        memory_swap_limit_in_bytes: signed(memory.swap),
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepage_limits: wanted
            .hugepage_limits
            .iter()
            .map(|limit| v1::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: wanted.unified.clone(),
        ..Default::default()
    }
}

/// The limit of memory and swap together that goes with a new limit of memory, where nobody says it: it moves as far.
/// Bytes; nothing: it stays.
pub(super) fn swap(limit: i64, old_limit: i64, old_swap: i64) -> Option<i64> {
    (limit > 0 && old_limit > 0 && old_swap > 0).then(|| old_swap.saturating_add(limit - old_limit))
}

fn spec_resources(found: &Value) -> nri::LinuxResources {
    let (memory, cpu) = (&found["memory"], &found["cpu"]);
    let signed = |value: &Value| value.as_i64().map(|value| nri::OptionalInt64 { value });
    let number = |value: &Value| value.as_u64().map(|value| nri::OptionalUInt64 { value });
    let boolean = |value: &Value| value.as_bool().map(|value| nri::OptionalBool { value });
    nri::LinuxResources {
        memory: Some(nri::LinuxMemory {
            limit: signed(&memory["limit"]),
            reservation: signed(&memory["reservation"]),
            swap: signed(&memory["swap"]),
            kernel: signed(&memory["kernel"]),
            kernel_tcp: signed(&memory["kernelTCP"]),
            swappiness: number(&memory["swappiness"]),
            disable_oom_killer: boolean(&memory["disableOOMKiller"]),
            use_hierarchy: boolean(&memory["useHierarchy"]),
        }),
        cpu: Some(nri::LinuxCpu {
            shares: number(&cpu["shares"]),
            quota: signed(&cpu["quota"]),
            period: number(&cpu["period"]),
            realtime_runtime: signed(&cpu["realtimeRuntime"]),
            realtime_period: number(&cpu["realtimePeriod"]),
            cpus: string(&cpu["cpus"]),
            mems: string(&cpu["mems"]),
        }),
        hugepage_limits: items(&found["hugepageLimits"])
            .map(|limit| nri::HugepageLimit {
                page_size: string(&limit["pageSize"]),
                limit: unsigned(&limit["limit"]).unwrap_or_default(),
            })
            .collect(),
        blockio_class: None,
        rdt_class: None,
        unified: map(&found["unified"]),
        devices: items(&found["devices"])
            .map(|rule| nri::LinuxDeviceCgroup {
                allow: rule["allow"].as_bool().unwrap_or_default(),
                r#type: string(&rule["type"]),
                major: signed(&rule["major"]),
                minor: signed(&rule["minor"]),
                access: string(&rule["access"]),
            })
            .collect(),
        pids: found["pids"]["limit"].as_i64().map(|limit| nri::LinuxPids { limit }),
    }
}

fn mount(one: &Value) -> nri::Mount {
    nri::Mount {
        destination: string(&one["destination"]),
        r#type: string(&one["type"]),
        source: string(&one["source"]),
        options: strings(&one["options"]),
    }
}

fn hooks(found: &Value) -> nri::Hooks {
    let list = |name: &str| {
        let hook = |one: &Value| nri::Hook {
            path: string(&one["path"]),
            args: strings(&one["args"]),
            env: strings(&one["env"]),
            timeout: one["timeout"].as_i64().map(|value| nri::OptionalInt { value }),
        };
        items(&found[name]).map(hook).collect()
    };
    nri::Hooks {
        prestart: list("prestart"),
        create_runtime: list("createRuntime"),
        create_container: list("createContainer"),
        start_container: list("startContainer"),
        poststart: list("poststart"),
        poststop: list("poststop"),
    }
}

fn rlimit(one: &Value) -> nri::PosixRlimit {
    nri::PosixRlimit {
        r#type: string(&one["type"]),
        hard: unsigned(&one["hard"]).unwrap_or_default(),
        soft: unsigned(&one["soft"]).unwrap_or_default(),
    }
}

fn device(one: &Value) -> nri::LinuxDevice {
    let id = |value: &Value| {
        let value = u32::try_from(value.as_u64()?).ok()?;
        Some(nri::OptionalUInt32 { value })
    };
    nri::LinuxDevice {
        path: string(&one["path"]),
        r#type: string(&one["type"]),
        major: one["major"].as_i64().unwrap_or_default(),
        minor: one["minor"].as_i64().unwrap_or_default(),
        file_mode: id(&one["fileMode"]).map(|mode| nri::OptionalFileMode { value: mode.value }),
        uid: id(&one["uid"]),
        gid: id(&one["gid"]),
    }
}

fn seccomp(policy: &Value) -> nri::LinuxSeccomp {
    let errno = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
    let argument = |one: &Value| nri::LinuxSeccompArg {
        index: errno(&one["index"]).unwrap_or_default(),
        value: unsigned(&one["value"]).unwrap_or_default(),
        value_two: unsigned(&one["valueTwo"]).unwrap_or_default(),
        op: string(&one["op"]),
    };
    nri::LinuxSeccomp {
        default_action: string(&policy["defaultAction"]),
        default_errno: errno(&policy["defaultErrnoRet"]).map(|value| nri::OptionalUInt32 { value }),
        architectures: strings(&policy["architectures"]),
        flags: strings(&policy["flags"]),
        listener_path: string(&policy["listenerPath"]),
        listener_metadata: string(&policy["listenerMetadata"]),
        syscalls: items(&policy["syscalls"])
            .map(|one| nri::LinuxSyscall {
                names: strings(&one["names"]),
                action: string(&one["action"]),
                errno_ret: errno(&one["errnoRet"]).map(|value| nri::OptionalUInt32 { value }),
                args: items(&one["args"]).map(argument).collect(),
            })
            .collect(),
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn strings(value: &Value) -> Vec<String> {
    items(value).map(string).collect()
}

fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64()
}

fn map(value: &Value) -> HashMap<String, String> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), string(value))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::record::tests::container as record;

    #[test]
    fn a_specification_is_told_in_full() {
        let spec = json!({
            "process": {"args": ["sh"], "env": ["A=1"], "oomScoreAdj": 5, "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}]},
            "annotations": {"a": "b"},
            "mounts": [{"destination": "/x", "type": "bind", "source": "/y", "options": ["ro"]}],
            "hooks": {"prestart": [{"path": "/h", "timeout": 3}]},
            "linux": {"cgroupsPath": "/c", "namespaces": [{"type": "mount"}], "devices": [{"path": "/dev/x", "type": "c",
                "major": 1, "minor": 2, "fileMode": 438}], "sysctl": {"s": "1"},
                "resources": {"memory": {"limit": 9}, "cpu": {"shares": 7}, "pids": {"limit": 4}}},
        });
        let told = container(&record(Rung::Running), &spec);
        assert_eq!((told.args.as_slice(), told.mounts[0].source.as_str()), (["sh".to_owned()].as_slice(), "/y"));
        assert_eq!(told.state(), nri::ContainerState::ContainerRunning);
        assert_eq!(told.user.clone().unwrap().additional_gids, [3]);
        assert_eq!(told.hooks.clone().unwrap().prestart[0].timeout.unwrap().value, 3);
        let linux = told.linux.unwrap();
        let resources = linux.resources.unwrap();
        assert_eq!(resources.memory.unwrap().limit.unwrap().value, 9);
        assert_eq!((resources.cpu.unwrap().shares.unwrap().value, resources.pids.unwrap().limit), (7, 4));
        assert_eq!((linux.devices[0].file_mode.unwrap().value, linux.oom_score_adj.unwrap().value), (438, 5));
        // Without one, what is known of the container itself.
        let bare = container(&record(Rung::Exited), &Value::Null);
        assert_eq!((bare.name.as_str(), bare.pod_sandbox_id.as_str()), ("c", "p1"));
    }

    #[test]
    fn resources_go_there_and_back() {
        let asked = v1::LinuxContainerResources {
            cpu_shares: 5,
            cpu_quota: -1,
            memory_limit_in_bytes: 7,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        assert_eq!(cri_resources(&resources(&asked)), asked);
    }

    #[test]
    fn swap_follows_the_limit() {
        for (limit, old_limit, old_swap, expected) in
            [(9, 5, 5, Some(9)), (3, 5, 5, Some(3)), (3, 5, 8, Some(6)), (9, 5, -1, None), (9, 0, 0, None)]
        {
            assert_eq!(swap(limit, old_limit, old_swap), expected, "{limit} {old_limit} {old_swap}");
        }
    }
}
