//! Capabilities, masked paths and users of a container.

use std::collections::HashSet;
use std::str::FromStr as _;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use windlass_cri_api::v1;
use windlass_cri_api::v1::security_profile::ProfileType;
use windlass_model::confinement::{CAPABILITIES, MASKED, READ_ONLY};
use windlass_model::{Error, Result};
use windlass_sys::idmap::IdMap;

use super::Host;
use crate::container::plan::{require, wrong};
use crate::pod::users;
use crate::selinux;

/// Checks a security context, see [`crate::container::plan`].
pub(crate) fn check(context: Option<&v1::LinuxContainerSecurityContext>, pod: &v1::PodSandboxConfig) -> Result<()> {
    let Some(context) = context else { return Ok(()) };
    let at = |field: &str| format!("linux.security_context.{field}");
    let named = !context.run_as_username.is_empty();
    require(!(named && context.run_as_user.is_some()), &at("run_as_username"), "and run_as_user are both given")?;
    require(
        context.run_as_group.is_none() || named || context.run_as_user.is_some(),
        &at("run_as_group"),
        "is given without a user",
    )?;
    for (field, id) in [("run_as_user", &context.run_as_user), ("run_as_group", &context.run_as_group)] {
        let fits = id.as_ref().is_none_or(|id| (0..i64::from(u32::MAX)).contains(&id.value));
        require(fits, &at(field), "is no id")?;
    }
    let groups = context.supplemental_groups.iter().all(|group| (0..i64::from(u32::MAX)).contains(group));
    require(groups, &at("supplemental_groups"), "holds what is no id")?;
    for (field, paths) in [("masked_paths", &context.masked_paths), ("readonly_paths", &context.readonly_paths)] {
        let absolute = paths.iter().all(|path| path.starts_with('/') && !path.contains('\0'));
        require(absolute, &at(field), "holds what is no absolute path")?;
    }
    #[allow(deprecated)]
    {
        profile(context.seccomp.as_ref(), &context.seccomp_profile_path, "seccomp")?;
        profile(context.apparmor.as_ref(), &context.apparmor_profile, "apparmor")?;
    }
    selinux::check(context.selinux_options.as_ref(), "")?;
    let policy = v1::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy);
    require(policy.is_ok(), &at("supplemental_groups_policy"), "is unknown")?;
    if let Some(asked) = &context.capabilities {
        let lists = [&asked.add_capabilities, &asked.drop_capabilities, &asked.add_ambient_capabilities];
        for name in lists.into_iter().flatten().filter(|name| !is_all(name)) {
            capability(name)?;
        }
    }
    let sandbox = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let allowed = sandbox.is_some_and(|sandbox| sandbox.privileged);
    require(!context.privileged || allowed, &at("privileged"), "is asked of a pod that is not privileged")?;
    if let Some(options) = &context.namespace_options {
        // Both are the pod's in any case, but an unknown word means something that is not known here.
        for (field, mode) in [("network", options.network), ("ipc", options.ipc)] {
            let known = v1::NamespaceMode::try_from(mode).is_ok();
            require(known, &at(&format!("namespace_options.{field}")), "is unknown")?;
        }
        let pid = v1::NamespaceMode::try_from(options.pid);
        require(pid.is_ok(), &at("namespace_options.pid"), "is unknown")?;
        let target = pid == Ok(v1::NamespaceMode::Target);
        require(!target || !options.target_id.is_empty(), &at("namespace_options.target_id"), "is empty")?;
        let field = at("namespace_options.userns_options");
        let shared = sandbox.and_then(|sandbox| sandbox.namespace_options.as_ref());
        let shared = users::map(shared.and_then(|options| options.userns_options.as_ref()), &field)?;
        let own = users::map(options.userns_options.as_ref(), &field)?;
        let agree = options.userns_options.is_none() || own == shared;
        require(agree, &field, "is not what the pod was made with")?;
        check_ids(context, shared.as_ref())?;
    }
    Ok(())
}

/// Refuses numbers that stand for nobody in the pod's user namespace.
fn check_ids(context: &v1::LinuxContainerSecurityContext, map: Option<&IdMap>) -> Result<()> {
    let Some(map) = map else { return Ok(()) };
    let id = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let users = context.run_as_user.iter().map(|user| ("run_as_user", map.uid(id(user.value))));
    let groups = context.run_as_group.iter().map(|group| ("run_as_group", map.gid(id(group.value))));
    let more = context.supplemental_groups.iter().map(|group| ("supplemental_groups", map.gid(id(*group))));
    let strange = users.chain(groups).chain(more).find(|(_, outside)| outside.is_none());
    strange.map_or(Ok(()), |(field, _)| {
        Err(wrong(&format!("linux.security_context.{field}"), "has no place in the pod's user namespace"))
    })
}

fn is_all(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name == "ALL" || name == "CAP_ALL"
}

fn capability(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let unknown = || wrong("linux.security_context.capabilities", &format!("names {name:?}, which is no capability"));
    Capability::from_str(short).map_err(|_| unknown())
}

/// What a container may do unless it asks otherwise.
fn default_capabilities() -> HashSet<Capability> {
    CAPABILITIES.iter().filter_map(|name| Capability::from_str(name).ok()).collect()
}

/// The capabilities of a container's first process.
///
/// `ALL` counts before single names, and a name that is both added and dropped is dropped. What this process has not,
/// it cannot give: such a capability is left out and the log says so.
pub(crate) fn capabilities(
    context: Option<&v1::LinuxContainerSecurityContext>,
    host: &Host,
) -> Result<LinuxCapabilities> {
    let none = v1::Capability::default();
    let asked = context.and_then(|context| context.capabilities.as_ref()).unwrap_or(&none);
    let mut set = default_capabilities();
    if context.is_some_and(|context| context.privileged) || asked.add_capabilities.iter().any(|name| is_all(name)) {
        set.clone_from(&host.capabilities);
    }
    let privileged = context.is_some_and(|context| context.privileged);
    if !privileged {
        if asked.drop_capabilities.iter().any(|name| is_all(name)) {
            set.clear();
        }
        for name in asked.add_capabilities.iter().filter(|name| !is_all(name)) {
            set.insert(capability(name)?);
        }
        for name in asked.drop_capabilities.iter().filter(|name| !is_all(name)) {
            set.remove(&capability(name)?);
        }
    }
    let mut ambient = HashSet::new();
    for name in asked.add_ambient_capabilities.iter().filter(|name| !is_all(name)) {
        let one = capability(name)?;
        ambient.insert(one);
        set.insert(one);
    }
    let lacking: Vec<_> = set.difference(&host.capabilities).map(ToString::to_string).collect();
    if !lacking.is_empty() {
        tracing::warn!(?lacking, "this process has not the capabilities it is asked to give");
    }
    set.retain(|one| host.capabilities.contains(one));
    ambient.retain(|one| host.capabilities.contains(one));
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        // A set that programs inherit would let an unprivileged user keep it; only ambient ones need it.
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(|error| Error::internal(format!("capabilities: {error}")))
}

/// The paths that are hidden and those that are read-only.
///
/// The kubelet sends both lists, and empty ones for an unmasked `/proc`; only a client without any security context gets
/// our own.
pub(crate) fn hidden_paths(context: Option<&v1::LinuxContainerSecurityContext>) -> (Vec<String>, Vec<String>) {
    let owned = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
    match context {
        Some(context) if context.privileged => (Vec::new(), Vec::new()),
        Some(context) => (context.masked_paths.clone(), context.readonly_paths.clone()),
        None => (owned(&MASKED), owned(&READ_ONLY)),
    }
}

/// A profile in the new words (`field`) or the old ones (`text`); `None` where neither is given.
pub(crate) fn profile(
    profile: Option<&v1::SecurityProfile>,
    text: &str,
    field: &str,
) -> Result<Option<(ProfileType, String)>> {
    let unknown = |why: &str| wrong(&format!("linux.security_context.{field}"), why);
    if let Some(profile) = profile {
        let kind = ProfileType::try_from(profile.profile_type).map_err(|_| unknown("has an unknown type"))?;
        let name = profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref);
        if kind == ProfileType::Localhost && name.is_empty() {
            return Err(unknown("names no localhost_ref"));
        }
        return Ok(Some((kind, name.to_owned())));
    }
    match text {
        "" => Ok(None),
        "unconfined" => Ok(Some((ProfileType::Unconfined, String::new()))),
        "runtime/default" | "docker/default" => Ok(Some((ProfileType::RuntimeDefault, String::new()))),
        _ => match text.strip_prefix("localhost/") {
            Some(name) => Ok(Some((ProfileType::Localhost, name.to_owned()))),
            None => Err(unknown("is neither unconfined, runtime/default nor localhost/<name>")),
        },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn host() -> Host {
        let capabilities =
            default_capabilities().into_iter().chain([Capability::SysAdmin, Capability::NetAdmin]).collect();
        Host {
            capabilities,
            oom_score_floor: 0,
            cgroup_v2: false,
            limits_swap: true,
            limits_hugepages: false,
            apparmor: false,
        }
    }

    fn asking(add: &[&str], drop: &[&str]) -> v1::LinuxContainerSecurityContext {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: owned(add),
                drop_capabilities: owned(drop),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn effective(context: &v1::LinuxContainerSecurityContext) -> HashSet<Capability> {
        capabilities(Some(context), &host()).unwrap().effective().clone().unwrap()
    }

    #[test]
    fn capabilities_follow_the_request() {
        let default = default_capabilities();
        assert_eq!(default.len(), CAPABILITIES.len(), "each name is a capability");
        assert_eq!(effective(&asking(&[], &[])), default);
        assert_eq!(effective(&asking(&["net_bind_service"], &["ALL"])), HashSet::from([Capability::NetBindService]));
        assert_eq!(effective(&asking(&["ALL"], &[])), host().capabilities);
        assert_eq!(effective(&asking(&["CAP_NET_ADMIN"], &["CAP_NET_ADMIN"])), default);
        assert_eq!(effective(&asking(&["SYS_TIME"], &[])), default, "not ours to give");
        let privileged = v1::LinuxContainerSecurityContext { privileged: true, ..asking(&[], &["ALL"]) };
        assert_eq!(effective(&privileged), host().capabilities);
    }

    #[test]
    fn contradictions_are_named() {
        let pod = v1::PodSandboxConfig::default();
        let one = |value| Some(v1::Int64Value { value });
        let cases = [
            ("run_as_group", v1::LinuxContainerSecurityContext { run_as_group: one(1), ..Default::default() }),
            ("run_as_user", v1::LinuxContainerSecurityContext { run_as_user: one(-1), ..Default::default() }),
            ("privileged", v1::LinuxContainerSecurityContext { privileged: true, ..Default::default() }),
            ("capabilities", asking(&["CAP_NONSENSE"], &[])),
        ];
        for (field, context) in cases {
            let error = check(Some(&context), &pod).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn paths_are_hidden_as_the_kubelet_says() {
        assert!(hidden_paths(None).0.contains(&"/proc/kcore".into()));
        let unmasked = v1::LinuxContainerSecurityContext::default();
        assert_eq!(hidden_paths(Some(&unmasked)), (vec![], vec![]));
    }

    #[test]
    fn profiles_are_read_in_both_words() {
        assert_eq!(profile(None, "", "seccomp").unwrap(), None);
        assert_eq!(profile(None, "runtime/default", "x").unwrap().unwrap().0, ProfileType::RuntimeDefault);
        assert_eq!(profile(None, "localhost/a", "x").unwrap().unwrap(), (ProfileType::Localhost, "a".into()));
        assert!(profile(None, "nonsense", "x").is_err());
        let asked = v1::SecurityProfile { profile_type: 2, localhost_ref: String::new() };
        assert!(profile(Some(&asked), "", "x").is_err());
    }
}
