//! The last step of the built-in runtime's creation: the container's program in its own environment, which may hold any
//! bytes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use windlass_model::environment;

/// Executes programs as libcontainer does, but for the environment.
#[derive(Clone, Copy, Debug)]
pub struct AnyBytes;

impl Executor for AnyBytes {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        DefaultExecutor {}.exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        DefaultExecutor {}.validate(spec)
    }

    fn setup_envs(&self, variables: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        let decoded: Result<Vec<_>, _> = variables
            .into_iter()
            .map(|(name, value)| match environment::decode(&value) {
                Some(bytes) => Ok((name.into(), OsString::from_vec(bytes))),
                None => Err(ExecutorSetEnvsError::Other(format!("environment variable {name:?} holds a zero byte"))),
            })
            .collect();
        windlass_sys::environment::replace(&decoded?).map_err(|error| ExecutorSetEnvsError::Other(error.to_string()))
    }
}
