//! AppArmor profiles: which one a container runs under, and that it is there.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use windlass_cri_api::v1;
use windlass_cri_api::v1::security_profile::ProfileType;
use windlass_model::{Context as _, Error, Result};

use super::{Host, security};
use crate::container::plan::wrong;

/// The name of our profile.
const DEFAULT: &str = "windlass-default";
/// Our profile, in AppArmor's language.
const PROFILE: &str = include_str!("../../../data/apparmor.profile");
/// The kernel's list of profiles, `name (mode)` in each line.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Where the program that loads profiles is.
const PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];

/// The profile to run under; `None`: none. A container that says nothing gets ours where the machine can load it.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] where a profile is asked for and the machine has no AppArmor.
pub(crate) fn profile(context: Option<&v1::LinuxContainerSecurityContext>, host: &Host) -> Result<Option<String>> {
    let can_load = || PARSERS.iter().any(|parser| Path::new(parser).exists());
    let Some(context) = context else {
        return Ok((host.apparmor && can_load()).then(|| DEFAULT.to_owned()));
    };
    if context.privileged {
        return Ok(None);
    }
    #[allow(deprecated)]
    let asked = security::profile(context.apparmor.as_ref(), &context.apparmor_profile, "apparmor")?;
    match asked {
        None => Ok((host.apparmor && can_load()).then(|| DEFAULT.to_owned())),
        Some((ProfileType::Unconfined, _)) => Ok(None),
        Some(_) if !host.apparmor => {
            Err(Error::precondition("an AppArmor profile is asked for and this machine has no AppArmor"))
        }
        Some((ProfileType::Localhost, name)) => Ok(Some(name)),
        Some((ProfileType::RuntimeDefault, _)) => Ok(Some(DEFAULT.to_owned())),
    }
}

/// Makes sure that the kernel has the profile `name`, and loads it where it is ours. Blocks.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for a profile that nobody loaded; what the parser says of ours.
pub(crate) fn ensure(name: &str) -> Result<()> {
    let loaded = fs::read_to_string(LOADED).context(|| "read the list of AppArmor profiles".into())?;
    if is_loaded(name, &loaded) {
        return Ok(());
    }
    if name != DEFAULT {
        return Err(wrong("linux.security_context.apparmor", &format!("names profile {name:?}, which is not loaded")));
    }
    load()
}

fn is_loaded(name: &str, list: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(known, _)| known == name))
}

fn load() -> Result<()> {
    let doing = || "load the default AppArmor profile".to_owned();
    let parser = PARSERS.into_iter().find(|parser| Path::new(parser).exists());
    let parser = parser.ok_or_else(|| Error::precondition(format!("{}: there is no apparmor_parser", doing())))?;
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(doing)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(PROFILE.as_bytes()));
    let output = child.wait_with_output().context(doing)?;
    if output.status.success() {
        return written.context(doing);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::internal(format!("{}: {}", doing(), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::super::security::tests::host;
    use super::*;

    fn asking(kind: ProfileType, name: &str) -> v1::LinuxContainerSecurityContext {
        let asked = v1::SecurityProfile { profile_type: kind as i32, localhost_ref: name.into() };
        v1::LinuxContainerSecurityContext { apparmor: Some(asked), ..Default::default() }
    }

    #[test]
    fn a_profile_needs_apparmor() {
        let off = host();
        let on = Host { apparmor: true, ..host() };
        let mine = asking(ProfileType::Localhost, "p");
        assert_eq!(profile(Some(&mine), &off).unwrap_err().kind(), windlass_model::Kind::FailedPrecondition);
        assert_eq!(profile(Some(&mine), &on).unwrap().as_deref(), Some("p"));
        let default = asking(ProfileType::RuntimeDefault, "");
        assert!(profile(Some(&default), &off).is_err());
        assert_eq!(profile(Some(&default), &on).unwrap().as_deref(), Some(DEFAULT));
        assert_eq!(profile(Some(&asking(ProfileType::Unconfined, "")), &on).unwrap(), None);
        assert_eq!(profile(None, &off).unwrap(), None);
        let privileged = v1::LinuxContainerSecurityContext { privileged: true, ..mine };
        assert_eq!(profile(Some(&privileged), &on).unwrap(), None);
    }

    #[test]
    fn profiles_are_known_by_their_whole_name() {
        let list = "windlass-default (enforce)\n/usr/bin/man (complain)\na (b) (enforce)\n";
        assert!(is_loaded(DEFAULT, list) && is_loaded("/usr/bin/man", list) && is_loaded("a (b)", list));
        assert!(!is_loaded("windlass", list) && !is_loaded("", list));
        assert!(PROFILE.contains(&format!("\nprofile {DEFAULT} ")));
    }
}
