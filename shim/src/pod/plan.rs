//! What a pod is to be: what the daemon's own options say, or else what the specification in the bundle says, as for
//! clients of containerd's sandbox API, who know no options of ours.
//!
//! Of a specification the namespaces, the host name, the sysctls, the cgroup and `oomScoreAdj` are looked at. A namespace
//! without a path is made and one with a path is joined; those of mounts, cgroups and time are each container's own.
//! There is no process in a pod, so what the specification says of one, of its root and of its mounts is passed over.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use windlass_model::{Context, Error, Kind, Result};
use windlass_wire::extension::PodOptions;
use windlass_wire::sandbox::CreateSandboxRequest;
use windlass_wire::{convert, words};

/// What a pod is to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The network namespace to join; empty: none.
    pub(super) netns: String,
    /// Everything else.
    pub(super) options: PodOptions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    hostname: Option<String>,
    process: Option<Process>,
    linux: Option<Linux>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Process {
    oom_score_adj: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Option<Vec<Named>>,
    sysctl: Option<HashMap<String, String>>,
    cgroups_path: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    r#type: String,
    #[serde(default)]
    path: String,
}

/// The plan that a request asks for; `bundle` may hold a specification.
///
/// # Errors
/// [`Kind::InvalidArgument`] for options or a specification that are none, and for sysctls that would be the host's;
/// [`Kind::Unimplemented`] for namespaces that a pod cannot have.
pub(super) fn plan(request: &CreateSandboxRequest, bundle: &Path) -> Result<Plan> {
    let netns = request.netns_path.clone();
    let plan = match request.options.as_ref() {
        Some(any) if words::message_name(&any.type_url) == words::TYPE_POD_OPTIONS => {
            Plan { netns, options: convert::from_any(any)? }
        }
        Some(any) if !any.value.is_empty() => {
            return Err(Error::invalid(format!("sandbox options of type {}", any.type_url)));
        }
        _ => {
            let file = bundle.join(words::SPEC_FILE);
            match std::fs::read(&file) {
                Ok(spec) => of_spec(&spec, netns)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Plan { netns, ..Plan::default() },
                Err(error) => return Err(error).context(|| format!("read {}", file.display())),
            }
        }
    };
    check_sysctls(&plan)?;
    Ok(plan)
}

fn of_spec(spec: &[u8], netns: String) -> Result<Plan> {
    let refuse = |error| Error::with_source(Kind::InvalidArgument, "the sandbox's specification", error);
    let spec: Spec = serde_json::from_slice(spec).map_err(refuse)?;
    let linux = spec.linux.unwrap_or_default();
    let options = PodOptions {
        hostname: spec.hostname.unwrap_or_default(),
        sysctls: linux.sysctl.unwrap_or_default(),
        cgroup: linux.cgroups_path.unwrap_or_default(),
        oom_score_adj: spec.process.and_then(|process| process.oom_score_adj).unwrap_or(0),
        ..PodOptions::default()
    };
    let mut plan = Plan { netns, options };
    for Named { r#type: kind, path } in linux.namespaces.unwrap_or_default() {
        plan.take(&kind, path)?;
    }
    Ok(plan)
}

impl Plan {
    /// Heeds one namespace of a specification. A path in the request goes before one in the specification.
    fn take(&mut self, kind: &str, path: String) -> Result<()> {
        let options = &mut self.options;
        match (kind, path.is_empty()) {
            ("network", _) if !self.netns.is_empty() => {}
            ("network", true) => options.new_net = true,
            ("network", false) => self.netns = path,
            ("ipc", true) => options.new_ipc = true,
            ("uts", true) => options.new_uts = true,
            ("pid", true) => options.shared_pid = true,
            ("user", false) => options.userns_path = path,
            ("mount" | "cgroup" | "time", _) => {}
            ("ipc" | "uts" | "pid", false) => {
                return Err(Error::unimplemented(format!("a sandbox in the {kind} namespace {path}")));
            }
            ("user", true) => return Err(Error::unimplemented("a sandbox with a user namespace without a path")),
            _ => return Err(Error::invalid(format!("a namespace of kind {kind:?}"))),
        }
        Ok(())
    }
}

/// Refuses kernel parameters that would be the host's.
fn check_sysctls(Plan { netns, options }: &Plan) -> Result<()> {
    for name in options.sysctls.keys() {
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|start| name.starts_with(start));
        let uts = matches!(name.as_str(), "kernel.hostname" | "kernel.domainname");
        let net = name.starts_with("net.");
        let own =
            (net && (options.new_net || !netns.is_empty())) || (ipc && options.new_ipc) || (uts && options.new_uts);
        if !own || name.contains('/') || name.contains("..") {
            return Err(Error::invalid(format!("sysctl {name} is not one of the pod's own namespaces")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_own_namespaces_are_set() {
        let check = |name: &str, netns: &str, own: bool| {
            let mut options = PodOptions { new_ipc: own, new_uts: own, ..PodOptions::default() };
            options.sysctls.insert(name.into(), "1".into());
            check_sysctls(&Plan { netns: netns.into(), options }).is_ok()
        };
        assert!(check("net.core.somaxconn", "/run/netns/a", false));
        assert!(check("kernel.shmmax", "", true) && check("fs.mqueue.msg_max", "", true));
        for (name, netns, own) in [
            ("net.core.somaxconn", "", true),
            ("kernel.shmmax", "/a", false),
            ("vm.swappiness", "/a", true),
            ("net.../x", "/a", true),
            ("net/core", "/a", true),
        ] {
            assert!(!check(name, netns, own), "{name}");
        }
    }

    #[test]
    fn a_specification_says_which_namespaces_a_pod_has() {
        let spec = r#"{"ociVersion":"1.1.0","hostname":"here","process":{"args":["x"],"oomScoreAdj":5},"root":null,
            "linux":{"cgroupsPath":"/a/b","sysctl":{"net.core.somaxconn":"7"},"namespaces":[{"type":"mount"},
            {"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"network"},{"type":"cgroup"}]}}"#;
        let plan = of_spec(spec.as_bytes(), String::new()).unwrap();
        let PodOptions { hostname, new_ipc, new_uts, new_net, shared_pid, cgroup, oom_score_adj, .. } = &plan.options;
        assert_eq!((hostname.as_str(), cgroup.as_str(), *oom_score_adj), ("here", "/a/b", 5));
        assert!(*new_ipc && *new_uts && *new_net && *shared_pid);
        check_sysctls(&plan).unwrap();
        let named = of_spec(spec.as_bytes(), "/run/netns/a".into()).unwrap();
        assert!(!named.options.new_net && named.netns == "/run/netns/a");
        let empty = of_spec(b"{}", String::new()).unwrap();
        assert_eq!(empty, Plan::default());
    }

    #[test]
    fn what_a_pod_cannot_have_is_refused() {
        let kind = |spec: &str| of_spec(spec.as_bytes(), String::new()).unwrap_err().kind();
        let of = |namespace: &str| kind(&format!(r#"{{"linux":{{"namespaces":[{namespace}]}}}}"#));
        for namespace in [r#"{"type":"user"}"#, r#"{"type":"pid","path":"/proc/1/ns/pid"}"#] {
            assert_eq!(of(namespace), Kind::Unimplemented, "{namespace}");
        }
        assert_eq!(of(r#"{"type":"moon"}"#), Kind::InvalidArgument);
        for rubbish in ["", "7", r#"{"linux":7}"#] {
            assert_eq!(kind(rubbish), Kind::InvalidArgument, "{rubbish}");
        }
    }
}
