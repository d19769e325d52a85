//! `containerd.services.snapshots.v1.Snapshots`: file systems of images and containers.

use std::borrow::Cow;
use std::pin::Pin;

use containerd_client::services::v1::snapshots::{
    Info as Word, Kind as KindWord, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest, MountsResponse,
    StatSnapshotRequest, StatSnapshotResponse, UsageRequest, UsageResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::snapshots::{SnapshotInfo, Snapshots as Store};
use windlass_model::filter::label;
use windlass_model::snapshotter::Kind;

use crate::codes::status;
use crate::served::snapshots_server::{Snapshots, SnapshotsServer};
use crate::tenant;
use crate::words;

/// How many snapshots one message of a list tells of.
const BATCH: usize = 100;

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> SnapshotsServer<impl Snapshots> {
    SnapshotsServer::new(Service { core })
}

impl Service {
    /// The snapshots of the driver that a request names; containerd's clients call the overlay driver `overlayfs`.
    fn store<T>(&self, request: &Request<T>, driver: &str) -> Result<Store, Status> {
        let driver = match driver {
            "" => return Err(Status::invalid_argument("snapshotter argument missing")),
            "overlayfs" => "overlay",
            other => other,
        };
        tenant::of(&self.core, request)?.snapshots(driver).map_err(status)
    }
}

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send>>;

    async fn mounts(&self, request: Request<MountsRequest>) -> Result<Response<MountsResponse>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let mounts = store.mounts(&request.get_ref().key).await.map_err(status)?;
        Ok(Response::new(MountsResponse { mounts: mounts.into_iter().map(words::mount).collect() }))
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Result<Response<StatSnapshotResponse>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let found = store.stat(&request.get_ref().key).await.map_err(status)?;
        Ok(Response::new(StatSnapshotResponse { info: Some(word(found)) }))
    }

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Result<Response<Self::ListStream>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let mut found = store.list().await.map_err(status)?;
        found.retain(|info| filter.matches(|path| field(info, path)));
        let mut left = found.into_iter();
        let batches = std::iter::from_fn(move || {
            let info: Vec<Word> = left.by_ref().take(BATCH).map(word).collect();
            (!info.is_empty()).then(|| Ok(ListSnapshotsResponse { info }))
        });
        Ok(Response::new(Box::pin(futures::stream::iter(batches))))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let usage = store.usage(&request.get_ref().key).await.map_err(status)?;
        Ok(Response::new(UsageResponse { size: words::size(usage.bytes), inodes: words::size(usage.inodes) }))
    }
}

/// What a filter sees of a snapshot.
fn field<'a>(info: &'a SnapshotInfo, path: &[String]) -> Option<Cow<'a, str>> {
    match path.first()?.as_str() {
        "kind" => words::field(match info.kind {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        }),
        "name" => words::field(&info.key),
        // One without a parent has an empty one: that is how clients ask for it.
        "parent" => Some(info.parent.as_deref().unwrap_or_default().into()),
        "labels" => label(&info.labels, &path[1..]),
        _ => None,
    }
}

fn word(info: SnapshotInfo) -> Word {
    let kind = match info.kind {
        Kind::View => KindWord::View,
        Kind::Active => KindWord::Active,
        Kind::Committed => KindWord::Committed,
    };
    Word {
        name: info.key,
        parent: info.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: words::moment(info.created_at),
        updated_at: words::moment(info.updated_at),
        labels: info.labels.into_iter().collect(),
    }
}
