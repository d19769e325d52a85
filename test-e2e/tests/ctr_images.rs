//! Images as people at a shell handle them with the real `ctr`: Debian's, which pulls, unpacks, pushes and archives by
//! itself over content, snapshots and diffs, and a newer one (where there is one), which asks for transfers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use windlass_test_e2e::edge::write_executable;
use windlass_test_e2e::image::{Compression, Image, Layer, Recipe, noise};
use windlass_test_e2e::trouble::{Fault, Troublemaker, Where};
use windlass_test_e2e::{Ctr, Node, Plan, eventually, http};

/// A small image that no other test has.
fn image(seed: &str) -> Result<Image> {
    let layer = Layer::of_file(Compression::Gzip, "seed", seed.as_bytes())?;
    Recipe::new().index().layer(Layer::of_file(Compression::Gzip, "base", b"base")?).layer(layer).build()
}

/// Names of images, one a line.
fn images(ctr: &Ctr, namespace: &str) -> Result<Vec<String>> {
    Ok(ctr.run(namespace, &["images", "ls", "-q"])?.lines().map(str::to_owned).collect())
}

fn remove_all(ctr: &Ctr, namespace: &str) -> Result<()> {
    for name in images(ctr, namespace)? {
        ctr.run(namespace, &["images", "rm", "--sync", &name])?;
    }
    Ok(())
}

/// What a namespace holds: names, blobs, snapshots and leases.
fn holds(ctr: &Ctr, namespace: &str) -> Result<Vec<String>> {
    let mut held = images(ctr, namespace)?;
    for what in [["content", "ls", "-q"], ["leases", "ls", "-q"]] {
        held.extend(ctr.run(namespace, &what)?.lines().map(str::to_owned));
    }
    held.extend(ctr.run(namespace, &["snapshots", "ls"])?.lines().skip(1).map(str::to_owned));
    Ok(held)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespaces_story() -> Result<()> {
    let node = Node::start().await?;
    for ctr in Ctr::all(&node) {
        let registry = Troublemaker::start()?;
        let reference = registry.hold("story", "1", &image("story")?);
        let blobs = || registry.requests().iter().filter(|request| request.contains("/blobs/")).count();
        ctr.run("default", &["namespaces", "create", "foo", "colour=red"])?;
        let listed = ctr.run("default", &["namespaces", "ls"])?;
        ensure!(listed.lines().any(|line| line.starts_with("foo ") && line.contains("colour=red")), "{listed}");
        ctr.run("default", &["images", "pull", "--plain-http", &reference])?;
        ensure!(images(&ctr, "default")? == [reference.as_str()]);
        ensure!(images(&ctr, "foo")?.is_empty() && ctr.run("foo", &["content", "ls", "-q"])?.is_empty());
        let before = blobs();
        ensure!(before > 0, "{:?}", registry.requests());
        ctr.run("foo", &["images", "pull", "--plain-http", &reference])?;
        ensure!(images(&ctr, "foo")? == [reference.as_str()]);
        ensure!(blobs() == before, "downloaded again: {:?}", registry.requests());
        let full = ctr.refused("default", &["namespaces", "rm", "foo"])?;
        ensure!(full.contains("not empty"), "{full}");
        ctr.run("foo", &["images", "rm", "--sync", &reference])?;
        ensure!(holds(&ctr, "foo")?.is_empty(), "{:?}", holds(&ctr, "foo")?);
        ctr.run("default", &["namespaces", "rm", "foo"])?;
        ensure!(!ctr.run("default", &["namespaces", "ls"])?.contains("foo"));
        ctr.refused("default", &["namespaces", "rm", "default"])?;
        // What foo let go is still default's.
        ctr.run("default", &["images", "check"])?;
        remove_all(&ctr, "default")?;
        ensure!(holds(&ctr, "default")?.is_empty(), "{:?}", holds(&ctr, "default")?);
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_tagged_pushed_exported_and_imported() -> Result<()> {
    let node = Node::start().await?;
    for (number, ctr) in Ctr::all(&node).iter().enumerate() {
        let made = Recipe::new()
            .layer(Layer::of_file(Compression::Gzip, "noise", &noise(9 << 20, 7))?)
            .layer(Layer::of_file(Compression::Zstd, "number", number.to_string().as_bytes())?)
            .build()?;
        let reference = node.registry.push("moved", "1", &made)?;
        ctr.run("default", &["images", "pull", "--plain-http", &reference])?;
        let there = format!("{}/pushed/{number}:tag", node.registry.host());
        ctr.run("default", &["images", "tag", &reference, &there])?;
        ctr.run("default", &["images", "push", "--plain-http", &there])?;
        let path = format!("/v2/pushed/{number}/manifests/tag");
        let accept = [("Accept", made.top().media_type.as_str())];
        let answer = http::request(node.registry.host(), "GET", &path, &accept, &[])?;
        ensure!(answer.status == 200 && answer.body == made.top().bytes, "{}", answer.status);

        let file = node.dir().join(format!("archive-{number}.tar"));
        let file = file.to_str().context("a path")?;
        ctr.run("default", &["images", "export", file, &reference, &there])?;
        let listed = Command::new("tar").args(["tf", file]).output()?;
        let listed = String::from_utf8(listed.stdout)?;
        for name in ["oci-layout", "index.json", "manifest.json", "blobs/sha256/"] {
            ensure!(listed.contains(name), "{listed}");
        }
        remove_all(ctr, "default")?;
        ctr.run("other", &["images", "import", file])?;
        let mut names = images(ctr, "other")?;
        names.sort();
        ensure!(names == [reference.as_str(), there.as_str()], "{names:?}");
        let ready = ctr.run("other", &["images", "check"])?;
        ensure!(ready.lines().skip(1).all(|line| line.contains("complete")), "{ready}");
        remove_all(ctr, "other")?;
        ensure!(holds(ctr, "other")?.is_empty(), "{:?}", holds(ctr, "other")?);
    }
    node.finish().await
}

/// An archive as older versions of `docker save` write it.
fn docker_archive(at: &Path) -> Result<()> {
    let folder = at.with_extension("d");
    std::fs::create_dir_all(folder.join("one"))?;
    std::fs::write(folder.join("hello"), "from docker")?;
    let run = |arguments: &[&str]| -> Result<()> {
        let done = Command::new("tar").current_dir(&folder).args(arguments).status()?;
        ensure!(done.success(), "tar {arguments:?}");
        Ok(())
    };
    run(&["cf", "one/layer.tar", "hello"])?;
    let digest = windlass_test_e2e::image::digest(&std::fs::read(folder.join("one/layer.tar"))?);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{digest}\"]}}}}"
    );
    std::fs::write(folder.join("config.json"), config)?;
    let manifest = r#"[{"Config":"config.json","RepoTags":["saved:1"],"Layers":["one/layer.tar"]}]"#;
    std::fs::write(folder.join("manifest.json"), manifest)?;
    run(&["cf", at.to_str().context("a path")?, "one", "config.json", "manifest.json"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_docker_is_imported_and_a_bad_one_leaves_nothing() -> Result<()> {
    let node = Node::start().await?;
    let archive = node.dir().join("docker.tar");
    docker_archive(&archive)?;
    let name = archive.to_str().context("a path")?;
    let cut = node.dir().join("cut.tar");
    let bytes = std::fs::read(&archive)?;
    std::fs::write(&cut, &bytes[..1500])?;
    for ctr in Ctr::all(&node) {
        ctr.run("default", &["images", "import", name])?;
        ensure!(images(&ctr, "default")? == ["docker.io/library/saved:1"]);
        let snapshots = ctr.run("default", &["snapshots", "ls"])?;
        ensure!(snapshots.lines().count() == 2, "{snapshots}");
        remove_all(&ctr, "default")?;
        if ctr.transfers {
            ctr.refused("default", &["images", "import", cut.to_str().context("a path")?])?;
            ensure!(holds(&ctr, "default")?.is_empty(), "{:?}", holds(&ctr, "default")?);
        }
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_in_a_snapshot_is_a_layer() -> Result<()> {
    let node = Node::start().await?;
    let reference = node.registry.push("diffed", "1", &image("diffed")?)?;
    for ctr in Ctr::all(&node) {
        ctr.run("default", &["images", "pull", "--plain-http", &reference])?;
        let listed = ctr.run("default", &["snapshots", "ls"])?;
        // The upper one of two: the one that has a parent.
        let upper = listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let upper =
            upper.filter(|words| words.len() == 3).map(|words| words[0].to_owned()).next().context("no layer")?;
        ctr.run("default", &["snapshots", "prepare", "work", &upper])?;
        let target = node.dir().join("mounted");
        std::fs::create_dir_all(&target)?;
        let mount = ctr.run("default", &["snapshots", "mounts", target.to_str().context("a path")?, "work"])?;
        let mounted = Command::new("sh").args(["-c", &mount]).status()?;
        ensure!(mounted.success(), "{mount}");
        std::fs::write(target.join("new"), "new")?;
        std::fs::remove_file(target.join("seed"))?;
        std::os::unix::fs::symlink("new", target.join("link"))?;
        let output = ctr.output("default", &["snapshots", "diff", "work"])?;
        ensure!(Command::new("umount").arg(&target).status()?.success());
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut names: Vec<String> = Vec::new();
        let packed = flate2::read::GzDecoder::new(&output.stdout[..]);
        for entry in tar::Archive::new(packed).entries()? {
            names.push(entry?.path()?.to_string_lossy().into_owned());
        }
        ensure!(names == ["link", "new", ".wh.seed"], "{names:?}");
        ctr.run("default", &["snapshots", "rm", "work"])?;
        remove_all(&ctr, "default")?;
        eventually("nothing is left", Duration::from_secs(20), async || {
            holds(&ctr, "default").ok()?.is_empty().then_some(())
        })
        .await?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_off_leaves_nothing() -> Result<()> {
    let node = Node::start().await?;
    let Some(ctr) = Ctr::newer(&node) else {
        println!("no ctr of containerd 2 (WINDLASS_E2E_CTR2); skipped");
        return node.finish().await;
    };
    let registry = Troublemaker::start()?;
    let layer = Layer::of_file(Compression::None, "noise", &noise(8 << 20, 3))?;
    let made = Recipe::new().layer(layer).build()?;
    let reference = registry.hold("cut", "1", &made);
    registry.fail(Where::Blob(made.layers[0].clone()), Fault::Stall(3 << 20), 1000);
    let mut pulling = ctr.start("default", &["images", "pull", "--plain-http", &reference])?;
    eventually("bytes come", Duration::from_secs(20), async || {
        (!ctr.run("default", &["content", "active"]).ok()?.lines().skip(1).collect::<Vec<_>>().is_empty()).then_some(())
    })
    .await?;
    pulling.kill()?;
    pulling.wait()?;
    eventually("nothing is left", Duration::from_secs(20), async || {
        let active = ctr.run("default", &["content", "active"]).ok()?.lines().count();
        // The client's own lease stays until it expires: it was killed.
        let held = holds(&ctr, "default").ok()?;
        let leases = ctr.run("default", &["leases", "ls", "-q"]).ok()?.lines().count();
        (active <= 1 && held.len() == leases).then_some(())
    })
    .await?;
    for lease in ctr.run("default", &["leases", "ls", "-q"])?.lines() {
        ctr.run("default", &["leases", "rm", lease])?;
    }
    registry.heal();
    ctr.run("default", &["images", "pull", "--plain-http", &reference])?;
    remove_all(&ctr, "default")?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_is_asked_on_every_path() -> Result<()> {
    let plan = Plan { more_config: "[image_verifier]\nbin_dir = \"{dir}/verifiers\"\n".into(), ..Plan::default() };
    let node = Node::start_with(plan).await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let verifiers = node.dir().join("verifiers");
    std::fs::create_dir_all(&verifiers)?;
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}/asked\ncase \"$2\" in *bad*) echo it is bad; exit 1;; esac\necho fine\n",
        node.dir().display()
    );
    write_executable(&verifiers.join("10-names"), &script)?;
    let good = node.registry.push("good", "1", &image("good")?)?;
    let bad = node.registry.push("bad", "1", &image("bad")?)?;
    let error = node.cri.pull(&bad).await.err().context("the CRI pulled it")?;
    ensure!(error.to_string().contains("it is bad") || format!("{error:#}").contains("it is bad"), "{error:#}");
    for ctr in Ctr::all(&node) {
        let told = ctr.refused("default", &["images", "pull", "--plain-http", &bad])?;
        ensure!(told.contains("it is bad"), "{told}");
        ensure!(ctr.run("default", &["snapshots", "ls"])?.lines().count() == 1);
        ctr.run("default", &["images", "pull", "--plain-http", &good])?;
        let asked = std::fs::read_to_string(node.dir().join("asked"))?;
        let shape = "-stdin-media-type application/vnd.oci.descriptor.v1+json";
        ensure!(asked.lines().all(|line| line.contains("-digest sha256:") && line.ends_with(shape)), "{asked}");
        remove_all(&ctr, "default")?;
    }
    // No verifier can be asked: nothing is pulled.
    std::fs::remove_dir_all(&verifiers)?;
    ensure!(node.cri.pull(&good).await.is_err());
    node.finish().await
}
