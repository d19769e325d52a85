//! A correction of seccomp profiles for libcontainer, which takes the mask of a masked comparison for the value and the
//! value for the mask (0.7.0, `seccomp::initialize_seccomp`). Execs do not use it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use windlass_model::{Context, Error, Kind, Result};
use windlass_wire::words;

/// A bundle whose specification is the exchanged one until this is dropped.
#[derive(Debug)]
pub struct Exchanged {
    file: PathBuf,
    original: Vec<u8>,
}

/// Exchanges the two operands of each masked comparison; false where there is none.
pub fn exchange(spec: &mut Value) -> bool {
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

impl Exchanged {
    /// Exchanges the operands in the bundle's own file, where hooks and libcontainer both look; nothing where there are
    /// none.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where the specification is none; otherwise where it cannot be written.
    pub fn take(bundle: &Path) -> Result<Option<Self>> {
        let file = bundle.join(words::SPEC_FILE);
        let original = fs::read(&file).context(|| format!("read {}", file.display()))?;
        let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error);
        let mut spec: Value = serde_json::from_slice(&original).map_err(refuse)?;
        if !exchange(&mut spec) {
            return Ok(None);
        }
        let bytes = serde_json::to_vec(&spec).map_err(refuse)?;
        windlass_sys::fs::write_atomic(&file, &bytes)?;
        Ok(Some(Self { file, original }))
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
}
