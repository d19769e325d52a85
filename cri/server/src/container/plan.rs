//! Checks what CreateContainer asks for, field by field, and touches nothing: what passes can be tried.

use std::path::{Component, Path, PathBuf};

use windlass_cri_api::v1;
use windlass_model::{Error, Result};

use super::cdi;
use super::spec::{mounts, resources, security};
use crate::Runtime;

/// The longest name, in bytes: a DNS name's limit.
const LONGEST_NAME: usize = 253;

/// A request that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The unique name: a retry repeats it, a new attempt does not.
    pub(crate) name: String,
    /// The image as the request names it: an id, mostly.
    pub(crate) image: String,
    /// The log file; `None` where the pod or the container has none.
    pub(crate) log_path: Option<PathBuf>,
}

/// Checks `config` for a container of the pod that `pod` describes.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the field; [`windlass_model::Kind::Unimplemented`] for a field that
/// is right and not built.
pub(crate) fn plan(config: &v1::ContainerConfig, pod: &v1::PodSandboxConfig, runtime: &Runtime) -> Result<Plan> {
    let metadata = config.metadata.as_ref().ok_or_else(|| wrong("metadata", "is missing"))?;
    let sandbox = pod.metadata.as_ref().ok_or_else(|| wrong("sandbox_config.metadata", "is missing"))?;
    require(!metadata.name.is_empty(), "metadata.name", "is empty")?;
    require(metadata.name.len() <= LONGEST_NAME, "metadata.name", "is longer than a name may be")?;
    require(!metadata.name.contains(char::is_control), "metadata.name", "holds a control character")?;
    let image = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    require(!image.is_empty(), "image.image", "is empty")?;
    words("command", &config.command)?;
    words("args", &config.args)?;
    let cwd = &config.working_dir;
    require(cwd.is_empty() || cwd.starts_with('/'), "working_dir", "is not absolute")?;
    require(!cwd.contains('\0'), "working_dir", "holds a NUL byte")?;
    environment(&config.envs, *runtime == Runtime::default())?;
    for (at, mount) in config.mounts.iter().enumerate() {
        check_mount(mount).map_err(|why| why.of(&format!("mounts[{at}]")))?;
        mounts::ids(mount, &format!("mounts[{at}]"))?;
    }
    for (at, device) in config.devices.iter().enumerate() {
        check_device(device).map_err(|why| why.of(&format!("devices[{at}]")))?;
    }
    cdi::requested(config)?;
    require(v1::Signal::try_from(config.stop_signal).is_ok(), "stop_signal", "is no signal of the CRI")?;
    if let Some(linux) = &config.linux {
        linux.resources.iter().try_for_each(|asked| resources::check(asked, "linux.resources"))?;
        security::check(linux.security_context.as_ref(), pod)?;
    }
    let attempt = metadata.attempt.to_string();
    let parts = [&metadata.name, &sandbox.name, &sandbox.namespace, &sandbox.uid, &attempt];
    Ok(Plan {
        name: parts.map(String::as_str).join("_"),
        image,
        log_path: log_path(&pod.log_directory, &config.log_path)?,
    })
}

/// Where the log goes: `log_path` below the pod's `log_directory`.
fn log_path(directory: &str, path: &str) -> Result<Option<PathBuf>> {
    if directory.is_empty() || path.is_empty() {
        return Ok(None);
    }
    require(directory.starts_with('/'), "sandbox_config.log_directory", "is not absolute")?;
    let below = Path::new(path);
    let plain = below.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    require(plain && !path.contains('\0'), "log_path", "is not a path below the pod's log directory")?;
    Ok(Some(Path::new(directory).join(below)))
}

fn words(field: &str, words: &[String]) -> Result<()> {
    require(!words.iter().any(|word| word.contains('\0')), field, "holds a NUL byte")
}

fn environment(envs: &[v1::KeyValue], built_in: bool) -> Result<()> {
    for (at, pair) in envs.iter().enumerate() {
        let field = || format!("envs[{at}] ({:?})", pair.key);
        require(!pair.key.is_empty(), &field(), "has no name")?;
        require(!pair.key.contains(['=', '\0']), &field(), "has a name with '=' or NUL in it")?;
        require(!pair.value.contains(&0), &field(), "has a value with a NUL byte in it")?;
        // The OCI specification is JSON, and JSON knows no bytes; runc would put U+FFFD there without a word.
        let told = built_in || std::str::from_utf8(&pair.value).is_ok();
        require(told, &field(), "has a value that is not UTF-8, which only the built-in OCI runtime can pass on")?;
    }
    Ok(())
}

/// What is wrong with a part of a list's entry.
enum Why {
    Wrong(&'static str, &'static str),
}

impl Why {
    fn of(self, entry: &str) -> Error {
        match self {
            Self::Wrong(field, why) => wrong(&format!("{entry}.{field}"), why),
        }
    }
}

fn check_mount(mount: &v1::Mount) -> Result<(), Why> {
    let propagation = v1::MountPropagation::try_from(mount.propagation);
    let image = mount.image.as_ref().is_some_and(|image| !image.image.is_empty());
    let rules = [
        (mount.container_path.starts_with('/'), "container_path", "is not absolute"),
        (!mount.container_path.contains('\0'), "container_path", "holds a NUL byte"),
        (Path::new(&mount.container_path) != Path::new("/"), "container_path", "is the container's root"),
        (!mount.host_path.contains('\0'), "host_path", "holds a NUL byte"),
        (!image || mount.host_path.is_empty(), "host_path", "stands beside an image"),
        (!image || mount.readonly, "readonly", "must be true for an image"),
        (!mount.image_sub_path.contains('\0'), "image_sub_path", "holds a NUL byte"),
        (!mount.image_sub_path.starts_with('/'), "image_sub_path", "is not relative"),
        (image || mount.host_path.starts_with('/'), "host_path", "is not absolute"),
        (propagation.is_ok(), "propagation", "is unknown"),
        (image || mount.image_sub_path.is_empty(), "image_sub_path", "needs an image"),
        (mount.readonly || !mount.recursive_read_only, "recursive_read_only", "needs readonly"),
        (
            !mount.recursive_read_only || propagation == Ok(v1::MountPropagation::PropagationPrivate),
            "recursive_read_only",
            "needs private propagation",
        ),
    ];
    if let Some((_, field, why)) = rules.into_iter().find(|(holds, ..)| !holds) {
        return Err(Why::Wrong(field, why));
    }
    Ok(())
}

fn check_device(device: &v1::Device) -> Result<(), Why> {
    let rules = [
        (device.host_path.starts_with('/'), "host_path", "is not absolute"),
        (!device.host_path.contains('\0'), "host_path", "holds a NUL byte"),
        (!device.container_path.contains('\0'), "container_path", "holds a NUL byte"),
        (
            device.container_path.is_empty() || device.container_path.starts_with('/'),
            "container_path",
            "is not absolute",
        ),
        (device.permissions.chars().all(|letter| "rwm".contains(letter)), "permissions", "holds more than r, w and m"),
    ];
    match rules.into_iter().find(|(holds, ..)| !holds) {
        None => Ok(()),
        Some((_, field, why)) => Err(Why::Wrong(field, why)),
    }
}

/// The error for a wrong field.
pub(crate) fn wrong(field: &str, why: &str) -> Error {
    Error::invalid(format!("{field} {why}"))
}

/// Refuses a field unless `holds`.
pub(crate) fn require(holds: bool, field: &str, why: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(wrong(field, why)) }
}

#[cfg(test)]
mod tests {
    use windlass_model::Kind;

    use super::*;

    fn pod() -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "p".into(),
                namespace: "ns".into(),
                uid: "u".into(),
                attempt: 3,
            }),
            log_directory: "/var/log/pods/p".into(),
            ..Default::default()
        }
    }

    fn config() -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 2 }),
            image: Some(v1::ImageSpec { image: "sha256:00".into(), ..Default::default() }),
            log_path: "c/2.log".into(),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut v1::ContainerConfig)) -> Error {
        let mut config = config();
        change(&mut config);
        plan(&config, &pod(), &Runtime::default()).unwrap_err()
    }

    #[test]
    fn a_plain_request_passes() {
        let plan = plan(&config(), &pod(), &Runtime::default()).unwrap();
        assert_eq!(plan.name, "c_p_ns_u_2");
        assert_eq!(plan.log_path.unwrap(), Path::new("/var/log/pods/p/c/2.log"));
    }

    #[test]
    fn a_container_without_log_path_has_no_log() {
        let quiet = v1::ContainerConfig { log_path: String::new(), ..config() };
        assert_eq!(plan(&quiet, &pod(), &Runtime::default()).unwrap().log_path, None);
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Change = fn(&mut v1::ContainerConfig);
        let mount = || v1::Mount { container_path: "/a".into(), host_path: "/b".into(), ..Default::default() };
        let resources = |resources| Some(v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() });
        type Case = (&'static str, Box<dyn FnOnce(&mut v1::ContainerConfig)>);
        let cases: Vec<Case> = vec![
            ("metadata is", Box::new((|c| c.metadata = None) as Change)),
            ("metadata.name", Box::new(|c| c.metadata = Some(v1::ContainerMetadata::default()))),
            ("image.image", Box::new(|c| c.image = None)),
            ("command", Box::new(|c| c.command = vec!["a\0b".into()])),
            ("working_dir", Box::new(|c| c.working_dir = "tmp".into())),
            ("log_path", Box::new(|c| c.log_path = "../../etc/passwd".into())),
            ("log_path", Box::new(|c| c.log_path = "/etc/passwd".into())),
            ("envs[0]", Box::new(|c| c.envs = vec![v1::KeyValue { key: "A=B".into(), value: vec![] }])),
            (
                "mounts[0].container_path",
                Box::new(move |c| c.mounts = vec![v1::Mount { container_path: "a".into(), ..mount() }]),
            ),
            (
                "mounts[0].host_path",
                Box::new(move |c| c.mounts = vec![v1::Mount { host_path: String::new(), ..mount() }]),
            ),
            ("mounts[0].propagation", Box::new(move |c| c.mounts = vec![v1::Mount { propagation: 9, ..mount() }])),
            (
                "recursive_read_only",
                Box::new(move |c| c.mounts = vec![v1::Mount { recursive_read_only: true, ..mount() }]),
            ),
            (
                "devices[0].permissions",
                Box::new(|c| {
                    c.devices = vec![v1::Device {
                        host_path: "/dev/null".into(),
                        permissions: "x".into(),
                        ..Default::default()
                    }];
                }),
            ),
            ("stop_signal", Box::new(|c| c.stop_signal = 99)),
            (
                "memory_swap_limit",
                Box::new(move |c| {
                    c.linux = resources(v1::LinuxContainerResources {
                        memory_limit_in_bytes: 2,
                        memory_swap_limit_in_bytes: 1,
                        ..Default::default()
                    });
                }),
            ),
            (
                "oom_score_adj",
                Box::new(move |c| {
                    c.linux = resources(v1::LinuxContainerResources { oom_score_adj: 2000, ..Default::default() });
                }),
            ),
            (
                "unified",
                Box::new(move |c| {
                    let unified = [("../x".to_string(), "1".to_string())].into();
                    c.linux = resources(v1::LinuxContainerResources { unified, ..Default::default() });
                }),
            ),
        ];
        for (field, change) in cases {
            let error = refused(change);
            assert_eq!(error.kind(), Kind::InvalidArgument, "{field}: {error}");
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn an_image_volume_is_read_only_and_has_no_other_source() {
        let image = || Some(v1::ImageSpec { image: "a".into(), ..Default::default() });
        let mount = || v1::Mount { container_path: "/a".into(), image: image(), readonly: true, ..Default::default() };
        assert!(plan(&v1::ContainerConfig { mounts: vec![mount()], ..config() }, &pod(), &Runtime::default()).is_ok());
        for (field, mount) in [
            ("readonly", v1::Mount { readonly: false, ..mount() }),
            ("host_path", v1::Mount { host_path: "/b".into(), ..mount() }),
            ("image_sub_path", v1::Mount { image_sub_path: "/etc".into(), ..mount() }),
            (
                "image_sub_path",
                v1::Mount { image: None, host_path: "/b".into(), image_sub_path: "a".into(), ..mount() },
            ),
        ] {
            let error = refused(|c| c.mounts = vec![mount]);
            assert!(error.kind() == Kind::InvalidArgument && error.to_string().contains(field), "{field}: {error}");
        }
    }
}
