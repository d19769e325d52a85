//! A container's seccomp profile as a program for the kernel.
//!
//! Compiling one takes longer than everything else that an exec does and a third of what a container's start takes, so
//! programs are kept: in a folder of the daemon's for all containers, and beside the container's state, where only the
//! host's root can write.

mod cache;

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use serde::Deserialize;
use serde_json::Value;
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::enter::{FILTER_LOG, FILTER_NEW_LISTENER, FILTER_SPEC_ALLOW, FILTER_WAIT_KILLABLE, filter_calls};

use cache::Place;

use super::exec::plan;

/// The file in a container's state: four bytes with the flags in the machine's order, then the program.
const FILE: &str = "seccomp.bpf";
/// The value of an action that names none (`EPERM`).
const DEFAULT_ERRNO: u32 = 1;

/// A profile of the OCI specification.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// A profile that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    flags: u32,
    program: Vec<u8>,
}

impl Filter {
    /// The filter of the container in `bundle` whose state is in the folder `state`; `cache` is the daemon's folder.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where the profile is none, [`Kind::Unimplemented`] for one with a supervisor.
    pub fn of(bundle: &Path, state: &Path, cache: Option<&Path>) -> Result<Self> {
        let file = state.join(FILE);
        if let Some(filter) = fs::read(&file).ok().and_then(|bytes| Self::parse(&bytes)) {
            return Ok(filter);
        }
        let filter = Self::compiled(&plan::profile(bundle)?, cache)?;
        windlass_sys::fs::write_atomic(&file, &filter.bytes())?;
        Ok(filter)
    }

    /// The filter of a profile, from `cache` where it is there.
    ///
    /// # Errors
    /// As [`Filter::of`].
    pub fn compiled(profile: &Value, cache: Option<&Path>) -> Result<Self> {
        let place = cache.map(|folder| Place::of(folder, profile.to_string().as_bytes()));
        if let Some(filter) = place.as_ref().and_then(Place::find) {
            return Ok(filter);
        }
        let parsed = Profile::deserialize(profile)
            .map_err(|error| Error::with_source(Kind::InvalidArgument, "the seccomp profile", error))?;
        let filter = parsed.compile()?;
        if let Some(place) = place {
            place.keep(&filter);
        }
        Ok(filter)
    }

    /// Flags, then the program.
    fn bytes(&self) -> Vec<u8> {
        [&self.flags.to_ne_bytes()[..], &self.program[..]].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (flags, program) = bytes.split_first_chunk::<4>()?;
        let whole = !program.is_empty() && program.len().is_multiple_of(8);
        whole.then(|| Self { flags: u32::from_ne_bytes(*flags), program: program.to_vec() })
    }

    /// Puts this process under it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn load(&self) -> Result<()> {
        filter_calls(&self.program, self.flags).map(drop)
    }
}

impl Profile {
    /// # Errors
    /// [`Kind::InvalidArgument`] for a word that is not known, [`Kind::Unimplemented`] for a profile with a supervisor.
    fn compile(&self) -> Result<Filter> {
        let default = action(&self.default_action, self.default_errno_ret)?;
        let mut filter = ScmpFilterContext::new(default).map_err(refused)?;
        // The kernel takes the program from this process itself, with no flag set by the library.
        filter.set_ctl_nnp(false).map_err(refused)?;
        for word in &self.architectures {
            filter.add_arch(architecture(word)?).map_err(refused)?;
        }
        for rule in &self.syscalls {
            let action = action(&rule.action, rule.errno_ret)?;
            if action == ScmpAction::Notify {
                return Err(Error::unimplemented("a seccomp profile with a supervisor"));
            }
            if action != default {
                rule.add(&mut filter, action)?;
            }
        }
        Ok(Filter { flags: self.flags()?, program: export(&filter)? })
    }

    fn flags(&self) -> Result<u32> {
        let mut flags = 0;
        for word in &self.flags {
            flags |= match word.as_str() {
                "SECCOMP_FILTER_FLAG_LOG" => FILTER_LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FILTER_SPEC_ALLOW,
                // A process has one thread when it loads its filter, and no supervisor here.
                "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 0,
                other => return Err(Error::invalid(format!("seccomp flag {other:?} is not known"))),
            };
        }
        Ok(flags & !(FILTER_NEW_LISTENER | FILTER_WAIT_KILLABLE))
    }
}

impl Rule {
    fn add(&self, filter: &mut ScmpFilterContext, action: ScmpAction) -> Result<()> {
        let mut compared = Vec::with_capacity(self.args.len());
        for argument in &self.args {
            compared.push(ScmpArgCompare::new(argument.index, argument.operation()?, argument.datum()));
        }
        // The library takes one comparison of each argument in a rule; more of them are alternatives.
        let mut indices: Vec<u32> = self.args.iter().map(|argument| argument.index).collect();
        indices.sort_unstable();
        let repeated = indices.windows(2).any(|pair| pair[0] == pair[1]);
        for name in &self.names {
            // What this machine has no number for cannot be called either.
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            let added = match &compared[..] {
                [] => filter.add_rule(action, call).map(drop),
                all if repeated => all
                    .iter()
                    .try_for_each(|one| filter.add_rule_conditional(action, call, std::slice::from_ref(one)).map(drop)),
                all => filter.add_rule_conditional(action, call, all).map(drop),
            };
            added.map_err(|error| {
                Error::with_source(Kind::InvalidArgument, format!("the seccomp profile's rule for {name}"), error)
            })?;
        }
        Ok(())
    }
}

impl Argument {
    /// The specification's `value` of a masked comparison is the mask.
    fn operation(&self) -> Result<ScmpCompareOp> {
        match self.op.parse() {
            Ok(ScmpCompareOp::MaskedEqual(_)) => Ok(ScmpCompareOp::MaskedEqual(self.value)),
            Ok(other) => Ok(other),
            Err(_) => Err(Error::invalid(format!("seccomp comparison {:?} is not known", self.op))),
        }
    }

    fn datum(&self) -> u64 {
        if self.op == "SCMP_CMP_MASKED_EQ" { self.value_two } else { self.value }
    }
}

fn action(word: &str, errno: Option<u32>) -> Result<ScmpAction> {
    let value = i32::try_from(errno.unwrap_or(DEFAULT_ERRNO)).ok();
    ScmpAction::from_str(word, value).map_err(|_| Error::invalid(format!("seccomp action {word:?} is not known")))
}

fn architecture(word: &str) -> Result<ScmpArch> {
    word.parse().map_err(|_| Error::invalid(format!("seccomp architecture {word:?} is not known")))
}

/// The library writes to files only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>> {
    let doing = || "compile a seccomp profile".to_owned();
    let memory = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC);
    let mut memory = File::from(memory.map_err(std::io::Error::from).context(doing)?);
    filter.export_bpf(&memory).map_err(refused)?;
    let mut program = Vec::new();
    memory.rewind().and_then(|()| memory.read_to_end(&mut program)).context(doing)?;
    Ok(program)
}

fn refused(error: libseccomp::error::SeccompError) -> Error {
    Error::with_source(Kind::InvalidArgument, "the seccomp profile", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compile(profile: Value) -> Result<Filter> {
        serde_json::from_value::<Profile>(profile).unwrap().compile()
    }

    #[test]
    fn a_profile_becomes_a_program() {
        let filter = compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
                {"names": ["clone"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 0, "value": 2114060288_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["personality"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_NE"}, {"index": 0, "value": 2, "op": "SCMP_CMP_NE"}]},
                {"names": ["chdir"], "action": "SCMP_ACT_ALLOW"}]}))
        .unwrap();
        assert_eq!(filter.flags, FILTER_LOG);
        assert!(!filter.program.is_empty() && filter.program.len().is_multiple_of(8));
        // The mask is an operand of one instruction.
        assert!(filter.program.chunks(8).any(|one| one[4..] == 2_114_060_288_u32.to_ne_bytes()));
    }

    #[test]
    fn words_that_are_not_known_are_refused() {
        let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        for wrong in [
            json!({"defaultAction": "ALLOW"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["PDP11"]}),
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_SING"})),
            rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": "IS"}]})),
            rule(
                json!({"names": ["mkdir"], "action": "SCMP_ACT_LOG", "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]}),
            ),
        ] {
            assert_eq!(compile(wrong.clone()).unwrap_err().kind(), Kind::InvalidArgument, "{wrong}");
        }
        let asked = rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}));
        assert_eq!(compile(asked).unwrap_err().kind(), Kind::Unimplemented);
    }
}
