//! Ends the plugins that a killed daemon left at work.
//!
//! A plugin is a process of its own and outlives a daemon that is killed. If its ADD went on while the new daemon's DEL
//! runs, the pod's address and interface would stay for ever. So before such a pod is detached, the plugins that still
//! work for it are found, and killed with whatever they started: all of them have inherited `CNI_CONTAINERID`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use windlass_model::{Context as _, Error, Id, Result};

/// The most that is read of a process's environment, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// How long killed plugins may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills what works for the attachment of the pod `id`, and waits for its end. Blocks.
///
/// # Errors
/// [`windlass_model::Kind::Unavailable`] where a plugin does not die, as in an uninterruptible system call.
pub(super) fn end(id: &Id) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = working_for(id)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::unavailable(format!("a network plugin of pod {id} does not end: {left:?}")));
        }
        for pid in left {
            // It may have ended just now.
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn working_for(id: &Id) -> Result<Vec<Pid>> {
    let mark = format!("CNI_CONTAINERID={id}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context(|| "read /proc".into())?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| has(&entry.path().join("environ"), mark.as_bytes())) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// True where one of the variables is `mark`. A process that is gone, or a zombie, has none.
fn has(environ: &Path, mark: &[u8]) -> bool {
    let mut text = Vec::new();
    let read = File::open(environ).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    read.is_ok() && text.split(|byte| *byte == 0).any(|variable| variable == mark)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_plugin_and_its_children_are_ended_and_no_other() {
        let id: Id = format!("left-{}", std::process::id()).parse().unwrap();
        let plugin = |id: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "sleep 1000 & wait"]).env("CNI_CONTAINERID", id);
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
        };
        let (mut left, mut other) = (plugin(id.as_str()), plugin(&format!("{id}-other")));
        while working_for(&id).unwrap().len() < 2 {
            thread::sleep(Duration::from_millis(5));
        }
        end(&id).unwrap();
        assert!(!left.wait().unwrap().success());
        assert!(working_for(&id).unwrap().is_empty());
        assert!(other.try_wait().unwrap().is_none());
        end(&format!("{id}-other").parse().unwrap()).unwrap();
        other.wait().unwrap();
    }
}
