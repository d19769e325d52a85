//! What a container's programs may do of what only root may.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use windlass_model::confinement::{ALL_CAPABILITIES, CAPABILITIES};

/// The capabilities that this process may pass on, as a mask.
pub(crate) fn own(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

/// The capabilities of a container; those named twice are dropped.
///
/// `ALL` counts before single names. Of the defaults, and of all, those are left out that `own` has not: nobody can give
/// them. One asked for by name stays, so that its absence is told.
///
/// # Errors
/// Where a name is none.
pub(super) fn held(add: &[String], drop: &[String], privileged: bool, own: u64) -> Result<Vec<String>> {
    let is_all = |name: &String| matches!(name.to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL");
    let ours = || ALL_CAPABILITIES.iter().enumerate().filter(|(at, _)| own & (1 << at) != 0).map(|(_, name)| *name);
    let mut held: BTreeSet<&str> = if privileged || add.iter().any(is_all) {
        ours().collect()
    } else {
        let ours: BTreeSet<&str> = ours().collect();
        CAPABILITIES.iter().copied().filter(|name| ours.contains(name)).collect()
    };
    if drop.iter().any(is_all) {
        held.clear();
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        held.insert(known(name)?);
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        held.remove(known(name)?);
    }
    Ok(held.into_iter().map(|name| format!("CAP_{name}")).collect())
}

fn known(name: &str) -> Result<&'static str> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match ALL_CAPABILITIES.iter().find(|known| **known == short) {
        Some(known) => Ok(known),
        None => bail!("{name:?} is no capability"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: u64 = (1 << ALL_CAPABILITIES.len()) - 1;

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn sets_follow_the_wishes() {
        let plain = held(&[], &[], false, EVERYTHING).expect("good");
        assert_eq!(plain.len(), CAPABILITIES.len());
        assert!(plain.contains(&"CAP_KILL".to_owned()) && !plain.contains(&"CAP_SYS_ADMIN".to_owned()));
        let one = held(&named(&["net_admin"]), &named(&["ALL"]), false, EVERYTHING).expect("good");
        assert_eq!(one, ["CAP_NET_ADMIN"]);
        let most = held(&named(&["all"]), &named(&["CAP_SYS_BOOT"]), false, EVERYTHING).expect("good");
        assert_eq!(most.len(), ALL_CAPABILITIES.len() - 1);
        assert_eq!(held(&[], &[], true, 0b11).expect("good"), ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
        assert!(held(&named(&["CAP_NONSENSE"]), &[], false, EVERYTHING).is_err());
    }

    #[test]
    fn our_own_are_read_from_the_kernel() {
        assert_eq!(own("Name:\tx\nCapBnd:\t000001ffffffffff\n"), EVERYTHING);
        assert_eq!(own("nothing"), 0);
    }
}
