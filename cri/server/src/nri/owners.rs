//! Who has set what: two plugins may not set the same field of a container, unless the later one removes it first.

use std::collections::HashMap;

use windlass_cri_api::nri::{CompoundFieldOwners, Field, FieldOwners, LinuxResources, OwningPlugins};
use windlass_model::{Error, Kind, Result};

/// The plugins that have set fields, by container.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(HashMap<String, FieldOwners>);

impl Owners {
    /// Notes that `plugin` sets a field, or the part `key` of one.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] where another plugin has set it.
    pub(super) fn claim(&mut self, container: &str, field: Field, key: Option<&str>, plugin: &str) -> Result<()> {
        let owner = self.slot(container, field, key);
        // An owner that begins so has only removed it.
        if !owner.is_empty() && !owner.starts_with('-') && owner != plugin {
            let what = key.map_or(String::new(), |key| format!(" {key:?}"));
            let message = format!("plugins {owner} and {plugin} both set {}{what} of a container", field.as_str_name());
            return Err(Error::new(Kind::FailedPrecondition, message));
        }
        *owner = plugin.to_owned();
        Ok(())
    }

    /// Notes that `plugin` removes a field, or the part `key` of one: another may set it now.
    pub(super) fn clear(&mut self, container: &str, field: Field, key: Option<&str>, plugin: &str) {
        *self.slot(container, field, key) = format!("-{plugin}");
    }

    /// Notes what `plugin` sets of a container's resources.
    ///
    /// # Errors
    /// As [`Owners::claim`].
    pub(super) fn claim_resources(&mut self, container: &str, set: &LinuxResources, plugin: &str) -> Result<()> {
        let (memory, cpu) = (set.memory.unwrap_or_default(), set.cpu.clone().unwrap_or_default());
        let simple = [
            (Field::MemLimit, memory.limit.is_some()),
            (Field::MemReservation, memory.reservation.is_some()),
            (Field::MemSwapLimit, memory.swap.is_some()),
            (Field::MemKernelLimit, memory.kernel.is_some()),
            (Field::MemTcpLimit, memory.kernel_tcp.is_some()),
            (Field::MemSwappiness, memory.swappiness.is_some()),
            (Field::MemDisableOomKiller, memory.disable_oom_killer.is_some()),
            (Field::MemUseHierarchy, memory.use_hierarchy.is_some()),
            (Field::CpuShares, cpu.shares.is_some()),
            (Field::CpuQuota, cpu.quota.is_some()),
            (Field::CpuPeriod, cpu.period.is_some()),
            (Field::CpuRealtimeRuntime, cpu.realtime_runtime.is_some()),
            (Field::CpuRealtimePeriod, cpu.realtime_period.is_some()),
            (Field::CpuSetCpUs, !cpu.cpus.is_empty()),
            (Field::CpuSetMems, !cpu.mems.is_empty()),
            (Field::PidsLimit, set.pids.is_some()),
            (Field::BlockioClass, set.blockio_class.is_some()),
            (Field::RdtClass, set.rdt_class.is_some()),
        ];
        for (field, _) in simple.into_iter().filter(|(_, is_set)| *is_set) {
            self.claim(container, field, None, plugin)?;
        }
        for limit in &set.hugepage_limits {
            self.claim(container, Field::HugepageLimits, Some(&limit.page_size), plugin)?;
        }
        for file in set.unified.keys() {
            self.claim(container, Field::CgroupsUnified, Some(file), plugin)?;
        }
        Ok(())
    }

    /// As the protocol words it.
    pub(super) fn worded(&self) -> OwningPlugins {
        OwningPlugins { owners: self.0.clone() }
    }

    fn slot(&mut self, container: &str, field: Field, key: Option<&str>) -> &mut String {
        let owners = self.0.entry(container.to_owned()).or_default();
        match key {
            None => owners.simple.entry(field.into()).or_default(),
            Some(key) => {
                let parts: &mut CompoundFieldOwners = owners.compound.entry(field.into()).or_default();
                parts.owners.entry(key.to_owned()).or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_cri_api::nri::{LinuxCpu, OptionalUInt64};

    use super::*;

    #[test]
    fn two_plugins_cannot_set_the_same() {
        let mut owners = Owners::default();
        owners.claim("c", Field::Env, Some("A"), "00-x").unwrap();
        owners.claim("c", Field::Env, Some("A"), "00-x").unwrap();
        owners.claim("c", Field::Env, Some("B"), "10-y").unwrap();
        owners.claim("d", Field::Env, Some("A"), "10-y").unwrap();
        let error = owners.claim("c", Field::Env, Some("A"), "10-y").unwrap_err();
        assert!(error.to_string().contains("00-x") && error.to_string().contains("\"A\""), "{error}");
        owners.clear("c", Field::Env, Some("A"), "10-y");
        owners.claim("c", Field::Env, Some("A"), "10-y").unwrap();
    }

    #[test]
    fn resources_are_owned_one_by_one() {
        let shares = LinuxResources {
            cpu: Some(LinuxCpu { shares: Some(OptionalUInt64 { value: 1 }), ..Default::default() }),
            ..Default::default()
        };
        let cpus =
            LinuxResources { cpu: Some(LinuxCpu { cpus: "0".into(), ..Default::default() }), ..Default::default() };
        let mut owners = Owners::default();
        owners.claim_resources("c", &shares, "00-x").unwrap();
        owners.claim_resources("c", &cpus, "10-y").unwrap();
        assert!(owners.claim_resources("c", &shares, "10-y").is_err());
    }
}
