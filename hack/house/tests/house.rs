//! The house keeps its rules, and a broken one is found.

use std::fs;
use std::path::Path;

use windlass_house::{Workspace, violations};

#[test]
fn the_house_is_in_order() {
    let found =
        violations(&Workspace::read(&Workspace::own_root()).expect("readable manifests")).expect("readable files");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// A workspace of two crates, with what each test breaks in it.
fn planted(manifest: &str, source: &str, file: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
            .and_then(|()| fs::write(path, text))
            .expect("write");
    };
    write(
        "Cargo.toml",
        "[workspace]\nmembers = [\"sys\", \"model\"]\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\n",
    );
    write("sys/Cargo.toml", "[package]\nname = \"windlass-sys\"\n[dependencies]\nwindlass-model.workspace = true\n");
    write("sys/src/lib.rs", "//! The kernel.\nuse windlass_model::Id;\n");
    write("model/Cargo.toml", &format!("[package]\nname = \"windlass-model\"\n{manifest}"));
    write(file, source);
    violations(&Workspace::read(dir.path()).expect("readable manifests")).expect("readable files")
}

const LINTS: &str = "[lints]\nworkspace = true\n";

#[test]
fn order_is_found_in_order() {
    assert_eq!(planted(LINTS, "//! Nouns; not windlass_sys::fs.\n", "model/src/lib.rs"), Vec::<String>::new());
}

#[test]
fn an_arrow_upward_is_found() {
    let up = format!(
        "{LINTS}[target.'cfg(unix)'.dependencies]\nkernel = {{ package = \"windlass-sys\", path = \"../sys\" }}\n"
    );
    assert_eq!(planted(&up, "//! Nouns.\n", "model/src/lib.rs"), ["windlass-model may not depend on windlass-sys"]);
    let tests = format!("{LINTS}[dev-dependencies]\nwindlass-sys.workspace = true\n");
    let found = planted(&tests, "//! Nouns.\n", "model/src/lib.rs");
    assert_eq!(found, ["the tests of windlass-model may not depend on windlass-sys"]);
}

#[test]
fn a_use_upward_is_found() {
    let found = planted(LINTS, "//! Nouns.\nfn f() { windlass_sys::fs::f() }\n", "model/src/lib.rs");
    assert_eq!(found, ["model/src/lib.rs uses windlass_sys"]);
}

#[test]
fn a_crate_with_one_owner_is_found_elsewhere() {
    let found = planted(&format!("{LINTS}[dependencies]\nrocksdb = \"1\"\n"), "//! Nouns.\n", "model/src/lib.rs");
    assert_eq!(found, ["windlass-model may not depend on rocksdb, which belongs to windlass-engine"]);
}

#[test]
fn lints_cannot_be_left_out() {
    let found = planted("", "//! Nouns.\n", "model/src/lib.rs");
    assert_eq!(found, ["windlass-model does not take the workspace's lints"]);
}

#[test]
fn a_file_without_its_sentence_is_found() {
    let found = planted(LINTS, "use std::fs;\n", "model/src/lib.rs");
    assert_eq!(found, ["model/src/lib.rs does not open with a sentence (`//!`) on what it is responsible for"]);
}

#[test]
fn names_for_anything_are_found() {
    let found = planted(LINTS, "//! Things.\npub mod common;\n", "model/src/util/mod.rs");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|line| line.ends_with("what is it for?")), "{found:?}");
}

#[test]
fn a_crate_outside_the_workspace_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("Cargo.toml"), "[workspace]\nmembers = []\n").expect("write");
    fs::create_dir(dir.path().join("stray")).expect("mkdir");
    fs::write(dir.path().join("stray/Cargo.toml"), "[package]\nname = \"stray\"\n").expect("write");
    assert!(Workspace::read(dir.path()).is_err());
}

#[test]
fn a_proof_that_does_not_exist_is_found() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
            .and_then(|()| fs::write(path, text))
            .expect("write");
    };
    write("Cargo.toml", "[workspace]\nmembers = []\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\n");
    write("docs/a.md", "`life::a_pod`, `life::gone`, `life::a_po`, `none::a_pod`, `Std::Word`\n");
    write("test-e2e/tests/life.rs", "fn a_pod() {}\n");
    let found = violations(&Workspace::read(dir.path()).expect("manifests")).expect("files");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|line| line.starts_with("docs/a.md: there is no test ")), "{found:?}");
}
