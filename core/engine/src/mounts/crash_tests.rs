//! Activations after `kill -9` at each rung: a child activates, is held there by a double of `mkfs`, and dies; then nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::tests::assert_nothing_left;
use super::*;
use crate::testing::{close, open};

const FOLDER: &str = "WINDLASS_MOUNTS_CRASH_FOLDER";
const RUNG: &str = "WINDLASS_MOUNTS_CRASH_RUNG";
/// The file system with which the double holds.
const HELD: &str = "11111111-1111-4111-8111-111111111111";
/// How many mounts there are beside the one that holds.
const RUNGS: usize = 5;

/// Mounts of every sort, and before the one of that number a file system that is never finished.
fn list(own: &Path, rung: usize) -> Vec<Mount> {
    let one = |kind: &str, source: String, options: Vec<String>| Mount {
        kind: kind.into(),
        source,
        target: String::new(),
        options,
    };
    let at = |number: usize| number + usize::from(number >= rung);
    let image = |name: &str, uuid: &str| {
        let options = vec!["X-containerd.mkfs.size=2MiB".into(), format!("X-containerd.mkfs.uuid={uuid}")];
        one("mkfs/loop", own.join(name).display().to_string(), options)
    };
    let made = own.join("made").display().to_string();
    let files = format!("{{{{ mount {} }}}}", at(3));
    let mut list = vec![
        one("tmpfs", "tmpfs".into(), vec![]),
        one("mkdir/bind", made.clone(), vec![format!("X-containerd.mkdir.path={made}")]),
        image("image", "22222222-2222-4222-8222-222222222222"),
        one("ext4", format!("{{{{ source {} }}}}", at(2)), vec![]),
        one(
            "format/mkdir/overlay",
            "overlay".into(),
            vec![
                format!("X-containerd.mkdir.path={files}/upper"),
                format!("X-containerd.mkdir.path={files}/work"),
                format!("lowerdir={{{{ mount {} }}}}", at(0)),
                format!("upperdir={files}/upper"),
                format!("workdir={files}/work"),
            ],
        ),
    ];
    assert_eq!(list.len(), RUNGS);
    if rung <= RUNGS {
        list.insert(rung, image("held", HELD));
    }
    list
}

async fn own(tenant: &Tenant) -> PathBuf {
    let snapshots = tenant.snapshots("folders").unwrap();
    let id = match snapshots.stat("own").await {
        Ok(found) => found.id,
        Err(_) => {
            snapshots.prepare("own", None, Labels::new(), None).await.unwrap();
            snapshots.stat("own").await.unwrap().id
        }
    };
    tenant.core().driver("folders").unwrap().root().join(id.to_string())
}

/// Not a test by itself: the child, which activates and waits to be killed.
#[test]
fn child() {
    let (Some(folder), Ok(rung)) = (std::env::var_os(FOLDER), std::env::var(RUNG)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (core, _) = open(folder.as_ref()).await.unwrap();
        let tenant = core.tenant("test".parse().unwrap());
        let own = own(&tenant).await;
        let list = list(&own, rung.parse().unwrap());
        tenant.mounts().activate("a", list, true, Labels::new()).await.unwrap();
        fs::write(Path::new(&folder).join("whole"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

/// Runs the child until it is held at that rung, or done where there is none such, and kills it.
fn run_child(folder: &Path, rung: usize) {
    let doubles = folder.join("bin");
    fs::create_dir_all(&doubles).unwrap();
    let held = folder.join("held");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *{HELD}*) echo $$ >{0}.new; mv {0}.new {0}; exec sleep 60;; *) PATH=$REST exec mkfs.ext4 \"$@\";; esac\n",
        held.display()
    );
    fs::write(doubles.join("mkfs.ext4"), script).unwrap();
    fs::set_permissions(doubles.join("mkfs.ext4"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mounts::crash_tests::child", "--nocapture"])
        .env(FOLDER, folder)
        .env(RUNG, rung.to_string())
        .env("PATH", format!("{}:{path}", doubles.display()))
        .env("REST", &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let whole = folder.join("whole");
    while !held.exists() && !whole.exists() {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "the child does not get to rung {rung}");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(whole.exists(), rung > RUNGS, "rung {rung}");
    if let Ok(double) = fs::read_to_string(&held) {
        Command::new("kill").args(["-9", double.trim()]).status().unwrap();
        fs::remove_file(&held).unwrap();
    }
}

#[tokio::test]
async fn a_crash_at_any_rung_leaves_nothing_and_one_after_the_last_everything() {
    let folder = tempfile::tempdir().unwrap();
    for rung in 0..=RUNGS {
        run_child(folder.path(), rung);
        let (core, _) = open(folder.path()).await.unwrap();
        let tenant = core.tenant("test".parse().unwrap());
        assert_nothing_left(&core, &tenant).await;
        let left: Vec<_> = fs::read_dir(own(&tenant).await).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "rung {rung}: {left:?}");
        drop(core);
        close(tenant).await;
    }
    run_child(folder.path(), RUNGS + 1);
    let (core, _) = open(folder.path()).await.unwrap();
    let tenant = core.tenant("test".parse().unwrap());
    let kept = tenant.mounts().get("a").await.unwrap();
    assert_eq!(kept.active.len(), RUNGS);
    fs::write(kept.active[RUNGS - 1].point.join("file"), "x").unwrap();
    assert!(kept.active[3].point.join("upper/file").exists());
    tenant.mounts().deactivate("a").await.unwrap();
    assert_nothing_left(&core, &tenant).await;
}
