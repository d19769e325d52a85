//! The making of a container: its snapshot, its specification, its record; all of it, or nothing.

use std::collections::HashMap;

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{Container, CreateContainerRequest, DeleteContainerRequest, container::Runtime};
use containerd_client::to_any;
use containerd_client::types::Mount;
use prost_types::Any;
use tonic::transport::Channel;
use windlass_model::Id;

use crate::client::{Daemon, answered, api};
use crate::image::{self, Contents, Defaults};
use crate::labels;
use crate::leases::Holder;
use crate::rootfs;
use crate::snapshots::{self, Driver};
use crate::spec::{self, Part, Parts, User, Wishes};

/// The runtime of who names none; the daemon has a shim of its own for it.
const RUNTIME: &str = "io.containerd.runc.v2";

/// The label that says by which signal a container's program is asked to end.
pub(crate) const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";

/// The most bytes that a label, name and value, may have.
const LONGEST_LABEL: usize = 4096;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub wishes: Wishes,
    #[command(flatten)]
    driver: Driver,
    /// The runtime: a shim's name
    #[arg(long, default_value = RUNTIME)]
    runtime: String,
    /// The OCI runtime that the shim is to run, instead of its own
    #[arg(long, value_name = "PATH")]
    runc_binary: Option<String>,
    /// Labels of the container
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
    labels: Vec<(String, String)>,
}

/// Options of the shim for `io.containerd.runc.v2`, as far as they are asked for here (`oci.proto`).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RuncOptions {
    /// The OCI runtime.
    #[prost(string, tag = "6")]
    pub binary_name: String,
}

impl prost::Name for RuncOptions {
    const NAME: &'static str = "Options";
    const PACKAGE: &'static str = "containerd.runc.v1";
}

/// A container's record and root file system.
#[derive(Debug)]
pub(crate) struct Made {
    pub id: String,
    /// The shim's options, which a task is created with too.
    pub options: Option<Any>,
    driver: String,
    /// The snapshot's key; empty where there is none.
    key: String,
}

/// What the image, or the folder, gives to a container.
struct Ground {
    image: String,
    defaults: Defaults,
    /// The topmost layer; none where the root file system is a folder.
    parent: Option<String>,
}

impl Made {
    /// Makes a container.
    pub async fn new(arguments: &Arguments, daemon: &Daemon, channel: &Channel) -> Result<Self> {
        arguments.wishes.id.parse::<Id>()?;
        let lease = Holder::take(daemon, channel).await?;
        let made = Self::make(arguments, lease.daemon(), channel).await;
        lease.release().await;
        made
    }

    async fn make(arguments: &Arguments, daemon: &Daemon, channel: &Channel) -> Result<Self> {
        let wishes = &arguments.wishes;
        let driver = arguments.driver.snapshotter.clone();
        let ground = ground(wishes, &driver, daemon, channel).await?;
        let options = arguments.runc_binary.clone().map(|binary_name| to_any(&RuncOptions { binary_name }));
        let mut made = Self { id: wishes.id.clone(), options, driver, key: String::new() };
        if let Some(parent) = &ground.parent {
            made.prepare(parent, daemon, channel).await?;
        }
        let recorded = made.record(arguments, &ground, daemon, channel).await;
        if recorded.is_err() {
            made.remove_snapshot(daemon, channel).await.ok();
        }
        recorded.map(|()| made)
    }

    /// Makes the writable layer.
    async fn prepare(&mut self, parent: &str, daemon: &Daemon, channel: &Channel) -> Result<()> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.driver.clone(),
            key: self.id.clone(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let prepared = api!(SnapshotsClient<_>, channel.clone()).prepare(daemon.request(request)).await;
        prepared.map_err(answered).with_context(|| format!("prepare the snapshot {}", self.id))?;
        self.key.clone_from(&self.id);
        Ok(())
    }

    async fn record(&self, arguments: &Arguments, ground: &Ground, daemon: &Daemon, channel: &Channel) -> Result<()> {
        let wishes = &arguments.wishes;
        let user = self.user(wishes, &ground.defaults, daemon, channel).await?;
        let status = std::fs::read_to_string("/proc/self/status").context("read our own capabilities")?;
        let parts = Parts {
            namespace: daemon.namespace(),
            image: &ground.defaults,
            user: &user,
            rootfs: wishes.rootfs.then_some(wishes.image.as_str()),
            cgroup_v2: std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            console: wishes.process.console(),
            own_capabilities: spec::own_capabilities(&status),
        };
        let spec = spec::build(&self.id, wishes, &parts)?;
        let runtime = Runtime { name: arguments.runtime.clone(), options: self.options.clone() };
        let container = Container {
            id: self.id.clone(),
            labels: labels(&ground.defaults, &arguments.labels),
            image: ground.image.clone(),
            runtime: Some(runtime),
            spec: Some(spec::any(&spec, Part::Whole)),
            snapshotter: if self.key.is_empty() { String::new() } else { self.driver.clone() },
            snapshot_key: self.key.clone(),
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(container) };
        let created = api!(ContainersClient<_>, channel.clone()).create(daemon.request(request)).await;
        created.map_err(answered).with_context(|| format!("create {}", self.id))?;
        Ok(())
    }

    async fn user(&self, wishes: &Wishes, image: &Defaults, daemon: &Daemon, channel: &Channel) -> Result<User> {
        let text = wishes.process.user.clone().or_else(|| image.user.clone()).unwrap_or_default();
        let databases = if !rootfs::needs_databases(&text) {
            Default::default()
        } else if wishes.rootfs {
            rootfs::databases_in(wishes.image.as_ref())?
        } else {
            let mounts = self.mounts(daemon, channel).await?;
            tokio::task::spawn_blocking(|| rootfs::databases_of(mounts)).await??
        };
        rootfs::user(&text, &databases)
    }

    /// The mounts of the root file system; none where it is a folder.
    pub async fn mounts(&self, daemon: &Daemon, channel: &Channel) -> Result<Vec<Mount>> {
        mounts(&self.driver, &self.key, daemon, channel).await
    }

    /// Removes record and snapshot.
    pub async fn remove(&self, daemon: &Daemon, channel: &Channel) -> Result<()> {
        let request = DeleteContainerRequest { id: self.id.clone() };
        let removed = api!(ContainersClient<_>, channel.clone()).delete(daemon.request(request)).await;
        removed.map_err(answered).with_context(|| format!("remove {}", self.id))?;
        self.remove_snapshot(daemon, channel).await
    }

    async fn remove_snapshot(&self, daemon: &Daemon, channel: &Channel) -> Result<()> {
        remove_snapshot(&self.driver, &self.key, daemon, channel).await
    }
}

/// The mounts of a container's snapshot; none where it has no snapshot.
pub(crate) async fn mounts(driver: &str, key: &str, daemon: &Daemon, channel: &Channel) -> Result<Vec<Mount>> {
    if key.is_empty() {
        return Ok(Vec::new());
    }
    let request = MountsRequest { snapshotter: driver.to_owned(), key: key.to_owned() };
    let answer = api!(SnapshotsClient<_>, channel.clone()).mounts(daemon.request(request)).await;
    Ok(answer.map_err(answered).with_context(|| format!("the mounts of {key}"))?.into_inner().mounts)
}

/// Removes a container's snapshot, where it has one.
pub(crate) async fn remove_snapshot(driver: &str, key: &str, daemon: &Daemon, channel: &Channel) -> Result<()> {
    if key.is_empty() {
        return Ok(());
    }
    let request = RemoveSnapshotRequest { snapshotter: driver.to_owned(), key: key.to_owned() };
    match api!(SnapshotsClient<_>, channel.clone()).remove(daemon.request(request)).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(answered(status)).with_context(|| format!("remove the snapshot {key}")),
    }
}

async fn ground(wishes: &Wishes, driver: &str, daemon: &Daemon, channel: &Channel) -> Result<Ground> {
    if wishes.rootfs {
        return Ok(Ground { image: String::new(), defaults: Defaults::default(), parent: None });
    }
    let found = image::find(&wishes.image, daemon, channel).await?;
    let contents = Contents::of(&found, daemon, channel).await?;
    let config = contents.config(daemon, channel).await?;
    let parent = snapshots::unpack(&found.name, driver, daemon, channel).await?;
    Ok(Ground { image: found.name, defaults: config.defaults(), parent: Some(parent) })
}

/// The labels of a container: those of the image that fit, how its program is stopped, and the wishes.
fn labels(image: &Defaults, wishes: &[(String, String)]) -> HashMap<String, String> {
    let fits = |(key, value): &(&String, &String)| !key.is_empty() && key.len() + value.len() <= LONGEST_LABEL;
    let mut all: HashMap<String, String> =
        image.labels.iter().flatten().filter(fits).map(|(key, value)| (key.clone(), value.clone())).collect();
    let stop = image.stop_signal.clone().filter(|signal| !signal.is_empty()).unwrap_or_else(|| "SIGTERM".into());
    all.insert(STOP_SIGNAL.into(), stop);
    all.extend(wishes.iter().cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_from_the_image_and_the_wishes() {
        let image = Defaults {
            labels: Some([("a".into(), "1".into()), ("long".into(), "x".repeat(5000))].into()),
            ..Default::default()
        };
        let all = labels(&image, &[("a".into(), "2".into())]);
        assert_eq!(all.len(), 2);
        assert_eq!((all["a"].as_str(), all[STOP_SIGNAL].as_str()), ("2", "SIGTERM"));
        let image = Defaults { stop_signal: Some("SIGQUIT".into()), ..Default::default() };
        assert_eq!(labels(&image, &[])[STOP_SIGNAL], "SIGQUIT");
    }

    #[test]
    fn options_have_containerds_name() {
        let any = to_any(&RuncOptions { binary_name: "/usr/sbin/runc".into() });
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
    }
}
