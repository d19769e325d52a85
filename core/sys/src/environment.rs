//! The environment that a program inherits, replaced as a whole just before it is executed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use windlass_model::{Error, Result};

/// Makes `variables` the environment of this process, which must have one thread only.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for a name or value that no variable can have,
/// [`windlass_model::Kind::FailedPrecondition`] in a process with several threads; nothing is changed then.
pub fn replace(variables: &[(OsString, OsString)]) -> Result<()> {
    for (name, value) in variables {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.iter().any(|byte| b"=\0".contains(byte)) || value.as_bytes().contains(&0) {
            return Err(Error::invalid(format!("environment variable {name:?} cannot be set")));
        }
    }
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(Error::precondition("the environment of a process with several threads cannot be replaced"));
    }
    for (name, _) in std::env::vars_os() {
        remove(&name);
    }
    for (name, value) in variables {
        set(name, value);
    }
    Ok(())
}

fn remove(name: &OsStr) {
    // JUSTIFICATION: a program that is executed with a search through PATH inherits this process's own environment.
    // SAFETY: the only caller has seen that there is no other thread that could read the environment meanwhile.
    unsafe { std::env::remove_var(name) }
}

fn set(name: &OsStr, value: &OsStr) {
    // JUSTIFICATION: a program that is executed with a search through PATH inherits this process's own environment.
    // SAFETY: the only caller has seen that there is no other thread that could read the environment meanwhile.
    unsafe { std::env::set_var(name, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_set_is_tried_and_never_beside_other_threads() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            let refused = replace(&[(name.into(), value.into())]).unwrap_err();
            assert_eq!(refused.kind(), windlass_model::Kind::InvalidArgument, "{name:?}");
        }
        // The test runner's own thread is a second one.
        let refused = replace(&[("A".into(), "x".into())]).unwrap_err();
        assert_eq!(refused.kind(), windlass_model::Kind::FailedPrecondition);
    }
}
