//! A container's way up, each rung recorded before it is tried, and the one way down from any of them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use windlass_cri_api::v1;
use windlass_engine::Durability;
use windlass_model::snapshotter::Labels;
use windlass_model::user::Databases;
use windlass_model::{Context as _, Error, Id, Kind, Mount, Result, Timestamp};
use windlass_sys::idmap::IdMap;

use super::cdi::Beside;
use super::create::{Order, ignore_missing};
use super::record::{Container, Rung, Step, User};
use super::rootfs::Layers;
use super::user;
use super::volume;
use super::{blocking, cdi, labels, signal};
use crate::Server;
use crate::nri::Told;

/// How long a killed container may take to end.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of an image's user databases, in bytes.
const MAX_DATABASE: u64 = 8 << 20;

impl Server {
    /// Makes what an order asks for: record, root file system, user, volumes.
    pub(super) async fn climb_container(&self, id: &Id, order: Order) -> Result<Arc<Container>> {
        let reserved = self.reserve_container(id, &order).await?;
        if !reserved.image_volumes.is_empty() {
            self.timelines.stage(id, "image volumes", self.attach_image_volumes(&reserved)).await?;
        }
        let parent = order.image.chain_id.map(|chain| chain.to_string());
        let snapshots = self.tenant.snapshots(&reserved.snapshotter)?;
        let prepared = snapshots.prepare(id.as_str(), parent.as_deref(), Labels::new(), None);
        let mounts = self.timelines.stage(id, "snapshot", prepared).await?;
        let folder = self.container_folder(id);
        let found = self
            .timelines
            .stage(
                id,
                "user and volumes",
                blocking(move || {
                    let user = find_user(&order, &mounts)?;
                    if let Some(map) = order.pod.users() {
                        fit(&map, &user, &mounts)?;
                    }
                    volume::make(&folder, &order.defaults.volumes, &order.config, &mounts)?;
                    Ok(user)
                }),
            )
            .await?;
        let entry = self.nri.entry().await;
        let asked = Container { user: found.clone(), ..(*reserved).clone() };
        let wanted = self.timelines.stage(id, "plugins", self.nri_create_container(&asked)).await?;
        let names: Vec<_> =
            wanted.iter().flat_map(|wanted| &wanted.cdi_devices).map(|device| device.name.clone()).collect();
        let more = match names.is_empty() {
            true => Beside::default(),
            false => blocking(move || cdi::beside(&names)).await?,
        };
        let container = self
            .change_container(id, move |container| {
                container.user = found;
                container.devices.extend(more);
                container.adjust(wanted.as_ref());
                container.advance(Step::Create)
            })
            .await?;
        drop(entry);
        self.nri_note(Told::Created, id).await;
        self.announce_step(&container, &Step::Create).await;
        Ok(container)
    }

    /// Takes the name and names the snapshot.
    async fn reserve_container(&self, id: &Id, order: &Order) -> Result<Arc<Container>> {
        let asked = v1::Signal::try_from(order.config.stop_signal).ok().and_then(signal::number);
        let image = order.image_stop_signal.as_deref().and_then(signal::parse);
        let container = Container {
            id: id.clone(),
            pod: order.pod.id.clone(),
            revision: 0,
            rung: Rung::Reserved,
            name: order.plan.name.clone(),
            config: order.config.clone(),
            image_id: order.image.id.to_string(),
            image_ref: order.image_ref.clone(),
            defaults: order.defaults.clone(),
            image_volumes: order.image_volumes.clone(),
            adjustment: String::new(),
            devices: order.devices.clone(),
            selinux: self
                .selinux
                .of_container(labels::asker(&order.config, &order.pod.namespaces()), order.pod.selinux.as_ref())?,
            user: User::default(),
            stop_signal: asked.or(image).unwrap_or(signal::TERM),
            handler: order.pod.handler.clone(),
            snapshotter: self.config.snapshotter.clone(),
            log_path: order.plan.log_path.clone(),
            created_at: Timestamp::now(),
            started_at: Timestamp::default(),
            pid: 0,
            oom: false,
            end: None,
        };
        // In the index first: who looks for orphans must not find what has no record yet.
        let shown = self.containers.insert(container.clone());
        self.tenant.containers().create(container.to_record()?, Durability::Crash).await?;
        Ok(shown)
    }

    /// Takes a container down from wherever it is and forgets it; succeeds where nothing is left of it. After an error
    /// it is to be called again.
    pub(crate) async fn down_container(&self, id: &Id) -> Result<()> {
        let Ok(container) = self.containers.find(id.as_str()) else { return Ok(()) };
        if container.rung != Rung::Removing {
            ignore_missing(self.step_container(id, Step::Remove).await)?;
        }
        self.end_task(id).await?;
        if container.may_run() {
            self.announce_container_stopped(&container).await;
        }
        self.nri_remove_container(id).await;
        self.detach_image_volumes(&container).await?;
        ignore_missing(self.tenant.snapshots(&container.snapshotter)?.remove(id.as_str()).await)?;
        if !container.defaults.volumes.is_empty() {
            let folder = self.container_folder(id);
            blocking(move || windlass_sys::fs::remove_tree(&folder)).await?;
        }
        ignore_missing(self.tenant.containers().delete(id, Durability::Crash).await)?;
        if self.containers.forget(id) {
            self.selinux.free(container.selinux.as_ref());
            self.timelines.forget(id);
        }
        if container.is_visible() {
            self.announce_container_deleted(&container).await;
        }
        Ok(())
    }

    /// Kills a container's task and forgets it; nothing there is success.
    pub(super) async fn end_task(&self, id: &Id) -> Result<()> {
        let tasks = self.tenant.tasks();
        match tasks.kill(id, signal::KILL, true).await {
            // It has ended, or there is none.
            Err(error) if error.is_not_found() => {}
            Err(error) if error.kind() == Kind::FailedPrecondition => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let ended = tokio::time::timeout(KILL_PATIENCE, tasks.wait(id)).await;
                let ended =
                    ended.map_err(|_| Error::deadline(format!("container {id} was killed and has not ended")))?;
                ignore_missing(ended)?;
            }
        }
        ignore_missing(tasks.delete(id).await)
    }

    /// Kills all that runs in a pod and waits until their ends are recorded.
    pub(crate) async fn kill_containers_of(&self, pod: &Id) -> Result<()> {
        let running: Vec<_> = self.containers.of_pod(pod).into_iter().filter(|one| one.may_run()).collect();
        let ended = running.iter().map(|container| async {
            match self.tenant.tasks().kill(&container.id, signal::KILL, true).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => return self.settle_container(&container.id).await,
                // A shim that does not answer is taken down with the pod, and that ends its containers.
                Err(error) if error.kind() == Kind::Unavailable => {
                    tracing::warn!(container = %container.id, %error, "a container cannot be asked to end");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if self.containers.wait(&container.id, KILL_PATIENCE, |now| !now.may_run()).await {
                return Ok(());
            }
            Err(Error::deadline(format!("container {} was killed and has not ended", container.id)))
        });
        join_all(ended).await.into_iter().collect()
    }

    /// Takes note of the ends of a pod's containers, which the engine knows when their shim is no more.
    pub(crate) async fn settle_containers_of(&self, pod: &Id) -> Result<()> {
        let running = self.containers.of_pod(pod).into_iter().filter(|one| one.may_run());
        join_all(running.map(async |one| self.settle_container(&one.id).await)).await.into_iter().collect()
    }

    /// Takes all containers of a pod down.
    pub(crate) async fn remove_containers_of(&self, pod: &Id) -> Result<()> {
        let containers = self.containers.of_pod(pod);
        let removed = containers.iter().map(|container| self.down_container(&container.id));
        join_all(removed).await.into_iter().collect()
    }

    /// Where a container keeps what is neither image nor log.
    pub(super) fn container_folder(&self, id: &Id) -> PathBuf {
        self.config.root.join("cri").join("containers").join(id)
    }
}

/// Gives the writable layer to root of the pod's user namespace, and refuses a user that is nobody there.
fn fit(map: &IdMap, user: &User, mounts: &[Mount]) -> Result<()> {
    let strange =
        map.uid(user.uid).is_none() || user.groups.iter().chain([&user.gid]).any(|gid| map.gid(*gid).is_none());
    if strange {
        let User { uid, gid, .. } = user;
        return Err(Error::invalid(format!(
            "user {uid} and group {gid} of the image, or one of the user's groups, have no place in the pod's user namespace"
        )));
    }
    // The layers below are mounted under other ids, but what is written is written under the ids outside.
    let upper = mounts.iter().flat_map(|mount| &mount.options).filter_map(|option| option.strip_prefix("upperdir="));
    for folder in upper {
        let doing = || format!("give {folder} to root of the pod's user namespace");
        let meta = std::fs::symlink_metadata(folder).context(doing)?;
        let (uid, gid) = (map.uid(meta.uid()), map.gid(meta.gid()));
        std::os::unix::fs::lchown(folder, uid, gid).context(doing)?;
    }
    Ok(())
}

/// Whom the container runs as, with the image's databases read only where they are needed.
fn find_user(order: &Order, mounts: &[Mount]) -> Result<User> {
    let read = |layers: &Layers| {
        Ok::<_, Error>(Databases {
            passwd: layers.read("/etc/passwd", MAX_DATABASE)?,
            group: layers.read("/etc/group", MAX_DATABASE)?,
        })
    };
    let databases = match Layers::of(mounts) {
        Some(layers) => read(&layers)?,
        None => volume::mounted(mounts, |root: &Path| read(&Layers::at(root)))?,
    };
    let context = order.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    user::resolve(context, &order.image_user, &databases)
}
