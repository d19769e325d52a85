//! Mounts that the daemon makes for a tenant: they outlive a killed daemon, and one that is killed on the way leaves nothing.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_client::services::v1::snapshots::{
    PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
};
use containerd_client::types::Mount;
use windlass_test_e2e::mounts::{Activate, Named, Told};
use windlass_test_e2e::node::Plan;
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::{Node, kernel};

const SERVICE: &str = "mounts.v1.Mounts";

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|&option| option.into()).collect();
    Mount { r#type: kind.into(), source: source.into(), target: String::new(), options }
}

fn named() -> Named {
    Named { name: "rootfs".into() }
}

/// The folder of a new snapshot.
async fn snapshot(client: &Tenant) -> Result<PathBuf> {
    let ask = PrepareSnapshotRequest { snapshotter: "native".into(), key: "own".into(), ..Default::default() };
    let made: PrepareSnapshotResponse = client.ask("snapshots.v1.Snapshots", "Prepare", &ask).await?;
    Ok(PathBuf::from(&made.mounts.first().context("no mount")?.source))
}

async fn remove_snapshot(client: &Tenant) -> Result<()> {
    let ask = RemoveSnapshotRequest { snapshotter: "native".into(), key: "own".into() };
    Ok(client.ask("snapshots.v1.Snapshots", "Remove", &ask).await?)
}

/// A file with a file system in `own`, mounted, with folders in it for an overlay that is the client's to mount.
fn rootfs(own: &Path) -> Activate {
    let image = own.join("image").display().to_string();
    let lower = format!("lowerdir={}", own.display());
    let overlay = [
        "X-containerd.mkdir.path={{ mount 1 }}/upper",
        "X-containerd.mkdir.path={{ mount 1 }}/work",
        &lower,
        "upperdir={{ mount 1 }}/upper",
        "workdir={{ mount 1 }}/work",
    ];
    let mounts = vec![
        mount("mkfs/loop", &image, &["X-containerd.mkfs.size=4MiB"]),
        mount("format/ext4", "{{ mount 0 }}", &[]),
        mount("format/mkdir/overlay", "overlay", &overlay),
    ];
    Activate { name: "rootfs".into(), mounts, labels: HashMap::new(), temporary: false }
}

/// How many loop devices are of files below `folder`.
fn devices(folder: &Path) -> Result<usize> {
    let mut found = 0;
    for block in fs::read_dir("/sys/block")? {
        let file = fs::read_to_string(block?.path().join("loop/backing_file")).unwrap_or_default();
        found += usize::from(Path::new(file.trim_end()).starts_with(folder));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_outlives_a_killed_daemon() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("its client here has no mounts service") {
        return Ok(());
    }
    let client = Tenant::connect(&node.setup.socket, Some("images")).await?;
    let own = snapshot(&client).await?;
    let made: Told = client.ask(SERVICE, "Activate", &rootfs(&own)).await?;
    let info = made.info.clone().context("no info")?;
    ensure!((info.active.len(), info.system.len()) == (2, 1), "{info:?}");
    let point = Path::new(&info.active[1].mount_point);
    fs::write(point.join("upper/file"), "written")?;
    node.restart().await?;
    let client = Tenant::connect(&node.setup.socket, Some("images")).await?;
    ensure!(client.ask::<Told>(SERVICE, "Info", &named()).await? == made, "it is told otherwise after the kill");
    ensure!(fs::read(point.join("upper/file"))? == b"written" && devices(node.dir())? == 1);
    client.ask::<()>(SERVICE, "Deactivate", &named()).await?;
    ensure!(devices(node.dir())? == 0 && kernel::mounts_below(node.dir()).is_empty());
    remove_snapshot(&client).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_on_the_way_leaves_nothing_of_an_activation() -> Result<()> {
    let path = "PATH={dir}/doubles:$PATH; exec \"$@\"";
    let wrap = ["sh", "-c", path, "sh"].map(str::to_owned).to_vec();
    let mut node = Node::start_with(Plan { wrap, ..Plan::default() }).await?;
    if node.excused("its client here has no mounts service") {
        return Ok(());
    }
    let (doubles, held) = (node.dir().join("doubles"), node.dir().join("held"));
    fs::create_dir(&doubles)?;
    let script = format!("#!/bin/sh\necho $$ >{0}.new; mv {0}.new {0}; exec sleep 60\n", held.display());
    fs::write(doubles.join("mkfs.ext2"), script)?;
    fs::set_permissions(doubles.join("mkfs.ext2"), fs::Permissions::from_mode(0o755))?;
    let client = Tenant::connect(&node.setup.socket, Some("images")).await?;
    let own = snapshot(&client).await?;
    let mut ask = rootfs(&own);
    let made = own.join("made").display().to_string();
    ask.mounts.insert(2, mount("mkdir/bind", &made, &[&format!("X-containerd.mkdir.path={made}")]));
    let stuck = own.join("stuck").display().to_string();
    ask.mounts.insert(3, mount("mkfs/loop", &stuck, &["X-containerd.mkfs.size=4MiB", "X-containerd.mkfs.fs=ext2"]));
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.ask::<Told>(SERVICE, "Activate", &ask).await }
    });
    for _ in 0..600 {
        if held.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(held.exists() && devices(node.dir())? == 1 && own.join("made").exists(), "it is not held on the way");
    node.restart().await?;
    ensure!(asking.await?.is_err());
    let double = fs::read_to_string(&held)?;
    std::process::Command::new("kill").args(["-9", double.trim()]).status()?;
    let client = Tenant::connect(&node.setup.socket, Some("images")).await?;
    ensure!(client.ask::<Told>(SERVICE, "Info", &named()).await.is_err(), "a record is left");
    ensure!(devices(node.dir())? == 0 && kernel::mounts_below(node.dir()).is_empty(), "mounts are left");
    ensure!(fs::read_dir(&own)?.count() == 0, "files are left in the snapshot");
    // The name is free, and all of it works now.
    client.ask::<Told>(SERVICE, "Activate", &rootfs(&own)).await?;
    client.ask::<()>(SERVICE, "Deactivate", &named()).await?;
    remove_snapshot(&client).await?;
    node.finish().await
}
