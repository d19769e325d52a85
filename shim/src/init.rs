//! Process 1 of a pid namespace that a pod's containers share.
//!
//! It only waits: its children's ends are ignored, so the kernel takes away zombies by itself, and signals for which
//! process 1 has no handler are not delivered to it. When the shim ends, the kernel kills it and with it the namespace.

use std::ffi::OsString;

use nix::sys::signal::{SigSet, Signal};
use windlass_model::{Context, Error, Result};
use windlass_sys::process;

/// Runs until killed. Closes the descriptor whose number is its argument once containers may see this process.
///
/// # Errors
/// Where the kernel refuses what must be set before.
pub fn run(ready: Option<OsString>) -> Result<()> {
    let number = ready.and_then(|text| text.to_str()?.parse().ok());
    let ready = process::inherited(number.ok_or_else(|| Error::invalid("a missing descriptor"))?)?;
    process::die_with_parent()?;
    process::ignore_children()?;
    // Nothing of the host is to be reached through /proc/1 from a container.
    nix::sys::prctl::set_dumpable(false).map_err(std::io::Error::from).context(|| "become undumpable".into())?;
    nix::unistd::chroot("/proc/self/fdinfo")
        .map_err(std::io::Error::from)
        .context(|| "leave the host's files".into())?;
    nix::unistd::chdir("/").map_err(std::io::Error::from).context(|| "leave the host's files".into())?;
    drop(ready);
    loop {
        // Nothing sends SIGUSR1 with meaning; any blocked signal would do to sleep on.
        let mut none = SigSet::empty();
        none.add(Signal::SIGUSR1);
        none.thread_block().ok();
        none.wait().ok();
    }
}
