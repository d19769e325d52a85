//! Blobs: lists, reads, writes.

use containerd_client::services::v1::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest, ReadContentRequest,
    StatusRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use tonic::{Code, Status};
use windlass_engine::leases::Resource;

use super::*;

#[tokio::test]
async fn content_is_listed_read_and_deleted() {
    let bench = bench().await;
    let mut content = ContentClient::new(bench.channel.clone());
    // More than one message's worth.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let digest = put_blob(&bench.tenant("one"), &bytes).await.to_string();
    let mut list = content.list(within("one", ListContentRequest::default())).await.expect("list").into_inner();
    let batch = list.message().await.expect("a message").expect("a batch");
    assert_eq!(batch.info.len(), 1);
    assert_eq!(batch.info[0].digest, digest);
    for (offset, size, expected) in [(0, 0, &bytes[..]), (1_500_000, 1_400_000, &bytes[1_500_000..2_900_000])] {
        let request = ReadContentRequest { digest: digest.clone(), offset, size };
        let mut stream = content.read(within("one", request)).await.expect("read").into_inner();
        let mut got = Vec::new();
        while let Some(part) = stream.message().await.expect("a message") {
            assert_eq!(part.offset, offset + got.len() as i64);
            got.extend(part.data);
        }
        assert!(got == expected, "{offset} {size}");
    }
    let past = ReadContentRequest { digest: digest.clone(), offset: 3_000_001, size: 0 };
    assert_eq!(content.read(within("one", past)).await.expect_err("past the end").code(), Code::OutOfRange);
    let statuses = content.list_statuses(within("one", ListStatusesRequest::default())).await.expect("statuses");
    assert!(statuses.into_inner().statuses.is_empty());
    let filters = vec!["ref=x".to_owned()];
    let filtered = content.list_statuses(within("one", ListStatusesRequest { filters })).await;
    assert_eq!(filtered.expect_err("no filter").code(), Code::InvalidArgument);
    content.delete(within("one", DeleteContentRequest { digest: digest.clone() })).await.expect("delete");
    let gone = content.delete(within("one", DeleteContentRequest { digest })).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    let bad = content.info(within("one", InfoRequest { digest: "sha256:x".into() })).await.expect_err("bad");
    assert_eq!(bad.code(), Code::InvalidArgument);
}

type Messages = futures::stream::Iter<std::vec::IntoIter<WriteContentRequest>>;

/// Sends messages as one write, and gives the answers up to the end or the error.
async fn write(
    bench: &Bench,
    request: impl Fn(Messages) -> Request<Messages>,
    messages: Vec<WriteContentRequest>,
) -> (Vec<WriteContentResponse>, Result<(), Status>) {
    let mut answers = Vec::new();
    let mut stream = match bench.content().write(request(futures::stream::iter(messages))).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (answers, Err(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return (answers, Ok(())),
            Err(status) => return (answers, Err(status)),
        }
    }
}

fn message(action: WriteAction, offset: usize, data: &[u8]) -> WriteContentRequest {
    let (action, offset, data) = (action.into(), offset as i64, data.to_vec());
    WriteContentRequest { action, offset, data, ..Default::default() }
}

/// A first message, which asks how far the ingest is.
fn begin(reference: &str, expected: Option<&[u8]>) -> WriteContentRequest {
    WriteContentRequest {
        r#ref: reference.into(),
        expected: expected.map(|bytes| Digest::of(bytes).to_string()).unwrap_or_default(),
        total: expected.map_or(0, |bytes| bytes.len() as i64),
        ..message(WriteAction::Stat, 0, b"")
    }
}

#[tokio::test]
async fn a_blob_is_written_in_pieces_and_resumed() {
    let bench = bench().await;
    let one = |stream| within("one", stream);
    let bytes = b"hello world";
    let (answers, end) =
        write(&bench, one, vec![begin("ref", None), message(WriteAction::Write, 0, &bytes[..5])]).await;
    end.expect("an end without commit");
    assert_eq!(answers.iter().map(|answer| answer.offset).collect::<Vec<_>>(), [0, 5]);
    assert_eq!(answers[1].digest, Digest::of(b"hello").to_string());
    let found = bench.content().status(within("one", StatusRequest { r#ref: "ref".into() })).await.expect("status");
    assert_eq!(found.into_inner().status.expect("a status").offset, 5);

    let mut commit = message(WriteAction::Commit, bytes.len(), b"");
    commit.total = bytes.len() as i64;
    commit.expected = Digest::of(bytes).to_string();
    commit.labels = labels([("a", "b"), ("containerd.io/gc.root", "x")]);
    let messages = vec![begin("ref", Some(bytes)), message(WriteAction::Write, 5, &bytes[5..]), commit];
    let (answers, end) = write(&bench, one, messages).await;
    end.expect("committed");
    assert_eq!((answers[0].offset, answers[0].total), (5, bytes.len() as i64));
    assert!(answers[0].started_at.is_some());
    assert_eq!((answers[2].offset, answers[2].digest.clone()), (11, Digest::of(bytes).to_string()));
    let info = bench.content().info(within("one", InfoRequest { digest: answers[2].digest.clone() })).await;
    assert_eq!(info.expect("known").into_inner().info.expect("an info").labels["a"], "b");

    let (answers, end) = write(&bench, one, vec![begin("again", Some(bytes))]).await;
    assert!(answers.is_empty());
    assert_eq!(end.expect_err("there").code(), Code::AlreadyExists);
    let messages = vec![begin("late", None), message(WriteAction::Commit, 0, bytes)];
    assert_eq!(write(&bench, one, messages).await.1.expect_err("there").code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_wrong_write_is_refused_with_its_own_code() {
    let bench = bench().await;
    let one = |stream| within("one", stream);
    let refused = |messages: Vec<WriteContentRequest>| async {
        write(&bench, one, messages).await.1.expect_err("refused").code()
    };
    assert_eq!(refused(vec![message(WriteAction::Write, 0, b"x")]).await, Code::InvalidArgument);
    assert_eq!(refused(vec![begin("r", None), message(WriteAction::Write, 3, b"x")]).await, Code::OutOfRange);
    let wrong = WriteContentRequest { expected: "sha256:1".into(), ..begin("r", None) };
    assert_eq!(refused(vec![wrong]).await, Code::InvalidArgument);
    let mut other = message(WriteAction::Commit, 0, b"bytes");
    other.expected = Digest::of(b"other").to_string();
    assert_eq!(refused(vec![begin("r", None), other]).await, Code::FailedPrecondition);
    let mut short = message(WriteAction::Commit, 0, b"bytes");
    short.total = 6;
    assert_eq!(refused(vec![begin("s", None), short]).await, Code::FailedPrecondition);
    assert_eq!(
        refused(vec![begin("big", Some(b"a")), message(WriteAction::Write, 0, b"ab")]).await,
        Code::FailedPrecondition
    );
    let action = WriteContentRequest { action: 9, ..begin("r", None) };
    assert_eq!(refused(vec![action]).await, Code::InvalidArgument);
    let nameless = write(&bench, Request::new, vec![begin("r", None)]).await.1.expect_err("no namespace");
    assert_eq!(nameless.code(), Code::FailedPrecondition);
    let unknown = write(&bench, |stream| under("none", "one", stream), vec![begin("r", None)]).await.1;
    assert_eq!(unknown.expect_err("no lease").code(), Code::NotFound);
    assert!(bench.tenant("one").content().list().await.expect("list").is_empty());
}

#[tokio::test]
async fn offset_zero_begins_anew_and_a_reference_has_one_writer() {
    let bench = bench().await;
    let one = |stream| within("one", stream);
    let messages = vec![
        begin("r", None),
        message(WriteAction::Write, 0, b"first"),
        message(WriteAction::Write, 0, b"other"),
        message(WriteAction::Commit, 5, b""),
    ];
    let (answers, end) = write(&bench, one, messages).await;
    end.expect("committed");
    assert_eq!(answers[3].digest, Digest::of(b"other").to_string());

    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    sender.send(begin("held", None)).await.expect("sent");
    let mut held = bench.content().write(within("one", stream)).await.expect("write").into_inner();
    held.message().await.expect("a message").expect("an answer");
    let second = write(&bench, one, vec![begin("held", None)]).await.1.expect_err("held");
    assert_eq!(second.code(), Code::Unavailable);
    // An abort waits a little for a client that is about to go.
    drop((sender, held));
    bench.content().abort(within("one", AbortRequest { r#ref: "held".into() })).await.expect("aborted");
    let none = bench.content().abort(within("one", AbortRequest { r#ref: "held".into() })).await;
    assert_eq!(none.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn what_another_namespace_has_is_not_sent_again() {
    let bench = bench().await;
    let bytes = b"shared bytes";
    put_blob(&bench.tenant("one"), bytes).await;
    let two = |stream| within("two", stream);
    let messages = vec![begin("r", Some(bytes)), message(WriteAction::Commit, bytes.len(), b"")];
    let (answers, end) = write(&bench, two, messages).await;
    end.expect("committed without a byte");
    assert_eq!(answers[0].offset, bytes.len() as i64);
    assert_eq!(answers[1].digest, Digest::of(bytes).to_string());
    assert_eq!(bench.tenant("two").content().read(&Digest::of(bytes), 100).await.expect("read"), bytes);
    // Who insists on sending may.
    let mut commit = message(WriteAction::Commit, 0, bytes);
    commit.expected = Digest::of(bytes).to_string();
    let three = |stream| within("three", stream);
    let (answers, end) = write(&bench, three, vec![begin("r", Some(bytes)), commit]).await;
    end.expect("committed");
    assert_eq!(answers[0].offset, bytes.len() as i64);
    assert!(bench.tenant("three").content().statuses().await.expect("statuses").is_empty());
}

#[tokio::test]
async fn a_lease_holds_a_write_and_then_its_blob() {
    let bench = bench().await;
    let tenant = bench.tenant("one");
    let lease = "519466803-3X_-".parse().expect("a lease");
    tenant.leases().create(&lease, Labels::new()).await.expect("create");
    let leased = |stream| under("519466803-3X_-", "one", stream);
    let messages = vec![begin("r", None), message(WriteAction::Write, 0, b"part")];
    write(&bench, leased, messages).await.1.expect("written");
    assert_eq!(tenant.leases().resources(&lease).await.expect("resources"), [Resource::ingest("r")]);
    bench.core.collect().await.expect("collect");
    write(&bench, leased, vec![begin("r", None), message(WriteAction::Commit, 4, b"")]).await.1.expect("committed");
    let digest = Digest::of(b"part");
    assert_eq!(tenant.leases().resources(&lease).await.expect("resources"), [Resource::content(&digest)]);
    bench.core.collect().await.expect("collect");
    tenant.content().info(&digest).await.expect("held");
    write(&bench, leased, vec![begin("s", None), message(WriteAction::Write, 0, b"part")]).await.1.expect("written");
    tenant.leases().delete(&lease).await.expect("delete");
    let stats = bench.core.collect().await.expect("collect");
    assert_eq!((stats.blobs, stats.ingests), (1, 1));
}

#[tokio::test]
async fn labels_of_a_blob_are_set_by_a_mask() {
    let bench = bench().await;
    let digest = put_blob(&bench.tenant("one"), b"hello").await.to_string();
    let update = |pairs: &[(&str, &str)], paths: &[&str]| {
        let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let info = Some(Info { digest: digest.clone(), labels, ..Default::default() });
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
        let request = within("one", UpdateRequest { info, update_mask });
        let mut client = bench.content();
        async move { client.update(request).await.map(|answer| answer.into_inner().info.expect("an info").labels) }
    };
    assert_eq!(update(&[("a", "1"), ("b", "1")], &[]).await.expect("all"), labels([("a", "1"), ("b", "1")]));
    let merged = update(&[("a", "2"), ("c", "2")], &["labels.a", "labels.b"]).await.expect("two");
    assert_eq!(merged, labels([("a", "2")]));
    assert_eq!(update(&[], &["size"]).await.expect_err("no field").code(), Code::InvalidArgument);
    let long = "x".repeat(5000);
    assert_eq!(update(&[("a", &long)], &[]).await.expect_err("long").code(), Code::InvalidArgument);
}
