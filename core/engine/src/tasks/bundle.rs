//! The folders of sandboxes and containers under `<state>/bundles`, and the small files that the engine keeps there.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use windlass_model::process::Exit;
use windlass_model::{Context, Error, Id, Kind, Namespace, Result};
use windlass_sys::fs::{remove_tree, write_atomic};
use windlass_sys::mount::unmount;
use windlass_wire::bootstrap::Bootstrap;
use windlass_wire::words;

/// In a container's bundle: the id of the sandbox whose shim runs it.
const SANDBOX_FILE: &str = "sandbox";
/// In a container's bundle: how its task ended, where its shim is no more.
const EXIT_FILE: &str = "exit.json";
/// In a container's bundle: named pipes.
const STREAMS_DIR: &str = "exec";
/// In a sandbox's bundle: its creation is under way.
const CREATING_FILE: &str = "creating";
/// In a shim's bundle: the executable, where it is not ours.
const BINARY_FILE: &str = "shim";

/// What is found on disk when a daemon starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A shim was started here.
    Shim(Namespace, Id),
    /// A container that lives in the shim of the sandbox named last.
    Container(Namespace, Id, Id),
}

/// How a task ended, as it is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// Its first process; 0 where that was never known.
    pub(super) pid: u32,
    /// How and when.
    pub(super) exit: Exit,
}

/// `<state>/bundles`.
#[derive(Clone, Debug)]
pub(super) struct Bundles(PathBuf);

/// One bundle: a sandbox's, or a container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bundle(PathBuf);

impl Bundles {
    pub(super) fn new(state: &Path) -> Self {
        Self(state.join("bundles"))
    }

    pub(super) fn of(&self, namespace: &Namespace, id: &Id) -> Bundle {
        Bundle(self.0.join(namespace.as_str()).join(id.as_str()))
    }

    /// Everything on disk; names that are no ids are nobody's and passed over.
    pub(super) fn scan(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for namespace in names::<Namespace>(&self.0)? {
            for id in names::<Id>(&self.0.join(namespace.as_str()))? {
                let bundle = self.of(&namespace, &id);
                if let Some(sandbox) = bundle.sandbox() {
                    found.push(Found::Container(namespace.clone(), id.clone(), sandbox));
                }
                if bundle.has_shim() {
                    found.push(Found::Shim(namespace.clone(), id));
                }
            }
        }
        Ok(found)
    }
}

/// The entries of a folder that are valid names; a missing folder has none.
fn names<T: std::str::FromStr>(folder: &Path) -> Result<Vec<T>> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("list {}", folder.display())),
    };
    let entries = listing.collect::<std::io::Result<Vec<_>>>().context(|| format!("list {}", folder.display()))?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

impl Bundle {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// `<state>/seccomp`, where shims share compiled seccomp profiles; they make it.
    pub(super) fn seccomp_cache(&self) -> Option<PathBuf> {
        self.0.ancestors().nth(3).map(|state| state.join("seccomp"))
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.0.join(words::ROOTFS_DIR)
    }

    pub(super) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// True where a shim was started.
    pub(super) fn has_shim(&self) -> bool {
        self.0.join(words::BOOTSTRAP_FILE).exists()
    }

    /// Makes the folder and those above it; one that is there is kept.
    pub(super) fn make(&self) -> Result<()> {
        // 0711: a process with another user's id must be able to pass through to its root file system.
        DirBuilder::new().recursive(true).mode(0o711).create(&self.0).context(|| format!("make {}", self.0.display()))
    }

    /// Writes what a container's task is made from.
    pub(super) fn fill(&self, sandbox: &Id, spec: &[u8]) -> Result<()> {
        self.make()?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(self.rootfs())
            .context(|| format!("make {}", self.rootfs().display()))?;
        self.write(words::SPEC_FILE, spec)?;
        self.write(SANDBOX_FILE, sandbox.as_str().as_bytes())
    }

    /// Begins the bundle of a sandbox, with a specification for its shim to read.
    pub(super) fn begin_sandbox(&self, spec: Option<&[u8]>) -> Result<()> {
        self.make()?;
        self.write(CREATING_FILE, b"")?;
        spec.map_or(Ok(()), |spec| self.write(words::SPEC_FILE, spec))
    }

    /// The sandbox is created.
    pub(super) fn end_creation(&self) -> Result<()> {
        remove_tree(&self.0.join(CREATING_FILE))
    }

    /// True where a daemon died over the sandbox's creation.
    pub(super) fn is_half_made(&self) -> bool {
        self.0.join(CREATING_FILE).exists()
    }

    /// How the bundle's shim is reached.
    pub(super) fn bootstrap(&self) -> Result<Bootstrap> {
        Bootstrap::load(&self.0)
    }

    /// The sandbox of a container's bundle.
    pub(super) fn sandbox(&self) -> Option<Id> {
        fs::read_to_string(self.0.join(SANDBOX_FILE)).ok()?.parse().ok()
    }

    /// The cgroup that the container's specification names.
    pub(super) fn cgroup(&self) -> Option<String> {
        let spec = fs::read(self.0.join(words::SPEC_FILE)).ok()?;
        let spec: serde_json::Value = serde_json::from_slice(&spec).ok()?;
        let path = spec.pointer("/linux/cgroupsPath")?.as_str()?;
        (!path.is_empty()).then(|| path.to_owned())
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        serde_json::from_slice(&fs::read(self.0.join(EXIT_FILE)).ok()?).ok()
    }

    /// Writes down how the task ended; only its entry does, which knows whether the bundle is still the task's.
    pub(super) fn set_ended(&self, ended: Ended) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let bytes =
            serde_json::to_vec(&ended).map_err(|error| Error::with_source(Kind::Internal, "encode an exit", error))?;
        self.write(EXIT_FILE, &bytes)
    }

    /// The executable of a shim that is not ours.
    pub(super) fn binary(&self) -> Option<PathBuf> {
        fs::read_to_string(self.0.join(BINARY_FILE)).ok().map(PathBuf::from)
    }

    pub(super) fn set_binary(&self, binary: &Path) -> Result<()> {
        self.write(BINARY_FILE, binary.as_os_str().as_encoded_bytes())
    }

    /// Where the named pipes of execs and attached clients are while a shim opens its ends.
    pub(super) fn streams(&self) -> PathBuf {
        self.0.join(STREAMS_DIR)
    }

    /// Removes the named pipes that a daemon died over.
    pub(super) fn sweep_streams(&self) {
        if let Err(error) = remove_tree(&self.streams()) {
            tracing::warn!(%error, "pipes of an earlier daemon stay");
        }
    }

    /// The process that the shim says it is.
    pub(super) fn shim_pid(&self) -> Option<u32> {
        fs::read_to_string(self.0.join(words::PID_FILE)).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
    }

    /// Writes down how the shim is reached, where it has not done so itself.
    pub(super) fn keep_bootstrap(&self, bootstrap: &Bootstrap) -> Result<()> {
        if self.has_shim() {
            return Ok(());
        }
        self.write(words::BOOTSTRAP_FILE, bootstrap.to_json().as_bytes())
    }

    /// Removes what belongs to a shim from the bundle of a container that had one of its own.
    pub(super) fn forget_shim(&self) -> Result<()> {
        for name in [
            words::BOOTSTRAP_FILE,
            words::PID_FILE,
            words::SOCKET_FILE,
            words::OUTBOX_DIR,
            words::LOG_FILE,
            BINARY_FILE,
        ] {
            remove_tree(&self.0.join(name))?;
        }
        Ok(())
    }

    /// Takes away the mounts in it, then the folder; nothing there is success.
    pub(super) fn remove(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        self.remove_distant_socket();
        // remove_tree leaves mounts alone, so a folder that cannot be unmounted fails here and loses nothing.
        unmount(&self.rootfs())?;
        unmount(&self.0.join(words::SHM_DIR))?;
        remove_tree(&self.0)
    }

    /// Removes the socket of a shim whose bundle has too long a path to hold one.
    fn remove_distant_socket(&self) {
        let Ok(bootstrap) = Bootstrap::load(&self.0) else { return };
        let distant = bootstrap.socket().filter(|socket| !socket.starts_with(&self.0));
        if let Some(socket) = distant
            && fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket())
        {
            // One that stays costs a name and nothing else.
            let _ = fs::remove_file(socket);
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.0.join(name), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_finds_shims_and_containers() {
        let state = tempfile::tempdir().unwrap();
        let bundles = Bundles::new(state.path());
        assert_eq!(bundles.scan().unwrap(), []);
        let namespace: Namespace = "k8s.io".parse().unwrap();
        let (pod, container): (Id, Id) = ("pod".parse().unwrap(), "container".parse().unwrap());
        bundles.of(&namespace, &pod).make().unwrap();
        assert_eq!(bundles.scan().unwrap(), [], "nothing was started here");
        fs::write(bundles.of(&namespace, &pod).path().join(words::BOOTSTRAP_FILE), "{}").unwrap();
        let bundle = bundles.of(&namespace, &container);
        bundle.fill(&pod, br#"{"linux":{"cgroupsPath":"/kubepods/x"}}"#).unwrap();
        let mut found = bundles.scan().unwrap();
        found.sort_by_key(|found| matches!(found, Found::Container(..)));
        assert_eq!(found, [Found::Shim(namespace.clone(), pod.clone()), Found::Container(namespace, container, pod)]);
        assert_eq!(bundle.cgroup().as_deref(), Some("/kubepods/x"));
        bundle.remove().unwrap();
        bundle.remove().unwrap();
        assert!(!bundle.exists());
    }

    #[test]
    fn an_exit_is_kept_only_where_there_is_a_bundle() {
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundles::new(state.path()).of(&"n".parse().unwrap(), &"c".parse().unwrap());
        let ended = Ended { pid: 7, exit: Exit { status: 137, at: windlass_model::Timestamp(5) } };
        bundle.set_ended(ended).unwrap();
        assert_eq!(bundle.ended(), None);
        bundle.make().unwrap();
        bundle.set_ended(ended).unwrap();
        assert_eq!(bundle.ended(), Some(ended));
    }
}
