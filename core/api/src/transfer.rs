//! `containerd.services.transfer.v1.Transfer`: images from one place to another in one call.
//!
//! A place is a message: a registry, the image store, or a stream of an archive. Which two are given says what is done:
//!
//! | from → to | |
//! |---|---|
//! | `OCIRegistry` → `ImageStore` | pull |
//! | `ImageStore` → `OCIRegistry` | push |
//! | `ImageStore` → `ImageStore` | tag |
//! | `ImageImportStream` → `ImageStore` | import |
//! | `ImageStore` → `ImageExportStream` | export |
//!
//! A client that goes away gives its transfer up, and nothing of it is left.

mod access;
mod places;
mod progress;
mod pull;

use containerd_client::services::v1::TransferRequest;
use tonic::{Request, Response, Status};
use windlass_engine::images::{ExportRequest, ImageRecord, ImportRequest, PushRequest, Reporter};
use windlass_engine::{Core, Tenant};
use windlass_model::{Error, Kind, LeaseId, Platform, Reference, Result};

use self::places::{Archive, Place, Store};
use crate::access::Access;
use crate::codes::status;
use crate::served::transfer_server::{Transfer, TransferServer};
use crate::streaming::{Streams, bytes};
use crate::{tenant, words};

struct Service {
    core: Core,
    streams: Streams,
}

/// One transfer.
struct Job {
    tenant: Tenant,
    streams: Streams,
    lease: Option<LeaseId>,
    reporter: Reporter,
    /// Whether the client is locked into its namespace.
    isolated: bool,
    /// Cancelled when the client goes away.
    stop: tokio_util::sync::CancellationToken,
}

pub(crate) fn service(core: Core, streams: Streams) -> TransferServer<impl Transfer> {
    TransferServer::new(Service { core, streams })
}

#[tonic::async_trait]
impl Transfer for Service {
    async fn transfer(&self, request: Request<TransferRequest>) -> std::result::Result<Response<()>, Status> {
        let (tenant, lease) = (tenant::of(&self.core, &request)?, tenant::lease(&request)?);
        let isolated = Access::of(&request).isolates();
        let asked = request.into_inner();
        let source = Place::read(&words::required(asked.source, "source")?).map_err(status)?;
        let destination = Place::read(&words::required(asked.destination, "destination")?).map_err(status)?;
        let progress = asked.options.map(|options| options.progress_stream).filter(|id| !id.is_empty());
        let (reporter, told) = match progress {
            Some(id) => progress::over(self.streams.take(tenant.namespace(), &id).map_err(status)?),
            None => (Reporter::default(), None),
        };
        let stop = tokio_util::sync::CancellationToken::new();
        let _given_up = stop.clone().drop_guard();
        let job = Job { tenant, streams: self.streams.clone(), lease, reporter, isolated, stop };
        let done = job.run(source, destination).await;
        if let Some(told) = told {
            told.finish().await;
        }
        done.map(Response::new).map_err(status)
    }
}

impl Job {
    async fn run(self, source: Place, destination: Place) -> Result<()> {
        match (source, destination) {
            (Place::Registry(registry), Place::Store(store)) => self.pull(registry, store).await,
            (Place::Store(store), Place::Registry(registry)) => {
                let access = self.access(&registry).await?;
                let Store { name, platforms, .. } = store;
                let reference: Reference = registry.reference.parse()?;
                let reporter = self.reporter.clone();
                let request = PushRequest { name, reference, access, platforms, reporter };
                self.tenant.images().push(request).await
            }
            (Place::Store(from), Place::Store(to)) => self.tag(&from, &to).await,
            (Place::Import(archive), Place::Store(store)) => self.import(archive, store).await,
            (Place::Store(store), Place::Export(archive)) => self.export(store, archive).await,
            (source, destination) => {
                let (source, destination) = (source.name(), destination.name());
                Err(Error::unimplemented(format!("there is no transfer from {source} to {destination}")))
            }
        }
    }

    async fn tag(&self, from: &Store, to: &Store) -> Result<()> {
        let images = self.tenant.images();
        let target = images.get(&from.name).await?.target;
        for (name, labels) in to.names()? {
            let name = if name.ends_with('@') { format!("{name}{}", target.digest) } else { name };
            let mut record = ImageRecord::new(name, target.clone());
            record.labels = labels;
            images.put(record).await?;
        }
        Ok(())
    }

    async fn import(&self, archive: Archive, store: Store) -> Result<()> {
        let stream = self.streams.take(self.tenant.namespace(), &archive.stream)?;
        let request = ImportRequest {
            wanted: store.wanted(),
            index_name: store.name,
            labels: store.labels,
            platforms: store.platforms,
            unpack: store.unpacks,
            compress: archive.force_compress,
            lease: self.lease.clone(),
            reporter: self.reporter.clone(),
            stop: self.stop.clone(),
        };
        self.tenant.images().import(request, bytes::receive(stream, self.stop.clone())).await.map(drop)
    }

    async fn export(&self, store: Store, archive: Archive) -> Result<()> {
        let (writer, sent) = bytes::send(self.streams.take(self.tenant.namespace(), &archive.stream)?);
        let platforms = match archive.platforms {
            platforms if platforms.is_empty() && !archive.all_platforms => vec![Platform::host()],
            platforms => platforms,
        };
        let request = ExportRequest {
            names: store.lookup()?,
            platforms,
            skip_docker: archive.skip_docker,
            reporter: self.reporter.clone(),
            stop: self.stop.clone(),
        };
        self.tenant.images().export(request, writer).await?;
        sent.await.map_err(|error| Error::with_source(Kind::Internal, "the export's stream broke off", error))?
    }
}
