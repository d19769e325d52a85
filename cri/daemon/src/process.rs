//! The daemon as a process: its threads, its limits, its shim's executable.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// The shim's executable.
const SHIM: &str = "containerd-shim-windlass-v1";
/// Open files that the daemon wants: a few for each pod, and those of pulls.
const FILES: u64 = 65536;
/// Threads that run tasks; more only cost memory, for what takes time happens elsewhere.
const MAX_WORKERS: usize = 4;
/// Threads that run the tenants' tasks.
const MAX_TENANTS_WORKERS: usize = 2;
/// How far the tenants' threads step back: one of them gets half of what one of the CRI's gets, where both want a
/// processor, and one of the CRI's that wakes up need not wait for it. Further back tenants would suffer from whatever else the
/// machine does: at 10 their calls took eight times as long beside compilers. And the CRI would wait long for a lock that
/// one of them holds while it waits for a processor.
const NICENESS: i32 = 3;
/// How long a thread for blocking work waits for more of it.
const IDLE: Duration = Duration::from_secs(2);

/// Heaps for all threads: with one for each, what one thread frees is of no use to the others.
const HEAPS: i32 = 2;

/// Shares heaps among threads, raises the limit of open files and chooses the cryptography of TLS. What fails is logged
/// and lived with.
pub fn prepare() {
    windlass_sys::memory::share_heaps(HEAPS);
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES, |hard| hard.min(FILES));
    if limit.current.is_some_and(|soft| soft < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, wanted, "the limit of open files stays as it is");
        }
    }
    // An error means that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The runtime of the CRI, and of all that is nobody's.
///
/// # Errors
/// Where no thread can be started.
pub fn runtime() -> Result<Runtime> {
    workers("windlassd", MAX_WORKERS).build().context("start the runtime")
}

/// The runtime of the other tenants. Its threads, those for blocking work among them, step back where processors are short.
///
/// # Errors
/// Where no thread can be started.
pub fn tenants_runtime() -> Result<Runtime> {
    workers("tenants", MAX_TENANTS_WORKERS).on_thread_start(step_back).build().context("start the tenants' runtime")
}

fn workers(name: &str, most: usize) -> Builder {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(processors.clamp(1, most)).thread_keep_alive(IDLE).thread_name(name).enable_all();
    builder
}

/// Lets the calling thread step back from where the daemon as a whole stands. The kernel counts niceness by thread.
fn step_back() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a thread of the tenants does not step back");
    }
}

/// Our shim: beside this executable, else on the search path.
///
/// # Errors
/// Where it is in neither place.
pub fn find_shim() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this executable")?;
    let beside = own.parent().map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        beside.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(SHIM)).find(|path| path.is_file());
    ensure!(found.is_some(), "{SHIM} is neither beside {} nor on the search path", own.display());
    found.context("the shim's place")
}
