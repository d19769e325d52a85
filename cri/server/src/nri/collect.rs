//! What all plugins want of a container, put together in their order: each sees what those before it have changed, and
//! two that want the same field are a conflict.

use std::collections::HashMap;

use windlass_cri_api::nri::{
    self, Container, ContainerAdjustment, ContainerUpdate, CreateContainerResponse, Field, LinuxResources,
};
use windlass_model::{Error, Result};

use super::owners::Owners;

/// Updates of containers that are there already.
#[derive(Debug, Default)]
pub(super) struct Updates {
    pub(super) all: Vec<ContainerUpdate>,
    pub(super) owners: Owners,
}

/// A container that is to be made.
#[derive(Debug)]
pub(super) struct Creation {
    /// As the next plugin is to see it.
    pub(super) container: Container,
    /// What is to be changed.
    pub(super) adjust: ContainerAdjustment,
    /// What is to be changed in others.
    pub(super) updates: Updates,
    /// The containers that are to be ended.
    pub(super) evict: Vec<nri::ContainerEviction>,
}

/// A key with a mark for its removal, or without.
fn unmarked(key: &str) -> (&str, bool) {
    key.strip_prefix('-').map_or((key, false), |key| (key, true))
}

/// The name in `NAME=value`.
fn variable(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

impl Updates {
    /// Adds what a plugin wants of other containers.
    ///
    /// # Errors
    /// Where another plugin wants the same field, unless this one says that its wish may fail.
    pub(super) fn take(&mut self, plugin: &str, wanted: Vec<ContainerUpdate>) -> Result<()> {
        for update in wanted {
            let resources = update.linux.and_then(|linux| linux.resources).unwrap_or_default();
            let mut owners = self.owners.clone();
            match owners.claim_resources(&update.container_id, &resources, plugin) {
                Err(_) if update.ignore_failure => continue,
                Err(error) => return Err(error),
                Ok(()) => self.owners = owners,
            }
            match self.all.iter_mut().find(|known| known.container_id == update.container_id) {
                Some(known) => {
                    known.ignore_failure &= update.ignore_failure;
                    let linux = known.linux.get_or_insert_default();
                    merge(linux.resources.get_or_insert_default(), resources);
                }
                None => self.all.push(ContainerUpdate {
                    container_id: update.container_id,
                    linux: Some(nri::LinuxContainerUpdate { resources: Some(resources) }),
                    ignore_failure: update.ignore_failure,
                }),
            }
        }
        Ok(())
    }
}

impl Creation {
    /// Nothing is changed yet.
    pub(super) fn new(container: Container) -> Self {
        let adjust = ContainerAdjustment::default();
        Self { container, adjust, updates: Updates::default(), evict: Vec::new() }
    }

    /// Adds what a plugin wants.
    ///
    /// # Errors
    /// Where two plugins want the same field, or an update of the very container that is being made.
    pub(super) fn take(&mut self, plugin: &str, answer: CreateContainerResponse) -> Result<()> {
        if let Some(wanted) = answer.adjust {
            self.adjust(plugin, wanted)?;
        }
        if answer.update.iter().any(|update| update.container_id == self.container.id) {
            return Err(Error::invalid(format!("plugin {plugin} updates a container that is being made")));
        }
        self.evict.extend(answer.evict);
        self.updates.take(plugin, answer.update)
    }

    fn claim(&mut self, field: Field, key: Option<&str>, plugin: &str) -> Result<()> {
        self.updates.owners.claim(&self.container.id, field, key, plugin)
    }

    fn clear(&mut self, field: Field, key: Option<&str>, plugin: &str) {
        self.updates.owners.clear(&self.container.id, field, key, plugin);
    }

    fn adjust(&mut self, plugin: &str, wanted: ContainerAdjustment) -> Result<()> {
        let (mut seen, mut asked) = (std::mem::take(&mut self.container.annotations), HashMap::new());
        std::mem::swap(&mut asked, &mut self.adjust.annotations);
        self.keyed(Field::Annotations, plugin, wanted.annotations, &mut seen, &mut asked)?;
        (self.container.annotations, self.adjust.annotations) = (seen, asked);
        self.mounts(plugin, wanted.mounts)?;
        self.env(plugin, wanted.env)?;
        self.args(plugin, wanted.args)?;
        if let Some(hooks) = wanted.hooks {
            // Any number of plugins may add hooks; the last is named as their owner.
            self.clear(Field::OciHooks, None, plugin);
            self.claim(Field::OciHooks, None, plugin)?;
            add_hooks(self.container.hooks.get_or_insert_default(), hooks.clone());
            add_hooks(self.adjust.hooks.get_or_insert_default(), hooks);
        }
        for limit in wanted.rlimits {
            self.claim(Field::Rlimits, Some(&limit.r#type), plugin)?;
            self.container.rlimits.push(limit.clone());
            self.adjust.rlimits.push(limit);
        }
        for device in wanted.cdi_devices {
            self.claim(Field::CdiDevices, Some(&device.name), plugin)?;
            self.adjust.cdi_devices.push(device);
        }
        match wanted.linux {
            Some(linux) => self.linux(plugin, linux),
            None => Ok(()),
        }
    }

    fn linux(&mut self, plugin: &str, wanted: nri::LinuxContainerAdjustment) -> Result<()> {
        let mut seen = self.container.linux.take().unwrap_or_default();
        let mut asked = self.adjust.linux.take().unwrap_or_default();
        for device in wanted.devices {
            let (path, removed) = unmarked(&device.path);
            seen.devices.retain(|known| known.path != path);
            if removed {
                asked.devices.retain(|known| known.path != path);
                self.clear(Field::Devices, Some(path), plugin);
            } else {
                self.claim(Field::Devices, Some(path), plugin)?;
                asked.devices.retain(|known| known.path != path);
                seen.devices.push(device.clone());
            }
            asked.devices.push(device);
        }
        for namespace in wanted.namespaces {
            let (kind, removed) = unmarked(&namespace.r#type);
            self.claim(Field::Namespace, Some(kind), plugin)?;
            seen.namespaces.retain(|known| known.r#type != kind);
            if !removed {
                seen.namespaces.push(namespace.clone());
            }
            asked.namespaces.push(namespace);
        }
        if let Some(resources) = wanted.resources {
            self.updates.owners.claim_resources(&self.container.id, &resources, plugin)?;
            merge(seen.resources.get_or_insert_default(), resources.clone());
            merge(asked.resources.get_or_insert_default(), resources);
        }
        self.keyed(Field::Sysctl, plugin, wanted.sysctl, &mut seen.sysctl, &mut asked.sysctl)?;
        self.keyed(Field::LinuxNetDevices, plugin, wanted.net_devices, &mut seen.net_devices, &mut asked.net_devices)?;
        if !wanted.cgroups_path.is_empty() {
            self.claim(Field::CgroupsPath, None, plugin)?;
            seen.cgroups_path.clone_from(&wanted.cgroups_path);
            asked.cgroups_path = wanted.cgroups_path;
        }
        if wanted.oom_score_adj.is_some() {
            self.claim(Field::OomScoreAdj, None, plugin)?;
            seen.oom_score_adj = wanted.oom_score_adj;
            asked.oom_score_adj = wanted.oom_score_adj;
        }
        if wanted.io_priority.is_some() {
            self.claim(Field::IoPriority, None, plugin)?;
            seen.io_priority = wanted.io_priority;
            asked.io_priority = wanted.io_priority;
        }
        if wanted.seccomp_policy.is_some() {
            self.claim(Field::SeccompPolicy, None, plugin)?;
            seen.seccomp_policy.clone_from(&wanted.seccomp_policy);
            asked.seccomp_policy = wanted.seccomp_policy;
        }
        if wanted.scheduler.is_some() {
            self.claim(Field::LinuxSched, None, plugin)?;
            seen.scheduler.clone_from(&wanted.scheduler);
            asked.scheduler = wanted.scheduler;
        }
        if wanted.memory_policy.is_some() {
            self.claim(Field::MemoryPolicy, None, plugin)?;
            asked.memory_policy = wanted.memory_policy;
        }
        if let Some(rdt) = wanted.rdt {
            self.rdt(plugin, rdt, asked.rdt.get_or_insert_default())?;
            seen.rdt.clone_from(&asked.rdt);
        }
        (self.container.linux, self.adjust.linux) = (Some(seen), Some(asked));
        Ok(())
    }

    fn rdt(&mut self, plugin: &str, wanted: nri::LinuxRdt, asked: &mut nri::LinuxRdt) -> Result<()> {
        if wanted.remove {
            for field in [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring] {
                self.clear(field, None, plugin);
            }
            *asked = nri::LinuxRdt { remove: true, ..Default::default() };
        }
        if wanted.clos_id.is_some() {
            self.claim(Field::RdtClosId, None, plugin)?;
            asked.clos_id = wanted.clos_id;
        }
        if wanted.schemata.is_some() {
            self.claim(Field::RdtSchemata, None, plugin)?;
            asked.schemata = wanted.schemata;
        }
        if wanted.enable_monitoring.is_some() {
            self.claim(Field::RdtEnableMonitoring, None, plugin)?;
            asked.enable_monitoring = wanted.enable_monitoring;
        }
        Ok(())
    }

    /// A map: keys that are set, and keys that are removed, perhaps to be set anew.
    fn keyed<V: Clone + Default>(
        &mut self,
        field: Field,
        plugin: &str,
        wanted: HashMap<String, V>,
        seen: &mut HashMap<String, V>,
        asked: &mut HashMap<String, V>,
    ) -> Result<()> {
        let (removed, set): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(key, _)| unmarked(key).1);
        for (marked, _) in removed {
            let (key, _) = unmarked(&marked);
            self.clear(field, Some(key), plugin);
            seen.remove(key);
            asked.remove(key);
            asked.insert(marked, V::default());
        }
        for (key, value) in set {
            self.claim(field, Some(&key), plugin)?;
            asked.remove(&format!("-{key}"));
            seen.insert(key.clone(), value.clone());
            asked.insert(key, value);
        }
        Ok(())
    }

    fn mounts(&mut self, plugin: &str, wanted: Vec<nri::Mount>) -> Result<()> {
        let (removed, set): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|mount| unmarked(&mount.destination).1);
        for mount in removed {
            let place = unmarked(&mount.destination).0.to_owned();
            self.clear(Field::Mounts, Some(&place), plugin);
            self.container.mounts.retain(|known| known.destination != place);
            self.adjust.mounts.retain(|known| known.destination != place);
            self.adjust.mounts.push(mount);
        }
        for mount in set {
            let place = mount.destination.clone();
            self.claim(Field::Mounts, Some(&place), plugin)?;
            self.container.mounts.retain(|known| known.destination != place);
            self.adjust.mounts.retain(|known| unmarked(&known.destination).0 != place);
            self.container.mounts.push(mount.clone());
            self.adjust.mounts.push(mount);
        }
        Ok(())
    }

    fn env(&mut self, plugin: &str, wanted: Vec<nri::KeyValue>) -> Result<()> {
        let (removed, set): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|pair| unmarked(&pair.key).1);
        for pair in removed {
            let name = unmarked(&pair.key).0.to_owned();
            self.clear(Field::Env, Some(&name), plugin);
            self.container.env.retain(|known| variable(known) != name);
            self.adjust.env.retain(|known| known.key != name);
            self.adjust.env.push(pair);
        }
        for pair in set {
            self.claim(Field::Env, Some(&pair.key), plugin)?;
            self.container.env.retain(|known| variable(known) != pair.key);
            self.adjust.env.retain(|known| unmarked(&known.key).0 != pair.key);
            self.container.env.push(format!("{}={}", pair.key, pair.value));
            self.adjust.env.push(pair);
        }
        Ok(())
    }

    /// An empty first word says that another plugin's are replaced.
    fn args(&mut self, plugin: &str, mut wanted: Vec<String>) -> Result<()> {
        if wanted.first().is_some_and(String::is_empty) {
            self.clear(Field::Args, None, plugin);
            wanted.remove(0);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.claim(Field::Args, None, plugin)?;
        self.container.args.clone_from(&wanted);
        self.adjust.args = wanted;
        Ok(())
    }
}

fn add_hooks(hooks: &mut nri::Hooks, more: nri::Hooks) {
    hooks.prestart.extend(more.prestart);
    hooks.create_runtime.extend(more.create_runtime);
    hooks.create_container.extend(more.create_container);
    hooks.start_container.extend(more.start_container);
    hooks.poststart.extend(more.poststart);
    hooks.poststop.extend(more.poststop);
}

/// Puts what `change` says over what `resources` say.
pub(super) fn merge(resources: &mut LinuxResources, change: LinuxResources) {
    fn set<T>(field: &mut Option<T>, change: Option<T>) {
        if change.is_some() {
            *field = change;
        }
    }
    if let Some(change) = change.memory {
        let memory = resources.memory.get_or_insert_default();
        set(&mut memory.limit, change.limit);
        set(&mut memory.reservation, change.reservation);
        set(&mut memory.swap, change.swap);
        set(&mut memory.kernel, change.kernel);
        set(&mut memory.kernel_tcp, change.kernel_tcp);
        set(&mut memory.swappiness, change.swappiness);
        set(&mut memory.disable_oom_killer, change.disable_oom_killer);
        set(&mut memory.use_hierarchy, change.use_hierarchy);
    }
    if let Some(change) = change.cpu {
        let cpu = resources.cpu.get_or_insert_default();
        set(&mut cpu.shares, change.shares);
        set(&mut cpu.quota, change.quota);
        set(&mut cpu.period, change.period);
        set(&mut cpu.realtime_runtime, change.realtime_runtime);
        set(&mut cpu.realtime_period, change.realtime_period);
        for (set, change) in [(&mut cpu.cpus, change.cpus), (&mut cpu.mems, change.mems)] {
            if !change.is_empty() {
                *set = change;
            }
        }
    }
    for limit in change.hugepage_limits {
        resources.hugepage_limits.retain(|known| known.page_size != limit.page_size);
        resources.hugepage_limits.push(limit);
    }
    resources.unified.extend(change.unified);
    resources.devices.extend(change.devices);
    set(&mut resources.blockio_class, change.blockio_class);
    set(&mut resources.rdt_class, change.rdt_class);
    set(&mut resources.pids, change.pids);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(adjust: ContainerAdjustment) -> CreateContainerResponse {
        CreateContainerResponse { adjust: Some(adjust), ..Default::default() }
    }

    fn env(key: &str, value: &str) -> CreateContainerResponse {
        let pair = nri::KeyValue { key: key.into(), value: value.into() };
        answer(ContainerAdjustment { env: vec![pair], ..Default::default() })
    }

    fn mount(destination: &str, source: &str) -> nri::Mount {
        nri::Mount { destination: destination.into(), source: source.into(), ..Default::default() }
    }

    fn creation() -> Creation {
        Creation::new(Container { id: "c".into(), env: vec!["A=1".into()], ..Default::default() })
    }

    #[test]
    fn a_plugin_sees_what_others_have_set_and_cannot_set_it_again() {
        let mut one = creation();
        one.take("00-x", env("A", "2")).unwrap();
        assert_eq!(one.container.env, ["A=2"]);
        assert!(one.take("10-y", env("A", "3")).is_err());
        one.take("10-y", env("-A", "")).unwrap();
        assert!(one.container.env.is_empty());
        one.take("10-y", env("A", "4")).unwrap();
        assert_eq!(one.adjust.env, [nri::KeyValue { key: "A".into(), value: "4".into() }]);
    }

    #[test]
    fn mounts_and_maps_are_removed_and_set() {
        let mut one = creation();
        one.container.mounts = vec![mount("/a", "/1"), mount("/b", "/1")];
        let adjust = ContainerAdjustment {
            mounts: vec![mount("-/a", ""), mount("/b", "/2"), mount("-/c", ""), mount("/c", "/3")],
            annotations: [("k".to_owned(), "v".to_owned()), ("-gone".to_owned(), String::new())].into(),
            ..Default::default()
        };
        one.container.annotations = [("gone".to_owned(), "x".to_owned())].into();
        one.take("00-x", answer(adjust)).unwrap();
        assert_eq!(one.container.mounts, [mount("/b", "/2"), mount("/c", "/3")]);
        assert_eq!(one.adjust.mounts, [mount("-/a", ""), mount("/b", "/2"), mount("/c", "/3")]);
        assert_eq!(one.container.annotations, [("k".to_owned(), "v".to_owned())].into());
        assert!(one.adjust.annotations.contains_key("-gone"));
    }

    #[test]
    fn arguments_are_replaced_only_on_purpose() {
        let args = |words: &[&str]| {
            let args = words.iter().map(|word| (*word).to_owned()).collect();
            answer(ContainerAdjustment { args, ..Default::default() })
        };
        let mut one = creation();
        one.take("00-x", args(&["sh"])).unwrap();
        assert!(one.take("10-y", args(&["ash"])).is_err());
        one.take("10-y", args(&["", "ash", "-c"])).unwrap();
        assert_eq!(one.adjust.args, ["ash", "-c"]);
    }

    #[test]
    fn updates_of_others_are_put_together() {
        let limit = |value| Some(nri::OptionalInt64 { value });
        let update = |memory: nri::LinuxMemory, ignore_failure| ContainerUpdate {
            container_id: "d".into(),
            linux: Some(nri::LinuxContainerUpdate {
                resources: Some(LinuxResources { memory: Some(memory), ..Default::default() }),
            }),
            ignore_failure,
        };
        let mut updates = Updates::default();
        updates.take("00-x", vec![update(nri::LinuxMemory { limit: limit(1), ..Default::default() }, true)]).unwrap();
        updates.take("10-y", vec![update(nri::LinuxMemory { swap: limit(2), ..Default::default() }, false)]).unwrap();
        let again = update(nri::LinuxMemory { limit: limit(3), ..Default::default() }, true);
        updates.take("10-y", vec![again.clone()]).unwrap();
        assert!(updates.take("10-y", vec![ContainerUpdate { ignore_failure: false, ..again }]).is_err());
        let memory = updates.all[0].linux.clone().unwrap().resources.unwrap().memory.unwrap();
        assert_eq!((updates.all.len(), memory.limit, memory.swap), (1, limit(1), limit(2)));
        assert!(!updates.all[0].ignore_failure);
        let own = ContainerUpdate { container_id: "c".into(), ..Default::default() };
        let answer = CreateContainerResponse { update: vec![own], ..Default::default() };
        assert!(creation().take("00-x", answer).is_err());
    }
}
