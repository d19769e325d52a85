//! UpdateContainerResources: the new limits reach the kernel first and the record afterwards, so that a status never
//! shows a limit that is not in force.
//!
//! What a request leaves out stays as it was. A container that does not run is only recorded: its start builds the
//! specification from the record.

use std::sync::Arc;

use windlass_cri_api::v1;
use windlass_model::{Error, Id, Kind, Result};
use windlass_sys::cgroup::{Layout, Usage};

use super::blocking;
use super::plan::wrong;
use super::record::{Container, Rung};
use super::spec::resources::{self, cgroup_path};
use super::start::host;
use crate::Server;
use crate::nri::Told;

impl Server {
    /// Changes the limits of a container. Calls for one container take turns.
    pub(crate) async fn update_container_resources(
        self: &Arc<Self>,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse> {
        let container = self.containers.find(&request.container_id)?;
        if request.windows.is_some() {
            return Err(wrong("windows", "makes no sense on Linux"));
        }
        let Some(change) = request.linux else { return Ok(v1::UpdateContainerResourcesResponse {}) };
        resources::check(&change, "linux")?;
        resources::check_machine(&change, "linux", host())?;
        let (server, id) = (self.clone(), container.id.clone());
        let update = async move { server.change_limits(&id, &change).await };
        self.verbs.turn(super::subject(&container.id), "update", update).await?;
        Ok(v1::UpdateContainerResourcesResponse {})
    }

    /// Changes the limits of a container whose turn it is.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] while it is being removed, or where it uses more memory than it is to have; what the
    /// kernel refuses. In each case the old limits are in force.
    async fn change_limits(&self, id: &Id, change: &v1::LinuxContainerResources) -> Result<()> {
        let container = self.containers.find(id.as_str())?;
        let change = self.nri_update_container(&container, change.clone()).await?;
        self.replace_limits(id, &change).await?;
        self.nri_note(Told::Updated, id).await;
        Ok(())
    }

    /// As UpdateContainerResources, for a plugin: plugins are not asked again.
    pub(crate) async fn set_limits(
        self: &Arc<Self>,
        container: &str,
        change: v1::LinuxContainerResources,
    ) -> Result<()> {
        let container = self.containers.find(container)?;
        resources::check(&change, "linux")?;
        resources::check_machine(&change, "linux", host())?;
        let (server, id) = (self.clone(), container.id.clone());
        let update = async move { server.replace_limits(&id, &change).await };
        self.verbs.turn(super::subject(&container.id), "update", update).await
    }

    async fn replace_limits(&self, id: &Id, change: &v1::LinuxContainerResources) -> Result<()> {
        let container = self.containers.find(id.as_str())?;
        let old = container.limits();
        let new = resources::merge(&old, change);
        resources::check(&new, "linux")?;
        match container.rung {
            Rung::Reserved | Rung::Removing => return Err(Error::precondition(format!("container {id} is removed"))),
            Rung::Starting | Rung::Running => self.enforce(&container, &old, &new).await?,
            Rung::Created | Rung::Exited => {}
        }
        self.change_container(id, move |container| {
            container.set_limits(new);
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Has the runtime set the limits; a container that has ended meanwhile has none to set.
    async fn enforce(
        &self,
        container: &Arc<Container>,
        old: &v1::LinuxContainerResources,
        new: &v1::LinuxContainerResources,
    ) -> Result<()> {
        let pod = self.pods.find(container.pod.as_str())?;
        let cgroup = cgroup_path(self.config.cgroup_driver, &pod.cgroup_parent, &container.id).display().to_string();
        let memory = new.memory_limit_in_bytes;
        if memory > 0 && memory != old.memory_limit_in_bytes {
            let cgroup = cgroup.clone();
            blocking(move || Layout::detect()?.make_room(&cgroup, memory)).await.map_err(too_little)?;
        }
        let mut limits = resources::resources(new, host())?;
        limits.set_devices(None);
        let limits = serde_json::to_vec(&limits)
            .map_err(|error| Error::internal(format!("write the limits of container {}: {error}", container.id)))?;
        if let Err(error) = self.tenant.tasks().update(&container.id, limits).await {
            self.settle_container(&container.id).await?;
            if self.containers.find(container.id.as_str()).is_ok_and(|now| !now.may_run()) {
                return Ok(());
            }
            // Runtimes by path say it in words only.
            let used = blocking(move || Ok(Usage::read(&Layout::detect()?, &cgroup)?.memory)).await.unwrap_or(0);
            let short = u64::try_from(memory).is_ok_and(|limit| limit > 0 && limit < used);
            return Err(if short { too_little(error) } else { error });
        }
        if old.oom_score_adj != new.oom_score_adj {
            let scores =
                (resources::oom_score(old.oom_score_adj, host()), resources::oom_score(new.oom_score_adj, host()));
            let processes = self.tenant.tasks().pids(&container.id).await.unwrap_or_default();
            blocking(move || {
                processes.into_iter().for_each(|process| rescore(process.pid, scores.0, scores.1));
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

fn too_little(error: Error) -> Error {
    Error::new(Kind::FailedPrecondition, format!("linux.memory_limit_in_bytes: {error}"))
}

/// Gives a process the new score, unless it has one of its own choice. A process that is gone needs none.
fn rescore(pid: u32, old: i32, new: i32) {
    let file = format!("/proc/{pid}/oom_score_adj");
    let now = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if now == Some(old)
        && let Err(error) = std::fs::write(&file, new.to_string())
    {
        tracing::debug!(pid, %error, "its oom_score_adj stays");
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::container;
    use super::*;

    #[test]
    fn limits_are_kept_in_the_record() {
        let mut one = container(Rung::Created);
        assert_eq!(one.limits(), v1::LinuxContainerResources::default());
        let limits = v1::LinuxContainerResources { cpu_shares: 5, ..Default::default() };
        one.set_limits(limits.clone());
        let again = Container::of_record(&one.to_record().unwrap()).unwrap();
        assert_eq!(again.limits(), limits);
    }

    #[test]
    fn a_process_that_chose_its_score_keeps_it() {
        let score = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().to_owned();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let own: i32 = score(child.id()).parse().unwrap();
        rescore(child.id(), own + 1, 999);
        assert_eq!(score(child.id()), own.to_string());
        rescore(child.id(), own, 999);
        assert_eq!(score(child.id()), "999");
        child.kill().unwrap();
        child.wait().unwrap();
        rescore(child.id(), own, 999);
    }
}
