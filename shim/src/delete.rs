//! `delete`: takes away all that a shim left which is dead or is to die.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
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
use crate::start::socket_path;

/// How long a runtime by path may take to forget a container.
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
    if let Some(binary) = &bundle.runtime {
        forget(binary, bundle);
    }
    bundle.clear()
}

/// Lets a runtime by path drop what it knows; what it does not do is done by [`Bundle::clear`].
fn forget(binary: &std::path::Path, bundle: &Bundle) {
    let mut command = Command::new(binary);
    command.arg("--root").arg(bundle.root()).args(["delete", "--force", &bundle.id]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else { return };
    let deadline = Instant::now() + CALL_LIMIT;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            child.kill().ok();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
