//! One pass over the cgroups of many targets: a few blocking threads take one after another from a common list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use windlass_model::Timestamp;
use windlass_sys::cgroup::{Counters, Layout, soft_open_files};
use windlass_sys::links;

use super::{Depth, More, Reading, Readings, Target, Witness};

/// How many threads read at once.
const READERS: usize = 4;
/// How many targets are worth a thread.
const SHARE: usize = 8;
/// When none of the readers has come back for so long, they are left alone and others take the rest of the list.
const STUCK: Duration = Duration::from_millis(250);

type List = Arc<Mutex<std::vec::IntoIter<Target>>>;

/// Reads all targets; waits for the kernel, but for none of them longer than [`STUCK`] beyond the last that came.
pub(super) async fn run(readings: &Arc<Readings>, layout: &Layout, targets: Vec<Target>, depth: Depth) {
    let mut left = targets.len();
    let list: List = Arc::new(Mutex::new(targets.into_iter()));
    let (done, mut came) = mpsc::unbounded_channel();
    let mut readers = READERS.min(left.div_ceil(SHARE));
    while left > 0 {
        for _ in 0..readers {
            let (readings, layout, list, done) = (readings.clone(), layout.clone(), list.clone(), done.clone());
            tokio::task::spawn_blocking(move || {
                while let Some(target) = next(&list) {
                    if let Some(counters) = readings.begin(&layout, &target) {
                        let read = read(&counters, &target, depth);
                        readings.end(&target, read);
                    }
                    // Nobody listens where the caller has gone or has waited long enough.
                    let _ = done.send(());
                }
            });
        }
        while left > 0 && matches!(tokio::time::timeout(STUCK, came.recv()).await, Ok(Some(()))) {
            left -= 1;
        }
        if left > 0 && list.lock().len() == 0 {
            tracing::warn!(left, "cgroups that the kernel does not answer for are passed over");
            return;
        }
        readers = READERS;
    }
}

/// Samples the processor time of all targets. Nobody waits for it.
pub(super) fn sample(readings: &Arc<Readings>, layout: &Layout, targets: Vec<Target>) {
    let (readings, layout) = (readings.clone(), layout.clone());
    tokio::task::spawn_blocking(move || {
        for target in targets {
            if let Some(counters) = readings.begin(&layout, &target) {
                let cpu = counters.cpu_nanos();
                readings.sample(&target, cpu);
            }
        }
    });
}

fn next(list: &List) -> Option<Target> {
    list.lock().next()
}

fn read(counters: &Counters, target: &Target, depth: Depth) -> Option<Reading> {
    let usage = counters.usage()?;
    let (at, taken) = (Timestamp::now(), Instant::now());
    let links = target.network.as_ref().and_then(interfaces);
    let more = match depth {
        Depth::Usage => None,
        Depth::Everything => Some(Arc::new(More {
            detail: counters.detail()?,
            members: counters.members()?,
            open_files: Some(target.init).filter(|pid| *pid != 0).and_then(soft_open_files),
        })),
    };
    Some(Reading { at, taken, usage, nano_cores: None, links, more })
}

/// The interfaces as the first witness that lives sees them.
fn interfaces(witness: &Witness) -> Option<Vec<links::Link>> {
    let shim = std::fs::read_to_string(&witness.shim).ok().and_then(|text| text.trim().parse().ok());
    let witnesses = shim.into_iter().chain(Some(witness.container).filter(|pid| *pid != 0));
    witnesses.filter_map(|pid| links::of_process(pid).ok()).next()
}
