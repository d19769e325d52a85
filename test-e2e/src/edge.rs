//! Faulty edge binaries: scripts that stand where a CNI plugin or an OCI runtime stands, and fail, hang or wait at a gate.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

/// A gate on disk: a script that meets it while it is shut says that it has arrived, and waits until it is opened.
#[derive(Clone, Debug)]
pub struct Gate {
    arrived: PathBuf,
    shut: PathBuf,
}

/// Writes a script with the right to be executed. It appears whole, so nobody runs half of it.
pub fn write_executable(path: &Path, script: &str) -> Result<()> {
    let hidden = path.with_extension("tmp");
    std::fs::write(&hidden, script)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(hidden, path)?;
    Ok(())
}

impl Gate {
    /// An open gate called `name` under `dir`.
    pub fn open_at(dir: &Path, name: &str) -> Self {
        Self { arrived: dir.join(format!("{name}.arrived")), shut: dir.join(format!("{name}.shut")) }
    }

    /// Lets nobody through from now on.
    pub fn shut(&self) -> Result<()> {
        std::fs::remove_file(&self.arrived).ok();
        std::fs::write(&self.shut, "")?;
        Ok(())
    }

    /// Lets everybody through.
    pub fn open(&self) {
        std::fs::remove_file(&self.shut).ok();
    }

    /// The lines of a shell script that wait here. They give up after a minute, so that no script outlives its test.
    pub fn wait_lines(&self) -> String {
        let (arrived, shut) = (self.arrived.display(), self.shut.display());
        format!(
            "n=0\nwhile [ -e '{shut}' ] && [ $n -lt 1200 ]; do [ -e '{arrived}' ] || : > '{arrived}'; sleep 0.05; n=$((n+1)); done\n"
        )
    }

    /// Waits until somebody stands at the gate.
    pub async fn reached(&self) -> Result<()> {
        crate::eventually("the gate is reached", Duration::from_secs(20), async || self.arrived.exists().then_some(()))
            .await
    }
}

/// A wrapper around an OCI runtime that runs `lines` first when its command is `verb`.
pub fn runtime_wrapper(path: &Path, real: &str, verb: &str, lines: &str) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do\n  if [ \"$word\" = '{verb}' ]; then\n{lines}\n  break; fi\ndone\nexec {real} \"$@\"\n"
    );
    write_executable(path, &script)
}

/// A wrapper around a CNI plugin that runs `lines` first when `CNI_COMMAND` is `command`.
pub fn plugin_wrapper(real: &str, command: &str, lines: &str) -> String {
    format!("#!/bin/sh\nif [ \"$CNI_COMMAND\" = '{command}' ]; then\n{lines}\nfi\nexec {real} \"$@\"\n")
}
