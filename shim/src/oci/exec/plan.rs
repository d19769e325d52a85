//! What an exec is to be: the OCI process of the request, with the container's own settings where it has none.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::enter::Scheduling;
use windlass_wire::words;

use crate::oci::capabilities::{self, Capabilities};
use crate::oci::program::{self, Variable};

/// What is taken from a container's `config.json`. The filter is read only where it is not compiled yet.
#[derive(Debug, Deserialize)]
struct Spec {
    process: Option<Process>,
    #[serde(default)]
    linux: Linux<IgnoredAny>,
}

/// The same file, for its filter.
#[derive(Debug, Deserialize)]
struct FilterSpec {
    linux: Linux<Value>,
}

#[derive(Debug, Deserialize)]
struct Linux<Filter> {
    seccomp: Option<Filter>,
    personality: Option<Personality>,
}

impl<Filter> Default for Linux<Filter> {
    fn default() -> Self {
        Self { seccomp: None, personality: None }
    }
}

#[derive(Debug, Deserialize)]
struct Personality {
    domain: String,
    #[serde(default)]
    flags: Vec<String>,
}

/// An OCI process.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    cwd: String,
    #[serde(default)]
    user: User,
    console_size: Option<Size>,
    capabilities: Option<capabilities::Named>,
    #[serde(default)]
    rlimits: Vec<Limit>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    selinux_label: Option<String>,
    oom_score_adj: Option<i32>,
    scheduler: Option<Scheduler>,
    io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    affinity: Option<Affinity>,
}

/// Who a process is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user's id.
    #[serde(default)]
    pub uid: u32,
    /// The group's.
    #[serde(default)]
    pub gid: u32,
    /// Mode bits that new files do not get.
    pub umask: Option<u32>,
    /// Other groups.
    #[serde(default)]
    pub additional_gids: Vec<u32>,
}

/// The size of a terminal's window, in characters.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// A limit of the kernel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Limit {
    /// Its name, `RLIMIT_…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What holds now.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Scheduler {
    policy: String,
    #[serde(default)]
    nice: i32,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    runtime: u64,
    #[serde(default)]
    deadline: u64,
    #[serde(default)]
    period: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct IoPriority {
    class: String,
    #[serde(default)]
    priority: u32,
}

/// Processors, before and after the process is in the container's cgroup.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Affinity {
    /// Before.
    pub initial: Option<String>,
    /// After.
    #[serde(rename = "final")]
    pub last: Option<String>,
}

/// A process that is to be executed in a container, with nothing left to be looked up in its specification.
#[derive(Debug)]
pub struct Plan {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<Variable>,
    /// Where it starts.
    pub cwd: String,
    /// Who it is.
    pub user: User,
    /// How large its terminal is, where it has one.
    pub size: Option<Size>,
    /// What it may do.
    pub capabilities: Capabilities,
    /// What it may use.
    pub limits: Vec<Limit>,
    /// It can never get more rights than it has.
    pub no_new_privileges: bool,
    /// AppArmor's profile.
    pub apparmor: Option<String>,
    /// SELinux's label.
    pub selinux: Option<String>,
    /// How likely it is to be killed where memory is short.
    pub oom_score: Option<i32>,
    /// How processors are shared with it.
    pub scheduling: Option<Scheduling>,
    /// The class and priority of its input and output.
    pub io_priority: Option<(u32, u32)>,
    /// The processors that it may use.
    pub affinity: Affinity,
    /// The personality's number.
    pub personality: Option<u32>,
    /// A seccomp profile is in the container's specification.
    pub filtered: bool,
}

impl Plan {
    /// Reads the process in the file `process`, and the specification of the container in `bundle`.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where one of them is not what it should be.
    pub fn read(bundle: &Path, process: &Path) -> Result<Self> {
        let spec: Spec = read(&bundle.join(words::SPEC_FILE))?;
        Self::of(read(process)?, spec.process.unwrap_or_default(), spec.linux)
    }

    fn of(process: Process, container: Process, linux: Linux<IgnoredAny>) -> Result<Self> {
        let wrong = |what: &str| Error::invalid(format!("process.{what}"));
        if process.args.first().is_none_or(String::is_empty) {
            return Err(wrong("args is empty"));
        }
        if !process.cwd.starts_with('/') {
            return Err(wrong("cwd is not an absolute path"));
        }
        let named = process.capabilities.or(container.capabilities).unwrap_or_default();
        let label = |own: Option<String>, other: Option<String>| own.or(other).filter(|label| !label.is_empty());
        let affinity = process.affinity.or(container.affinity).unwrap_or_default();
        Ok(Self {
            env: program::environment(process.env)?,
            args: process.args,
            cwd: process.cwd,
            user: process.user,
            size: process.console_size,
            capabilities: Capabilities::of(&named)?,
            limits: if process.rlimits.is_empty() { container.rlimits } else { process.rlimits },
            no_new_privileges: process.no_new_privileges.or(container.no_new_privileges).unwrap_or(false),
            apparmor: label(process.apparmor_profile, container.apparmor_profile),
            selinux: label(process.selinux_label, container.selinux_label),
            oom_score: process.oom_score_adj.or(container.oom_score_adj),
            scheduling: process.scheduler.or(container.scheduler).map(|wish| scheduling(&wish)).transpose()?,
            io_priority: process.io_priority.or(container.io_priority).map(|wish| io_priority(&wish)).transpose()?,
            affinity,
            personality: linux.personality.map(|wish| personality(&wish)).transpose()?,
            filtered: linux.seccomp.is_some(),
        })
    }
}

/// The seccomp profile of the container in `bundle`.
///
/// # Errors
/// As [`Plan::read`].
pub fn profile(bundle: &Path) -> Result<Value> {
    let spec: FilterSpec = read(&bundle.join(words::SPEC_FILE))?;
    spec.linux.seccomp.ok_or_else(|| Error::invalid("the container has no seccomp profile"))
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let bytes = fs::read(file).context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error))
}

/// The place of `word` in `known`.
fn number(known: &[&str], word: &str, what: &str) -> Result<u32> {
    let place = known.iter().position(|known| *known == word);
    place.map(|place| place as u32).ok_or_else(|| Error::invalid(format!("{what} {word:?} is not known")))
}

fn scheduling(wish: &Scheduler) -> Result<Scheduling> {
    const POLICIES: [&str; 7] =
        ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];
    const FLAGS: [&str; 7] = [
        "SCHED_FLAG_RESET_ON_FORK",
        "SCHED_FLAG_RECLAIM",
        "SCHED_FLAG_DL_OVERRUN",
        "SCHED_FLAG_KEEP_POLICY",
        "SCHED_FLAG_KEEP_PARAMS",
        "SCHED_FLAG_UTIL_CLAMP_MIN",
        "SCHED_FLAG_UTIL_CLAMP_MAX",
    ];
    let mut flags = 0;
    for flag in &wish.flags {
        flags |= 1_u64 << number(&FLAGS, flag, "scheduler flag")?;
    }
    Ok(Scheduling {
        policy: number(&POLICIES, &wish.policy, "scheduler policy")?,
        flags,
        nice: wish.nice,
        priority: u32::try_from(wish.priority).map_err(|_| Error::invalid("the scheduler's priority is negative"))?,
        runtime: wish.runtime,
        deadline: wish.deadline,
        period: wish.period,
        ..Scheduling::default()
    })
}

fn io_priority(wish: &IoPriority) -> Result<(u32, u32)> {
    const CLASSES: [&str; 4] = ["", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"];
    if wish.priority > 7 {
        return Err(Error::invalid(format!("ioPriority.priority {} is above 7", wish.priority)));
    }
    Ok((number(&CLASSES, &wish.class, "ioPriority.class")?, wish.priority))
}

fn personality(wish: &Personality) -> Result<u32> {
    if !wish.flags.is_empty() {
        return Err(Error::unimplemented("flags of a personality"));
    }
    match wish.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid(format!("personality {other:?} is not known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(process: Value, container: Value, linux: Value) -> Result<Plan> {
        let process = serde_json::from_value(process).unwrap();
        Plan::of(process, serde_json::from_value(container).unwrap(), serde_json::from_value(linux).unwrap())
    }

    #[test]
    fn a_process_takes_from_its_container_what_it_does_not_say() {
        let container = json!({"noNewPrivileges": true, "apparmorProfile": "p", "selinuxLabel": "l", "oomScoreAdj": 7,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}], "capabilities": {"bounding": ["CAP_CHOWN"]}});
        let linux = json!({"seccomp": {"defaultAction": "x"}, "personality": {"domain": "LINUX32"}});
        let short = plan(json!({"args": ["a"], "cwd": "/"}), container.clone(), linux).unwrap();
        assert!(short.no_new_privileges && short.filtered);
        assert_eq!((short.apparmor.as_deref(), short.selinux.as_deref()), (Some("p"), Some("l")));
        assert_eq!((short.oom_score, short.personality, short.limits.len()), (Some(7), Some(8), 1));
        assert_eq!(short.capabilities.bounding.bits(), 1);
        let own = json!({"args": ["a"], "cwd": "/", "noNewPrivileges": false, "apparmorProfile": "", "oomScoreAdj": -1,
            "capabilities": {}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 3},
            "scheduler": {"policy": "SCHED_BATCH", "nice": 4, "flags": ["SCHED_FLAG_RECLAIM"]}});
        let own = plan(own, container, json!({})).unwrap();
        assert!(!own.no_new_privileges && !own.filtered && own.capabilities.bounding.is_empty());
        assert_eq!((own.apparmor, own.oom_score, own.io_priority), (None, Some(-1), Some((3, 3))));
        let scheduling = own.scheduling.unwrap();
        assert_eq!((scheduling.policy, scheduling.nice, scheduling.flags), (3, 4, 2));
    }

    #[test]
    fn what_cannot_be_executed_is_refused() {
        for wrong in [
            json!({"cwd": "/"}),
            json!({"args": [""], "cwd": "/"}),
            json!({"args": ["a"], "cwd": "a"}),
            json!({"args": ["a"], "cwd": "/", "scheduler": {"policy": "FAST"}}),
            json!({"args": ["a"], "cwd": "/", "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 8}}),
            json!({"args": ["a"], "cwd": "/", "capabilities": {"effective": ["CHOWN"]}}),
            json!({"args": ["a"], "cwd": "/", "env": ["A=1\u{0}"]}),
        ] {
            let error = plan(wrong.clone(), json!({}), json!({})).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{wrong}");
        }
        let odd = json!({"personality": {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}});
        assert_eq!(plan(json!({"args": ["a"], "cwd": "/"}), json!({}), odd).unwrap_err().kind(), Kind::Unimplemented);
    }
}
