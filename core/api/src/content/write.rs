//! A blob that a client writes, message by message.
//!
//! The first message names the ingest, whose only writer this is until the stream ends. STAT asks how far it is. WRITE and
//! COMMIT carry bytes for the offset where the last ones ended; offset 0 begins anew. COMMIT makes the blob and ends the
//! stream; without it the ingest stays to be resumed. Each message may carry the total size and the digest, which the
//! commit then checks; a blob of that digest that the namespace has already ends the stream at once.

use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use futures::Stream;
use tonic::{Status, Streaming};
use windlass_engine::content::{Store, WriteRequest, Writer};
use windlass_model::{Digest, Error, LeaseId};

use crate::access::Limits;
use crate::codes::status;
use crate::words;

/// One client's write.
struct Session {
    store: Store,
    lease: Option<LeaseId>,
    /// There from the first message to the commit.
    writer: Option<Writer>,
    total: u64,
    expected: Option<Digest>,
    /// Whose commits it takes turns with; `None` where the request came through no gate.
    turns: Option<(Limits, String)>,
}

/// Answers each message of the client.
pub(super) fn run(
    messages: Streaming<WriteContentRequest>,
    store: Store,
    lease: Option<LeaseId>,
    turns: Option<(Limits, String)>,
) -> impl Stream<Item = Result<WriteContentResponse, Status>> {
    let session = Session { store, lease, writer: None, total: 0, expected: None, turns };
    futures::stream::try_unfold(Some((messages, session)), |state| async {
        let Some((mut messages, mut session)) = state else { return Ok(None) };
        let Some(message) = messages.message().await? else { return Ok(None) };
        let action = WriteAction::try_from(message.action)
            .map_err(|_| Status::invalid_argument(format!("there is no write action {}", message.action)))?;
        let answer = session.take(action, message).await?;
        let next = (action != WriteAction::Commit).then_some((messages, session));
        Ok(Some((answer, next)))
    })
}

impl Session {
    async fn take(
        &mut self,
        action: WriteAction,
        message: WriteContentRequest,
    ) -> Result<WriteContentResponse, Status> {
        let total = u64::try_from(message.total).map_err(|_| Status::invalid_argument("the total is negative"))?;
        let offset = u64::try_from(message.offset).map_err(|_| Status::invalid_argument("the offset is negative"))?;
        let expected = Some(message.expected.as_str()).filter(|text| !text.is_empty());
        let expected = expected.map(words::digest).transpose()?;
        if total > 0 {
            self.total = total;
        }
        self.expected = expected.or(self.expected);
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.begin(message.r#ref).await?,
        };
        if let Some(digest) = expected
            && self.store.info(&digest).await.is_ok()
        {
            writer.abort().await.map_err(status)?;
            return Err(Status::already_exists(format!("blob {digest} exists already")));
        }
        let mut answer = WriteContentResponse { action: action.into(), ..Default::default() };
        if action == WriteAction::Stat {
            let found = writer.status().map_err(status)?;
            answer.started_at = words::moment(found.started_at);
            answer.updated_at = words::moment(found.updated_at);
            answer.total = words::size(self.total.max(found.total));
        } else {
            write(&mut writer, offset, message.data).await?;
        }
        answer.offset = words::size(writer.offset());
        answer.digest = writer.digest().map_err(status)?.to_string();
        if action == WriteAction::Commit {
            let (size, expected) = (Some(self.total).filter(|total| *total > 0), self.expected);
            let labels = message.labels.into_iter().collect();
            let turn = match &self.turns {
                Some((limits, name)) => Some(limits.commit(name).await),
                None => None,
            };
            // Runs to its end even if the client goes away.
            let commit = tokio::spawn(async move {
                let _turn = turn;
                writer.commit_new(size, expected.as_ref(), labels).await
            });
            let committed = commit.await.map_err(|error| Status::internal(error.to_string()))?;
            answer.digest = committed.map_err(status)?.to_string();
        } else {
            self.writer = Some(writer);
        }
        Ok(answer)
    }

    async fn begin(&self, reference: String) -> Result<Writer, Status> {
        if reference.is_empty() {
            return Err(Status::invalid_argument("first message must have a reference"));
        }
        let (total, expected, lease) = (self.total, self.expected, self.lease.clone());
        self.store.writer(WriteRequest { reference, total, expected, lease }).await.map_err(status)
    }
}

async fn write(writer: &mut Writer, offset: u64, data: Vec<u8>) -> Result<(), Status> {
    let now = writer.offset();
    if offset > 0 && offset != now {
        let message = format!("a write at {offset} must be at the current offset {now}");
        return Err(status(Error::new(windlass_model::Kind::OutOfRange, message)));
    }
    if offset == 0 && now > 0 {
        writer.truncate(0).await.map_err(status)?;
    }
    writer.append(data).await.map_err(status)
}
