//! What a container's first program is put under by this runtime and not by libcontainer: a seccomp filter, which
//! libcontainer would compile anew for each container, and with it the capabilities, because whether the filter comes
//! before or after they are given up depends on whether new privileges are refused.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use windlass_model::{Context, Error, Kind, Result};
use windlass_wire::words;

use super::capabilities::{self, Capabilities, Named};
use super::seccomp::Filter;

/// What a program is put under.
#[derive(Clone, Debug)]
pub struct Confinement {
    filter: Filter,
    /// Nothing: those that the runtime has.
    capabilities: Option<Capabilities>,
    no_new_privileges: bool,
}

impl Confinement {
    /// What the specification in `bundle` asks for; nothing where libcontainer is to see to it: without a profile there is
    /// nothing to gain, and one with a supervisor needs its channels. `cache` is the daemon's folder for compiled
    /// profiles.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where the profile or the capabilities are none.
    pub fn of(bundle: &Path, cache: Option<&Path>) -> Result<Option<Self>> {
        let file = bundle.join(words::SPEC_FILE);
        let bytes = std::fs::read(&file).context(|| format!("read {}", file.display()))?;
        let spec: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error))?;
        Self::wanted(&spec, cache)
    }

    fn wanted(spec: &Value, cache: Option<&Path>) -> Result<Option<Self>> {
        let Some(profile) = spec.pointer("/linux/seccomp").filter(|profile| !profile.is_null()) else {
            return Ok(None);
        };
        let filter = match Filter::compiled(profile, cache) {
            Err(error) if error.kind() == Kind::Unimplemented => return Ok(None),
            filter => filter?,
        };
        let named = spec.pointer("/process/capabilities").filter(|named| !named.is_null());
        let named = named.map(Named::deserialize).transpose();
        let named = named.map_err(|error| Error::with_source(Kind::InvalidArgument, "process.capabilities", error))?;
        Ok(Some(Self {
            filter,
            capabilities: named.as_ref().map(Capabilities::of).transpose()?,
            no_new_privileges: spec.pointer("/process/noNewPrivileges").and_then(Value::as_bool).unwrap_or(false),
        }))
    }

    /// Puts this process under it, which has all that its user namespace gives.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn enter(&self) -> Result<()> {
        let give_up = || match &self.capabilities {
            Some(kept) => kept.bound().and_then(|()| kept.take()),
            None => Ok(()),
        };
        capabilities::raise()?;
        // Without the flag a filter is a matter of rights, so it comes before they are given up; with it, it comes last.
        if self.no_new_privileges {
            give_up()?;
            self.filter.load()
        } else {
            self.filter.load()?;
            give_up()
        }
    }
}

/// Takes what [`Confinement`] does out of a specification, so that libcontainer leaves it alone.
pub fn take_out(spec: &mut Value) {
    for (parent, name) in [("/linux", "seccomp"), ("/process", "capabilities")] {
        if let Some(parent) = spec.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_profiles_without_a_supervisor_are_taken_over() {
        let spec = |action: &str| {
            json!({"process": {"noNewPrivileges": true, "capabilities": {"bounding": ["CAP_CHOWN"]}},
                "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir"], "action": action}]}}})
        };
        let found = Confinement::wanted(&spec("SCMP_ACT_ERRNO"), None).unwrap().unwrap();
        assert!(found.no_new_privileges && found.capabilities.is_some());
        assert!(Confinement::wanted(&spec("SCMP_ACT_NOTIFY"), None).unwrap().is_none());
        assert!(Confinement::wanted(&json!({"linux": {"seccomp": null}}), None).unwrap().is_none());
        assert_eq!(Confinement::wanted(&spec("SCMP_ACT_SING"), None).unwrap_err().kind(), Kind::InvalidArgument);
        let mut unknown = spec("SCMP_ACT_ERRNO");
        unknown["process"]["capabilities"]["bounding"] = json!(["CAP_SING"]);
        assert_eq!(Confinement::wanted(&unknown, None).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn libcontainer_does_not_see_what_is_done_here() {
        let mut spec =
            json!({"process": {"args": ["a"], "capabilities": {}}, "linux": {"seccomp": {}, "namespaces": []}});
        take_out(&mut spec);
        assert_eq!(spec, json!({"process": {"args": ["a"]}, "linux": {"namespaces": []}}));
    }
}
