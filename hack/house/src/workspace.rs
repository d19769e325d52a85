//! The workspace as its manifests tell it: members, and what each depends on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// The whole workspace.
#[derive(Debug)]
pub struct Workspace {
    /// The folder of the workspace's manifest.
    pub root: PathBuf,
    /// The workspace's manifest.
    pub manifest: Table,
    /// Its members.
    pub crates: Vec<Crate>,
}

/// One member.
#[derive(Debug)]
pub struct Crate {
    /// The package's name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Packages that it is built from.
    pub dependencies: BTreeSet<String>,
    /// Packages that only its tests use.
    pub test_dependencies: BTreeSet<String>,
    /// Its manifest.
    pub manifest: Table,
}

impl Workspace {
    /// The workspace that cargo runs this in. Asked at run time: checkouts that share a target folder share this program.
    pub fn own_root() -> PathBuf {
        let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&own).join("../..")
    }

    /// Reads the manifests below `root`; a crate that is there but neither a member nor excluded is an error.
    pub fn read(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("find {}", root.display()))?;
        let manifest = table(&root.join("Cargo.toml"))?;
        let members = manifest.get("workspace").and_then(|workspace| workspace.get("members"));
        let members = members.and_then(Value::as_array).context("the workspace lists no members")?;
        let mut crates = Vec::new();
        for member in members {
            crates.push(Crate::read(&root.join(member.as_str().context("a member is a path")?))?);
        }
        let workspace = Self { root, manifest, crates };
        workspace.refuse_strays()?;
        Ok(workspace)
    }

    /// The members that others can name in their code.
    pub fn libraries(&self) -> impl Iterator<Item = &Crate> {
        self.crates.iter().filter(|member| member.folder.join("src/lib.rs").exists())
    }

    fn refuse_strays(&self) -> Result<()> {
        let excluded = self.manifest.get("workspace").and_then(|workspace| workspace.get("exclude"));
        let excluded: Vec<PathBuf> = excluded
            .and_then(Value::as_array)
            .map(|folders| folders.iter().filter_map(Value::as_str).map(|folder| self.root.join(folder)).collect())
            .unwrap_or_default();
        let hidden = |entry: &walkdir::DirEntry| {
            entry.depth() > 0
                && (entry.file_name().to_str().is_some_and(|name| name.starts_with('.') || name == "target")
                    || excluded.iter().any(|folder| folder == entry.path()))
        };
        for entry in walkdir::WalkDir::new(&self.root).into_iter().filter_entry(|entry| !hidden(entry)) {
            let path = entry?.into_path();
            let folder = path.parent().unwrap_or(&self.root);
            let known = folder == self.root || self.crates.iter().any(|member| member.folder == folder);
            if path.file_name().is_some_and(|name| name == "Cargo.toml") && !known {
                bail!("{} is no member of the workspace", path.display());
            }
        }
        Ok(())
    }
}

impl Crate {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("Cargo.toml");
        let manifest = table(&path)?;
        let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let mut tables = vec![&manifest];
        if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
            tables.extend(targets.values().filter_map(Value::as_table));
        }
        let collect = |kinds: &[&str]| {
            let tables = tables.iter().flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)));
            tables.filter_map(Value::as_table).flat_map(packages).collect()
        };
        Ok(Self {
            name: name.with_context(|| format!("{} names no package", path.display()))?.to_owned(),
            folder: folder.to_owned(),
            dependencies: collect(&["dependencies", "build-dependencies"]),
            test_dependencies: collect(&["dev-dependencies"]),
            manifest,
        })
    }

    /// Every Rust file of the crate.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for place in ["src", "tests", "benches", "examples", "build.rs"] {
            let place = self.folder.join(place);
            if !place.exists() {
                continue;
            }
            for entry in walkdir::WalkDir::new(place).sort_by_file_name() {
                let path = entry?.into_path();
                if path.extension().is_some_and(|extension| extension == "rs") {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }
}

/// The packages of a dependency table; a renamed one counts by its real name.
fn packages(table: &Table) -> impl Iterator<Item = String> + '_ {
    table.iter().map(|(key, value)| value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned())
}

fn table(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse().with_context(|| format!("parse {}", path.display()))
}
