//! Which network pods are attached to: the node's CNI configuration (CNI specification 1.1.0, section 1).
//!
//! A configuration folder holds files that end in `.conflist` (a list of plugins) or in `.conf` or `.json` (a single
//! plugin). The first file by name is the pods' network, as in containerd. Only that file is read: a broken file is an
//! error that names it and never sends pods to the next network by accident.
//!
//! The folder is read at each use, not watched. Reading one small file costs less than a plugin's `fork`, and no
//! change can be missed, also where the folder itself is replaced or is made only after the daemon's start.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use windlass_model::{Context as _, Error, Result};

/// The versions of the specification whose results this runtime reads.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The longest configuration file, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// A network configuration, checked: what to run for an attachment, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkList {
    /// The network's name.
    pub name: String,
    /// The version of the specification that is spoken with the plugins.
    pub version: String,
    /// The operator asked for no CHECK.
    #[serde(default)]
    pub disable_check: bool,
    /// The operator asked for no GC: other runtimes use the network, too.
    #[serde(default)]
    pub disable_gc: bool,
    /// The plugins' own configurations, in the order of ADD; never empty, and each has a `type` that is a file name.
    pub plugins: Vec<Plugin>,
}

/// One plugin of a network and what it wants to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Plugin(Map<String, Value>);

impl NetworkList {
    /// Reads the network of `folder`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`], naming the folder without a configuration or the wrong file.
    pub fn load(folder: &Path) -> Result<Self> {
        let file = first_file(folder)?;
        let refuse = |error: Error| Error::precondition(format!("network configuration {}: {error}", file.display()));
        read(&file).and_then(|text| Self::parse(&text, has_extension(&file, "conflist"))).map_err(refuse)
    }

    /// Checks a configuration's text; `list` where it is a list of plugins.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`], naming what is wrong.
    pub fn parse(text: &[u8], list: bool) -> Result<Self> {
        let conf: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| Error::invalid(format!("not a JSON object: {error}")))?;
        let name = string(&conf, "name")?.unwrap_or_default();
        if !is_network_name(name) {
            return Err(Error::invalid(format!("name {name:?} is not letters, digits, '.', '_' and '-'")));
        }
        let version = version(&conf)?;
        let plugins = if list {
            let plugins = conf.get("plugins").and_then(Value::as_array);
            plugins.ok_or_else(|| Error::invalid("no list of plugins"))?.iter().map(Plugin::parse).collect()
        } else if conf.contains_key("plugins") {
            Err(Error::invalid("a list of plugins belongs into a file that ends in .conflist"))
        } else {
            Plugin::parse(&Value::Object(conf.clone())).map(|plugin| vec![plugin])
        };
        let plugins: Vec<Plugin> = plugins?;
        if plugins.is_empty() {
            return Err(Error::invalid("the list of plugins is empty"));
        }
        Ok(Self {
            name: name.into(),
            version,
            disable_check: truth(conf.get("disableCheck")),
            disable_gc: truth(conf.get("disableGC")),
            plugins,
        })
    }

    /// True where the specification of this network knows CHECK and `prevResult` for DEL (0.4.0 and later).
    pub fn has_check(&self) -> bool {
        !self.version.starts_with("0.3.")
    }

    /// True where the specification of this network knows GC and STATUS (1.1.0 and later).
    pub fn has_status(&self) -> bool {
        self.version == "1.1.0"
    }
}

impl Plugin {
    fn parse(conf: &Value) -> Result<Self> {
        let conf = conf.as_object().ok_or_else(|| Error::invalid("a plugin is not a JSON object"))?;
        match string(conf, "type")? {
            Some(kind) if !kind.is_empty() && kind != "." && kind != ".." && !kind.contains(['/', '\0']) => {
                Ok(Self(conf.clone()))
            }
            Some(kind) => Err(Error::invalid(format!("plugin type {kind:?} is not a file name"))),
            None => Err(Error::invalid("a plugin has no type")),
        }
    }

    /// The plugin's executable, a name to be found in the folders of plugins.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// True where the plugin asks for the capability `name`.
    pub fn wants(&self, name: &str) -> bool {
        truth(self.0.get("capabilities").and_then(|all| all.get(name)))
    }

    /// The configuration as written, to be completed for a call.
    pub fn conf(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// True for a version of the specification whose results are understood.
pub(super) fn is_spoken(version: &str) -> bool {
    VERSIONS.contains(&version)
}

/// The first configuration file by name.
pub(super) fn first_file(folder: &Path) -> Result<PathBuf> {
    let none = || Error::precondition(format!("no network configuration in {}", folder.display()));
    let mut first: Option<PathBuf> = None;
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none()),
        entries => entries.context(|| format!("read the folder {}", folder.display()))?,
    };
    for entry in entries {
        let path = entry.context(|| format!("read the folder {}", folder.display()))?.path();
        let known = ["conf", "conflist", "json"].iter().any(|extension| has_extension(&path, extension));
        if known && !path.is_dir() && first.as_ref().is_none_or(|first| path < *first) {
            first = Some(path);
        }
    }
    first.ok_or_else(none)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(file)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST { Err(Error::invalid(format!("longer than {LONGEST} bytes"))) } else { Ok(text) }
}

/// The newest version that the configuration offers and we speak (`cniVersions` came with 1.1.0).
fn version(conf: &Map<String, Value>) -> Result<String> {
    let offered = conf.get("cniVersions").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let single = string(conf, "cniVersion")?;
    let rank = |version: &str| VERSIONS.iter().position(|known| *known == version);
    let best = offered.chain(single).filter_map(rank).max().and_then(|rank| VERSIONS.get(rank));
    best.map(ToString::to_string).ok_or_else(|| {
        let single = single.unwrap_or("(none)");
        Error::invalid(format!("cniVersion {single} is not supported: one of {}", VERSIONS.join(", ")))
    })
}

fn string<'a>(conf: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>> {
    match conf.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::invalid(format!("{field} is not a string"))),
    }
}

/// A flag, which some operators write as a string (libcni reads both).
fn truth(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

fn is_network_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[
        {"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

    #[test]
    fn a_list_is_read() {
        let list = NetworkList::parse(LIST.as_bytes(), true).unwrap();
        assert_eq!((list.name.as_str(), list.version.as_str()), ("net", "1.0.0"));
        assert_eq!(list.plugins.iter().map(Plugin::kind).collect::<Vec<_>>(), ["bridge", "portmap"]);
        assert!(list.plugins[1].wants("portMappings") && !list.plugins[0].wants("portMappings"));
        assert!(list.has_check() && !list.disable_check);
        let again: NetworkList = serde_json::from_str(&serde_json::to_string(&list).unwrap()).unwrap();
        assert_eq!(again, list);
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = NetworkList::parse(br#"{"cniVersion":"0.3.1","name":"one","type":"ptp"}"#, false).unwrap();
        assert_eq!(list.plugins.len(), 1);
        assert!(!list.has_check());
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let text =
            br#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0","9.0.0"],"name":"n","plugins":[{"type":"x"}]}"#;
        assert_eq!(NetworkList::parse(text, true).unwrap().version, "1.1.0");
    }

    #[test]
    fn wrong_configurations_are_refused_with_their_fault() {
        for (text, list, fault) in [
            ("", true, "JSON"),
            ("[]", true, "JSON"),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, true, "name"),
            (r#"{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"x"}]}"#, true, "name"),
            (r#"{"cniVersion":"1.0.0","name":7,"plugins":[{"type":"x"}]}"#, true, "name"),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, true, "plugins"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, true, "empty"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[3]}"#, true, "object"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#, true, "no type"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../sh"}]}"#, true, "file name"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x"}]}"#, false, ".conflist"),
            (r#"{"cniVersion":"0.2.0","name":"n","type":"x"}"#, false, "0.2.0"),
            (r#"{"name":"n","type":"x"}"#, false, "(none)"),
        ] {
            let error = NetworkList::parse(text.as_bytes(), list).unwrap_err().to_string();
            assert!(error.contains(fault), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_file_by_name_decides_at_each_use() {
        let folder = tempfile::tempdir().unwrap();
        let error = NetworkList::load(&folder.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), windlass_model::Kind::FailedPrecondition);
        assert!(NetworkList::load(folder.path()).unwrap_err().to_string().contains("no network configuration"));
        fs::write(folder.path().join("00-readme.txt"), "not read").unwrap();
        fs::create_dir(folder.path().join("01-folder.conf")).unwrap();
        fs::write(folder.path().join("20-net.conflist"), LIST).unwrap();
        assert_eq!(NetworkList::load(folder.path()).unwrap().name, "net");
        let first = folder.path().join("10-first.conf");
        fs::write(&first, r#"{"cniVersion":"1.0.0","name":"first","type":"ptp"}"#).unwrap();
        assert_eq!(NetworkList::load(folder.path()).unwrap().name, "first");
        fs::write(&first, "{half").unwrap();
        assert!(NetworkList::load(folder.path()).unwrap_err().to_string().contains("10-first.conf"));
        fs::remove_file(&first).unwrap();
        assert_eq!(NetworkList::load(folder.path()).unwrap().name, "net");
    }
}
