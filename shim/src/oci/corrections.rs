//! What libcontainer (0.7.0) takes otherwise than the OCI specification says, set right in the specification that it gets.
//!
//! - It takes the mask of a masked comparison of a seccomp profile for the value and the value for the mask
//!   (`seccomp::initialize_seccomp`). Execs do not use it.
//! - It puts SELinux's label for mounts on every file system but `proc` and `sysfs`
//!   (`rootfs::Mount::mount_into_container`). Those that the kernel has once and shows in many places, such as `mqueue` and
//!   cgroups, cannot be mounted so.
//! - It has its own way with the hooks of the start, see [`super::hooks`].

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use windlass_model::{Context, Error, Kind, Result};
use windlass_wire::words;

use super::{confinement, hooks};

/// A bundle whose specification is the corrected one until this is dropped.
#[derive(Debug)]
pub struct Corrected {
    file: PathBuf,
    original: Vec<u8>,
}

/// The file systems that each mount makes anew, and that can have a label.
const LABELLED: [&str; 2] = ["tmpfs", "devpts"];

/// Sets everything right, and takes out what is `confined` by this runtime; false where nothing was to be.
pub fn correct(spec: &mut Value, confined: bool) -> bool {
    if confined {
        confinement::take_out(spec);
    }
    let exchanged = exchange(spec);
    let hooked = hooks::take_out(spec);
    place_label(spec) || exchanged || hooked || confined
}

/// Exchanges the two operands of each masked comparison; false where there is none.
fn exchange(spec: &mut Value) -> bool {
    let rules = spec.pointer_mut("/linux/seccomp/syscalls").and_then(Value::as_array_mut);
    let arguments = rules.into_iter().flatten().filter_map(|rule| rule.get_mut("args")?.as_array_mut()).flatten();
    let mut found = false;
    for argument in arguments.filter(|argument| argument["op"] == "SCMP_CMP_MASKED_EQ") {
        let (mask, value) = (argument["value"].take(), argument["valueTwo"].take());
        argument["value"] = if value.is_null() { json!(0) } else { value };
        argument["valueTwo"] = mask;
        found = true;
    }
    found
}

/// Moves the label for mounts to the file systems that can have it.
fn place_label(spec: &mut Value) -> bool {
    let label = spec.get_mut("linux").and_then(Value::as_object_mut).and_then(|linux| linux.remove("mountLabel"));
    let Some(label) = label.as_ref().and_then(Value::as_str) else { return false };
    let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten().filter(|mount| LABELLED.iter().any(|kind| mount["type"] == *kind)) {
        // Without quotes: options go to the kernel one by one.
        let option = json!(format!("context={label}"));
        match mount["options"].as_array_mut() {
            Some(options) => options.push(option),
            None => mount["options"] = json!([option]),
        }
    }
    true
}

impl Corrected {
    /// Sets the bundle's own file right, where hooks and libcontainer both look; nothing where that is not needed.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where the specification is none; otherwise where it cannot be written.
    pub fn take(bundle: &Path, confined: bool) -> Result<Option<Self>> {
        let file = bundle.join(words::SPEC_FILE);
        let original = fs::read(&file).context(|| format!("read {}", file.display()))?;
        let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error);
        let mut spec: Value = serde_json::from_slice(&original).map_err(refuse)?;
        if !correct(&mut spec, confined) {
            return Ok(None);
        }
        Self::write(file, original, &spec).map(Some)
    }

    /// Has `spec` in the file whose bytes are `original`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(file: PathBuf, original: Vec<u8>, spec: &Value) -> Result<Self> {
        windlass_sys::fs::write_atomic(&file, spec.to_string().as_bytes())?;
        Ok(Self { file, original })
    }

    /// Restores the file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn restore(self) -> Result<()> {
        windlass_sys::fs::write_atomic(&self.file, &self.original)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_masked_comparisons_are_exchanged() {
        let masked =
            |value: Value, two: Value| json!({"index": 0, "value": value, "valueTwo": two, "op": "SCMP_CMP_MASKED_EQ"});
        let equal = json!({"index": 0, "value": 5, "op": "SCMP_CMP_EQ"});
        let spec = |args: Value| json!({"linux": {"seccomp": {"syscalls": [{"names": ["a"]}, {"names": ["b"], "args": args}]}}});
        let mut one = spec(json!([masked(json!(7), json!(3)), equal, masked(json!(7), Value::Null)]));
        assert!(exchange(&mut one));
        assert_eq!(one, spec(json!([masked(json!(3), json!(7)), equal, masked(json!(0), json!(7))])));
        assert!(!exchange(&mut spec(json!([equal]))) && !exchange(&mut json!({})));
    }
    #[test]
    fn a_label_is_put_where_it_can_be() {
        let mount = |kind: &str, options: Value| json!({"destination": "/a", "type": kind, "options": options});
        let mut spec = json!({"linux": {"mountLabel": "u:r:t:s0:c1,c2"}, "mounts": [mount("proc", json!([])),
            mount("tmpfs", json!(["nosuid"])), mount("devpts", Value::Null), mount("mqueue", json!([])), {}]});
        assert!(correct(&mut spec, false) && !correct(&mut spec.clone(), false));
        let label = "context=u:r:t:s0:c1,c2";
        assert_eq!(
            spec,
            json!({"linux": {}, "mounts": [mount("proc", json!([])), mount("tmpfs", json!(["nosuid", label])),
                mount("devpts", json!([label])), mount("mqueue", json!([])), {}]})
        );
    }
}
