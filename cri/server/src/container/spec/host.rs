//! What this machine and this process can give a container: capabilities, cgroup controllers, devices.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use windlass_model::{Context as _, Error, Result};

/// Capabilities by their numbers in the kernel (`linux/capability.h`).
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The machine, looked at once.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// The capabilities that this process may hand on.
    pub(crate) capabilities: HashSet<Capability>,
    /// The lowest `oom_score_adj` that this process may set.
    pub(crate) oom_score_floor: i32,
    /// Cgroups are version 2 throughout.
    pub(crate) cgroup_v2: bool,
    /// A container's swap can be limited.
    pub(crate) limits_swap: bool,
    /// A container's huge pages can be limited.
    pub(crate) limits_hugepages: bool,
    /// AppArmor is on.
    pub(crate) apparmor: bool,
}

impl Host {
    /// Looks at this machine.
    pub(crate) fn detect() -> Self {
        let capabilities = permitted(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let own = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
        let may_lower = capabilities.contains(&Capability::SysResource);
        let groups = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(groups.join("cgroup.controllers"));
        let cgroup_v2 = controllers.is_ok();
        let has = |name: &str| controllers.as_ref().is_ok_and(|list| list.split_whitespace().any(|one| one == name));
        Self {
            oom_score_floor: if may_lower { -1000 } else { own.unwrap_or(0) },
            limits_swap: match cgroup_v2 {
                // The root cgroup has no limits to look for: the kernel's switch says it.
                true => has("memory") && Path::new("/proc/swaps").exists(),
                false => groups.join("memory/memory.memsw.limit_in_bytes").exists(),
            },
            limits_hugepages: if cgroup_v2 { has("hugetlb") } else { groups.join("hugetlb/cgroup.procs").exists() },
            apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with('Y')),
            cgroup_v2,
            capabilities,
        }
    }
}

/// The permitted capabilities in a text like `/proc/self/status`.
fn permitted(status: &str) -> HashSet<Capability> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or_default();
    CAPABILITIES.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, one)| *one).collect()
}

/// The device node at `path`.
///
/// # Errors
/// As [`devices`]; a folder is none.
pub(crate) fn device(path: &Path) -> Result<LinuxDevice> {
    let meta = fs::metadata(path).context(|| format!("device {}", path.display()))?;
    node(&meta, path)?.ok_or_else(|| Error::invalid(format!("{} is not a device", path.display())))
}

/// The device node at `host`, as `container` names it; a folder gives all devices in it.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] where there is nothing, [`windlass_model::Kind::InvalidArgument`] where it is
/// neither a device nor a folder.
pub(crate) fn devices(host: &Path, container: &Path) -> Result<Vec<LinuxDevice>> {
    let meta = fs::metadata(host).context(|| format!("device {}", host.display()))?;
    if meta.is_dir() {
        return folder(host, container, &|_| true);
    }
    let device = node(&meta, container)?;
    Ok(vec![device.ok_or_else(|| Error::invalid(format!("{} is not a device", host.display())))?])
}

/// Every device of the host, as a privileged container has them.
pub(crate) fn all_devices() -> Result<Vec<LinuxDevice>> {
    let foreign = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];
    folder(Path::new("/dev"), Path::new("/dev"), &|name| !foreign.contains(&name))
}

fn folder(host: &Path, container: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<LinuxDevice>> {
    let mut found = Vec::new();
    let mut folders: Vec<(PathBuf, PathBuf)> = vec![(host.into(), container.into())];
    while let Some((host, container)) = folders.pop() {
        for entry in fs::read_dir(&host).context(|| format!("devices in {}", host.display()))? {
            // A device may go away while it is looked at.
            let Ok((entry, meta)) = entry.and_then(|entry| entry.metadata().map(|meta| (entry, meta))) else {
                continue;
            };
            let name = entry.file_name();
            if !name.to_str().is_some_and(wanted) {
                continue;
            }
            if meta.is_dir() {
                folders.push((entry.path(), container.join(name)));
            } else if let Some(device) = node(&meta, &container.join(name))? {
                found.push(device);
            }
        }
    }
    Ok(found)
}

fn node(meta: &fs::Metadata, container: &Path) -> Result<Option<LinuxDevice>> {
    let kind = meta.file_type();
    let kind = match (kind.is_block_device(), kind.is_char_device()) {
        (true, _) => LinuxDeviceType::B,
        (_, true) => LinuxDeviceType::C,
        _ => return Ok(None),
    };
    let number = meta.rdev();
    let device = LinuxDeviceBuilder::default()
        .path(container)
        .typ(kind)
        .major(i64::from(rustix::fs::major(number)))
        .minor(i64::from(rustix::fs::minor(number)))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build();
    device.map(Some).map_err(|error| Error::internal(format!("describe device {}: {error}", container.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_by_their_bits() {
        let some = permitted("Name:\tx\nCapPrm:\t0000000000200001\n");
        assert_eq!(some, HashSet::from([Capability::Chown, Capability::SysAdmin]));
        assert!(permitted("").is_empty());
    }

    #[test]
    fn a_device_is_described_by_its_numbers() {
        let null = devices(Path::new("/dev/null"), Path::new("/dev/x")).unwrap();
        assert_eq!((null[0].major(), null[0].minor(), null[0].path().as_path()), (1, 3, Path::new("/dev/x")));
        assert!(devices(Path::new("/dev/no-such"), Path::new("/x")).unwrap_err().is_not_found());
        assert!(devices(Path::new("/proc/self/status"), Path::new("/x")).is_err());
    }
}
