//! `delete`: takes away all that a shim left which is dead or is to die.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use windlass_model::{Context, Error, Kind, Result, Timestamp};
use windlass_sys::cgroup::Layout;
use windlass_sys::{mount, process};
use windlass_wire::protobuf::Message;
use windlass_wire::task::DeleteResponse;
use windlass_wire::{convert, words};

use crate::bundle::Bundle;
use crate::flags::Flags;
use crate::home;
use crate::oci::{Caller, Moment, Verb};
use crate::start::socket_path;

/// How long a runtime may take to forget a container, hooks and all.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Cleans up after the shim of the bundle in the flags, and prints the answer.
///
/// # Errors
/// Where something is left.
pub fn run(flags: &Flags) -> Result<()> {
    let pod = &flags.bundle;
    let pid = end_shim(flags);
    let layout = Layout::detect()?;
    let mut left = Ok(());
    for bundle in Bundle::noted(pod) {
        match clear(&layout, &bundle) {
            Ok(()) => bundle.forget(pod),
            Err(error) => left = Err(error),
        }
    }
    mount::unmount(&pod.join(words::SHM_DIR))?;
    home::clear(&layout, pod);
    if let Ok(socket) = socket_path(pod, words::SOCKET_FILE) {
        fs::remove_file(socket).ok();
    }
    left?;
    let response = DeleteResponse {
        pid: pid.unwrap_or_default(),
        exit_status: 137,
        exited_at: convert::timestamp(Timestamp::now()),
        ..DeleteResponse::default()
    };
    let bytes =
        response.write_to_bytes().map_err(|error| Error::with_source(Kind::Internal, "encode the answer", error))?;
    std::io::stdout().write_all(&bytes).context(|| "answer".into())
}

/// Kills the shim, where its process is there still and is a shim of this id.
fn end_shim(flags: &Flags) -> Option<u32> {
    let pid: u32 = fs::read_to_string(flags.bundle.join(words::PID_FILE)).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    if words.clone().any(|word| word == b"serve") && words.any(|word| word == flags.id.as_str().as_bytes()) {
        process::signal(pid, 9).ok();
        let deadline = Instant::now() + Duration::from_secs(2);
        while is_running(pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Some(pid)
}

/// True until the process is dead; a zombie, which only its parent can take away, is dead.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn clear(layout: &Layout, bundle: &Bundle) -> Result<()> {
    layout.kill(&bundle.cgroup)?;
    layout.remove(&bundle.cgroup)?;
    if bundle.runtime.is_some() || bundle.calls_hooks(Moment::Poststop) {
        forget(bundle).unwrap_or_else(|error| eprintln!("delete of container {}: {error}", bundle.id));
    }
    bundle.clear()
}

/// Lets a runtime by path drop what it knows, and run the last hooks; what it does not do is done by [`Bundle::clear`].
fn forget(bundle: &Bundle) -> Result<()> {
    let call = Caller::new()?.call(bundle, &Verb::Delete, false, None, None)?;
    let deadline = Instant::now() + CALL_LIMIT;
    loop {
        match process::reap()? {
            Some(reaped) if reaped.pid == call.pid => return call.outcome(reaped.status).map(drop),
            Some(_) => {}
            None if Instant::now() > deadline => {
                call.abort();
                return Err(Error::deadline("the OCI runtime did not answer"));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
