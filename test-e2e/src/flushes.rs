//! How often a daemon waits for the disk, counted by strace.

use std::path::{Path, PathBuf};

use anyhow::Result;

/// What waits for the disk.
const CALLS: [&str; 6] = ["fsync(", "fdatasync(", "syncfs(", "sync_file_range(", "msync(", "sync("];

/// The flushes of a daemon that was started under [`wrap`], from a moment on.
#[derive(Clone, Debug)]
pub struct Flushes {
    trace: PathBuf,
    from: usize,
}

/// The words before the daemon's command, for [`crate::Plan::wrap`].
pub fn wrap() -> Vec<String> {
    let calls = "trace=fsync,fdatasync,syncfs,sync_file_range,msync,sync";
    let words = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-e", calls, "-o", "{dir}/strace"];
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Flushes {
    /// Counts from now on, in a node's directory.
    pub fn since_now(dir: &Path) -> Result<Self> {
        let trace = dir.join("strace");
        let from = std::fs::read_to_string(&trace)?.lines().count();
        Ok(Self { trace, from })
    }

    /// The calls since then, as strace wrote them; without those of the last half second.
    pub fn so_far(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.trace)?;
        let call = |line: &&str| {
            let rest = line.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ' ');
            CALLS.iter().any(|call| rest.starts_with(call))
        };
        Ok(text.lines().skip(self.from).filter(call).map(str::to_owned).collect())
    }
}
