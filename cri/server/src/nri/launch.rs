//! Plugins that are installed beside the runtime: started with it, each with a socket as descriptor 3.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::process::Command;
use windlass_model::{Context as _, Error, Result};

use super::NriConfig;
use super::plugin::{Started, check_name};

/// The number of the descriptor that a plugin finds its socket under.
const SOCKET: i32 = 3;

/// An installed plugin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Installed {
    path: PathBuf,
    index: String,
    name: String,
    config: String,
}

/// The plugins of a folder, in their order; a folder that is not there has none. Blocks.
///
/// # Errors
/// Where folder or configuration cannot be read.
pub(super) fn installed(config: &NriConfig) -> Result<Vec<Installed>> {
    let folder = &config.plugin_dir;
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("look for plugins in {}", folder.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("look for plugins in {}", folder.display()))?;
        let executable = fs::metadata(entry.path())
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
        if !executable {
            continue;
        }
        let file = entry.file_name().to_string_lossy().into_owned();
        let (index, name) = file.split_once('-').unwrap_or((&file, ""));
        if let Err(error) = check_name(index, name) {
            tracing::warn!(file, %error, "not a plugin: it is not called NN-name");
            continue;
        }
        let config = configuration(&config.plugin_config_dir, &file, name)?;
        found.push(Installed { path: entry.path(), index: index.into(), name: name.into(), config });
    }
    found.sort_by(|one, other| (&one.index, &one.name).cmp(&(&other.index, &other.name)));
    Ok(found)
}

/// The plugin's own file, or that of all with its name.
fn configuration(folder: &Path, file: &str, name: &str) -> Result<String> {
    for name in [file, name] {
        let path = folder.join(format!("{name}.conf"));
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(|| format!("read {}", path.display())),
        }
    }
    Ok(String::new())
}

impl Installed {
    /// `index-name`.
    pub(super) fn title(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }

    /// Starts the plugin; it ends with the value that stands for it.
    ///
    /// # Errors
    /// Where it cannot be executed.
    pub(super) fn start(self) -> Result<(UnixStream, Started)> {
        let doing = || format!("start plugin {}-{}", self.index, self.name);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().context(doing)?;
        ours.set_nonblocking(true).context(doing)?;
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("NRI_PLUGIN_NAME", &self.name)
            .env("NRI_PLUGIN_IDX", &self.index)
            .env("NRI_PLUGIN_SOCKET", SOCKET.to_string())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        windlass_sys::inherit::pass(command.as_std_mut(), OwnedFd::from(theirs), SOCKET);
        let process = command.spawn().context(doing)?;
        let socket = UnixStream::from_std(ours).map_err(Error::from)?;
        Ok((socket, Started { name: self.name, index: self.index, config: self.config, process }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn plugins_are_found_with_their_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let (plugins, configs) = (folder.path().join("plugins"), folder.path().join("conf"));
        fs::create_dir_all(&plugins).unwrap();
        fs::create_dir_all(&configs).unwrap();
        for (name, mode) in [("20-b", 0o755), ("10-a-b", 0o755), ("noindex", 0o755), ("30-data", 0o644)] {
            fs::write(plugins.join(name), "").unwrap();
            fs::set_permissions(plugins.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::write(configs.join("b.conf"), "all").unwrap();
        fs::write(configs.join("10-a-b.conf"), "own").unwrap();
        let config = NriConfig {
            socket: "/s".into(),
            plugin_dir: plugins,
            plugin_config_dir: configs,
            registration_timeout: Duration::ZERO,
            request_timeout: Duration::ZERO,
        };
        let found = installed(&config).unwrap();
        let told: Vec<_> = found.iter().map(|one| (one.title(), one.config.as_str())).collect();
        assert_eq!(told, [("10-a-b".to_owned(), "own"), ("20-b".to_owned(), "all")]);
        let none = NriConfig { plugin_dir: "/nowhere/at/all".into(), ..config };
        assert_eq!(installed(&none).unwrap(), []);
    }
}
