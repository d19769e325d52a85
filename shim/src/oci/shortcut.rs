//! The built-in runtime's way into cgroups of version 1 that does not wait.
//!
//! libcontainer writes process ids to `cgroup.procs` of every hierarchy, and there the kernel waits each time until all
//! processors have noticed. A process of one thread that moves itself does not wait, so the runtime goes into the
//! cgroups itself and what it forks is there by inheritance; libcontainer is shown no cgroups. Of a container that is
//! created, the limits are set at the end, when all the work is done and nothing of the container runs yet, so they do
//! not slow down or kill the runtime.
//!
//! What hides the cgroups is a mount namespace of the runtime's own, with nothing in it but what libcontainer needs: it
//! reads the list of all mounts again and again, and on a node with many pods that is long. The container's namespace is
//! made before it from the host's, so that mounts go on to propagate between those two, and libcontainer is told to
//! join it.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    move_mount, open_tree, unmount,
};
use serde_json::{Value, json};
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::cgroup::Layout;
use windlass_wire::words;

use super::corrections;
use super::runtime::refused;

/// Where the hierarchies are mounted, and so a folder that is there to put a new root on.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The folder in a container's bundle with the specification that libcontainer gets.
const FOLDER: &str = "oci-spec";

/// A creation that takes this way.
#[derive(Debug)]
pub struct Shortcut {
    /// The bundle that libcontainer is to take.
    pub bundle: PathBuf,
    /// The hierarchies, which this process does not see.
    hierarchies: OwnedFd,
    /// The container's mount namespace, which its first process joins through this descriptor.
    _mounts: File,
    cgroup: String,
    resources: Value,
}

impl Shortcut {
    /// Prepares a creation, with this process in `cgroup` from now on; nothing where the container must be made in
    /// libcontainer's own way. Besides the bundle it is to find `others`; what is `confined` by this runtime is left out.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where the specification is none; otherwise where the kernel refuses.
    pub fn take(
        layout: &Layout,
        bundle: &Path,
        cgroup: &str,
        others: &[&Path],
        confined: bool,
    ) -> Result<Option<Self>> {
        let file = bundle.join(words::SPEC_FILE);
        let bytes = fs::read(&file).context(|| format!("read {}", file.display()))?;
        let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error);
        let mut spec: Value = serde_json::from_slice(&bytes).map_err(refuse)?;
        if !is_plain(&spec) {
            return Ok(None);
        }
        new_mount_namespace()?;
        let mounts = File::open("/proc/self/ns/mnt").context(|| "open the mount namespace".into())?;
        let needed = joined_paths(&spec);
        let resources = rewrite(&mut spec, bundle, mounts.as_raw_fd());
        corrections::correct(&mut spec, confined);
        let folder = bundle.join(FOLDER);
        fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
        let bytes = serde_json::to_vec(&spec).map_err(refuse)?;
        windlass_sys::fs::write_atomic(&folder.join(words::SPEC_FILE), &bytes)?;
        layout.enter(cgroup)?;
        let root = spec.pointer("/root/path").and_then(Value::as_str).map(PathBuf::from);
        let paths = others.iter().map(|path| path.to_path_buf()).chain(needed).chain(root).chain([bundle.into()]);
        let hierarchies = hide_cgroups(paths)?;
        Ok(Some(Self { bundle: folder, hierarchies, _mounts: mounts, cgroup: cgroup.into(), resources }))
    }

    /// Limits the cgroup as the specification says; to be called when the container is made.
    ///
    /// # Errors
    /// Where the kernel refuses a limit.
    pub fn finish(self) -> Result<()> {
        move_mount(&self.hierarchies, "", CWD, CGROUPS, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(std::io::Error::from)
            .context(|| "show the cgroups again".into())?;
        limit(&self.cgroup, &self.resources, "", false)
    }
}

/// Sets the limits of `cgroup` to `resources`, as the OCI specification has them. systemd needs the container's name.
///
/// # Errors
/// [`Kind::InvalidArgument`] where they are none; otherwise where the kernel refuses one.
pub fn limit(cgroup: &str, resources: &Value, container: &str, systemd: bool) -> Result<()> {
    if resources.is_null() {
        return Ok(());
    }
    let resources = serde_json::from_value(resources.clone())
        .map_err(|error| Error::with_source(Kind::InvalidArgument, "resources of a container", error))?;
    let config = CgroupConfig { cgroup_path: cgroup.into(), systemd_cgroup: systemd, container_name: container.into() };
    let change =
        ControllerOpt { resources: &resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
    create_cgroup_manager(config).map_err(refused)?.apply(&change).map_err(refused)
}

/// True for a container whose mount namespace this process can make for it, and that has no hooks: they are told the
/// bundle's path, and the first of them run before limits are set here.
fn is_plain(spec: &Value) -> bool {
    let hooked = spec
        .get("hooks")
        .and_then(Value::as_object)
        .is_some_and(|hooks| hooks.values().any(|list| list.as_array().is_some_and(|list| !list.is_empty())));
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let has = |kind: &str| namespaces.is_some_and(|list| list.iter().any(|namespace| namespace["type"] == kind));
    let joins = |namespace: &Value| namespace["type"] == "mount" && namespace.get("path").is_some_and(|p| p != "");
    let joined = namespaces.is_some_and(|list| list.iter().any(joins));
    !hooked && !has("user") && has("mount") && !joined
}

/// Changes the specification to what libcontainer is to do; gives the limits, which it is not to set.
fn rewrite(spec: &mut Value, bundle: &Path, mounts: i32) -> Value {
    if let Some(path) = spec.pointer_mut("/root/path") {
        // Joining an absolute path gives that path.
        *path = json!(bundle.join(path.as_str().unwrap_or_default()));
    }
    let namespaces = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    for namespace in namespaces.into_iter().flatten().filter(|namespace| namespace["type"] == "mount") {
        namespace["path"] = json!(format!("/proc/self/fd/{mounts}"));
    }
    spec.pointer_mut("/linux/resources").map(Value::take).unwrap_or_default()
}

/// The namespaces that the container joins by a path of their own.
fn joined_paths(spec: &Value) -> Vec<PathBuf> {
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let paths = namespaces.into_iter().flatten().filter_map(|namespace| namespace["path"].as_str());
    paths.filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

fn new_mount_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(std::io::Error::from).context(|| "make a mount namespace".into())
}

/// Leaves this process with the root file system, `paths`, and no cgroups; gives these as a tree that can be mounted.
fn hide_cgroups(paths: impl IntoIterator<Item = PathBuf>) -> Result<OwnedFd> {
    new_mount_namespace()?;
    let hide = || {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let hierarchies = open_tree(CWD, CGROUPS, flags)?;
        mount_bind("/", CGROUPS)?;
        let mut shown = Vec::new();
        for path in ["/proc", "/sys", "/dev"].into_iter().map(PathBuf::from).chain(paths) {
            show(&path, &mut shown)?;
        }
        mount("tmpfs", format!("{CGROUPS}{CGROUPS}"), "tmpfs", MountFlags::RDONLY, None)?;
        rustix::process::chdir(CGROUPS)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        Ok(hierarchies)
    };
    hide().map_err(|error: std::io::Error| error).context(|| "hide the cgroups".into())
}

/// Binds below the new root all mounts on the way to `path` that are not there yet; a path that is missing is left out.
fn show(path: &Path, shown: &mut Vec<PathBuf>) -> std::io::Result<()> {
    // Links must not lead from the new root back to the old one.
    let Ok(path) = fs::canonicalize(path) else { return Ok(()) };
    let mut inside = PathBuf::from("/");
    let mut mounted = mount_id(&inside)?;
    for part in path.components().skip(1) {
        inside.push(part);
        let here = mount_id(&inside)?;
        if here != mounted && !shown.contains(&inside) {
            mount_bind(&inside, Path::new(CGROUPS).join(inside.strip_prefix("/").unwrap_or(&inside)))?;
            shown.push(inside.clone());
        }
        mounted = here;
    }
    Ok(())
}

fn mount_id(path: &Path) -> std::io::Result<u64> {
    Ok(statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_containers_take_the_shortcut() {
        let spec = |namespaces: Value| json!({"linux": {"namespaces": namespaces}});
        assert!(is_plain(&spec(json!([{"type": "pid"}, {"type": "mount"}]))));
        assert!(!is_plain(&spec(json!([{"type": "user"}, {"type": "mount"}]))));
        assert!(!is_plain(&spec(json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]))));
        assert!(!is_plain(&spec(json!([]))) && !is_plain(&json!({})));
        let mut hooked = spec(json!([{"type": "mount"}]));
        hooked["hooks"] = json!({"prestart": [], "poststop": null});
        assert!(is_plain(&hooked));
        hooked["hooks"] = json!({"createRuntime": [{"path": "/x"}]});
        assert!(!is_plain(&hooked));
    }

    #[test]
    fn a_specification_is_rewritten_without_its_limits() {
        let mut spec = json!({"root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}],
            "resources": {"pids": {"limit": 5}}}});
        let resources = rewrite(&mut spec, Path::new("/b"), 7);
        assert_eq!(resources, json!({"pids": {"limit": 5}}));
        assert_eq!(spec["root"]["path"], "/b/rootfs");
        assert_eq!(spec["linux"]["namespaces"], json!([{"type": "mount", "path": "/proc/self/fd/7"}, {"type": "pid"}]));
        assert!(spec["linux"]["resources"].is_null());
    }
}
