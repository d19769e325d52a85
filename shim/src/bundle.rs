//! A container's bundle: what the shim must know of its specification, the root file system, and the note that lets
//! another process clean up after a shim that was killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_model::{Context, Error, Kind, Mount, Result};
use windlass_sys::cgroup::{self, Layout};
use windlass_sys::fs::{open_folder, open_in_root};
use windlass_sys::idmap::IdMap;
use windlass_sys::mount;
use windlass_wire::task::Options;
use windlass_wire::words;

use crate::oci::Moment;
use crate::sources::{self, Source};

/// The folder in a container's bundle where OCI runtimes keep their state.
pub const STATE_DIR: &str = "oci";
/// The folder in a pod's bundle with a note for each container.
const NOTES_DIR: &str = "containers";

/// What the shim takes from `config.json`; the OCI runtime reads the rest.
#[derive(Debug, Deserialize)]
struct Spec {
    process: Option<Process>,
    mounts: Option<Vec<Value>>,
    hooks: Option<BTreeMap<String, Option<Vec<IgnoredAny>>>>,
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    terminal: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    cwd: PathBuf,
    oom_score_adj: Option<i32>,
    no_new_privileges: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct User {
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    cgroups_path: Option<String>,
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    uid_mappings: Value,
    #[serde(default)]
    gid_mappings: Value,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

/// What a machine and a shim allow, by which a specification is corrected.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The cgroups.
    pub layout: Layout,
    /// The lowest `oom_score_adj` that the kernel lets our children have; nothing where any goes.
    pub lowest_oom_score: Option<i32>,
}

/// A container's folder and what the shim knows of its specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The container.
    pub id: String,
    /// The folder.
    pub path: PathBuf,
    /// Its cgroup, as the specification names it.
    pub cgroup: String,
    /// The OCI runtime's executable; nothing for the one built in.
    pub runtime: Option<PathBuf>,
    /// Where the built-in runtime keeps its state, and this program what it tells a runtime.
    pub state: PathBuf,
    /// Where a runtime by path keeps its state, where a client wants that elsewhere.
    #[serde(default)]
    root: Option<PathBuf>,
    /// The root file system is changed without pivoting.
    #[serde(skip)]
    pub no_pivot: bool,
    /// A runtime by path makes no keyring.
    #[serde(skip)]
    pub no_keyring: bool,
    /// Who the first process runs as, in the host's ids: user, group.
    #[serde(skip)]
    pub owner: (u32, u32),
    /// The ids of its user namespace; nothing: the host's.
    #[serde(skip)]
    ids: Option<IdMap>,
    /// Copies of the sources of its bind mounts.
    #[serde(skip)]
    sources: Vec<Source>,
    /// Where its first process starts.
    #[serde(skip)]
    pub cwd: PathBuf,
    /// The names of its hooks that have something to do.
    #[serde(default)]
    pub hooks: Vec<String>,
    /// The container's processes end with its first one, because it is process 1 of their namespace.
    #[serde(skip)]
    pub own_pids: bool,
}

impl Bundle {
    /// Reads the specification in `path`, corrects what cannot work on this machine or with this `runtime` (nothing for
    /// the one built in), and says what must be known.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without a `config.json`, [`Kind::InvalidArgument`] where it is not a specification.
    pub fn load(id: &str, path: &Path, terminal: bool, runtime: Option<PathBuf>, limits: &Limits) -> Result<Self> {
        let file = path.join(words::SPEC_FILE);
        let bytes = fs::read(&file).context(|| format!("read {}", file.display()))?;
        let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error);
        let spec: Spec = serde_json::from_slice(&bytes).map_err(refuse)?;
        let process = spec.process.ok_or_else(|| Error::invalid(format!("{} has no process", file.display())))?;
        let linux = spec.linux.ok_or_else(|| Error::invalid(format!("{} is not for Linux", file.display())))?;

        let mut changes: Vec<(&str, Value)> = Vec::new();
        let cgroup = match linux.cgroups_path.as_deref() {
            None | Some("") => format!("/windlass/{id}"),
            // Only with version 2 does systemd let others into the cgroups of its units; the place is the same.
            Some(path) if !limits.layout.is_v2() && !path.starts_with('/') => {
                format!("/{}", cgroup::relative(path)?.display())
            }
            Some(path) => path.to_owned(),
        };
        if linux.cgroups_path.as_deref() != Some(&cgroup) {
            changes.push(("/linux/cgroupsPath", Value::from(cgroup.clone())));
        }
        if process.terminal != terminal {
            changes.push(("/process/terminal", Value::from(terminal)));
        }
        changes.extend(limits.oom_change(process.oom_score_adj).map(|score| ("/process/oomScoreAdj", score)));
        let ids = sources::ids(&linux.uid_mappings, &linux.gid_mappings)?;
        let mut mounts = spec.mounts.unwrap_or_default();
        let sources = sources::take(&mut mounts, path, ids.is_some())?;
        let plain = runtime.is_none().then(|| cgroup_mounts(&mounts, &limits.layout, &cgroup)).transpose()?.flatten();
        if plain.is_some() || !sources.is_empty() {
            changes.push(("/mounts", plain.unwrap_or_else(|| mounts.into())));
        }
        if runtime.is_none() {
            changes.extend(privileges_change(&process).map(|none| ("/process/noNewPrivileges", none)));
        }
        if !changes.is_empty() {
            amend(&file, &bytes, &changes)?;
        }

        let hooks = spec.hooks.unwrap_or_default();
        Ok(Self {
            id: id.into(),
            path: path.into(),
            cgroup,
            runtime,
            state: path.join(STATE_DIR),
            root: None,
            no_pivot: false,
            no_keyring: false,
            owner: outside(ids.as_ref(), (process.user.uid, process.user.gid)),
            ids,
            sources,
            cwd: process.cwd,
            hooks: hooks
                .into_iter()
                .filter(|(_, list)| list.iter().flatten().next().is_some())
                .map(|(name, _)| name)
                .collect(),
            own_pids: linux
                .namespaces
                .iter()
                .any(|namespace| namespace.kind == "pid" && namespace.path.as_ref().is_none_or(String::is_empty)),
        })
    }

    /// Heeds what a client of `namespace` says about the runtime. What is for checkpoints only is not looked at.
    pub fn heed(&mut self, options: &Options, namespace: &str) {
        if self.runtime.is_some() && !options.root.is_empty() {
            self.root = Some(Path::new(&options.root).join(namespace));
        }
        if (options.io_uid, options.io_gid) != (0, 0) {
            self.owner = (options.io_uid, options.io_gid);
        }
        (self.no_pivot, self.no_keyring) = (options.no_pivot_root, options.no_new_keyring);
    }

    /// True where the built-in runtime is to be called for hooks of this moment.
    pub fn calls_hooks(&self, moment: Moment) -> bool {
        self.runtime.is_none() && self.hooks.iter().any(|hook| hook == moment.name())
    }

    /// Where the runtime keeps its state.
    pub fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(&self.state)
    }

    /// Where the root file system is mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join(words::ROOTFS_DIR)
    }

    /// A user and a group of the container, as the host knows them.
    pub fn outside(&self, ids: (u32, u32)) -> (u32, u32) {
        outside(self.ids.as_ref(), ids)
    }

    /// Mounts the root file system and what else the specification needs to find.
    ///
    /// # Errors
    /// Where a mount fails; [`Bundle::clear`] takes away the others.
    pub fn mount(&self, mounts: &[Mount]) -> Result<()> {
        sources::attach(&self.sources, &self.path)?;
        if mounts.is_empty() {
            return Ok(());
        }
        let rootfs = self.rootfs();
        fs::create_dir_all(&rootfs).context(|| format!("make {}", rootfs.display()))?;
        mount::mount_all(mounts, &rootfs)?;
        // Other runtimes make it themselves.
        if self.runtime.is_none() {
            make_folders(&rootfs, &self.cwd, self.outside((0, 0)))?;
        }
        Ok(())
    }

    /// Takes away what [`Bundle::mount`] put there, and the runtime's state.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn clear(&self) -> Result<()> {
        mount::unmount(&self.rootfs())?;
        sources::detach(&self.path)?;
        match fs::remove_dir_all(self.root().join(&self.id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(|| format!("remove the runtime's state of {}", self.id))
            }
            _ => Ok(()),
        }
    }

    /// Leaves a note in the pod's bundle, by which `delete` finds this container after the shim was killed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&self, pod: &Path) -> Result<()> {
        let folder = pod.join(NOTES_DIR);
        fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
        let bytes = serde_json::to_vec(self).map_err(|error| Error::with_source(Kind::Internal, "a note", error))?;
        windlass_sys::fs::write_atomic(&folder.join(&self.id), &bytes)
    }

    /// Takes the note away.
    pub fn forget(&self, pod: &Path) {
        fs::remove_file(pod.join(NOTES_DIR).join(&self.id)).ok();
    }

    /// All containers that have a note in a pod's bundle.
    pub fn noted(pod: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(pod.join(NOTES_DIR)) else { return Vec::new() };
        let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        entries.flatten().filter_map(|entry| read(entry.path())).collect()
    }
}

impl Limits {
    /// The score that takes the place of `wanted`, where the kernel would refuse it.
    fn oom_change(&self, wanted: Option<i32>) -> Option<Value> {
        let lowest = self.lowest_oom_score?;
        wanted.filter(|wanted| *wanted < lowest).map(|_| Value::from(lowest))
    }
}

/// Writes the specification of an exec where an OCI runtime can read it; says who it runs as.
///
/// # Errors
/// [`Kind::InvalidArgument`] where it is not a process.
pub fn write_process(file: &Path, spec: &[u8], terminal: bool, limits: &Limits) -> Result<(u32, u32)> {
    let refuse = |error| Error::with_source(Kind::InvalidArgument, "the process to execute", error);
    let process: Process = serde_json::from_slice(spec).map_err(refuse)?;
    let mut changes = Vec::new();
    if process.terminal != terminal {
        changes.push(("/terminal", Value::from(terminal)));
    }
    changes.extend(limits.oom_change(process.oom_score_adj).map(|score| ("/oomScoreAdj", score)));
    if changes.is_empty() {
        fs::write(file, spec).context(|| format!("write {}", file.display()))?;
    } else {
        amend(file, spec, &changes)?;
    }
    Ok((process.user.uid, process.user.gid))
}

/// Takes a false `noNewPrivileges` away. libcontainer looks only at whether it is there when it decides whether a seccomp
/// profile must be loaded while the process still has privileges.
fn privileges_change(process: &Process) -> Option<Value> {
    (process.no_new_privileges == Some(false)).then_some(Value::Null)
}

/// The mounts with those of cgroups replaced by plain ones, where there are any and the hierarchies are of version 1.
///
/// libcontainer looks for the container's cgroup in the wrong place where the container shares the host's pid namespace,
/// and reads all mounts of the machine many times.
fn cgroup_mounts(mounts: &[Value], layout: &Layout, cgroup: &str) -> Result<Option<Value>> {
    let Layout::V1(hierarchies) = layout else { return Ok(None) };
    let is_cgroup = |mount: &Value| mount["type"] == "cgroup";
    if !mounts.iter().any(is_cgroup) {
        return Ok(None);
    }
    let folders = layout.folders(cgroup)?;
    let mut plain = Vec::with_capacity(mounts.len() + folders.len());
    for mount in mounts {
        let destination = mount["destination"].as_str().map(Path::new);
        let Some(destination) = destination.filter(|_| is_cgroup(mount)) else {
            plain.push(mount.clone());
            continue;
        };
        let read_only = mount["options"].as_array().is_some_and(|options| options.iter().any(|option| option == "ro"));
        plain.push(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "nodev", "mode=755"]}));
        for (folder, hierarchy) in folders.iter().zip(hierarchies) {
            plain.push(json!({"destination": destination.join(hierarchy.file_name().unwrap_or_default()), "type": "bind", "source": folder,
                "options": ["bind", "nosuid", "noexec", "nodev", if read_only { "ro" } else { "rw" }]}));
        }
    }
    Ok(Some(plain.into()))
}

/// Makes the folders of `path` that are missing, as a process would that has `root` for its root folder.
fn make_folders(root: &Path, path: &Path, owner: (u32, u32)) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open_folder(root)?;
    let mut parent = open_in_root(&root, Path::new("."), flags, Mode::empty())?;
    let mut inside = PathBuf::new();
    for name in path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)) {
        inside.push(name);
        let mut opened = open_in_root(&root, &inside, flags, Mode::empty());
        if opened.as_ref().is_err_and(|error| error.kind() == Kind::NotFound) {
            rustix::fs::mkdirat(&parent, name.as_os_str(), Mode::from_raw_mode(0o755))
                .map_err(std::io::Error::from)
                .context(|| format!("make the working directory {}", path.display()))?;
            opened = open_in_root(&root, &inside, flags, Mode::empty());
            if let Ok(made) = &opened {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                rustix::fs::chownat(made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                    .map_err(std::io::Error::from)
                    .context(|| format!("give away the working directory {}", path.display()))?;
            }
        }
        parent = opened?;
    }
    Ok(())
}

/// Ids as the host knows them; one without a place in the map stays what it is, and the runtime refuses it.
fn outside(map: Option<&IdMap>, (uid, gid): (u32, u32)) -> (u32, u32) {
    map.map_or((uid, gid), |map| (map.uid(uid).unwrap_or(uid), map.gid(gid).unwrap_or(gid)))
}

/// Writes `bytes`, a JSON object, to `file` with `changes` (pointer, value).
fn amend(file: &Path, bytes: &[u8], changes: &[(&str, Value)]) -> Result<()> {
    let refuse = |error| Error::with_source(Kind::InvalidArgument, format!("read {}", file.display()), error);
    let mut document: Value = serde_json::from_slice(bytes).map_err(refuse)?;
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if let Some(Value::Object(parent)) = document.pointer_mut(parent) {
            parent.insert(name.into(), value.clone());
        }
    }
    let bytes = serde_json::to_vec(&document).map_err(refuse)?;
    windlass_sys::fs::write_atomic(file, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { layout: Layout::V1(vec!["/sys/fs/cgroup/memory".into()]), lowest_oom_score: Some(0) }
    }

    #[test]
    fn a_specification_is_corrected_to_what_can_work() {
        let dir = std::env::temp_dir().join(format!("w-bundle-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let spec = r#"{"ociVersion":"1.1.0","process":{"args":["a"],"oomScoreAdj":-998,"noNewPrivileges":false,"user":{"uid":5,"gid":6}},
            "mounts":[{"destination":"/c","type":"cgroup","options":["ro"]},{"destination":"/d","type":"proc"}],
            "hooks":{"poststop":[{"path":"/x"}],"prestart":[]},"linux":{"cgroupsPath":"a-b.slice:cri:c",
            "namespaces":[{"type":"pid"},{"type":"ipc","path":"/proc/1/ns/ipc"}]}}"#;
        fs::write(dir.join("config.json"), spec).unwrap();
        let bundle = Bundle::load("c", &dir, true, None, &limits()).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        bundle.note(&dir).unwrap();
        let noted = Bundle::noted(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((bundle.cgroup.as_str(), bundle.owner), ("/a.slice/a-b.slice/cri-c.scope", (5, 6)));
        assert_eq!((bundle.hooks, bundle.own_pids), (vec!["poststop".to_owned()], true));
        assert_eq!(written["process"]["oomScoreAdj"], 0);
        assert_eq!(written["process"]["terminal"], true);
        assert_eq!(written["linux"]["cgroupsPath"], "/a.slice/a-b.slice/cri-c.scope");
        assert!(written["process"]["noNewPrivileges"].is_null());
        assert_eq!(written["mounts"].as_array().unwrap().len(), 3);
        assert_eq!(written["mounts"][1]["source"], "/sys/fs/cgroup/memory/a.slice/a-b.slice/cri-c.scope");
        assert_eq!(written["mounts"][1]["destination"], "/c/memory");
        assert_eq!(noted[0].cgroup, "/a.slice/a-b.slice/cri-c.scope");
    }

    #[test]
    fn what_is_no_specification_is_refused() {
        let dir = std::env::temp_dir().join(format!("w-bundle-bad-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(Bundle::load("c", &dir, false, None, &limits()).unwrap_err().is_not_found());
        for bad in ["", "{}", "[]", r#"{"process":{}}"#] {
            fs::write(dir.join("config.json"), bad).unwrap();
            assert_eq!(
                Bundle::load("c", &dir, false, None, &limits()).unwrap_err().kind(),
                Kind::InvalidArgument,
                "{bad}"
            );
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
