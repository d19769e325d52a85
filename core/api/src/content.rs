//! `containerd.services.content.v1.Content`: blobs and how far those being written are.

mod write;

use std::borrow::Cow;
use std::io::SeekFrom;
use std::pin::Pin;
use std::time::Duration;

use containerd_client::services::v1::{
    AbortRequest, DeleteContentRequest, Info as Word, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse,
    Status as Progress, StatusRequest, StatusResponse, UpdateRequest, UpdateResponse, WriteContentRequest,
    WriteContentResponse,
};
use futures::Stream;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::content::{Info, IngestStatus};
use windlass_model::filter::label;
use windlass_model::{Error, Kind};

use crate::access::Limits;
use crate::codes::status;
use crate::served::content_server::{Content, ContentServer};
use crate::{mask, tenant, words};

/// How many blobs one message of a list tells of.
const BATCH: usize = 100;

/// How long an abort waits for a writer whose client has just gone away.
const LINGER: Duration = Duration::from_secs(2);

/// How many bytes one message of a read carries.
const CHUNK: u64 = 1 << 20;

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> ContentServer<impl Content> {
    ContentServer::new(Service { core })
}

#[tonic::async_trait]
impl Content for Service {
    type ListStream = Streaming<ListContentResponse>;
    type ReadStream = Streaming<ReadContentResponse>;
    type WriteStream = Streaming<WriteContentResponse>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = words::digest(&request.get_ref().digest)?;
        let info = tenant::of(&self.core, &request)?.content().info(&digest).await.map_err(status)?;
        Ok(Response::new(InfoResponse { info: Some(word(info)) }))
    }

    async fn list(&self, request: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = tenant::of(&self.core, &request)?.content().list().await.map_err(status)?;
        found.retain(|info| filter.matches(|path| field(info, path)));
        let mut left = found.into_iter();
        let batches = std::iter::from_fn(move || {
            let info: Vec<Word> = left.by_ref().take(BATCH).map(word).collect();
            (!info.is_empty()).then(|| Ok(ListContentResponse { info }))
        });
        Ok(Response::new(Box::pin(futures::stream::iter(batches))))
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        let digest = words::digest(&request.get_ref().digest)?;
        tenant::of(&self.core, &request)?.content().delete(&digest).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn read(&self, request: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let asked = request.get_ref();
        let digest = words::digest(&asked.digest)?;
        let (file, total) = tenant::of(&self.core, &request)?.content().open(&digest).await.map_err(status)?;
        let (start, end) = range(asked.offset, asked.size, total)?;
        let mut file = tokio::fs::File::from_std(file);
        file.seek(SeekFrom::Start(start)).await.map_err(|error| status(error.into()))?;
        let stream = futures::stream::try_unfold((file, start), move |(mut file, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let mut data = vec![0; usize::try_from(CHUNK.min(end - at)).unwrap_or(0)];
            file.read_exact(&mut data).await.map_err(|error| status(Error::from(error)))?;
            let next = at + data.len() as u64;
            Ok(Some((ReadContentResponse { offset: words::size(at), data }, (file, next))))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let store = tenant::of(&self.core, &request)?.content();
        let found = store.status(&request.get_ref().r#ref).await.map_err(status)?;
        Ok(Response::new(StatusResponse { status: Some(progress(found)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        let filter = words::filter(&request.get_ref().filters)?;
        let mut found = tenant::of(&self.core, &request)?.content().statuses().await.map_err(status)?;
        found.retain(|ingest| {
            filter.matches(|path| (path.first()? == "ref").then_some(Cow::Borrowed(ingest.reference.as_str())))
        });
        Ok(Response::new(ListStatusesResponse { statuses: found.into_iter().map(progress).collect() }))
    }

    async fn write(
        &self,
        request: Request<tonic::Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (tenant, lease) = (tenant::of(&self.core, &request)?, tenant::lease(&request)?);
        let limits = request.extensions().get::<Limits>().cloned();
        let turns = limits.map(|limits| (limits, tenant.namespace().to_string()));
        Ok(Response::new(Box::pin(write::run(request.into_inner(), tenant.content(), lease, turns))))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        let store = tenant::of(&self.core, &request)?.content();
        let UpdateRequest { info, update_mask } = request.into_inner();
        let info = words::required(info, "an info")?;
        let (digest, paths) = (words::digest(&info.digest)?, mask::paths(update_mask));
        mask::check(&paths, "a blob", &[], &["labels"])?;
        let change = move |labels: &mut _| mask::merge_texts(labels, info.labels, &paths, "labels");
        let changed = store.update_labels(&digest, change).await.map_err(status)?;
        Ok(Response::new(UpdateResponse { info: Some(word(changed)) }))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        let (store, lease) = (tenant::of(&self.core, &request)?.content(), tenant::lease(&request)?);
        let (begun, reference) = (tokio::time::Instant::now(), &request.get_ref().r#ref);
        loop {
            match store.abort(reference, lease.as_ref()).await {
                Err(error) if error.kind() == Kind::Unavailable && begun.elapsed() < LINGER => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done.map(Response::new).map_err(status),
            }
        }
    }
}

/// Where a read begins and ends in a blob of `total` bytes; size 0 means the rest.
fn range(offset: i64, size: i64, total: u64) -> Result<(u64, u64), Status> {
    let past = || Status::out_of_range(format!("{size} bytes from {offset} are not in a blob of {total} bytes"));
    let start = u64::try_from(offset).map_err(|_| Status::invalid_argument("the offset is negative"))?;
    let size = u64::try_from(size).map_err(|_| Status::invalid_argument("the size is negative"))?;
    if start > total {
        return Err(past());
    }
    let end = if size == 0 { total } else { start.checked_add(size).ok_or_else(past)? };
    if end > total { Err(past()) } else { Ok((start, end)) }
}

/// What a filter sees of a blob.
fn field<'a>(info: &'a Info, path: &[String]) -> Option<Cow<'a, str>> {
    match path.first()?.as_str() {
        "digest" => words::field(info.digest.to_string()),
        "size" => words::field(info.size.to_string()),
        "labels" => label(&info.labels, &path[1..]),
        _ => None,
    }
}

fn word(info: Info) -> Word {
    Word {
        digest: info.digest.to_string(),
        size: words::size(info.size),
        created_at: words::moment(info.created_at),
        updated_at: words::moment(info.updated_at),
        labels: info.labels.into_iter().collect(),
    }
}

fn progress(ingest: IngestStatus) -> Progress {
    Progress {
        started_at: words::moment(ingest.started_at),
        updated_at: words::moment(ingest.updated_at),
        r#ref: ingest.reference,
        offset: words::size(ingest.offset),
        total: words::size(ingest.total),
        expected: ingest.expected.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_read_stays_inside_its_blob() {
        assert_eq!(range(0, 0, 10).expect("all"), (0, 10));
        assert_eq!(range(4, 0, 10).expect("the rest"), (4, 10));
        assert_eq!(range(10, 0, 10).expect("nothing"), (10, 10));
        assert_eq!(range(4, 6, 10).expect("a part"), (4, 10));
        for (offset, size, code) in [
            (11, 0, Code::OutOfRange),
            (4, 7, Code::OutOfRange),
            (1, i64::MAX, Code::OutOfRange),
            (-1, 0, Code::InvalidArgument),
            (0, -1, Code::InvalidArgument),
        ] {
            assert_eq!(range(offset, size, 10).expect_err("refused").code(), code, "{offset} {size}");
        }
    }
}
