//! Archives in and out of a core: both formats, and those that nobody should have written.

use std::io::Cursor;

use serde_json::json;
use windlass_model::snapshotter::Labels;

use super::*;
use crate::Tenant;
use crate::content::WriteRequest;
use crate::images::{ImageRecord, Reporter};
use crate::layer::tar::{Archive, Builder, Entry, EntryKind};
use crate::testing;
use windlass_model::{Descriptor, Digest, Error, Kind, Platform, Result};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An archive, made by hand.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryKind, path: &str, link: &str, bytes: &[u8]) -> Self {
        let (path, link, xattrs) = (path.into(), link.into(), Vec::new());
        let entry = Entry {
            path,
            kind,
            link,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs,
            sparse: None,
        };
        self.0.entry(&entry, bytes.len() as u64).unwrap();
        self.0.data(bytes).unwrap();
        self
    }

    fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.add(EntryKind::File, path, "", bytes.as_ref())
    }

    fn blob(self, bytes: &[u8]) -> Self {
        self.file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes)
    }

    fn end(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

/// The parts of an image for this machine.
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn image(text: &str) -> Image {
    let layer = Tar::new().file("hello", text).end();
    let host = Platform::host();
    let config = json!({"architecture": host.architecture, "os": host.os,
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)]});
    Image { layer, config, manifest: manifest.to_string().into_bytes() }
}

fn described(media_type: &str, bytes: &[u8]) -> Descriptor {
    read::descriptor(media_type, Digest::of(bytes), bytes.len() as u64)
}

fn layout(entries: &[Descriptor]) -> Tar {
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", index)
}

fn named(mut entry: Descriptor, name: &str) -> Descriptor {
    names::annotate(&mut entry.annotations, name);
    entry
}

fn request() -> ImportRequest {
    let wanted = Wanted { prefix: "import".into(), allow_overwrite: true, add_digest: true, skip_named_digest: true };
    ImportRequest {
        wanted: vec![wanted],
        unpack: vec![(Platform::host(), "folders".into())],
        ..ImportRequest::default()
    }
}

async fn import(tenant: &Tenant, request: ImportRequest, archive: Vec<u8>) -> Result<Vec<String>> {
    let records = tenant.images().import(request, Cursor::new(archive)).await?;
    Ok(records.into_iter().map(|record| record.name).collect())
}

/// Nothing of a failed import is left.
async fn assert_empty(tenant: &Tenant) {
    tenant.core().collect().await.unwrap();
    assert!(tenant.images().list().await.unwrap().is_empty());
    assert!(tenant.content().list().await.unwrap().is_empty());
    assert!(tenant.content().statuses().await.unwrap().is_empty());
    assert!(tenant.leases().list().await.unwrap().is_empty());
    assert!(tenant.snapshots("folders").unwrap().list().await.unwrap().is_empty());
    let blobs = tenant.core().root().join("content/blobs/sha256");
    for _ in 0..200 {
        if std::fs::read_dir(&blobs).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("blob files are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oci_layout_is_imported_and_exported_again() {
    let (_folder, tenant, _driver) = testing::tenant().await;
    let (one, two) = (image("one"), image("two"));
    let foreign = Descriptor {
        platform: Some(Platform { os: "plan9".into(), architecture: "mips".into(), variant: String::new() }),
        ..described(MANIFEST, b"not in the archive")
    };
    let index = json!({"schemaVersion": 2, "manifests": [foreign, described(MANIFEST, &two.manifest)]});
    let index = index.to_string().into_bytes();
    let entries = [
        named(described(MANIFEST, &one.manifest), "docker.io/library/one:1"),
        named(described(INDEX, &index), "docker.io/library/two:2"),
        described(MANIFEST, &two.manifest),
    ];
    let mut tar = layout(&entries).blob(&index);
    for image in [&one, &two] {
        tar = tar.blob(&image.layer).blob(&image.config).blob(&image.manifest);
    }
    let archive = tar.end();
    let by_digest = format!("import@{}", Digest::of(&two.manifest));
    let names = import(&tenant, request(), archive.clone()).await.unwrap();
    assert_eq!(names, ["docker.io/library/one:1", "docker.io/library/two:2", &by_digest]);
    assert_eq!(tenant.snapshots("folders").unwrap().list().await.unwrap().len(), 2);
    assert!(tenant.leases().list().await.unwrap().is_empty());
    // A collection takes nothing that is needed, and a second import is fine.
    tenant.core().collect().await.unwrap();
    assert_eq!(tenant.content().list().await.unwrap().len(), 7);
    assert_eq!(import(&tenant, request(), archive).await.unwrap().len(), 3);

    // The index names a manifest that is not here, so one has to choose.
    let everything = ExportRequest { names: names[..2].to_vec(), ..ExportRequest::default() };
    let error = tenant.images().export(everything.clone(), std::io::sink()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let out = tempfile::NamedTempFile::new().unwrap();
    let chosen = ExportRequest { platforms: vec![Platform::host()], ..everything };
    tenant.images().export(chosen, out.reopen().unwrap()).await.unwrap();
    let bytes = std::fs::read(out.path()).unwrap();
    let mut archive = Archive::new(&bytes[..]);
    let mut files = Vec::new();
    while let Some(entry) = archive.next().unwrap() {
        files.push(String::from_utf8(entry.path).unwrap());
    }
    assert_eq!(files[..2], ["blobs/", "blobs/sha256/"]);
    assert_eq!(files[files.len() - 3..], ["index.json", "manifest.json", "oci-layout"]);
    let images = docker(&entry_bytes(&bytes, "manifest.json")).unwrap();
    let mut tags: Vec<_> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    tags.sort();
    assert_eq!(tags, ["one:1", "two:2"]);

    let other = tenant.core().tenant("other".parse().unwrap());
    let names = import(&other, request(), bytes).await.unwrap();
    assert_eq!(names, ["docker.io/library/one:1", "docker.io/library/two:2"]);
    testing::close(tenant).await;
}

fn entry_bytes(archive: &[u8], name: &str) -> Vec<u8> {
    let mut archive = Archive::new(archive);
    while let Some(entry) = archive.next().unwrap() {
        if entry.path == name.as_bytes() {
            let mut bytes = Vec::new();
            while archive.left() > 0 {
                let piece = archive.fill().unwrap().to_vec();
                archive.consume(piece.len());
                bytes.extend(piece);
            }
            return bytes;
        }
    }
    panic!("no {name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_docker_save_is_imported() {
    let (_folder, tenant, driver) = testing::tenant().await;
    let image = image("docker");
    let manifest = json!([
        {"Config": "c.json", "RepoTags": ["a:1", "quay.io/b/c:2"], "Layers": ["one/layer.tar"]},
        {"Config": "c.json", "RepoTags": null, "Layers": ["two/layer.tar"]},
    ]);
    let archive = |manifest: &serde_json::Value| {
        Tar::new()
            .add(EntryKind::Directory, "one/", "", b"")
            .file("one/VERSION", "1.0")
            .file("one/json", "{}")
            .file("one/layer.tar", &image.layer)
            .add(EntryKind::Symlink, "two/layer.tar", "../one/layer.tar", b"")
            .file("c.json", &image.config)
            .file("manifest.json", manifest.to_string())
            .file("repositories", "{}")
            .end()
    };
    let names = import(&tenant, request(), archive(&manifest)).await.unwrap();
    assert_eq!(names, ["docker.io/library/a:1", &names[1], "quay.io/b/c:2"]);
    assert!(names[1].starts_with("import@sha256:"));
    let snapshots = tenant.snapshots("folders").unwrap().list().await.unwrap();
    assert_eq!(snapshots.len(), 1);
    assert_eq!(std::fs::read(driver.path(snapshots[0].id).join("hello")).unwrap(), b"docker");
    let record = tenant.images().get("docker.io/library/a:1").await.unwrap();
    let detail = tenant.images().describe(&record).await.unwrap();
    assert_eq!(detail.layers[0].digest, Digest::of(&image.layer));
    let packed = ImportRequest { compress: true, index_name: "whole".into(), ..request() };
    let names = import(&tenant, packed, archive(&manifest)).await.unwrap();
    assert!(names.contains(&"whole".to_owned()));
    let record = tenant.images().get("docker.io/library/a:1").await.unwrap();
    let detail = tenant.images().describe(&record).await.unwrap();
    assert!(detail.layers[0].media_type.ends_with(".tar.gzip"));
    // What was replaced goes; what the index holds stays.
    tenant.core().collect().await.unwrap();
    let gone = json!([{"Config": "c.json", "Layers": ["three/layer.tar"]}]);
    assert_eq!(import(&tenant, request(), archive(&gone)).await.unwrap_err().kind(), Kind::DataLoss);
    testing::close(tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_archives_leave_nothing() {
    let (_folder, tenant, _driver) = testing::tenant().await;
    let image = image("x");
    let entry = || named(described(MANIFEST, &image.manifest), "a:1");
    let whole = || layout(&[entry()]).blob(&image.layer).blob(&image.config).blob(&image.manifest);
    let wrong_name = format!("blobs/sha256/{}", Digest::of(b"other").hex());
    let link = |path: &str, target: &str| Tar::new().add(EntryKind::Symlink, path, target, b"");
    let docker = |layer: &str| json!([{"Config": "c.json", "Layers": [layer]}]).to_string();
    let huge = json!({"schemaVersion": 2, "manifests": vec![entry(); 5000]}).to_string();
    let short = Descriptor { size: 1, ..entry() };
    let lying = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": described("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &image.layer)]})
    .to_string();
    let cases: Vec<(&str, Vec<u8>, Kind)> = vec![
        ("empty", Vec::new(), Kind::DataLoss),
        ("no archive", b"hello".repeat(400), Kind::DataLoss),
        ("nothing known", Tar::new().file("readme", "x").end(), Kind::InvalidArgument),
        ("a name that leads out", whole().file("../evil", "x").end(), Kind::InvalidArgument),
        ("a wrong digest", whole().file(&wrong_name, "x").end(), Kind::DataLoss),
        ("a digest that is none", whole().file("blobs/sha256/zz", "x").end(), Kind::InvalidArgument),
        ("no manifest", layout(&[entry()]).blob(&image.layer).blob(&image.config).end(), Kind::DataLoss),
        ("no layer", layout(&[entry()]).blob(&image.manifest).blob(&image.config).end(), Kind::DataLoss),
        ("no configuration", layout(&[entry()]).blob(&image.manifest).blob(&image.layer).end(), Kind::DataLoss),
        ("a wrong size", layout(&[short]).blob(&image.manifest).end(), Kind::InvalidArgument),
        (
            "too many images",
            Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", huge).end(),
            Kind::ResourceExhausted,
        ),
        (
            "another version",
            Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"9"}"#).file("index.json", "{}").end(),
            Kind::Unimplemented,
        ),
        ("a layout without index", Tar::new().file("oci-layout", "{}").end(), Kind::DataLoss),
        (
            "no names",
            layout(&[described(MANIFEST, &image.manifest)])
                .blob(&image.manifest)
                .blob(&image.layer)
                .blob(&image.config)
                .end(),
            Kind::NotFound,
        ),
        (
            "links in a ring",
            link("a", "b")
                .add(EntryKind::Symlink, "b", "a", b"")
                .file("c.json", &image.config)
                .file("manifest.json", docker("a"))
                .end(),
            Kind::InvalidArgument,
        ),
        (
            "a link that leads out",
            link("a", "../../etc/passwd").file("c.json", &image.config).file("manifest.json", docker("a")).end(),
            Kind::DataLoss,
        ),
        ("a long document", Tar::new().file("index.json", vec![b' '; 9 << 20]).end(), Kind::DataLoss),
        (
            "a configuration that lies",
            layout(&[named(described(MANIFEST, lying.as_bytes()), "a:1")])
                .blob(lying.as_bytes())
                .blob(b"{}")
                .blob(&image.layer)
                .end(),
            Kind::DataLoss,
        ),
    ];
    for (what, archive, kind) in cases {
        let mut wanted = request();
        wanted.wanted[0].add_digest = what == "links in a ring" || what == "a link that leads out";
        let error = import(&tenant, wanted, archive).await.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert_empty(&tenant).await;
    }
    // Cut off anywhere.
    let archive = whole().end();
    for part in 1..8 {
        let cut = archive[..archive.len() * part / 9].to_vec();
        let error = import(&tenant, request(), cut).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::DataLoss | Kind::InvalidArgument), "{error}");
        assert_empty(&tenant).await;
    }
    let many = (0..70_000).fold(Tar::new(), |tar, number| tar.add(EntryKind::Directory, &number.to_string(), "", b""));
    assert_eq!(import(&tenant, request(), many.end()).await.unwrap_err().kind(), Kind::ResourceExhausted);
    let error =
        import(&tenant, ImportRequest { unpack: vec![(Platform::host(), "none".into())], ..request() }, archive);
    assert_eq!(error.await.unwrap_err().kind(), Kind::NotFound);
    let stopped = request();
    stopped.stop.cancel();
    assert_eq!(import(&tenant, stopped, whole().end()).await.unwrap_err().kind(), Kind::Canceled);
    assert_empty(&tenant).await;
    // A source that fails.
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(Error::unavailable("the client went away")))
        }
    }
    let error = tenant.images().import(request(), Broken).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_empty(&tenant).await;
    testing::close(tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_not_exported() {
    let (_folder, tenant, _driver) = testing::tenant().await;
    let content = tenant.content();
    let image = image("x");
    for bytes in [&image.layer, &image.config, &image.manifest] {
        let request = WriteRequest { reference: "w".into(), ..WriteRequest::default() };
        let mut writer = content.writer(request).await.unwrap();
        writer.write(bytes).await.unwrap();
        writer.commit(None, None, Labels::from([("containerd.io/gc.root".into(), "x".into())])).await.unwrap();
    }
    let record = ImageRecord::new("not a reference", described(MANIFEST, &image.manifest));
    tenant.images().create(record).await.unwrap();
    let wanted = ExportRequest {
        names: vec!["not a reference".into()],
        reporter: Reporter::default(),
        ..ExportRequest::default()
    };
    tenant.images().export(wanted.clone(), std::io::sink()).await.unwrap();
    let path = tenant.core().root().join("content/blobs/sha256").join(Digest::of(&image.layer).hex());
    std::fs::write(path, vec![0; image.layer.len()]).unwrap();
    assert_eq!(tenant.images().export(wanted, std::io::sink()).await.unwrap_err().kind(), Kind::DataLoss);
    testing::close(tenant).await;
}
