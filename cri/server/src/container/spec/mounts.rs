//! What a container sees where: the kernel's own file systems, the pod's files, and what the kubelet brings.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};
use windlass_cri_api::v1;
use windlass_model::confinement::{KERNEL_MOUNTS, SHARED_MEMORY};
use windlass_model::{Context as _, Error, Result};
use windlass_sys::idmap::{IdMap, Range};

use super::PodFacts;
use crate::pod::users;

/// Where the kernel shows its devices and the network.
const SYS: &str = "/sys";

/// The mounts of a container and how its root is to follow mounts of the host.
#[derive(Clone, Debug)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    pub(super) root_propagation: Option<&'static str>,
}

/// All mounts: the kernel's first, then binds by their depth, so that none hides one that is inside it.
///
/// What the request mounts replaces ours at the same place, and its `/dev` replaces everything in `/dev`.
pub(super) fn mounts(
    config: &v1::ContainerConfig,
    volumes: &[(PathBuf, PathBuf)],
    pod: &PodFacts,
    privileged: bool,
) -> Result<Mounts> {
    let asked: HashSet<PathBuf> = config.mounts.iter().map(|mount| clean(Path::new(&mount.container_path))).collect();
    let replaced = |place: &Path| {
        asked.contains(place)
            || (place.starts_with("/dev") && place != Path::new("/dev") && asked.contains(Path::new("/dev")))
    };
    let mut mounts = Vec::new();
    for (place, kind, source, options) in KERNEL_MOUNTS {
        if replaced(Path::new(place)) {
            continue;
        }
        if place == SYS && pod.users.is_some() && pod.netns.is_none() {
            // A user namespace may mount only the view of a network of its own; of the host's it is shown the host's.
            mounts.push(bind(place, Path::new(SYS), &["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"])?);
            continue;
        }
        let writable = privileged && matches!(place, "/sys" | "/sys/fs/cgroup");
        let mut options: Vec<&str> = options.iter().copied().filter(|option| !(writable && *option == "ro")).collect();
        if writable {
            options.push("rw");
        }
        mounts.push(mount(Path::new(place), kind, Path::new(source), &options)?);
    }
    let mut binds = Vec::new();
    match &pod.shm {
        _ if replaced(Path::new("/dev/shm")) => {}
        Some(shm) => binds.push((PathBuf::from("/dev/shm"), bind("/dev/shm", shm, &["rbind", "rprivate", "rw"])?)),
        None => {
            let (place, kind, source, options) = SHARED_MEMORY;
            binds.push((place.into(), mount(Path::new(place), kind, Path::new(source), options)?));
        }
    }
    let read_only = is_read_only(config);
    for (place, source) in &pod.files {
        if !asked.contains(Path::new(place)) {
            let access = if read_only { "ro" } else { "rw" };
            binds.push((PathBuf::from(place), bind(place, source, &["rbind", "rprivate", access])?));
        }
    }
    for (place, source) in volumes.iter().filter(|(place, _)| !asked.contains(place)) {
        let volume = bind(place, source, &["rbind", "rprivate", "rw"])?;
        // It is a copy of what the image has there, under the image's own ids.
        binds.push((place.clone(), mapped(volume, pod.users.as_ref().map(|(map, _)| map))?));
    }
    let mut root_propagation = None;
    for one in &config.mounts {
        let place = clean(Path::new(&one.container_path));
        let (propagation, root) = propagation(one)?;
        root_propagation = match (root_propagation, root) {
            (Some("shared"), _) | (_, None) => root_propagation,
            (_, root) => root,
        };
        let access = match (one.readonly, one.recursive_read_only) {
            (_, true) => "rro",
            (true, _) => "ro",
            _ => "rw",
        };
        let made = bind(&place, Path::new(&one.host_path), &["rbind", propagation, access])?;
        binds.push((place, mapped(made, ids(one, "mounts")?.as_ref())?));
    }
    binds.sort_by_key(|(place, _)| place.components().count());
    mounts.extend(binds.into_iter().map(|(_, mount)| mount));
    Ok(Mounts { mounts, root_propagation })
}

/// The ids under which a mount of the request is to be shown; `None`: those that its files have.
pub(crate) fn ids(mount: &v1::Mount, field: &str) -> Result<Option<IdMap>> {
    match mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        true => Ok(None),
        false => users::ids(&mount.uid_mappings, &mount.gid_mappings, field).map(Some),
    }
}

/// `mount` with its files under the ids of `map`.
fn mapped(mut mount: Mount, map: Option<&IdMap>) -> Result<Mount> {
    if let Some(map) = map {
        mount.set_uid_mappings(Some(mappings(map.uids())?));
        mount.set_gid_mappings(Some(mappings(map.gids())?));
    }
    Ok(mount)
}

/// Ranges in OCI words.
pub(super) fn mappings(ranges: &[Range]) -> Result<Vec<LinuxIdMapping>> {
    let one = |range: &Range| {
        LinuxIdMappingBuilder::default().container_id(range.inside).host_id(range.outside).size(range.length).build()
    };
    let made: Result<_, _> = ranges.iter().map(one).collect();
    made.map_err(|error| Error::internal(format!("id mappings: {error}")))
}

/// Refuses a mount that asks for a propagation which its source cannot have.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] naming the source.
pub(super) fn check_sources(config: &v1::ContainerConfig) -> Result<()> {
    config.mounts.iter().filter(|mount| mount.image.is_none()).try_for_each(|mount| propagation(mount).map(drop))
}

/// Makes the folders of the host that the request names and that are not there, as every runtime does.
pub(crate) fn make_sources(config: &v1::ContainerConfig) -> Result<()> {
    for (at, mount) in config.mounts.iter().enumerate() {
        let source = Path::new(&mount.host_path);
        match fs::metadata(source) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(source).context(|| format!("mounts[{at}].host_path {}", source.display()))?;
            }
            Err(error) => return Err(error).context(|| format!("mounts[{at}].host_path {}", source.display())),
        }
    }
    Ok(())
}

fn is_read_only(config: &v1::ContainerConfig) -> bool {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.is_some_and(|context| context.readonly_rootfs)
}

/// The option for a mount's propagation, and what the container's root needs for it.
fn propagation(mount: &v1::Mount) -> Result<(&'static str, Option<&'static str>)> {
    let need = |tags: &[&str]| {
        let flags = propagation_of(Path::new(&mount.host_path), &fs::read_to_string("/proc/self/mountinfo")?);
        if flags.split(' ').any(|flag| tags.iter().any(|tag| flag.starts_with(tag))) {
            return Ok(());
        }
        let path = &mount.host_path;
        Err(Error::precondition(format!("mount of {path}: it lies on a mount of the host that is not {}", tags[0])))
    };
    match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationBidirectional) => {
            need(&["shared"])?;
            Ok(("rshared", Some("shared")))
        }
        Ok(v1::MountPropagation::PropagationHostToContainer) => {
            need(&["shared", "master"])?;
            Ok(("rslave", Some("slave")))
        }
        _ => Ok(("rprivate", None)),
    }
}

/// The optional fields (`shared:1 master:2`) of the mount that `path` lies on, in a text like `/proc/self/mountinfo`.
fn propagation_of(path: &Path, mountinfo: &str) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let mut best: (usize, String) = (0, String::new());
    for line in mountinfo.lines() {
        let Some((front, _)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = front.split(' ').collect();
        let Some(point) = fields.get(4).map(|point| point.replace("\\040", " ")) else { continue };
        let depth = Path::new(&point).components().count();
        if path.starts_with(&point) && depth >= best.0 {
            best = (depth, fields.get(6..).unwrap_or_default().join(" "));
        }
    }
    best.1
}

/// `path` without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            _ => {}
        }
    }
    cleaned
}

fn bind(place: impl AsRef<Path>, source: &Path, options: &[&str]) -> Result<Mount> {
    mount(place.as_ref(), "bind", source, options)
}

fn mount(place: &Path, kind: &str, source: &Path, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(place)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(|error| Error::internal(format!("mount of {}: {error}", place.display())))
}

#[cfg(test)]
mod tests {
    use super::super::build::tests::pod;
    use super::*;

    fn config(mounts: Vec<v1::Mount>) -> v1::ContainerConfig {
        v1::ContainerConfig { mounts, ..Default::default() }
    }

    fn asked(container: &str, host: &str) -> v1::Mount {
        v1::Mount { container_path: container.into(), host_path: host.into(), ..Default::default() }
    }

    fn places(config: &v1::ContainerConfig) -> Vec<String> {
        let mounts = mounts(config, &[], &pod(), false).unwrap().mounts;
        mounts.iter().map(|mount| mount.destination().display().to_string()).collect()
    }

    #[test]
    fn deep_mounts_come_after_the_ones_they_are_in() {
        let order = places(&config(vec![asked("/a/b/c", "/x"), asked("/a", "/y"), asked("/a/b", "/z")]));
        let at = |place: &str| order.iter().position(|one| one == place).unwrap();
        assert!(at("/a") < at("/a/b") && at("/a/b") < at("/a/b/c"));
        assert!(at("/dev") < at("/dev/shm") && order.contains(&"/etc/resolv.conf".into()));
    }

    #[test]
    fn a_request_replaces_ours() {
        let order = places(&config(vec![asked("/dev/shm/", "/x"), asked("/etc/resolv.conf", "/y")]));
        assert_eq!(order.iter().filter(|one| *one == "/dev/shm").count(), 1);
        assert_eq!(order.iter().filter(|one| *one == "/etc/resolv.conf").count(), 1);
        let order = places(&config(vec![asked("/dev", "/dev")]));
        assert_eq!(order.iter().filter(|one| one.starts_with("/dev")).collect::<Vec<_>>(), ["/dev"]);
    }

    #[test]
    fn access_is_as_asked() {
        let read_only = v1::Mount { readonly: true, ..asked("/r", "/x") };
        let deep = v1::Mount { readonly: true, recursive_read_only: true, ..asked("/d", "/x") };
        let all = mounts(&config(vec![read_only, deep]), &[], &pod(), false).unwrap().mounts;
        let options = |place: &str| {
            let found = all.iter().find(|mount| mount.destination() == Path::new(place)).unwrap();
            found.options().clone().unwrap()
        };
        assert_eq!(options("/r"), ["rbind", "rprivate", "ro"]);
        assert_eq!(options("/d"), ["rbind", "rprivate", "rro"]);
        assert!(options("/sys").contains(&"ro".into()));
        let privileged = mounts(&config(vec![]), &[], &pod(), true).unwrap().mounts;
        let sys = privileged.iter().find(|mount| mount.destination() == Path::new("/sys")).unwrap();
        assert!(sys.options().clone().unwrap().contains(&"rw".into()));
    }

    #[test]
    fn users_on_the_hosts_network_see_the_hosts_sys() {
        let kind = |pod: &PodFacts| {
            let all = mounts(&config(vec![]), &[], pod, false).unwrap().mounts;
            all.iter().find(|mount| mount.destination() == Path::new("/sys")).unwrap().typ().clone().unwrap()
        };
        let ids = || vec![Range { inside: 0, outside: 7, length: 1 }];
        let users = IdMap::new(ids(), ids()).unwrap();
        let own = PodFacts { users: Some((users, "/run/users".into())), ..pod() };
        assert_eq!((kind(&pod()).as_str(), kind(&own).as_str()), ("sysfs", "sysfs"));
        assert_eq!(kind(&PodFacts { netns: None, ..own }), "bind");
        assert_eq!(kind(&PodFacts { netns: None, ..pod() }), "sysfs");
    }

    #[test]
    fn the_deepest_mount_says_how_it_propagates() {
        let info = "1 0 0:1 / / rw shared:1 - ext4 a rw\n2 1 0:2 / /nowhere rw - tmpfs b rw\n3 1 0:3 / /nowhere/x rw master:4 - tmpfs c rw\n";
        assert_eq!(propagation_of(Path::new("/nowhere-else"), info), "shared:1");
        assert_eq!(propagation_of(Path::new("/nowhere/y"), info), "");
        assert_eq!(propagation_of(Path::new("/nowhere/x/y"), info), "master:4");
    }
}
