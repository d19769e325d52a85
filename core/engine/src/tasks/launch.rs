//! Runs a shim's executable: `start`, which answers how the shim is reached, and `delete`, which cleans up after a dead one.
//!
//! Both are containerd's shim v2 command line. An executable that hangs is killed after a time-out; what it prints is
//! bounded and only trusted after parsing.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use windlass_model::{Context, Error, Id, Namespace, Result};
use windlass_wire::bootstrap::Bootstrap;
use windlass_wire::words;

use super::ShimConfig;
use super::bundle::Bundle;

/// How long `start` and `delete` may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a pipe may stay open after the process that wrote to it ended (somebody inherited it).
const DRAIN: Duration = Duration::from_millis(100);
/// The longest output that is read, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;
/// The longest piece of an output that is put into an error, in bytes.
const MAX_SHOWN: usize = 1024;

/// The names that our shim goes by: its own, and those of the runtime that it takes the place of.
const OURS: &[&str] =
    &[words::RUNTIME_NAME, "io.containerd.runc.v2", "io.containerd.runc.v1", "io.containerd.runtime.v1.linux"];

/// A shim's executable with everything it is told.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    pub(super) binary: PathBuf,
    pub(super) namespace: Namespace,
    pub(super) id: Id,
    pub(super) bundle: Bundle,
    pub(super) config: ShimConfig,
    pub(super) patience: Duration,
}

/// The executable of a runtime name: ours for our name and for those that Docker and ctr ask for; a path as it is;
/// `io.containerd.kata.v2` is `containerd-shim-kata-v2` on the search path.
///
/// # Errors
/// `InvalidArgument` for a name that is none; `NotFound` where the executable is missing.
pub(super) fn resolve(config: &ShimConfig, shim: Option<&str>) -> Result<PathBuf> {
    let name = match shim {
        None | Some("") => return Ok(config.shim.clone()),
        Some(name) if OURS.contains(&name) => return Ok(config.shim.clone()),
        Some(path) if path.starts_with('/') => return Ok(path.into()),
        Some(name) => name,
    };
    let mut parts = name.rsplit('.');
    let (version, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if !name.starts_with("io.") || kind.is_empty() || version.is_empty() || name.contains('/') {
        return Err(Error::invalid(format!(
            "runtime {name:?} is neither a path nor a name like io.containerd.runc.v2"
        )));
    }
    let file = format!("containerd-shim-{kind}-{version}");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(&file)).find(|path| path.is_file());
    found.ok_or_else(|| Error::not_found(format!("runtime {name}: {file} is not on the search path")))
}

impl Launcher {
    /// Starts the shim and answers how it is reached.
    ///
    /// # Errors
    /// `DeadlineExceeded` where it hangs, `DataLoss` where it prints rubbish, `Unavailable`
    /// with what it printed where it fails.
    pub(super) async fn start(&self) -> Result<Bootstrap> {
        let output = self.run("start").await?;
        if !output.status.success() {
            let said = shown(&[output.stderr.as_slice(), &output.stdout].concat());
            let what = format!("{} start ended with {}: {said}", self.binary.display(), output.status);
            return Err(Error::unavailable(what));
        }
        Bootstrap::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Has the executable clean up what its dead shim left.
    pub(super) async fn delete(&self) -> Result<()> {
        let output = self.run("delete").await?;
        if output.status.success() {
            return Ok(());
        }
        let said = shown(&output.stderr);
        Err(Error::unavailable(format!("{} delete ended with {}: {said}", self.binary.display(), output.status)))
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["-namespace", self.namespace.as_str(), "-id", self.id.as_str()])
            .arg("-address")
            .arg(&self.config.api_address)
            .args(["-publish-binary", ""])
            .arg("-bundle")
            .arg(self.bundle.path())
            .args(tracing::enabled!(tracing::Level::DEBUG).then_some("-debug"))
            .arg(action)
            .current_dir(self.bundle.path())
            // The daemon's own environment (systemd's sockets, proxies with passwords) is no business of a pod's.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env(words::ENV_TTRPC_ADDRESS, &self.config.events_address)
            .env(words::ENV_GRPC_ADDRESS, &self.config.api_address)
            .env(words::ENV_NAMESPACE, self.namespace.as_str())
            .envs(self.bundle.seccomp_cache().map(|folder| (words::ENV_SECCOMP_CACHE, folder)))
            .env("MAX_SHIM_VERSION", "3")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, action: &str) -> Result<Output> {
        let doing = || format!("run {} {action}", self.binary.display());
        let mut child = self.command(action).spawn().context(doing)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let finished = timeout(self.patience, async {
            // The pipes are read while it runs, lest a talkative shim waits for us while we wait for it.
            let (ended, ending) = tokio::sync::watch::channel(());
            let wait = async {
                let status = child.wait().await;
                drop(ended);
                status
            };
            tokio::join!(wait, read(stdout, ending.clone()), read(stderr, ending))
        });
        match finished.await {
            Ok((status, stdout, stderr)) => Ok(Output { status: status.context(doing)?, stdout, stderr }),
            Err(_) => {
                let _ = child.start_kill();
                Err(Error::deadline(format!(
                    "{} {action} did not end within {} s and was killed",
                    self.binary.display(),
                    self.patience.as_secs_f32()
                )))
            }
        }
    }
}

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Reads to the end, or until [`DRAIN`] after `ending`: the shim that was left running may hold the pipe.
async fn read(pipe: Option<impl AsyncRead + Unpin>, mut ending: tokio::sync::watch::Receiver<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(pipe) = pipe else { return bytes };
    let mut pipe = pipe.take(MAX_OUTPUT);
    let over = async {
        // Nothing is ever sent: this ends with the process.
        let _ = ending.changed().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            read = pipe.read_buf(&mut bytes) => if !matches!(read, Ok(1..)) { return bytes },
            () = &mut over => return bytes,
        }
    }
}

/// The beginning of an output, fit for an error.
fn shown(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output.get(..MAX_SHOWN).unwrap_or(output));
    let text = text.replace(|letter: char| letter.is_control(), " ");
    let text = text.trim();
    if text.is_empty() { "it said nothing".into() } else { text.into() }
}
