//! The user databases of a container's root file system, looked at before the container runs.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use containerd_client::types::Mount;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use windlass_model::user::Databases;

use crate::spec::User;

/// The most that is read of a database, in bytes.
const LARGEST: u64 = 8 << 20;

/// What tells a user: none and numbers need no look at the image.
pub(crate) fn needs_databases(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once(':') {
        None => !text.is_empty() && text != "0" && text != "root",
        Some((user, group)) => !(number(user) && number(group)),
    }
}

/// Whom `text` stands for: `USER[:GROUP]` by names or numbers, root where it is empty.
pub(crate) fn user(text: &str, databases: &Databases) -> Result<User> {
    let text = if text == "root" && databases.passwd.is_empty() { "0" } else { text };
    let found = databases.find(text)?;
    let mut groups = vec![found.gid];
    groups.extend(found.account.iter().flat_map(|account| databases.groups_of(account.name)));
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid: found.uid, gid: found.gid, groups })
}

/// The databases in a folder, which may be hostile: nothing outside of it is read.
pub(crate) fn databases_in(root: &Path) -> Result<Databases> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, root, flags, Mode::empty()).with_context(|| format!("open {}", root.display()))?;
    let read = |name: &str| -> Result<String> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(folder.as_fd(), name, flags, Mode::empty(), inside) {
            Ok(file) => std::fs::File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
            Err(error) => return Err(error).with_context(|| format!("open {name} of the root file system")),
        };
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).with_context(|| format!("read {name} of the root file system"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Databases { passwd: read("etc/passwd")?, group: read("etc/group")? })
}

/// The databases of a root file system that is made by `mounts`. Blocks.
///
/// They are performed in a mount namespace of one thread's own, with which they go.
pub(crate) fn databases_of(mounts: Vec<Mount>) -> Result<Databases> {
    let folder = tempfile::tempdir().context("make a folder to mount at")?;
    let place = folder.path().to_owned();
    let thread = std::thread::spawn(move || -> Result<Databases> {
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace (root may)")?;
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
            .context("keep mounts private")?;
        for one in &mounts {
            perform(one, &place)?;
        }
        databases_in(&place)
    });
    thread.join().map_err(|_| anyhow!("the thread that mounts has panicked"))?.context("look for users in the image")
}

/// Performs one of a snapshot's mounts, for reading.
fn perform(one: &Mount, place: &Path) -> Result<()> {
    let is_bind = |option: &&String| matches!(option.as_str(), "bind" | "rbind");
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if one.r#type == "bind" || one.options.iter().any(|option| is_bind(&option)) {
        flags |= MountFlags::BIND;
    }
    let rest: Vec<&str> = one.options.iter().filter(|option| !is_bind(option)).map(String::as_str).collect();
    let rest: Vec<&str> = rest.into_iter().filter(|option| !matches!(*option, "ro" | "rw")).collect();
    let data = CString::new(rest.join(","))?;
    let target = place.join(one.target.trim_start_matches('/'));
    mount(one.source.as_str(), &target, one.r#type.as_str(), flags, data.as_c_str())
        .with_context(|| format!("mount {} at {}", one.source, target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_look() {
        for text in ["", "0", "root", "5:6"] {
            assert!(!needs_databases(text), "{text}");
        }
        for text in ["ada", "1000", "5:wheel", "ada:5", "5:"] {
            assert!(needs_databases(text), "{text}");
        }
    }

    #[test]
    fn a_root_file_system_cannot_lead_out_of_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(
            user("", &databases_in(folder.path()).expect("empty")).expect("root"),
            User { groups: vec![0], ..User::default() }
        );
        assert_eq!(user("root", &Databases::default()).expect("root").uid, 0);
        std::fs::create_dir(folder.path().join("etc")).expect("etc");
        std::os::unix::fs::symlink("/../../etc/hostname", folder.path().join("etc/passwd")).expect("a link");
        std::fs::write(folder.path().join("etc/hostname"), "ada:x:7:8::/:\n").expect("a file");
        std::fs::write(folder.path().join("etc/group"), "wheel:x:10:ada\n").expect("a file");
        let found = user("ada", &databases_in(folder.path()).expect("read")).expect("ada");
        assert_eq!(found, User { uid: 7, gid: 8, groups: vec![8, 10] });
        std::fs::remove_file(folder.path().join("etc/group")).expect("gone");
        rustix::fs::mknodat(CWD, folder.path().join("etc/group"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .expect("a pipe");
        assert_eq!(databases_in(folder.path()).expect("a pipe is no database").group, "");
    }
}
