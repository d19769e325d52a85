//! The kernel behind safe functions: mounts, files, namespaces, processes, terminals, cgroups.
//!
//! Every function blocks and knows no async runtime; callers put it behind their own door for blocking work. This is the
//! only crate where `unsafe` may stand, and each block says why it is needed and why it is sound.

pub mod cgroup;
pub mod disk;
pub mod enter;
pub mod fs;
pub mod idmap;
pub mod inherit;
pub mod links;
pub mod loops;
pub mod memory;
pub mod mount;
pub mod netns;
pub mod peer;
pub mod process;
pub mod tty;
pub mod userns;

/// Turns an errno of a system call into the error that crosses crate borders, saying what was being done.
pub(crate) fn errno(error: impl Into<std::io::Error>, doing: impl FnOnce() -> String) -> windlass_model::Error {
    let error = error.into();
    windlass_model::Error::with_source(windlass_model::error::io_kind(&error), doing(), error)
}
