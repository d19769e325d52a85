//! `containerd.services.snapshots.v1.Snapshots`: file systems of images and containers.

use std::borrow::Cow;
use std::pin::Pin;

use containerd_client::services::v1::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info as Word, Kind as KindWord, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::snapshots::{SnapshotInfo, Snapshots as Store};
use windlass_model::filter::label;
use windlass_model::snapshotter::Kind;

use crate::codes::status;
use crate::served::snapshots_server::{Snapshots, SnapshotsServer};
use crate::{mask, tenant, words};

/// How many snapshots one message of a list tells of.
const BATCH: usize = 100;

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> SnapshotsServer<impl Snapshots> {
    SnapshotsServer::new(Service { core })
}

impl Service {
    /// The snapshots of the driver that a request names; what it makes of them is held by its lease.
    fn store<T>(&self, request: &Request<T>, driver: &str) -> Result<Store, Status> {
        if driver.is_empty() {
            return Err(Status::invalid_argument("snapshotter argument missing"));
        }
        let store = tenant::of(&self.core, request)?.snapshots(driver).map_err(status)?;
        Ok(store.under(tenant::lease(request)?))
    }
}

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send>>;

    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let made = whole(async move { store.prepare(&key, over(&parent), labels.into_iter().collect(), None).await });
        Ok(Response::new(PrepareSnapshotResponse { mounts: made.await?.into_iter().map(words::mount).collect() }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Result<Response<ViewSnapshotResponse>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let made = whole(async move { store.view(&key, over(&parent), labels.into_iter().collect(), None).await });
        Ok(Response::new(ViewSnapshotResponse { mounts: made.await?.into_iter().map(words::mount).collect() }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        whole(async move { store.commit(&name, &key, labels.into_iter().collect()).await }).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let key = request.into_inner().key;
        whole(async move { store.remove(&key).await }).await?;
        Ok(Response::new(()))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        let UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let (info, paths) = (words::required(info, "an info")?, mask::paths(update_mask));
        mask::check(&paths, "a snapshot", &[], &["labels"])?;
        let change = move |labels: &mut _| mask::merge_texts(labels, info.labels, &paths, "labels");
        let changed = store.update_labels(&info.name, change).await.map_err(status)?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(word(changed)) }))
    }

    async fn cleanup(&self, request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let store = self.store(&request, &request.get_ref().snapshotter)?;
        whole(async move { store.clean_up().await }).await?;
        Ok(Response::new(()))
    }

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

/// Does `work` to its end, even if the client goes away.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = windlass_model::Result<T>> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::spawn(work).await.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(status)
}

/// The parent that a client names.
fn over(parent: &str) -> Option<&str> {
    Some(parent).filter(|parent| !parent.is_empty())
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
