//! Containers: the memory index over their records, rebuilt from them at the start, and the verbs' rooms.

mod cdi;
mod create;
pub(crate) mod exec;
mod image_volume;
mod labels;
mod ladder;
mod log;
mod plan;
pub(crate) mod record;
mod recover;
mod remove;
mod rootfs;
mod signal;
mod spec;
mod start;
mod stats;
mod status;
mod stop;
mod update;
mod user;
mod volume;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use windlass_engine::Durability;
use windlass_model::{Error, Id, Result};

use crate::Server;
use crate::pod::blocking;
pub(crate) use plan::{require, wrong};
pub(crate) use record::{Container, Step};
pub(crate) use spec::resources as limits;
pub(crate) use spec::security;
pub(crate) use start::host;
pub(crate) use stats::Found;

/// How many letters of an id are enough to ask for, where no other id begins with them.
const SHORTEST_PREFIX: usize = 4;

/// All containers of the tenant, as their records have them. Readers get a snapshot that never changes.
#[derive(Default)]
pub(crate) struct Containers {
    known: RwLock<HashMap<Id, watch::Sender<Arc<Container>>>>,
    /// Those that were sent their stop signal: it is sent once.
    asked: Mutex<HashSet<Id>>,
}

impl Containers {
    /// The container with that id, or with the only id that begins so.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::InvalidArgument`] for a beginning that two share.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Container>> {
        let known = self.known.read();
        if let Some(found) = known.get(id) {
            return Ok(found.borrow().clone());
        }
        let missing = || Error::not_found(format!("container {id:?} does not exist"));
        if id.len() < SHORTEST_PREFIX {
            return Err(missing());
        }
        let mut matches = known.iter().filter(|(known, _)| known.as_str().starts_with(id)).map(|(_, entry)| entry);
        match (matches.next(), matches.next()) {
            (Some(one), None) => Ok(one.borrow().clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!("container id {id:?} is ambiguous"))),
            _ => Err(missing()),
        }
    }

    /// The container with that unique name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Container>> {
        let known = self.known.read();
        known.values().map(|entry| entry.borrow().clone()).find(|container| container.name == name)
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.known.read().values().map(|entry| entry.borrow().clone()).collect();
        all.sort_unstable_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// Those of one pod, oldest first.
    pub(crate) fn of_pod(&self, pod: &Id) -> Vec<Arc<Container>> {
        let mut all = self.all();
        all.retain(|container| container.pod == *pod);
        all
    }

    /// Waits until `done` is true of the container or it is gone; true unless `patience` ran out.
    pub(crate) async fn wait(&self, id: &Id, patience: Duration, done: impl Fn(&Container) -> bool) -> bool {
        let Some(mut changes) = self.known.read().get(id).map(watch::Sender::subscribe) else { return true };
        // An error says that the container is gone.
        tokio::time::timeout(patience, changes.wait_for(|container| done(container))).await.is_ok()
    }

    /// Shows a container that was just recorded.
    pub(crate) fn insert(&self, container: Container) -> Arc<Container> {
        let shown = Arc::new(container);
        self.known.write().insert(shown.id.clone(), watch::Sender::new(shown.clone()));
        shown
    }

    /// Shows a changed record, unless a later change is shown already.
    fn replace(&self, container: Container) -> Arc<Container> {
        let container = Arc::new(container);
        if let Some(entry) = self.known.read().get(&container.id) {
            entry.send_if_modified(|shown| {
                let newer = shown.revision < container.revision;
                if newer {
                    *shown = container.clone();
                }
                newer
            });
        }
        container
    }

    /// True for the first caller: who is to send the stop signal.
    fn first_to_ask(&self, id: &Id) -> bool {
        self.asked.lock().insert(id.clone())
    }

    /// Forgets a container; whoever waits for it is told. False where it was forgotten already.
    pub(crate) fn forget(&self, id: &Id) -> bool {
        self.asked.lock().remove(id);
        self.known.write().remove(id).is_some()
    }
}

impl Server {
    /// Changes a container: `change` runs on the database's writer, alone among all writers, so what it checks holds
    /// when the record is written.
    pub(crate) async fn change_container(
        &self,
        id: &Id,
        change: impl FnOnce(&mut Container) -> Result<()> + Send + 'static,
    ) -> Result<Arc<Container>> {
        let change = move |record: &mut windlass_engine::ContainerRecord| {
            let mut container = Container::of_record(record)?;
            change(&mut container)?;
            container.revision += 1;
            container.write_into(record)
        };
        let record = self.tenant.containers().update(id, Durability::Crash, change).await?;
        Ok(self.containers.replace(Container::of_record(&record)?))
    }

    /// Does one step of a container's life.
    pub(crate) async fn step_container(&self, id: &Id, step: Step) -> Result<Arc<Container>> {
        let done = step.clone();
        let container = self.change_container(id, move |container| container.advance(step)).await?;
        self.announce_step(&container, &done).await;
        Ok(container)
    }

    /// Fills the memory index from the records.
    pub(crate) async fn load_containers(&self) -> Result<()> {
        for record in self.tenant.containers().list().await? {
            match Container::of_record(&record) {
                Ok(container) => {
                    self.selinux.hold(container.selinux.as_ref());
                    self.containers.insert(container);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::error!(container = %record.id, %error, "unreadable container record"),
            }
        }
        Ok(())
    }
}

/// The queue in which a container's verbs wait for their turn (see [`crate::names::Verbs`]).
fn subject(id: &Id) -> String {
    format!("container/{id}")
}

#[cfg(test)]
mod tests {
    use super::record::{Rung, tests::container};
    use super::*;

    #[tokio::test]
    async fn the_index_never_goes_back_in_time() {
        let index = Containers::default();
        index.insert(container(Rung::Created));
        let id: Id = "c1".parse().unwrap();
        index.replace(Container { revision: 2, ..container(Rung::Running) });
        index.replace(Container { revision: 1, ..container(Rung::Starting) });
        assert_eq!(index.find("c1").unwrap().rung, Rung::Running);
        assert!(index.wait(&id, Duration::ZERO, |container| container.rung == Rung::Running).await);
        assert!(!index.wait(&id, Duration::from_millis(1), |container| container.rung == Rung::Exited).await);
        index.forget(&id);
        assert!(index.wait(&id, Duration::ZERO, |_| false).await);
        assert!(index.replace(container(Rung::Created)).id == id && index.find("c1").is_err());
    }

    #[test]
    fn an_id_may_be_shortened_while_it_is_the_only_one() {
        let index = Containers::default();
        for id in ["abcd1", "abcd2", "abce1"] {
            index.insert(Container { id: id.parse().unwrap(), ..container(Rung::Created) });
        }
        assert_eq!(index.find("abce").unwrap().id.as_str(), "abce1");
        assert_eq!(index.find("abcd").unwrap_err().kind(), windlass_model::Kind::InvalidArgument);
        assert!(index.find("abc").unwrap_err().is_not_found());
        assert!(index.find("").unwrap_err().is_not_found());
    }
}
