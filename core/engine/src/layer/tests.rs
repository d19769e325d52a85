//! Whole layers, compressed in all ways, kind and hostile, into both kinds of folders.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use windlass_model::snapshotter::Whiteouts;

use super::*;

/// An entry, written by hand where the `tar` crate is too well-behaved.
struct Raw(Vec<u8>);

impl Raw {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, kind: u8, name: &str, link: &str, bytes: &[u8]) -> Self {
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000755");
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        block[136..147].copy_from_slice(b"00000000001");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.add(b'0', name, "", text.as_bytes())
    }

    fn folder(self, name: &str) -> Self {
        self.add(b'5', name, "", b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.add(b'x', "pax", "", &text)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn into(folder: &Path, whiteouts: Whiteouts, bytes: &[u8]) -> Result<Unpacked> {
    let target = LayerTarget { path: folder.to_owned(), whiteouts };
    unpack(bytes, "", &target, &Limits::default())
}

fn overlay(bytes: &[u8]) -> (tempfile::TempDir, Result<Unpacked>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("fs")).unwrap();
    let result = into(&folder.path().join("fs"), Whiteouts::Overlay, bytes);
    (folder, result)
}

fn is_whiteout(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_char_device() && there.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    xattr::get(path, "trusted.overlay.opaque").unwrap().as_deref() == Some(b"y")
}

#[test]
fn every_compression_gives_the_same_layer() {
    let tar = Raw::new().file("a", &"x".repeat(100_000)).end();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (first, second) = tar.split_at(5000);
    let zstd = |bytes| zstd::encode_all(bytes, 1).unwrap();
    let all = [
        tar.clone(),
        gzip(&tar),
        [gzip(first), gzip(second)].concat(),
        zstd(&tar[..]),
        [zstd(first), zstd(second)].concat(),
    ];
    for bytes in all {
        let (folder, unpacked) = overlay(&bytes);
        assert_eq!(unpacked.unwrap().diff_id, Digest::of(&tar));
        assert_eq!(std::fs::metadata(folder.path().join("fs/a")).unwrap().len(), 100_000);
        let (_folder, cut) = overlay(&bytes[..bytes.len() / 2]);
        assert_eq!(cut.unwrap_err().kind(), Kind::DataLoss);
    }
}

#[test]
fn names_that_climb_out_are_refused_and_nothing_is_outside() {
    for name in ["../x", "a/../../x", "/../x", "..", "./../x"] {
        let (folder, result) = overlay(&Raw::new().file(name, "evil").end());
        assert_eq!(result.unwrap_err().kind(), Kind::InvalidArgument, "{name}");
        assert!(!folder.path().join("x").exists(), "{name}");
    }
    for name in ["/x", "a/../x", "//./x", "a/b/../../x"] {
        let (folder, result) = overlay(&Raw::new().file(name, "kind").end());
        result.unwrap();
        assert_eq!(std::fs::read(folder.path().join("fs/x")).unwrap(), b"kind", "{name}");
    }
}

#[test]
fn links_lead_to_places_inside_only() {
    for target in ["..", "../..", "/..", "../../../../../..", "/"] {
        let tar = Raw::new().add(b'2', "out", target, b"").file("out/evil", "x").end();
        let (folder, result) = overlay(&tar);
        result.unwrap();
        assert!(!folder.path().join("evil").exists() && folder.path().join("fs/evil").exists(), "{target}");
    }
    // An absolute link to what this machine has, too, and a folder that is made on the way.
    let tar = Raw::new().add(b'2', "etc", "/w-b-etc", b"").file("etc/deep/passwd", "x").end();
    let (folder, result) = overlay(&tar);
    result.unwrap();
    assert!(folder.path().join("fs/w-b-etc/deep/passwd").exists() && !Path::new("/w-b-etc").exists());
    let (_folder, result) =
        overlay(&Raw::new().add(b'2', "a", "b", b"").add(b'2', "b", "a", b"").file("a/x", "").end());
    assert!(result.is_err());
    // A file is written where a link stood, not where it led.
    let tar = Raw::new().file("victim", "safe").add(b'2', "a", "victim", b"").file("a", "new").end();
    let (folder, result) = overlay(&tar);
    result.unwrap();
    assert_eq!(std::fs::read(folder.path().join("fs/victim")).unwrap(), b"safe");
}

#[test]
fn hard_links_stay_inside() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    for target in [outside.path().to_str().unwrap(), "../secret", "missing", "", "folder"] {
        let tar = Raw::new().folder("folder").add(b'1', "a", target, b"").end();
        let (folder, result) = overlay(&tar);
        assert_eq!(result.unwrap_err().kind(), Kind::InvalidArgument, "{target}");
        assert!(!folder.path().join("fs/a").exists());
    }
    let tar = Raw::new().file("one", "x").add(b'1', "two", "/one", b"").add(b'1', "one", "one", b"").end();
    let (folder, result) = overlay(&tar);
    result.unwrap();
    assert_eq!(std::fs::metadata(folder.path().join("fs/two")).unwrap().nlink(), 2);
}

#[test]
fn files_and_folders_replace_each_other() {
    let tar = Raw::new()
        .file("a/b/c", "x")
        .file("a", "now a file")
        .file("d", "x")
        .folder("d")
        .file("d/e", "y")
        .add(b'2', "f", "d", b"")
        .folder("f")
        .end();
    let (folder, result) = overlay(&tar);
    result.unwrap();
    let at = |name: &str| std::fs::symlink_metadata(folder.path().join("fs").join(name)).unwrap();
    assert!(at("a").is_file() && at("d/e").is_file() && at("f").is_dir());
    let (_folder, result) = overlay(&Raw::new().file("a", "x").file("a/b", "y").end());
    assert_eq!(result.unwrap_err().kind(), Kind::InvalidArgument);
}

#[test]
fn deletions_are_marked_for_overlayfs() {
    let tar = Raw::new()
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .file("c/new", "x")
        .file(".wh.c", "")
        .file(".wh.d", "")
        .folder("d")
        .file(".wh.e", "")
        .file("e/f", "x")
        .file("g", "stays")
        .file(".wh.g", "")
        .file(".wh..wh.plnk/1.2", "aufs")
        .end();
    let (folder, result) = overlay(&tar);
    result.unwrap();
    let at = |name: &str| folder.path().join("fs").join(name);
    assert!(is_whiteout(&at("a/gone")) && is_opaque(&at("b")));
    assert!(at("c/new").exists() && is_opaque(&at("c")));
    assert!(is_opaque(&at("d")) && is_opaque(&at("e")) && at("e/f").exists());
    assert_eq!(std::fs::read(at("g")).unwrap(), b"stays");
    assert!(!at(".wh..wh.plnk").exists());
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        let (_folder, result) = overlay(&Raw::new().file(name, "").end());
        assert_eq!(result.unwrap_err().kind(), Kind::InvalidArgument, "{name}");
    }
}

#[test]
fn deletions_are_carried_out_in_whole_trees() {
    let folder = tempfile::tempdir().unwrap();
    let lower = Raw::new().file("a/old", "1").file("b/old", "1").file("b/deep/old", "1").file("c", "1").end();
    into(folder.path(), Whiteouts::Apply, &lower).unwrap();
    let upper = Raw::new()
        .file(".wh.a", "")
        .file("b/deep/new", "2")
        .file("b/new", "2")
        .file("b/.wh..wh..opq", "")
        .file(".wh.c", "")
        .file(".wh.missing", "")
        .end();
    into(folder.path(), Whiteouts::Apply, &upper).unwrap();
    let exists = |name: &str| folder.path().join(name).exists();
    assert!(!exists("a") && !exists("c") && !exists("b/old") && exists("b/new"));
}

#[test]
fn everything_that_a_file_carries_arrives() {
    let long = "n".repeat(200);
    let tar = Raw::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"1600000000.5"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.user.a", b"b\0c"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/evil"),
        ])
        .file("short", "x")
        .add(b'6', "pipe", "", b"")
        .folder("folder")
        .file("folder/in", "x")
        .end();
    let (folder, result) = overlay(&tar);
    result.unwrap();
    let path = folder.path().join("fs").join(&long);
    let there = std::fs::metadata(&path).unwrap();
    assert_eq!((there.mtime(), there.mtime_nsec(), there.uid()), (1_600_000_000, 500_000_000, 3_000_000));
    assert_eq!(xattr::get(&path, "user.a").unwrap().unwrap(), b"b\0c");
    assert!(xattr::get(&path, "trusted.overlay.redirect").unwrap().is_none());
    assert!(std::fs::symlink_metadata(folder.path().join("fs/pipe")).unwrap().file_type().is_fifo());
    // A folder keeps its time though something was written into it.
    let there = std::fs::metadata(folder.path().join("fs/folder")).unwrap();
    assert_eq!((there.mtime(), there.permissions().mode() & 0o7777), (1, 0o755));
}

#[test]
fn sparse_files_have_holes() {
    let map = [&b"2\n0\n4\n1048576\n4\n"[..], &[0; 512]].concat()[..512].to_vec();
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"2097152"),
    ];
    let payload = [map, b"headtail".to_vec()].concat();
    let tar = Raw::new().pax(&records).add(b'0', "x", "", &payload).file("after", "x").end();
    let (folder, result) = overlay(&tar);
    result.unwrap();
    let bytes = std::fs::read(folder.path().join("fs/sparse")).unwrap();
    assert_eq!((bytes.len(), &bytes[..4], &bytes[1_048_576..1_048_580]), (2_097_152, &b"head"[..], &b"tail"[..]));
    assert!(folder.path().join("fs/after").exists());
    // Extents that lie outside, overlap, or are not covered.
    for map in
        ["1\n0\n9\n", "1\n2097150\n8\n", "2\n0\n4\n2\n4\n", "99999999999\n", "1\n0\n18446744073709551615\n", "x\n"]
    {
        let payload = [map.as_bytes(), &vec![0; 512 - map.len()], b"headtail"].concat();
        let (_folder, result) = overlay(&Raw::new().pax(&records).add(b'0', "x", "", &payload).end());
        assert_eq!(result.unwrap_err().kind(), Kind::DataLoss, "{map:?}");
    }
}

#[test]
fn limits_end_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    let target = LayerTarget { path: folder.path().to_owned(), whiteouts: Whiteouts::Overlay };
    let limits = Limits { bytes: 1 << 20, entries: 10 };
    let many = (0..11).fold(Raw::new(), |raw, number| raw.file(&format!("f{number}"), "")).end();
    assert_eq!(unpack(&many[..], "", &target, &limits).unwrap_err().kind(), Kind::ResourceExhausted);
    // A bomb: a gigabyte of zeros after the archive.
    let bomb = zstd::encode_all(Raw::new().end().as_slice().chain(io::repeat(0).take(1 << 30)), 1).unwrap();
    assert_eq!(unpack(&bomb[..], "", &target, &limits).unwrap_err().kind(), Kind::ResourceExhausted);
}

#[test]
fn a_folder_that_is_only_implied_takes_after_the_one_below() {
    let folder = tempfile::tempdir().unwrap();
    let layer = |name: &str, tar: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let unpacked = into(&path, Whiteouts::Overlay, &tar).unwrap();
        (path, unpacked.implied)
    };
    let (low, _) = layer("low", Raw::new().pax(&[("uid", b"7")]).folder("a").pax(&[("uid", b"8")]).folder("b/c").end());
    let (middle, _) = layer("middle", Raw::new().file("b/.wh..wh..opq", "").end());
    let (top, implied) = layer("top", Raw::new().file("a/x", "").file("b/c/x", "").end());
    inherit(&top, &implied, &[middle, low]).unwrap();
    assert_eq!(std::fs::metadata(top.join("a")).unwrap().uid(), 7);
    // Hidden by the layer between.
    assert_eq!(std::fs::metadata(top.join("b/c")).unwrap().uid(), 0);
}

#[test]
fn rubbish_is_an_error_and_no_panic() {
    let good = Raw::new().pax(&[("path", b"a"), ("size", b"5")]).file("x", "12345").add(b'2', "l", "a", b"").end();
    let mut seed = 7u64;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = (seed >> 20) as u8;
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        while let Ok(Some(_)) = archive.next() {}
    }
}
