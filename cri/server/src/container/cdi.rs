//! The Container Device Interface: devices that vendors describe in files, injected into a specification by name.
//!
//! The files are those of `/etc/cdi` and `/var/run/cdi` (CDI specification 1.1); of two that describe one device the
//! latter folder's counts, and two in one folder are a conflict. Files are read when a container asks for a device, so
//! none has to be watched, and a broken file is in the way only of who asks for what nobody else describes.

mod edits;
mod file;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_cri_api::v1;
use windlass_model::{Error, Result};

use file::{Described, Edits};

/// Where files are looked for, the weakest first.
const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// The annotations that ask for devices begin so; what follows only tells them apart.
const ANNOTATION: &str = "cdi.k8s.io/";

/// What the files describe.
#[derive(Debug, Default)]
struct Registry {
    /// By the full name: the folder's rank, the file, and what it says; nothing where two files of one folder say it.
    devices: BTreeMap<String, (usize, PathBuf, Option<Found>)>,
    broken: Vec<String>,
}

#[derive(Clone, Debug)]
struct Found {
    device: Edits,
    common: Edits,
}

/// What devices change of a process that runs beside a container's first one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beside {
    /// Variables, each `NAME=value`.
    #[serde(default)]
    env: Vec<String>,
    /// Groups that open the devices.
    #[serde(default)]
    groups: Vec<u32>,
}

/// The full names of the devices that a container asks for, each once, in the order of the request.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the field whose value is no name of a device.
pub(crate) fn requested(config: &v1::ContainerConfig) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str, field: String| {
        if !file::is_device(name) {
            return Err(Error::invalid(format!("{field}: {name:?} is not of the form vendor/class=device")));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        Ok(())
    };
    for (at, device) in config.cdi_devices.iter().enumerate() {
        add(&device.name, format!("CDI_devices[{at}].name"))?;
    }
    let mut annotations: Vec<_> = config.annotations.iter().filter(|(name, _)| name.starts_with(ANNOTATION)).collect();
    annotations.sort_unstable();
    for (key, value) in annotations {
        value.split(',').try_for_each(|name| add(name, format!("annotations[{key:?}]")))?;
    }
    Ok(names)
}

/// What the devices `names` change of every process in their container: kept, because their files may change while it
/// runs. Blocks.
///
/// # Errors
/// As [`inject`].
pub(crate) fn beside(names: &[String]) -> Result<Beside> {
    if names.is_empty() {
        return Ok(Beside::default());
    }
    Ok(Beside::of(&find(names, &FOLDERS.map(PathBuf::from))?))
}

/// Injects the devices `names` into `spec`, an OCI specification. Blocks.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for a device that no file describes, with what is wrong with the files that
/// could not be read; what the kernel says of a device node.
pub(crate) fn inject(spec: &mut Value, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    for (name, edits) in find(names, &FOLDERS.map(PathBuf::from))? {
        edits::apply(spec, &edits, &name)?;
    }
    Ok(())
}

/// The edits of each device, and once for each file before its first device those that the file has for all.
fn find(names: &[String], folders: &[PathBuf]) -> Result<Vec<(String, Edits)>> {
    let registry = Registry::read(folders);
    let mut edits = Vec::new();
    let mut files = Vec::new();
    for name in names {
        let Some((_, path, found)) = registry.devices.get(name) else {
            let mut message = format!("CDI device {name} is described by no file in {}", list(folders));
            for broken in &registry.broken {
                message.push_str("; ");
                message.push_str(broken);
            }
            return Err(Error::invalid(message));
        };
        let Some(found) = found else {
            let message =
                format!("CDI device {name} is described twice, by {} and another file beside it", path.display());
            return Err(Error::invalid(message));
        };
        if !files.contains(&path) {
            files.push(path);
            edits.push((name.clone(), found.common.clone()));
        }
        edits.push((name.clone(), found.device.clone()));
    }
    Ok(edits)
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ")
}

impl Beside {
    fn of(edits: &[(String, Edits)]) -> Self {
        let groups = edits.iter().flat_map(|(_, edits)| &edits.additional_gids).filter(|gid| **gid != 0);
        Self { env: edits.iter().flat_map(|(_, edits)| edits.env.clone()).collect(), groups: groups.copied().collect() }
    }

    /// True where nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// And what `more` devices change.
    pub(crate) fn extend(&mut self, more: Self) {
        self.env.extend(more.env);
        self.groups.extend(more.groups);
    }

    /// Changes `process`, an OCI process.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] where it is none.
    pub(crate) fn apply(&self, process: &mut Value) -> Result<()> {
        edits::process(process, "", &self.env, &self.groups)
    }
}

impl Registry {
    fn read(folders: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (rank, folder) in folders.iter().enumerate() {
            let mut paths: Vec<PathBuf> = fs::read_dir(folder)
                .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                .unwrap_or_default();
            paths.sort_unstable();
            for path in paths.iter().filter(|path| file::is_named_so(path)) {
                match file::read(path) {
                    Ok(described) => registry.add(rank, path, &described),
                    Err(error) => registry.broken.push(error.to_string()),
                }
            }
        }
        registry
    }

    fn add(&mut self, rank: usize, path: &Path, described: &Described) {
        for device in &described.devices {
            let name = format!("{}={}", described.kind, device.name);
            let found = Found { device: device.container_edits.clone(), common: described.container_edits.clone() };
            let twice = self.devices.get(&name).is_some_and(|(known, ..)| *known == rank);
            self.devices.insert(name, (rank, path.into(), (!twice).then_some(found)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GPU: &str = r#"{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","containerEdits":{"env":["ALL=1"]},
        "devices":[{"name":"a","containerEdits":{"env":["A=1"],"additionalGids":[44]}},
        {"name":"b","containerEdits":{"deviceNodes":[{"path":"/dev/b","hostPath":"/dev/null","permissions":"r"}]}}]}"#;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn devices_are_asked_for_in_both_ways() {
        let mut config = v1::ContainerConfig {
            cdi_devices: vec![v1::CdiDevice { name: "v.com/c=x".into() }],
            annotations: [
                ("cdi.k8s.io/one".to_owned(), "v.com/c=y,v.com/c=x".to_owned()),
                ("other".to_owned(), "nonsense".to_owned()),
            ]
            .into(),
            ..Default::default()
        };
        assert_eq!(requested(&config).unwrap(), ["v.com/c=x", "v.com/c=y"]);
        config.annotations.insert("cdi.k8s.io/two".into(), "nonsense".into());
        let error = requested(&config).unwrap_err();
        assert!(error.to_string().contains("annotations[\"cdi.k8s.io/two\"]"), "{error}");
        for wrong in ["", "v/c", "v/c=", "=x", "v.com=x", "v/c=a b", "-v/c=x", "v/c/d=x"] {
            let config =
                v1::ContainerConfig { cdi_devices: vec![v1::CdiDevice { name: wrong.into() }], ..Default::default() };
            let error = requested(&config).unwrap_err();
            assert!(error.to_string().starts_with("CDI_devices[0].name"), "{error}");
        }
    }

    #[test]
    fn later_folders_win_and_two_files_of_one_conflict() {
        let (weak, strong) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [weak.path().to_owned(), strong.path().to_owned()];
        fs::write(weak.path().join("gpu.json"), GPU).unwrap();
        fs::write(weak.path().join("rubbish.json"), "{").unwrap();
        fs::write(weak.path().join("rubbish.txt"), "{").unwrap();
        let found = find(&names(&["vendor.com/gpu=a", "vendor.com/gpu=b"]), &folders).unwrap();
        assert_eq!(found.len(), 3, "the file's own edits come once");
        let error = find(&names(&["vendor.com/gpu=c"]), &folders).unwrap_err().to_string();
        assert!(error.contains("vendor.com/gpu=c") && error.contains("rubbish.json"), "{error}");
        fs::write(strong.path().join("gpu.yaml"), GPU.replace("A=1", "A=2")).unwrap();
        let found = find(&names(&["vendor.com/gpu=a"]), &folders).unwrap();
        assert_eq!(found[1].1.env, ["A=2"]);
        fs::write(strong.path().join("more.json"), GPU).unwrap();
        let error = find(&names(&["vendor.com/gpu=a"]), &folders).unwrap_err().to_string();
        assert!(error.contains("twice"), "{error}");
    }

    #[test]
    fn a_device_changes_the_specification() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gpu.json"), GPU).unwrap();
        let mut spec = json!({"process": {"env": ["PATH=/bin", "A=0"], "user": {"uid": 0, "gid": 0}}, "mounts": [],
            "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}}});
        let wanted = names(&["vendor.com/gpu=a", "vendor.com/gpu=b"]);
        for (name, edits) in find(&wanted, &[folder.path().to_owned()]).unwrap() {
            edits::apply(&mut spec, &edits, &name).unwrap();
        }
        assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "A=1", "ALL=1"]));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([44]));
        let mut beside = json!({"env": ["A=0", "B=1"], "user": {"uid": 0, "gid": 0, "additionalGids": [44, 5]}});
        Beside::of(&find(&wanted, &[folder.path().to_owned()]).unwrap()).apply(&mut beside).unwrap();
        assert_eq!(
            beside,
            json!({"env": ["A=1", "B=1", "ALL=1"], "user": {"uid": 0, "gid": 0, "additionalGids": [44, 5]}})
        );
        let device = &spec["linux"]["devices"][0];
        assert_eq!(
            (&device["path"], &device["type"], &device["major"], &device["minor"]),
            (&json!("/dev/b"), &json!("c"), &json!(1), &json!(3))
        );
        let rule = &spec["linux"]["resources"]["devices"][1];
        assert_eq!(rule, &json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}));
    }
}
