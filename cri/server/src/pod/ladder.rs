//! The way of a pod up and down: each rung is recorded before it is tried, and one way down serves every end.
//!
//! | rung recorded | then tried |
//! |---|---|
//! | `Reserved` | nothing: the name is taken |
//! | `Networked` | network namespace and files |
//! | `Booted` | the network's plugins, and at the same time the shim, which needs only the namespace |
//! | `Ready` | RunPodSandbox answers |
//! | `Down` | everything that any rung may have made is taken away, whether or not it is there |
//! | `Stopped` | nothing is left |
//!
//! A failed run, StopPodSandbox, RemovePodSandbox and the recovery after a crash all go down the same way.

use std::path::PathBuf;
use std::sync::Arc;

use windlass_engine::Durability;
use windlass_engine::tasks::{BootSandbox, PodOptions};
use windlass_model::{Error, Id, Result, Timestamp};
use windlass_sys::cgroup::Layout;
use windlass_sys::idmap::IdMap;
use windlass_sys::{netns, userns};

use super::plan::PodPlan;
use super::record::{Pod, PodFiles, Rung, Step};
use super::{cgroup, files, users};
use crate::network::Attachment;
use crate::{Server, names};

impl Server {
    /// Takes the pod's name: the first rung.
    pub(super) async fn reserve_pod(&self, plan: &PodPlan) -> Result<Arc<Pod>> {
        let id = names::fresh_id()?;
        let (cgroup_parent, owns_cgroup) = cgroup::parent(plan, self.config.cgroup_driver, &id);
        let selinux = self.selinux.of_pod(plan.selinux())?;
        let pod = Pod {
            id,
            name: plan.name.clone(),
            revision: 0,
            rung: Rung::Reserved,
            config: plan.config.clone(),
            handler: plan.handler.clone(),
            asked_handler: plan.asked_handler.clone(),
            cgroup_parent,
            owns_cgroup,
            attachment: None,
            selinux,
            created_at: Timestamp::now(),
        };
        let record = pod.to_record();
        let recorded = async { self.tenant.sandboxes().create(record?, Durability::Crash).await };
        recorded.await.inspect_err(|_| self.selinux.free(pod.selinux.as_ref()))?;
        Ok(self.pods.insert(pod))
    }

    /// Brings a reserved pod up to `Ready`. After an error the pod is to be brought down.
    pub(super) async fn climb(&self, id: &Id, plan: PodPlan) -> Result<Arc<Pod>> {
        let attachment = match &plan.network {
            Some(network) => Some(Box::new(Attachment {
                netns: self.pin(id),
                list: self.network.current().await?,
                args: plan.cni_args(id),
                capabilities: network.capabilities.clone(),
                result: None,
            })),
            None => None,
        };
        let pod = self.step_pod(id, vec![Step::Network(attachment)]).await?;
        self.timelines.stage(id, "namespaces", self.prepare(&pod, &plan)).await?;
        let pod = self.step_pod(id, vec![Step::Boot]).await?;
        let boot = BootSandbox {
            id: id.clone(),
            shim: plan.runtime.shim,
            netns: pod.attachment.as_ref().map(|attachment| attachment.netns.clone()),
            options: PodOptions {
                userns: plan.users.as_ref().map(|_| users::pin(&self.config.state, id)),
                ..cgroup::place(plan.options, &pod)
            },
        };
        let attach = async {
            match &pod.attachment {
                Some(attachment) => self.network.attach(id, attachment).await.map(Some),
                None => Ok(None),
            }
        };
        let tasks = self.tenant.tasks();
        let (attached, booted) = tokio::join!(
            self.timelines.stage(id, "network", attach),
            self.timelines.stage(id, "shim", tasks.boot(boot))
        );
        match (attached, booted) {
            (Ok(result), Ok(_)) => {
                let mut steps: Vec<_> = result.map(Step::Attach).into_iter().collect();
                let _entry = self.nri.entry().await;
                if self.nri.is_heard() {
                    // Plugins are told the pod's addresses, and may refuse it.
                    let pod = self.step_pod(id, std::mem::take(&mut steps)).await?;
                    self.timelines.stage(id, "plugins", self.nri_run_pod(&pod)).await?;
                }
                steps.push(Step::Ready);
                self.step_pod(id, steps).await
            }
            (Ok(Some(result)), Err(error)) => {
                self.step_pod(id, vec![Step::Attach(result)]).await?;
                Err(error)
            }
            (Err(network), Err(shim)) => Err(Error::new(network.kind(), format!("{network}; and the shim: {shim}"))),
            (Ok(None), Err(error)) | (Err(error), Ok(_)) => Err(error),
        }
    }

    /// Brings a pod down from wherever it is; succeeds at once where nothing is left of it. After an error it is to be
    /// called again.
    pub(crate) async fn bring_down(&self, id: &Id) -> Result<Arc<Pod>> {
        let mut pod = self.pods.find(id.as_str())?;
        if pod.rung == Rung::Stopped {
            return Ok(pod);
        }
        if pod.rung != Rung::Down {
            pod = self.step_pod(id, vec![Step::Down]).await?;
        }
        if self.nri.is_heard() {
            // They are told when the containers have ended and the rest is still there.
            self.kill_containers_of(id).await?;
            self.nri_stop_pod(&pod).await;
        }
        let (processes, network) = tokio::join!(self.end_processes(&pod), self.leave_network(&pod));
        let traces = match &processes {
            Ok(()) => self.remove_traces(&pod).await,
            Err(_) => Ok(()),
        };
        processes.and(network).and(traces)?;
        self.step_pod(id, vec![Step::Stop]).await
    }

    /// Brings a pod down and forgets it with its containers.
    pub(crate) async fn clear_pod(&self, id: &Id) -> Result<()> {
        let pod = self.bring_down(id).await?;
        self.remove_containers_of(id).await?;
        self.nri_remove_pod(&pod).await;
        match self.tenant.sandboxes().delete(id, Durability::Crash).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ if self.pods.forget(id) => {
                self.selinux.free(pod.selinux.as_ref());
                self.timelines.forget(id);
            }
            _ => {}
        }
        self.announce_pod_deleted(&pod).await;
        Ok(())
    }

    /// Makes the network namespace and the files.
    async fn prepare(&self, pod: &Arc<Pod>, plan: &PodPlan) -> Result<()> {
        let pod = pod.clone();
        let paths = PodFiles::of(&self.config.state, &pod.id);
        let pin = pod.attachment.as_ref().map(|attachment| attachment.netns.clone());
        let (hostname, resolv_conf) = (plan.config.hostname.clone(), plan.resolv_conf.clone());
        let (map, user_pin) = (plan.users.clone(), users::pin(&self.config.state, &pod.id));
        blocking(move || {
            match (&map, &pin) {
                (Some(map), Some(pin)) => userns::create(map, &user_pin, pin)?,
                (Some(map), None) => userns::create_on_host_network(map, &user_pin)?,
                (None, pin) => pin.as_deref().map_or(Ok(()), netns::create)?,
            }
            files::write(&paths, &hostname, resolv_conf.as_deref(), map.as_ref().map(IdMap::root))?;
            cgroup::prepare(&pod, &Layout::detect()?)
        })
        .await
    }

    /// Kills the containers, then the shim.
    async fn end_processes(&self, pod: &Pod) -> Result<()> {
        self.kill_containers_of(&pod.id).await?;
        self.tenant.tasks().down(&pod.id).await?;
        self.settle_containers_of(&pod.id).await
    }

    /// Detaches the pod and frees its namespace, which stays pinned as long as a plugin may need it for another try.
    async fn leave_network(&self, pod: &Pod) -> Result<()> {
        let Some(attachment) = &pod.attachment else { return Ok(()) };
        self.network.detach(&pod.id, attachment).await?;
        let pin = attachment.netns.clone();
        blocking(move || netns::remove(&pin)).await
    }

    /// Removes files and cgroup.
    async fn remove_traces(&self, pod: &Arc<Pod>) -> Result<()> {
        let (pod, folder) = (pod.clone(), PodFiles::of(&self.config.state, &pod.id).folder);
        let user_pin = users::pin(&self.config.state, &pod.id);
        blocking(move || {
            netns::remove(&user_pin)?;
            windlass_sys::fs::remove_tree(&folder)?;
            cgroup::remove(&pod, &Layout::detect()?)
        })
        .await
    }

    /// Where a pod's network namespace is pinned.
    fn pin(&self, id: &Id) -> PathBuf {
        self.config.state.join("netns").join(id)
    }
}

/// The door for work that blocks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal(format!("work on a pod broke off: {error}")))?
}

#[cfg(test)]
mod tests;
