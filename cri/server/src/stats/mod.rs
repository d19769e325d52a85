//! What pods and containers use: one pass over the cgroups' files serves all that ask within half a second.
//!
//! Nobody is asked here, neither a shim nor a runtime: only the kernel's files are read, on blocking threads. One that does
//! not come back from the kernel keeps its own thread and is passed over until it does; the others' numbers are answered.
//! Writable layers are measured in the background ([`Layers`]).

mod layers;
mod pass;
mod rate;
mod words;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use windlass_model::{Id, Result, Timestamp};
use windlass_sys::cgroup::{Counters, Detail, Layout, Members, Usage};
use windlass_sys::links::Link;

use crate::Server;
pub(crate) use layers::{Layers, Measure};
use rate::Samples;
pub(crate) use words::{cpu, io, layer, memory, network, swap};

/// How old a reading may be that is answered again.
const FRESH: Duration = Duration::from_millis(500);
/// How often processor time is sampled where nobody asks, so that the first answer has a rate.
const SAMPLING: Duration = Duration::from_secs(10);

/// What has been read of pods and containers.
#[derive(Default)]
pub(crate) struct Stats {
    readings: Arc<Readings>,
    /// One pass at a time: who comes meanwhile gets its results.
    turn: tokio::sync::Mutex<()>,
    layout: OnceLock<Layout>,
    pub(crate) layers: Layers,
}

/// A pod or a container whose cgroup is to be read.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: Id,
    /// Its cgroup.
    pub(crate) cgroup: String,
    /// When the cgroup began to count from zero; `None`: that is not known.
    pub(crate) began: Option<Timestamp>,
    /// The first process, whose limits stand for the container's; 0: none.
    pub(crate) init: u32,
    /// Who lives in its network namespace; `None`: its network is not its own.
    pub(crate) network: Option<Witness>,
}

/// A process in a pod's network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    /// The file in which the shim has left its process id.
    pub(crate) shim: PathBuf,
    /// A container's process, where the shim leaves none; 0: none.
    pub(crate) container: u32,
}

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What the kubelet asks for each ten seconds.
    Usage,
    /// What a monitoring system scrapes.
    Everything,
}

/// What was read of one target.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// When, by the wall clock.
    pub(crate) at: Timestamp,
    taken: Instant,
    pub(crate) usage: Usage,
    /// Nanoseconds of processor time in a second, over the last while.
    pub(crate) nano_cores: Option<u64>,
    /// The interfaces of its network namespace, where that is its own and could be read.
    pub(crate) links: Option<Vec<Link>>,
    pub(crate) more: Option<Arc<More>>,
}

/// What is read for monitoring alone.
#[derive(Clone, Debug)]
pub(crate) struct More {
    pub(crate) detail: Detail,
    pub(crate) members: Members,
    /// How many files the first process may have open.
    pub(crate) open_files: Option<u64>,
}

/// Readings by the id of what was read.
#[derive(Default)]
struct Readings(Mutex<HashMap<Id, Known>>);

#[derive(Default)]
struct Known {
    counters: Option<Counters>,
    samples: Samples,
    latest: Option<Arc<Reading>>,
    /// Somebody is at it; for long where the kernel does not answer.
    busy: bool,
}

impl Stats {
    /// What the targets use, each at most half a second old; one whose cgroup is gone, or that the kernel does not answer
    /// for and never has, is left out.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] where this machine has no cgroups.
    pub(crate) async fn read(&self, wanted: Vec<Target>, depth: Depth) -> Result<HashMap<Id, Arc<Reading>>> {
        let layout = self.layout()?;
        let ids: Vec<Id> = wanted.iter().map(|target| target.id.clone()).collect();
        let _turn = self.turn.lock().await;
        let stale = self.readings.stale(wanted, depth);
        pass::run(&self.readings, layout, stale, depth).await;
        Ok(self.readings.latest(&ids))
    }

    /// Forgets all that is not among `alive`.
    fn keep(&self, alive: &HashSet<Id>) {
        self.readings.0.lock().retain(|id, known| known.busy || alive.contains(id));
    }

    fn layout(&self) -> Result<&Layout> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let found = Layout::detect()?;
        Ok(self.layout.get_or_init(|| found))
    }

    /// Those whose processor time nobody has sampled lately.
    fn unsampled(&self, targets: Vec<Target>) -> Vec<Target> {
        let known = self.readings.0.lock();
        let lately = |id: &Id| {
            known.get(id).and_then(|known| known.samples.last()).is_some_and(|at| at.elapsed() < SAMPLING / 2)
        };
        targets.into_iter().filter(|target| !lately(&target.id)).collect()
    }
}

impl Reading {
    /// This and the others together, as if they were in one cgroup: limits and pressure are nobody's.
    pub(crate) fn with<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = self.clone();
        sum.usage.memory_limit = u64::MAX;
        sum.usage.swap_limit = u64::MAX;
        sum.usage.pressure = windlass_sys::cgroup::Pressure::default();
        for other in others {
            let (all, one) = (&mut sum.usage, &other.usage);
            all.cpu_nanos += one.cpu_nanos;
            all.memory += one.memory;
            all.inactive_file += one.inactive_file;
            all.anonymous += one.anonymous;
            all.faults += one.faults;
            all.major_faults += one.major_faults;
            all.swap += one.swap;
            sum.nano_cores = sum.nano_cores.zip(other.nano_cores).map(|(all, one)| all + one);
        }
        sum
    }
}

impl Readings {
    fn stale(&self, wanted: Vec<Target>, depth: Depth) -> Vec<Target> {
        let known = self.0.lock();
        let fresh = |id: &Id| {
            known.get(id).and_then(|known| known.latest.as_ref()).is_some_and(|reading| {
                reading.taken.elapsed() < FRESH && (depth == Depth::Usage || reading.more.is_some())
            })
        };
        wanted.into_iter().filter(|target| !fresh(&target.id)).collect()
    }

    fn latest(&self, ids: &[Id]) -> HashMap<Id, Arc<Reading>> {
        let known = self.0.lock();
        let latest = ids.iter().filter_map(|id| Some((id.clone(), known.get(id)?.latest.clone()?)));
        latest.collect()
    }

    /// Begins to read a target: where its files are; `None` where somebody is at it.
    fn begin(&self, layout: &Layout, target: &Target) -> Option<Counters> {
        let mut readings = self.0.lock();
        let known = readings.entry(target.id.clone()).or_default();
        if known.busy {
            return None;
        }
        if known.counters.is_none() {
            known.counters = Counters::of(layout, &target.cgroup).ok();
        }
        known.busy = known.counters.is_some();
        known.counters.clone()
    }

    fn end(&self, target: &Target, read: Option<Reading>) {
        let mut readings = self.0.lock();
        let Some(known) = readings.get_mut(&target.id) else { return };
        known.busy = false;
        known.latest = read.map(|mut reading| {
            let born = target.began.and_then(|began| rate::since(began, reading.at, reading.taken));
            reading.nano_cores = known.samples.rate(reading.taken, reading.usage.cpu_nanos, born);
            Arc::new(reading)
        });
    }

    fn sample(&self, target: &Target, cpu_nanos: Option<u64>) {
        let mut readings = self.0.lock();
        let Some(known) = readings.get_mut(&target.id) else { return };
        known.busy = false;
        if let Some(cpu_nanos) = cpu_nanos {
            known.samples.rate(Instant::now(), cpu_nanos, None);
        }
    }
}

impl Server {
    /// Begins to sample processor time in the background. Ends with the server.
    pub(crate) fn watch_processors(self: &Arc<Self>) {
        tokio::spawn(sample(Arc::downgrade(self)));
    }

    /// Forgets what was read of pods and containers that are no more.
    fn prune_stats(&self) {
        let pods = self.pods.all().into_iter().map(|pod| pod.id.clone());
        let containers = self.containers.all().into_iter().map(|container| container.id.clone());
        self.stats.keep(&pods.chain(containers).collect());
        self.stats.layers.forget_old();
    }
}

async fn sample(server: Weak<Server>) {
    loop {
        tokio::time::sleep(SAMPLING).await;
        let Some(server) = server.upgrade() else { return };
        server.prune_stats();
        let mut targets: Vec<Target> =
            server.running().iter().map(|container| server.container_target(container)).collect();
        targets.extend(server.ready_pods().iter().map(|pod| server.pod_target(pod, &[])));
        let targets = server.stats.unsampled(targets);
        if let Ok(layout) = server.stats.layout()
            && !targets.is_empty()
        {
            pass::sample(&server.stats.readings, layout, targets);
        }
    }
}

#[cfg(test)]
mod tests;
