//! Pods: the memory index over their records, rebuilt from them at the start, and the verbs' rooms.

mod cgroup;
mod files;
mod ladder;
mod plan;
pub(crate) mod record;
mod remove;
mod run;
mod stats;
mod status;
mod stop;
mod update;
pub(crate) mod users;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use windlass_engine::Durability;
use windlass_model::{Error, Id, Result};

use crate::Server;
pub(crate) use ladder::blocking;
pub(crate) use record::{Pod, PodFiles, Rung, Step};
pub(crate) use stats::Family;

/// How many letters of an id are enough to ask for, where no other id begins with them.
const SHORTEST_PREFIX: usize = 4;

/// How long a list waits for one shim that is being reconnected after the daemon's start.
const RECONNECT: Duration = Duration::from_millis(500);

/// All pods of the tenant, as their records have them. Readers get a snapshot that never changes.
#[derive(Default)]
pub(crate) struct Pods {
    known: RwLock<HashMap<Id, Arc<Pod>>>,
}

impl Pods {
    /// The pod with that id, or with the only id that begins so.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::InvalidArgument`] for a beginning that two share.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Pod>> {
        let known = self.known.read();
        if let Some(found) = known.get(id) {
            return Ok(found.clone());
        }
        let missing = || Error::not_found(format!("pod sandbox {id:?} does not exist"));
        if id.len() < SHORTEST_PREFIX {
            return Err(missing());
        }
        let mut matches = known.values().filter(|pod| pod.id.as_str().starts_with(id));
        match (matches.next(), matches.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!("pod sandbox id {id:?} is ambiguous"))),
            _ => Err(missing()),
        }
    }

    /// The pod with that unique name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Pod>> {
        self.known.read().values().find(|pod| pod.name == name).cloned()
    }

    /// True for the id of a pod.
    pub(crate) fn knows(&self, id: &Id) -> bool {
        self.known.read().contains_key(id)
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        let mut all: Vec<_> = self.known.read().values().cloned().collect();
        all.sort_unstable_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// Shows a pod that was just recorded.
    fn insert(&self, pod: Pod) -> Arc<Pod> {
        let shown = Arc::new(pod);
        self.known.write().insert(shown.id.clone(), shown.clone());
        shown
    }

    /// Shows a changed record, unless a later change is shown already or the pod is forgotten.
    fn replace(&self, pod: Pod) -> Arc<Pod> {
        let pod = Arc::new(pod);
        if let Some(shown) = self.known.write().get_mut(&pod.id).filter(|shown| shown.revision < pod.revision) {
            *shown = pod.clone();
        }
        pod
    }

    /// Forgets a pod; false where it was forgotten already.
    fn forget(&self, id: &Id) -> bool {
        self.known.write().remove(id).is_some()
    }
}

impl Server {
    /// A pod that can take containers.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::FailedPrecondition`] where it is not ready.
    pub(crate) async fn ready_pod(&self, id: &str) -> Result<Arc<Pod>> {
        let pod = self.pods.find(id)?;
        if self.is_ready(&pod).await {
            return Ok(pod);
        }
        Err(Error::precondition(format!("pod sandbox {} is not ready", pod.id)))
    }

    /// True where the pod is up and its shim is not known to be dead.
    pub(crate) async fn is_ready(&self, pod: &Pod) -> bool {
        if pod.rung != Rung::Ready {
            return false;
        }
        let tasks = self.tenant.tasks();
        let alive = tasks.sandbox_alive(&pod.id);
        tokio::time::timeout(RECONNECT, alive).await.unwrap_or(true)
    }

    /// Does some steps of a pod's life at once: recorded first, then shown.
    async fn step_pod(&self, id: &Id, steps: Vec<Step>) -> Result<Arc<Pod>> {
        let (started, stopped) = (steps.contains(&Step::Ready), steps.contains(&Step::Stop));
        let change = move |record: &mut windlass_engine::SandboxRecord| {
            let mut pod = Pod::of_record(record)?;
            steps.into_iter().try_for_each(|step| pod.advance(step))?;
            pod.revision += 1;
            pod.write_into(record)
        };
        let record = self.tenant.sandboxes().update(id, Durability::Crash, change).await?;
        let pod = self.pods.replace(Pod::of_record(&record)?);
        if started {
            self.announce_pod_started(&pod).await;
        }
        if stopped {
            self.announce_pod_stopped(&pod).await;
        }
        Ok(pod)
    }

    /// Fills the memory index from the records.
    pub(crate) async fn load_pods(&self) -> Result<()> {
        for record in self.tenant.sandboxes().list().await? {
            match Pod::of_record(&record) {
                Ok(pod) => {
                    self.selinux.hold(pod.selinux.as_ref());
                    self.pods.insert(pod);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::error!(pod = %record.id, %error, "unreadable pod record"),
            }
        }
        Ok(())
    }
}

/// The queue in which a pod's verbs wait for their turn (see [`crate::names::Verbs`]).
pub(crate) fn subject(name: &str) -> String {
    format!("pod/{name}")
}

#[cfg(test)]
mod tests {
    use super::record::tests::pod;
    use super::*;

    #[test]
    fn the_index_never_goes_back_in_time() {
        let index = Pods::default();
        index.insert(pod(Rung::Reserved));
        index.replace(Pod { revision: 2, ..pod(Rung::Ready) });
        index.replace(Pod { revision: 1, ..pod(Rung::Booted) });
        assert_eq!(index.find("p1").unwrap().rung, Rung::Ready);
        assert_eq!(index.named("p/n/u/0").unwrap().id.as_str(), "p1");
        index.forget(&"p1".parse().unwrap());
        index.replace(Pod { revision: 3, ..pod(Rung::Down) });
        assert!(index.find("p1").unwrap_err().is_not_found());
    }

    #[test]
    fn an_id_may_be_shortened_while_it_is_the_only_one() {
        let index = Pods::default();
        for id in ["abcd1", "abcd2", "abce1"] {
            index.insert(Pod { id: id.parse().unwrap(), ..pod(Rung::Ready) });
        }
        assert_eq!(index.find("abce").unwrap().id.as_str(), "abce1");
        assert_eq!(index.find("abcd").unwrap_err().kind(), windlass_model::Kind::InvalidArgument);
        assert!(index.find("abc").unwrap_err().is_not_found());
        assert!(index.find("").unwrap_err().is_not_found());
    }
}
