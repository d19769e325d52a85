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

/// The runtime that everything runs on.
///
/// # Errors
/// Where no thread can be started.
pub fn runtime() -> Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(processors.clamp(1, MAX_WORKERS))
        .thread_keep_alive(IDLE)
        .thread_name("windlassd")
        .enable_all()
        .build()
        .context("start the runtime")
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
