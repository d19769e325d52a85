//! SELinux's labels of a container's files: its root file system, its volumes and what it sees of its pod.

use std::path::{Path, PathBuf};

use windlass_cri_api::v1;
use windlass_model::{Context as _, Mount, Result};

use super::record::Container;
use super::spec::PodFacts;
use crate::selinux::{Asker, Labels, relabel, relabel_shared};

/// The host's own `/dev/shm`, which keeps its label.
const HOSTS_SHM: &str = "/dev/shm";

/// What a container asks of SELinux whose pod shares namespaces as `shared` says.
pub(super) fn asker<'a>(config: &'a v1::ContainerConfig, shared: &v1::NamespaceOption) -> Asker<'a> {
    use v1::NamespaceMode::{Node, Pod};
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let own = context.and_then(|context| context.namespace_options.as_ref()).unwrap_or(shared);
    let pid = if own.pid() == Pod { shared.pid() } else { own.pid() };
    Asker {
        options: context.and_then(|context| context.selinux_options.as_ref()),
        privileged: context.is_some_and(|context| context.privileged),
        host: pid == Node || shared.ipc() == Node,
    }
}

/// The mounts of a root file system with its files under the container's label. Blocks where that has to be written on
/// each file: a folder that is mounted as it is, which is the container's own.
///
/// # Errors
/// What the kernel says of such a folder.
pub(super) fn show(mut mounts: Vec<Mount>, labels: &Labels) -> Result<Vec<Mount>> {
    let Some(option) = labels.mount_option() else { return Ok(mounts) };
    for mount in &mut mounts {
        match is_bind(mount) {
            true => relabel(Path::new(&mount.source), &labels.mount).context(|| "the root file system".into())?,
            false => mount.options.push(option.clone()),
        }
    }
    Ok(mounts)
}

/// The mounts of an image volume, as [`show`] does it; a folder that is mounted as it is, read-only, may be that of
/// others, too. Blocks.
///
/// # Errors
/// What the kernel says of such a folder.
pub(super) fn show_view(mounts: &mut [Mount], labels: Option<&Labels>) -> Result<()> {
    let Some((labels, option)) = labels.and_then(|labels| Some((labels, labels.mount_option()?))) else {
        return Ok(());
    };
    for mount in mounts {
        match is_bind(mount) {
            true => relabel_shared(Path::new(&mount.source), &labels.mount)?,
            false => mount.options.push(option.clone()),
        }
    }
    Ok(())
}

/// Labels what `container` mounts of the host, where the request says so, and what is ours: `volumes` of its image, and
/// the pod's files. Blocks.
///
/// # Errors
/// Naming the mount.
pub(super) fn put(container: &Container, pod: &PodFacts, volumes: &[(PathBuf, PathBuf)]) -> Result<()> {
    let Some(labels) = &container.selinux else { return Ok(()) };
    if let Some(label) = pod.label.as_ref().filter(|label| !label.is_empty()) {
        let shm = pod.shm.iter().filter(|shm| *shm != Path::new(HOSTS_SHM));
        let own = pod.files.iter().map(|(_, source)| source).chain(shm);
        own.filter(|path| path.exists()).try_for_each(|path| relabel(path, label))?;
    }
    if !labels.relabels() {
        return Ok(());
    }
    for (place, source) in volumes {
        relabel(source, &labels.mount).context(|| format!("volume {} of the image", place.display()))?;
    }
    let images = |at: usize| container.image_volumes.iter().any(|volume| volume.mount == at);
    for (at, mount) in container.config.mounts.iter().enumerate() {
        if mount.selinux_relabel && !images(at) {
            relabel(Path::new(&mount.host_path), &labels.mount)
                .context(|| format!("mounts[{at}].selinux_relabel of {}", mount.container_path))?;
        }
    }
    Ok(())
}

fn is_bind(mount: &Mount) -> bool {
    matches!(mount.kind.as_str(), "bind" | "rbind")
        || mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_shown_under_the_label() {
        let overlay = || vec![Mount { kind: "overlay".into(), options: vec!["index=off".into()], ..Mount::default() }];
        let labels = Labels { mount: "u:r:t:s0:c1,c2".into(), ..Labels::default() };
        let shown = show(overlay(), &labels).unwrap();
        assert_eq!(shown[0].options, ["index=off", "context=\"u:r:t:s0:c1,c2\""]);
        assert_eq!(show(overlay(), &Labels::default()).unwrap()[0].options, ["index=off"]);
        assert!(is_bind(&Mount { kind: "bind".into(), ..Mount::default() }) && !is_bind(&overlay()[0]));
    }

    #[test]
    fn who_shares_the_hosts_processes_says_so() {
        let options = |pid: v1::NamespaceMode| {
            let options = v1::NamespaceOption { pid: pid as i32, ..Default::default() };
            let context = v1::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
            let linux = v1::LinuxContainerConfig { security_context: Some(context), ..Default::default() };
            v1::ContainerConfig { linux: Some(linux), ..Default::default() }
        };
        let plain = v1::NamespaceOption::default();
        let host_pid = v1::NamespaceOption { pid: v1::NamespaceMode::Node as i32, ..Default::default() };
        let host_ipc = v1::NamespaceOption { ipc: v1::NamespaceMode::Node as i32, ..Default::default() };
        assert!(asker(&options(v1::NamespaceMode::Node), &plain).host);
        assert!(!asker(&options(v1::NamespaceMode::Container), &host_pid).host);
        assert!(asker(&options(v1::NamespaceMode::Pod), &host_pid).host);
        assert!(asker(&options(v1::NamespaceMode::Container), &host_ipc).host);
        assert!(asker(&v1::ContainerConfig::default(), &host_pid).host);
        assert!(!asker(&v1::ContainerConfig::default(), &plain).host);
    }
}
