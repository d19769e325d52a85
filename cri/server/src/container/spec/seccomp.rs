//! The system-call filter of a container: none, a profile of the node's administrator, or ours.
//!
//! Ours lets through what `data/seccomp.json` lists, more for each capability, and the two calls that need a look at
//! their arguments: `clone` without new namespaces, `socket` outside the hypervisor's and the kernel crypto's family. What
//! is refused fails with `EPERM`; what the list does not know fails with `ENOSYS`, so that programs fall back to an older
//! call. What it lets through is what containerd's and Docker's default lets through, and `open_tree_attr` with
//! `CAP_SYS_ADMIN`, as it does `open_tree`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::LazyLock;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;
use windlass_cri_api::v1;
use windlass_cri_api::v1::security_profile::ProfileType;
use windlass_model::{Context as _, Error, Result};

use super::security;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// The families that a socket may be of, as a mask and a value of the argument: all of Linux but `AF_ALG` (38), which
/// reaches code of the kernel that nobody else needs, and `AF_VSOCK` (40), through which a guest reaches its hypervisor.
/// The kernel looks at the low 32 bits alone, and so do these.
const FAMILIES: [(u64, u64); 7] = [
    (0xFFFF_FFE0, 0),
    (0xFFFF_FFFC, 32),
    (0xFFFF_FFFE, 36),
    (0xFFFF_FFFF, 39),
    (0xFFFF_FFFF, 41),
    (0xFFFF_FFFE, 42),
    (0xFFFF_FFFC, 44),
];
/// Execution domains that programs ask for: Linux, 32 bits, "tell me", and the same without address randomisation.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0xFFFF_FFFF, 0x2_0000, 0x2_0008];
/// How long a profile of the administrator may be, in bytes.
const MAX_PROFILE: u64 = 4 << 20;

/// `data/seccomp.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    /// Harmless calls.
    allow: BTreeSet<String>,
    /// Calls that every kernel knows and nobody may do.
    refuse: BTreeSet<String>,
    /// Calls that only a capability makes dangerous, and those who have it may.
    with_capability: BTreeMap<String, BTreeSet<String>>,
}

static PROFILE: LazyLock<Profile> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../data/seccomp.json")).expect("the profile is part of the program")
});

/// The filter that a container asks for; `None`: none.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] and [`windlass_model::Kind::InvalidArgument`] for a profile of the administrator
/// that is missing or is no profile.
pub(crate) fn seccomp(
    context: Option<&v1::LinuxContainerSecurityContext>,
    capabilities: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>> {
    let Some(context) = context.filter(|context| !context.privileged) else { return Ok(None) };
    #[allow(deprecated)]
    let asked = security::profile(context.seccomp.as_ref(), &context.seccomp_profile_path, "seccomp")?;
    match asked {
        None | Some((ProfileType::Unconfined, _)) => Ok(None),
        Some((ProfileType::RuntimeDefault, _)) => default(capabilities).map(Some),
        Some((ProfileType::Localhost, path)) => localhost(&path).map(Some),
    }
}

fn localhost(path: &str) -> Result<LinuxSeccomp> {
    let doing = || format!("seccomp profile {path}");
    let size = std::fs::metadata(path).context(doing)?.len();
    if !Path::new(path).is_absolute() || size > MAX_PROFILE {
        return Err(Error::invalid(format!("{} is not an absolute path or longer than {MAX_PROFILE} bytes", doing())));
    }
    let text = std::fs::read(path).context(doing)?;
    serde_json::from_slice(&text).map_err(|error| Error::invalid(error.to_string())).context(doing)
}

fn default(capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp> {
    let may = |name: &str| capabilities.iter().any(|one| name.strip_prefix("CAP_") == Some(one.to_string().as_str()));
    let mut allow: BTreeSet<&str> = PROFILE.allow.iter().map(String::as_str).collect();
    let mut refuse: BTreeSet<&str> = PROFILE.refuse.iter().map(String::as_str).collect();
    for (capability, calls) in &PROFILE.with_capability {
        let list = if may(capability) { &mut allow } else { &mut refuse };
        list.extend(calls.iter().map(String::as_str));
    }
    let administrator = capabilities.contains(&Capability::SysAdmin);
    if administrator {
        allow.insert("clone");
    }
    // The C library falls back to clone, whose flags can be looked at; those of clone3 lie in memory.
    refuse.retain(|call| !allow.contains(call) && *call != "clone3");
    let mut calls = vec![rule(&allow, LinuxSeccompAction::ScmpActAllow, None, &[])?];
    calls.push(rule(&refuse, LinuxSeccompAction::ScmpActErrno, Some(EPERM), &[])?);
    let one = |name: &'static str| BTreeSet::from([name]);
    if !administrator {
        let plain = argument(0, NEW_NAMESPACES, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)?;
        calls.push(rule(&one("clone"), LinuxSeccompAction::ScmpActAllow, None, &[plain])?);
    }
    for (mask, value) in FAMILIES {
        // One rule each: comparisons of one argument within a rule are alternatives to some runtimes.
        let family = argument(0, mask, Some(value), LinuxSeccompOperator::ScmpCmpMaskedEq)?;
        calls.push(rule(&one("socket"), LinuxSeccompAction::ScmpActAllow, None, &[family])?);
    }
    for domain in PERSONALITIES {
        let domain = argument(0, domain, None, LinuxSeccompOperator::ScmpCmpEq)?;
        calls.push(rule(&one("personality"), LinuxSeccompAction::ScmpActAllow, None, &[domain])?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(ENOSYS)
        .architectures(architectures())
        .syscalls(calls)
        .build()
        .map_err(|error| Error::internal(format!("seccomp: {error}")))
}

fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![],
    }
}

fn argument(index: usize, value: u64, second: Option<u64>, op: LinuxSeccompOperator) -> Result<LinuxSeccompArg> {
    let mut made = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    if let Some(second) = second {
        made = made.value_two(second);
    }
    made.build().map_err(|error| Error::internal(format!("seccomp: {error}")))
}

fn rule(
    names: &BTreeSet<&str>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    arguments: &[LinuxSeccompArg],
) -> Result<LinuxSyscall> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut made = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        made = made.errno_ret(errno);
    }
    if !arguments.is_empty() {
        made = made.args(arguments.to_vec());
    }
    made.build().map_err(|error| Error::internal(format!("seccomp: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(kind: ProfileType, path: &str) -> v1::LinuxContainerSecurityContext {
        let seccomp = Some(v1::SecurityProfile { profile_type: kind as i32, localhost_ref: path.into() });
        v1::LinuxContainerSecurityContext { seccomp, ..Default::default() }
    }

    fn allowed(profile: &LinuxSeccomp, call: &str) -> bool {
        let rules = profile.syscalls().clone().unwrap();
        rules.iter().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.args().is_none()
                && rule.names().iter().any(|name| name == call)
        })
    }

    #[test]
    fn the_default_profile_follows_the_capabilities() {
        let plain = seccomp(Some(&asking(ProfileType::RuntimeDefault, "")), &HashSet::new()).unwrap().unwrap();
        for call in ["read", "openat", "execve", "futex", "statx", "epoll_pwait2", "chmod"] {
            assert!(allowed(&plain, call), "{call}");
        }
        for call in ["mount", "bpf", "clone", "clone3", "keyctl", "kexec_load", "setns", "socket", "init_module"] {
            assert!(!allowed(&plain, call), "{call}");
        }
        let powers = HashSet::from([Capability::SysAdmin]);
        let powerful = seccomp(Some(&asking(ProfileType::RuntimeDefault, "")), &powers).unwrap().unwrap();
        for call in ["mount", "clone", "clone3", "setns"] {
            assert!(allowed(&powerful, call), "{call}");
        }
        assert!(!allowed(&powerful, "kexec_load") && !allowed(&powerful, "kcmp"));
        let tracer = HashSet::from([Capability::SysPtrace]);
        let tracer = seccomp(Some(&asking(ProfileType::RuntimeDefault, "")), &tracer).unwrap().unwrap();
        assert!(allowed(&tracer, "kcmp") && allowed(&tracer, "process_madvise") && allowed(&plain, "ptrace"));
    }

    #[test]
    fn sockets_are_of_all_families_but_two() {
        let may = |family: u64| FAMILIES.iter().any(|(mask, value)| family & mask == *value);
        let refused: Vec<u64> = (0..48).filter(|family| !may(*family)).collect();
        assert_eq!(refused, [38, 40]);
        assert!(!may(0x1_0000_0026) && !may(0xFFFF_FFFF) && may(0x1_0000_0002));
    }

    #[test]
    fn other_profiles_are_taken_as_they_are() {
        assert!(seccomp(None, &HashSet::new()).unwrap().is_none());
        assert!(seccomp(Some(&asking(ProfileType::Unconfined, "")), &HashSet::new()).unwrap().is_none());
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}"#;
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        let mine = seccomp(Some(&asking(ProfileType::Localhost, &path)), &HashSet::new()).unwrap().unwrap();
        assert_eq!(mine.syscalls().clone().unwrap()[0].names(), &["chmod".to_string()]);
        std::fs::write(file.path(), "nonsense").unwrap();
        assert!(seccomp(Some(&asking(ProfileType::Localhost, &path)), &HashSet::new()).is_err());
        let missing = seccomp(Some(&asking(ProfileType::Localhost, "/no/such")), &HashSet::new()).unwrap_err();
        assert!(missing.is_not_found());
    }
}
