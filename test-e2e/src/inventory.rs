//! What one tenant holds, as the containerd API tells it to the main socket.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use containerd_client::services::v1::snapshots::{
    ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest, MountsResponse,
};
use containerd_client::services::v1::{
    Container, Image, Info as Blob, Lease, ListContainersRequest, ListContainersResponse, ListContentRequest,
    ListContentResponse, ListImagesRequest, ListImagesResponse, ListRequest, ListResponse, ListTasksRequest,
    ListTasksResponse,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::Process;
use prost::Message;

use crate::image::digest;
use crate::methods::Target;
use crate::tenant::Tenant;

type Snapshot = containerd_client::services::v1::snapshots::Info;

/// The word by which clients call the overlay driver.
const DRIVER: &str = "overlayfs";
/// The kind of a snapshot that is committed.
const COMMITTED: i32 = 3;

/// All records of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Containers; a pod is one, too.
    pub containers: Vec<Container>,
    /// Running and ended ones.
    pub tasks: Vec<Process>,
    /// By name.
    pub images: Vec<Image>,
    /// By digest.
    pub blobs: Vec<Blob>,
    /// Those of the overlay driver.
    pub snapshots: Vec<Snapshot>,
    /// By id.
    pub leases: Vec<Lease>,
}

impl Inventory {
    /// What the namespace of `client` holds.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn of(client: &Tenant) -> Result<Self> {
        let containers: ListContainersResponse =
            client.ask("containers.v1.Containers", "List", &ListContainersRequest::default()).await?;
        let tasks: ListTasksResponse = client.ask("tasks.v1.Tasks", "List", &ListTasksRequest::default()).await?;
        let images: ListImagesResponse = client.ask("images.v1.Images", "List", &ListImagesRequest::default()).await?;
        let leases: ListResponse = client.ask("leases.v1.Leases", "List", &ListRequest::default()).await?;
        let blobs = all::<ListContentResponse>(client, "content.v1.Content", &ListContentRequest::default()).await?;
        let request = ListSnapshotsRequest { snapshotter: DRIVER.into(), ..Default::default() };
        let snapshots = all::<ListSnapshotsResponse>(client, "snapshots.v1.Snapshots", &request).await?;
        Ok(Self {
            containers: containers.containers,
            tasks: tasks.tasks,
            images: images.images,
            blobs: blobs.into_iter().flat_map(|message| message.info).collect(),
            snapshots: snapshots.into_iter().flat_map(|message| message.info).collect(),
            leases: leases.leases,
        })
    }

    /// A line for each thing, with what may be changed of it.
    pub fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for found in &self.containers {
            let (labels, spec) = (labels(&found.labels), found.spec.as_ref().map(|spec| digest(&spec.value)));
            let (image, snapshot) = (&found.image, &found.snapshot_key);
            lines.insert(format!("container {} {image} {snapshot} {labels:?} {spec:?}", found.id));
        }
        lines.extend(self.tasks.iter().map(|found| format!("task {found:?}")));
        for found in &self.images {
            let target = found.target.as_ref().map(|target| &target.digest);
            lines.insert(format!("image {} {target:?} {:?}", found.name, labels(&found.labels)));
        }
        let blobs = self.blobs.iter();
        lines.extend(blobs.map(|found| format!("blob {} {} {:?}", found.digest, found.size, labels(&found.labels))));
        let snapshots = self.snapshots.iter();
        lines.extend(
            snapshots.map(|found| format!("snapshot {} {} {:?}", found.name, found.parent, labels(&found.labels))),
        );
        lines.extend(self.leases.iter().map(|found| format!("lease {} {:?}", found.id, labels(&found.labels))));
        lines
    }

    /// One of each kind, around the running `container`, for an attempt on it.
    ///
    /// # Errors
    /// Where there is no such task.
    pub async fn target(&self, client: &Tenant, namespace: &str, container: &str, sandbox: &str) -> Result<Target> {
        self.tasks.iter().find(|task| task.id == container).with_context(|| format!("{container} has no task"))?;
        let record = self.containers.iter().find(|found| found.id == container).context("no record")?;
        let or_container = |text: Option<&String>| match text {
            Some(text) if !text.is_empty() => text.clone(),
            _ => container.to_owned(),
        };
        let image = self.images.first();
        let descriptor = image.and_then(|image| image.target.clone()).unwrap_or_default();
        let snapshot = or_container(Some(&record.snapshot_key));
        let layer = self.snapshots.iter().find(|found| found.kind == COMMITTED).map(|found| &found.name);
        let request = MountsRequest { snapshotter: DRIVER.into(), key: snapshot.clone() };
        let mounts = client.ask::<MountsResponse>("snapshots.v1.Snapshots", "Mounts", &request).await;
        Ok(Target {
            namespace: namespace.to_owned(),
            container: container.to_owned(),
            sandbox: sandbox.to_owned(),
            image: or_container(image.map(|image| &image.name)),
            digest: descriptor.digest,
            media_type: descriptor.media_type,
            layer: or_container(layer),
            mounts: mounts.map_or_else(|_| vec![whole_host()], |answer| answer.mounts),
            lease: or_container(self.leases.first().map(|lease| &lease.id)),
            snapshot,
        })
    }
}

/// Where a tenant's files are that has no snapshots: somewhere on the host.
fn whole_host() -> Mount {
    let options = vec!["rbind".to_owned(), "ro".to_owned()];
    Mount { r#type: "bind".into(), source: "/".into(), options, ..Default::default() }
}

/// All messages of a stream.
async fn all<T: Message + Default>(client: &Tenant, service: &str, request: &impl Message) -> Result<Vec<T>> {
    let mut messages = client.open(service, "List", request).await?;
    let mut found = Vec::new();
    while let Some(message) = messages.next().await? {
        found.push(message.read()?);
    }
    Ok(found)
}

fn labels(labels: &HashMap<String, String>) -> BTreeMap<&String, &String> {
    labels.iter().collect()
}
