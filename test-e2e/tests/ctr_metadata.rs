//! What people at a shell do to records with Debian's `ctr`: namespaces, leases, content, snapshots and containers.

use anyhow::{Result, ensure};
use windlass_test_e2e::image::digest;
use windlass_test_e2e::{Ctr, Node};

/// The first words of all lines but the head.
fn firsts(table: &str) -> Vec<&str> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_one_that_ctr_knows() -> Result<()> {
    let node = Node::start().await?;
    for ctr in Ctr::all(&node) {
        let version = ctr.run("default", &["version"])?;
        ensure!(version.contains("Server:"), "{version}");
        let plugins = ctr.run("default", &["plugins", "ls"])?;
        for (kind, id) in [
            ("io.containerd.snapshotter.v1", "overlayfs"),
            ("io.containerd.snapshotter.v1", "native"),
            ("io.containerd.runtime.v2", "task"),
            ("io.containerd.internal.v1", "restart"),
        ] {
            let there = plugins.lines().any(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                words.first() == Some(&kind) && words.get(1) == Some(&id) && words.last() == Some(&"ok")
            });
            ensure!(there, "{kind} {id} is not in\n{plugins}");
        }
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_made_labelled_and_removed_when_empty() -> Result<()> {
    let node = Node::start().await?;
    for ctr in Ctr::all(&node) {
        ctr.run("default", &["namespaces", "create", "foo", "colour=red"])?;
        ensure!(ctr.refused("default", &["namespaces", "create", "foo"])?.contains("exists"));
        ctr.run("default", &["namespaces", "label", "foo", "colour=blue", "size=small"])?;
        let list = ctr.run("default", &["namespaces", "ls"])?;
        let labels = list.lines().find(|line| line.starts_with("foo ")).unwrap_or_default();
        ensure!(labels.contains("colour=blue") && labels.contains("size=small"), "{list}");
        ctr.run("default", &["namespaces", "label", "foo", "size="])?;
        ensure!(!ctr.run("default", &["namespaces", "ls"])?.contains("size="));

        // A namespace comes with its first write.
        ctr.run("bar", &["leases", "create", "--id", "first"])?;
        ensure!(firsts(&ctr.run("default", &["namespaces", "ls"])?).contains(&"bar"));
        ctr.run("foo", &["snapshots", "prepare", "work"])?;
        let refused = ctr.refused("default", &["namespaces", "rm", "foo"])?;
        ensure!(refused.contains("snapshots"), "{refused}");
        ctr.run("foo", &["snapshots", "rm", "work"])?;
        ctr.run("bar", &["leases", "rm", "first"])?;
        ctr.run("default", &["namespaces", "rm", "foo", "bar"])?;
        let list = ctr.run("default", &["namespaces", "ls"])?;
        ensure!(!firsts(&list).contains(&"foo") && !firsts(&list).contains(&"bar"), "{list}");
        let nameless = ctr.refused("", &["snapshots", "prepare", "work"])?;
        ensure!(nameless.contains("namespace"), "{nameless}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_hold_what_is_made_under_them() -> Result<()> {
    let node = Node::start().await?;
    for ctr in Ctr::all(&node) {
        ctr.run("foo", &["leases", "create", "--id", "deep", "--expires", "1h", "use=test"])?;
        let made = ctr.run("foo", &["leases", "create"])?;
        ensure!(!made.trim().is_empty());
        let list = ctr.run("foo", &["leases", "ls"])?;
        ensure!(list.contains("use=test") && list.contains(made.trim()), "{list}");
        ensure!(firsts(&ctr.run("default", &["leases", "ls"])?).is_empty());
        ctr.run("foo", &["leases", "rm", "--sync", "deep", made.trim()])?;
        ensure!(firsts(&ctr.run("foo", &["leases", "ls"])?).is_empty());
        ensure!(ctr.refused("foo", &["leases", "rm", "deep"])?.contains("not"));
        ctr.run("default", &["namespaces", "rm", "foo"])?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_ingested_read_labelled_and_removed() -> Result<()> {
    let node = Node::start().await?;
    for ctr in Ctr::all(&node) {
        let (bytes, file) = (vec![7; 3_000_000], node.dir().join("blob"));
        std::fs::write(&file, &bytes)?;
        let (digest, size) = (digest(&bytes), bytes.len().to_string());
        let ingest = |expected: &str| {
            let mut command = ctr.command("foo", &["content", "ingest", "--expected-digest", expected, "ref"]);
            command.stdin(std::fs::File::open(&file)?).output().map_err(anyhow::Error::from)
        };
        let wrong = ingest(&format!("sha256:{}", "0".repeat(64)))?;
        ensure!(!wrong.status.success(), "wrong bytes were taken");
        let good = ingest(&digest)?;
        ensure!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
        ensure!(ctr.run("foo", &["content", "ls", "-q"])?.trim() == digest);
        let got = ctr.output("foo", &["content", "get", &digest])?;
        ensure!(got.stdout == bytes, "{} of {size} bytes came back", got.stdout.len());
        ctr.run("foo", &["content", "label", &digest, "colour=red"])?;
        ensure!(ctr.run("foo", &["content", "ls"])?.contains("colour=red"));
        ensure!(ctr.refused("default", &["content", "get", &digest])?.contains("not found"));
        ctr.run("foo", &["content", "rm", &digest])?;
        ensure!(ctr.run("foo", &["content", "ls", "-q"])?.is_empty());
        ctr.run("default", &["namespaces", "rm", "foo"])?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_made_looked_at_and_removed() -> Result<()> {
    let node = Node::start().await?;
    for ctr in Ctr::all(&node) {
        for driver in ["overlayfs", "native"] {
            let snapshots = |words: &[&str]| ctr.run("foo", &[&["snapshots", "--snapshotter", driver], words].concat());
            snapshots(&["prepare", "work"])?;
            snapshots(&["commit", "base", "work"])?;
            snapshots(&["prepare", "top", "base"])?;
            snapshots(&["view", "look", "base"])?;
            let list = snapshots(&["ls"])?;
            let mut kinds: Vec<_> =
                list.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
            kinds.sort();
            ensure!(
                kinds == [vec!["base", "Committed"], vec!["look", "base", "View"], vec!["top", "base", "Active"]],
                "{list}"
            );
            ensure!(snapshots(&["info", "top"])?.contains("\"Parent\": \"base\""));
            ensure!(snapshots(&["mounts", "/mnt", "look"])?.contains("mount"));
            ensure!(snapshots(&["usage", "base"])?.contains("base"));
            snapshots(&["label", "base", "colour=red"])?;
            ensure!(snapshots(&["info", "base"])?.contains("\"colour\": \"red\""));
            let held = ctr.refused("foo", &["snapshots", "--snapshotter", driver, "rm", "base"])?;
            ensure!(held.contains("cannot"), "{held}");
            snapshots(&["rm", "look", "top"])?;
            snapshots(&["rm", "base"])?;
            ensure!(firsts(&snapshots(&["ls"])?).is_empty());
        }
        ctr.run("default", &["namespaces", "rm", "foo"])?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_recorded_labelled_and_removed() -> Result<()> {
    let node = Node::start().await?;
    for ctr in Ctr::all(&node) {
        let rootfs = node.dir().join("rootfs");
        std::fs::create_dir_all(&rootfs)?;
        let rootfs = rootfs.to_string_lossy();
        ctr.run("foo", &["containers", "create", "--label", "colour=red", "--rootfs", &rootfs, "box", "sleep", "1"])?;
        ensure!(ctr.refused("foo", &["containers", "create", "--rootfs", &rootfs, "box", "sleep"])?.contains("exists"));
        ensure!(ctr.run("foo", &["containers", "ls", "-q"])?.trim() == "box");
        ctr.run("foo", &["containers", "label", "box", "colour=blue"])?;
        let info = ctr.run("foo", &["containers", "info", "box"])?;
        ensure!(info.contains("\"colour\": \"blue\"") && info.contains("io.containerd.runc.v2"), "{info}");
        ensure!(ctr.run("foo", &["containers", "ls", "-q", "labels.colour==red"])?.is_empty());
        ensure!(ctr.run("default", &["containers", "ls", "-q"])?.is_empty());
        ctr.run("foo", &["containers", "rm", "box"])?;
        ensure!(ctr.refused("foo", &["containers", "info", "box"])?.contains("not"));
        ctr.run("default", &["namespaces", "rm", "foo"])?;
    }
    node.finish().await
}
