//! The files that a pod's containers are shown: `resolv.conf`, `hostname`, `hosts`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use windlass_model::{Context as _, Result};

use super::record::PodFiles;

/// The most that is copied of one of the host's files, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// Writes a pod's files, which belong to `owner` where that is not this process's user: the host's where the pod has no
/// name or no `resolv.conf` of its own. Blocks.
///
/// # Errors
/// Where the folder cannot be written.
pub(super) fn write(
    files: &PodFiles,
    hostname: &str,
    resolv_conf: Option<&str>,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let doing = || format!("write the pod's files in {}", files.folder.display());
    fs::create_dir_all(&files.folder).context(doing)?;
    let resolv_conf = resolv_conf.map_or_else(|| hosts_own("/etc/resolv.conf"), |text| Ok(text.into()));
    fs::write(&files.resolv_conf, resolv_conf?).context(doing)?;
    let hostname = match hostname {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        hostname => hostname.to_owned(),
    };
    fs::write(&files.hostname, hostname + "\n").context(doing)?;
    fs::write(&files.hosts, hosts_own("/etc/hosts")?).context(doing)?;
    if let Some((uid, gid)) = owner {
        for file in [&files.resolv_conf, &files.hostname, &files.hosts] {
            std::os::unix::fs::chown(file, Some(uid), Some(gid)).context(doing)?;
        }
    }
    Ok(())
}

/// A file of the host, empty where it has none.
fn hosts_own(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let mut text = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(text),
        file => file
            .and_then(|file| file.take(LONGEST).read_to_end(&mut text))
            .map(|_| text)
            .context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_does_not_say_comes_from_the_host() {
        let state = tempfile::tempdir().unwrap();
        let files = PodFiles::of(state.path(), &"p1".parse().unwrap());
        write(&files, "web-0", Some("nameserver 1.2.3.4\n"), Some((7, 8))).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&files.hosts).unwrap()), 7);
        assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "web-0\n");
        assert_eq!(fs::read_to_string(&files.resolv_conf).unwrap(), "nameserver 1.2.3.4\n");
        write(&files, "", None, None).unwrap();
        assert_eq!(fs::read(&files.hosts).unwrap(), hosts_own("/etc/hosts").unwrap());
        assert_eq!(fs::read(&files.resolv_conf).unwrap(), hosts_own("/etc/resolv.conf").unwrap());
        let nodename = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(fs::read_to_string(&files.hostname).unwrap(), nodename);
        assert!(hosts_own("/nonexistent").unwrap().is_empty());
    }
}
