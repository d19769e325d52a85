//! A process's capabilities: their names in the OCI specification, and how a process comes to have just these.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use serde::Deserialize;
use windlass_model::confinement::ALL_CAPABILITIES;
use windlass_model::{Context, Error, Kind, Result};

/// The sets as the OCI specification has them.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Named {
    #[serde(default)]
    bounding: Vec<String>,
    #[serde(default)]
    effective: Vec<String>,
    #[serde(default)]
    permitted: Vec<String>,
    #[serde(default)]
    inheritable: Vec<String>,
    #[serde(default)]
    ambient: Vec<String>,
}

/// The sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What the process can ever get.
    pub bounding: CapabilitySet,
    /// What it has, may have, and hands on to programs that ask for it.
    sets: CapabilitySets,
    /// What it hands on to any program.
    ambient: CapabilitySet,
}

impl Capabilities {
    /// The sets that the names mean.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a name that is none.
    pub fn of(named: &Named) -> Result<Self> {
        Ok(Self {
            bounding: set(&named.bounding)?,
            sets: CapabilitySets {
                effective: set(&named.effective)?,
                permitted: set(&named.permitted)?,
                inheritable: set(&named.inheritable)?,
            },
            ambient: set(&named.ambient)?,
        })
    }

    /// Makes the bounding set of this thread no larger than this one.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn bound(&self) -> Result<()> {
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                // The kernel knows no more of them.
                Err(rustix::io::Errno::INVAL) if number >= ALL_CAPABILITIES.len() as u32 => break,
                // This one is newer than the kernel.
                Err(rustix::io::Errno::INVAL) => {}
                outcome => {
                    let name = || format!("drop {} from the bounding set", spell(one));
                    outcome.map_err(std::io::Error::from).context(name)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the other sets of this thread what these are. It needs no rights but those that it keeps.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] where one of them is not the runtime's to give.
    pub fn take(&self) -> Result<()> {
        let failed = |error: rustix::io::Errno| std::io::Error::from(error);
        if let Err(error) = set_capabilities(None, self.sets) {
            let held = capabilities(None).map_err(failed).context(|| "read capabilities".into())?.permitted;
            let missing = (self.sets.permitted | self.sets.effective) - held;
            if missing.is_empty() {
                return Err(failed(error)).context(|| "set capabilities".into());
            }
            let message = format!("the runtime has no {} to give", spell(missing));
            return Err(Error::new(Kind::PermissionDenied, message));
        }
        // A kernel without ambient capabilities would refuse even this; it is older than any that this runs on.
        clear_ambient_capability_set().map_err(failed).context(|| "clear ambient capabilities".into())?;
        for one in self.ambient.iter() {
            configure_capability_in_ambient_set(one, true)
                .map_err(failed)
                .context(|| format!("make {} ambient", spell(one)))?;
        }
        Ok(())
    }
}

/// Gives this thread all that it is permitted, as a change of user takes it away.
///
/// # Errors
/// Where the kernel refuses.
pub fn raise() -> Result<()> {
    let raised = capabilities(None)
        .and_then(|held| set_capabilities(None, CapabilitySets { effective: held.permitted, ..held }));
    raised.map_err(std::io::Error::from).context(|| "raise capabilities".into())
}

fn set(names: &[String]) -> Result<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let short = name.strip_prefix("CAP_");
        let place = short.and_then(|short| ALL_CAPABILITIES.iter().position(|known| *known == short));
        let place = place.ok_or_else(|| Error::invalid(format!("capability {name:?} is not known")))?;
        set |= CapabilitySet::from_bits_retain(1 << place);
    }
    Ok(set)
}

/// The names in a set.
fn spell(set: CapabilitySet) -> String {
    let number = |one: usize| set.bits() & (1 << one) != 0;
    let names: Vec<_> = ALL_CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(place, _)| number(*place))
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_the_kernel_has_them() {
        let numbers = ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_AUDIT_READ", "CAP_CHECKPOINT_RESTORE"];
        let expected = CapabilitySet::CHOWN
            | CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_RESOURCE
            | CapabilitySet::AUDIT_READ
            | CapabilitySet::CHECKPOINT_RESTORE;
        let names: Vec<String> = numbers.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(set(&names).unwrap(), expected);
        assert_eq!(spell(expected), numbers.join(", "));
        for wrong in ["CHOWN", "CAP_", "CAP_chown", "ALL"] {
            assert!(set(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
