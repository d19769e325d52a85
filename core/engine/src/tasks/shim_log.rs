//! The log of a shim of another's making: it writes to a FIFO in its bundle, and would wait for ever for a reader.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use windlass_model::{Context, Result};
use windlass_wire::words;

/// The longest piece of a line that is told at once, in bytes.
const LONGEST: u64 = 4096;

/// Reads on as long as it is kept.
pub(super) type ShimLog = AbortOnDropHandle<()>;

/// Makes the FIFO in `bundle` where it is missing, and tells what is written there to our own log.
///
/// # Errors
/// Where it cannot be made or opened.
pub(super) fn follow(bundle: &Path) -> Result<ShimLog> {
    let path = bundle.join(words::LOG_FILE);
    let doing = || format!("make the FIFO {}", path.display());
    match mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(std::io::Error::from(error)).context(doing),
    }
    // Open for both, so that it never ends: a shim may write seldom.
    let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&path);
    let pipe = pipe.context(|| format!("open {}", path.display()))?;
    Ok(AbortOnDropHandle::new(tokio::spawn(tell(pipe).in_current_span())))
}

async fn tell(pipe: pipe::Receiver) {
    use tokio::io::AsyncBufReadExt;
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(1..) => tracing::debug!(said = %String::from_utf8_lossy(&line).trim_end(), "the shim"),
            Ok(0) => return,
            Err(error) => return tracing::debug!(%error, "the log of a shim"),
        }
    }
}
