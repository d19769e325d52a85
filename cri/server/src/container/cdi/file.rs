//! Reads a file of the Container Device Interface, JSON or YAML, and refuses what the specification does not allow.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use windlass_model::{Context as _, Error, Result};
use yaml_rust2::{Yaml, YamlLoader};

/// The longest file that is read, in bytes.
const LONGEST: u64 = 4 << 20;
/// How deep a file may be nested: deeper than any that means something.
const DEEPEST: usize = 32;
/// The versions of the specification that are known.
const VERSIONS: [&str; 9] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0", "1.2.0"];
/// Where the OCI specification lets programs be called.
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Described {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// A device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    pub(super) container_edits: Edits,
}

/// What a device changes in a specification.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) mounts: Vec<Mounted>,
    pub(super) hooks: Vec<Hook>,
    #[serde(alias = "additionalGIDs")]
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<Map<String, Value>>,
}

/// A device node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) host_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A network device that moves into the container.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

/// A mount.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Mounted {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A program to call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

/// True for the names that files of the interface have.
pub(super) fn is_named_so(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml")
}

/// True for a full name, `vendor/class=device`.
pub(super) fn is_device(name: &str) -> bool {
    name.split_once('=').is_some_and(|(kind, device)| is_kind(kind) && is_device_name(device))
}

/// True for `vendor/class`.
fn is_kind(kind: &str) -> bool {
    let word = |word: &str, more: &[u8]| {
        let bytes = word.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || more.contains(byte);
        bytes.first().is_some_and(u8::is_ascii_alphabetic)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(inner)
    };
    kind.split_once('/').is_some_and(|(vendor, class)| word(vendor, b"_-.") && word(class, b"_-."))
}

fn is_device_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(inner)
}

/// Reads and checks a file.
///
/// # Errors
/// Naming the file and what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Described> {
    let doing = || format!("CDI file {}", path.display());
    let mut text = String::new();
    let taken = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    taken.context(doing)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::invalid(format!("{}: is longer than {LONGEST} bytes", doing())));
    }
    let value = if path.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        yaml(&text)
    };
    let described = value.and_then(|value| Described::deserialize(value).map_err(|error| error.to_string()));
    let described = described.and_then(|described| check(&described).map(|()| described));
    described.map_err(|why| Error::invalid(format!("{}: {why}", doing())))
}

fn yaml(text: &str) -> Result<Value, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    match documents.as_slice() {
        [one] => json(one, 0),
        _ => Err("does not hold one document".into()),
    }
}

fn json(yaml: &Yaml, depth: usize) -> Result<Value, String> {
    if depth > DEEPEST {
        return Err("is nested too deep".into());
    }
    Ok(match yaml {
        Yaml::String(text) => text.clone().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(flag) => (*flag).into(),
        Yaml::Null => Value::Null,
        Yaml::Array(list) => list.iter().map(|one| json(one, depth + 1)).collect::<Result<Vec<_>, _>>()?.into(),
        Yaml::Hash(map) => {
            let entry = |(key, value): (&Yaml, &Yaml)| match key {
                Yaml::String(key) => Ok((key.clone(), json(value, depth + 1)?)),
                _ => Err("has a key that is no text".to_owned()),
            };
            Value::Object(map.iter().map(entry).collect::<Result<_, _>>()?)
        }
        Yaml::Real(_) | Yaml::Alias(_) | Yaml::BadValue => return Err("has a value that no field takes".into()),
    })
}

fn check(described: &Described) -> Result<(), String> {
    let version = described.cdi_version.trim_start_matches('v');
    require(VERSIONS.contains(&version), || format!("cdiVersion {:?} is unknown", described.cdi_version))?;
    require(is_kind(&described.kind), || format!("kind {:?} is not of the form vendor/class", described.kind))?;
    require(!described.devices.is_empty(), || "devices is empty".into())?;
    check_edits(&described.container_edits).map_err(|why| format!("containerEdits.{why}"))?;
    for (at, device) in described.devices.iter().enumerate() {
        let field = |why: &str| format!("devices[{at}].{why}");
        require(is_device_name(&device.name), || field(&format!("name {:?} is no name", device.name)))?;
        let twice = described.devices.iter().take(at).any(|other| other.name == device.name);
        require(!twice, || field(&format!("name {:?} is there twice", device.name)))?;
        check_edits(&device.container_edits).map_err(|why| field(&format!("containerEdits.{why}")))?;
    }
    Ok(())
}

fn check_edits(edits: &Edits) -> Result<(), String> {
    for variable in &edits.env {
        let named = variable.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        require(named && !variable.contains('\0'), || format!("env {variable:?} is not NAME=value"))?;
    }
    for (at, node) in edits.device_nodes.iter().enumerate() {
        let field = |why: String| format!("deviceNodes[{at}].{why}");
        require(node.path.starts_with('/'), || field(format!("path {:?} is not absolute", node.path)))?;
        let source = node.host_path.is_empty() || node.host_path.starts_with('/');
        require(source, || field(format!("hostPath {:?} is not absolute", node.host_path)))?;
        require(["", "b", "c", "u", "p"].contains(&node.kind.as_str()), || {
            field(format!("type {:?} is unknown", node.kind))
        })?;
        let letters = node.permissions.chars().all(|letter| "rwm".contains(letter));
        require(letters, || field(format!("permissions {:?} hold more than r, w and m", node.permissions)))?;
    }
    for (at, mount) in edits.mounts.iter().enumerate() {
        let field = |why: &str| format!("mounts[{at}].{why}");
        require(!mount.host_path.is_empty(), || field("hostPath is empty"))?;
        require(mount.container_path.starts_with('/'), || field("containerPath is not absolute"))?;
    }
    for (at, hook) in edits.hooks.iter().enumerate() {
        let field = |why: String| format!("hooks[{at}].{why}");
        require(HOOKS.contains(&hook.hook_name.as_str()), || {
            field(format!("hookName {:?} is unknown", hook.hook_name))
        })?;
        require(hook.path.starts_with('/'), || field(format!("path {:?} is not absolute", hook.path)))?;
    }
    for (at, device) in edits.net_devices.iter().enumerate() {
        let named = !device.host_interface_name.is_empty() && !device.name.is_empty();
        require(named, || format!("netDevices[{at}] names no interface"))?;
    }
    Ok(())
}

fn require(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, text: &str) -> Result<Described> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let text = "cdiVersion: \"0.5.0\"\nkind: vendor.com/net\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/x\n      fileMode: 438\n    hooks:\n    - hookName: createContainer\n      path: /bin/hook\n      args: [hook, \"-v\"]\n";
        let read = parse("a.yaml", text).unwrap();
        assert_eq!((read.kind.as_str(), read.devices[0].name.as_str()), ("vendor.com/net", "0"));
        assert_eq!(read.devices[0].container_edits.device_nodes[0].file_mode, Some(438));
        assert_eq!(read.devices[0].container_edits.hooks[0].args, ["hook", "-v"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let file = |version: &str, kind: &str, device: &str| {
            format!(r#"{{"cdiVersion":"{version}","kind":"{kind}","devices":[{device}]}}"#)
        };
        let edits = |edits: &str| file("0.6.0", "v.com/c", &format!(r#"{{"name":"a","containerEdits":{edits}}}"#));
        for (text, why) in [
            (String::new(), "EOF"),
            ("[]".into(), "invalid length"),
            (file("9.9", "v.com/c", ""), "cdiVersion"),
            (file("0.6.0", "nokind", ""), "kind"),
            (file("0.6.0", "v.com/c", ""), "devices is empty"),
            (edits(r#"{"env":["x"]}"#), "devices[0].containerEdits.env"),
            (edits(r#"{"deviceNodes":[{"path":"x"}]}"#), "deviceNodes[0].path"),
            (edits(r#"{"deviceNodes":[{"path":"/x","type":"q"}]}"#), "type"),
            (edits(r#"{"mounts":[{"hostPath":"/a"}]}"#), "mounts[0].containerPath"),
            (edits(r#"{"hooks":[{"hookName":"never","path":"/x"}]}"#), "hooks[0].hookName"),
            (edits(r#"{"surprise":1}"#), "surprise"),
        ] {
            let error = parse("bad.json", &text).unwrap_err().to_string();
            assert!(error.contains("bad.json") && error.contains(why), "{error}");
        }
        assert!(parse("bad.yaml", "a: [").unwrap_err().to_string().contains("bad.yaml"));
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(parse("deep.yaml", &deep).is_err());
    }
}
