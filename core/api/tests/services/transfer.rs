//! Transfers over streams: archives in and out, progress, and clients that go away, flood or send nonsense.

use std::time::Duration;

use containerd_client::services::v1::streaming_client::StreamingClient;
use containerd_client::services::v1::transfer_client::TransferClient;
use containerd_client::services::v1::{StreamInit, TransferOptions, TransferRequest};
use containerd_client::types::transfer::{
    Data, ImageExportStream, ImageImportStream, ImageReference, ImageStore, OciRegistry, Progress, UnpackConfiguration,
    WindowUpdate,
};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use windlass_model::{Digest, Platform};

use crate::{Bench, bench, within};

/// A stream as its client has it.
struct Client {
    outgoing: mpsc::Sender<Any>,
    incoming: Streaming<Any>,
}

impl Client {
    async fn open(bench: &Bench, namespace: &str, first: Any) -> Result<Self, Status> {
        let (outgoing, messages) = mpsc::channel(16);
        outgoing.send(first).await.expect("room");
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut client = StreamingClient::new(bench.channel.clone());
        let mut incoming = client.stream(within(namespace, messages)).await?.into_inner();
        let answer = incoming.message().await?.expect("an answer");
        assert_eq!(answer.type_url, "google.protobuf.Empty");
        Ok(Self { outgoing, incoming })
    }

    async fn named(bench: &Bench, id: &str) -> Result<Self, Status> {
        Self::open(bench, "test", containerd_client::to_any(&StreamInit { id: id.into() })).await
    }

    /// Sends bytes as a client does: under the windows that the server opens.
    async fn send(mut self, bytes: Vec<u8>) {
        let mut window = 0i64;
        for piece in bytes.chunks(32 << 10) {
            while window <= 0 {
                let message = self.incoming.message().await.expect("a window").expect("a window");
                window += i64::from(WindowUpdate::decode(message.value.as_slice()).expect("a window").update);
            }
            window -= piece.len() as i64;
            let data = containerd_client::to_any(&Data { data: piece.to_vec() });
            if self.outgoing.send(data).await.is_err() {
                return;
            }
        }
        drop(self.outgoing);
        while let Ok(Some(_)) = self.incoming.message().await {}
    }

    async fn receive(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let window = containerd_client::to_any(&WindowUpdate { update: 64 << 10 });
        self.outgoing.send(window.clone()).await.expect("sent");
        let mut left = 64i64 << 10;
        while let Some(message) = self.incoming.message().await.expect("bytes") {
            let data = Data::decode(message.value.as_slice()).expect("data").data;
            assert!(data.len() <= 32 << 10);
            left -= data.len() as i64;
            assert!(left >= 0, "more than the window");
            bytes.extend(data);
            if left < 32 << 10 {
                left += 64 << 10;
                self.outgoing.send(window.clone()).await.expect("sent");
            }
        }
        bytes
    }
}

async fn transfer(bench: &Bench, source: Any, destination: Any, progress: &str) -> Result<(), Status> {
    let options = Some(TransferOptions { progress_stream: progress.into() });
    let request = TransferRequest { source: Some(source), destination: Some(destination), options };
    TransferClient::new(bench.channel.clone()).transfer(within("test", request)).await.map(drop)
}

/// An archive with one image of a large layer, called `docker.io/library/big:1`.
fn archive() -> Vec<u8> {
    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).expect("an entry");
        }
        builder.into_inner().expect("an archive")
    }
    let host = Platform::host();
    let layer = tar(&[("big", &[7; 1 << 20])]);
    let config = serde_json::json!({"architecture": host.architecture, "os": host.os,
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["big:1"], "Layers": ["l/layer.tar"]}]);
    let (config, manifest) = (config.to_string(), manifest.to_string());
    tar(&[("l/layer.tar", &layer), ("c.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())])
}

fn import_to() -> Any {
    let reference =
        ImageReference { name: "import".into(), is_prefix: true, allow_overwrite: true, ..ImageReference::default() };
    let unpack = UnpackConfiguration { platform: None, snapshotter: "native".into() };
    let (extra_references, unpacks) = (vec![reference], vec![unpack]);
    containerd_client::to_any(&ImageStore { extra_references, unpacks, ..ImageStore::default() })
}

fn import_from(stream: &str) -> Any {
    containerd_client::to_any(&ImageImportStream { stream: stream.into(), ..ImageImportStream::default() })
}

fn store(name: &str) -> Any {
    containerd_client::to_any(&ImageStore { name: name.into(), ..ImageStore::default() })
}

async fn assert_empty(bench: &Bench) {
    let tenant = bench.tenant("test");
    for _ in 0..400 {
        bench.core.collect().await.expect("collect");
        let held = tenant.content().list().await.expect("blobs").len()
            + tenant.content().statuses().await.expect("ingests").len()
            + tenant.leases().list().await.expect("leases").len()
            + tenant.images().list().await.expect("images").len()
            + tenant.snapshots("native").expect("native").list().await.expect("snapshots").len();
        if held == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("something is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_comes_and_goes_over_streams() {
    let bench = bench().await;
    let (bytes, mut told) =
        (Client::named(&bench, "in").await.expect("open"), Client::named(&bench, "p").await.expect("open"));
    let sending = tokio::spawn(bytes.send(archive()));
    transfer(&bench, import_from("in"), import_to(), "p").await.expect("import");
    sending.await.expect("sent");
    let mut events = Vec::new();
    while let Some(message) = told.incoming.message().await.expect("progress") {
        let step = Progress::decode(message.value.as_slice()).expect("progress");
        events.push((step.event, step.name));
    }
    let saved = ("saved".to_owned(), "docker.io/library/big:1".to_owned());
    assert!(events.contains(&saved), "{events:?}");
    assert_eq!(events.last().map(|(event, _)| event.as_str()), Some("Completed import"));
    let tenant = bench.tenant("test");
    assert_eq!(tenant.snapshots("native").expect("native").list().await.expect("snapshots").len(), 1);

    transfer(&bench, store("docker.io/library/big:1"), store("other:2"), "").await.expect("tag");
    tenant.images().get("other:2").await.expect("tagged");

    let out = Client::named(&bench, "out").await.expect("open");
    let receiving = tokio::spawn(out.receive());
    let export = ImageExportStream { stream: "out".into(), ..ImageExportStream::default() };
    transfer(&bench, store("other:2"), containerd_client::to_any(&export), "").await.expect("export");
    let exported = receiving.await.expect("received");
    for name in ["docker.io/library/big:1", "other:2"] {
        tenant.images().delete(name).await.expect("delete");
    }
    assert_empty(&bench).await;
    let again = Client::named(&bench, "in").await.expect("the id is free again");
    let sending = tokio::spawn(again.send(exported));
    transfer(&bench, import_from("in"), import_to(), "").await.expect("import");
    sending.await.expect("sent");
    assert_eq!(tenant.images().list().await.expect("images")[0].name, "other:2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_off_leaves_nothing() {
    let bench = bench().await;
    // The client goes away.
    let stream = Client::named(&bench, "in").await.expect("open");
    let half = archive()[..600_000].to_vec();
    let data = containerd_client::to_any(&Data { data: half.clone() });
    stream.outgoing.send(data).await.expect("sent");
    let importing = transfer(&bench, import_from("in"), import_to(), "");
    tokio::time::timeout(Duration::from_millis(300), importing).await.expect_err("it waits for the rest");
    drop(stream);
    assert_empty(&bench).await;
    // The client sends an end too early.
    let stream = Client::named(&bench, "in").await.expect("open");
    let sending = tokio::spawn(stream.send(half));
    let error = transfer(&bench, import_from("in"), import_to(), "").await.expect_err("cut off");
    assert_eq!(error.code(), Code::DataLoss, "{error}");
    sending.await.expect("sent");
    assert_empty(&bench).await;
    // Something else than bytes.
    let stream = Client::named(&bench, "in").await.expect("open");
    stream.outgoing.send(store("x")).await.expect("sent");
    let error = transfer(&bench, import_from("in"), import_to(), "").await.expect_err("nonsense");
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert_empty(&bench).await;
    // A client that never reads what it exports: the export waits, and ends with the client.
    let sending = tokio::spawn(Client::named(&bench, "in").await.expect("open").send(archive()));
    transfer(&bench, import_from("in"), import_to(), "").await.expect("import");
    sending.await.expect("sent");
    let stream = Client::named(&bench, "out").await.expect("open");
    let export = ImageExportStream { stream: "out".into(), ..ImageExportStream::default() };
    let exporting = transfer(&bench, store("docker.io/library/big:1"), containerd_client::to_any(&export), "");
    tokio::time::timeout(Duration::from_millis(300), exporting).await.expect_err("it waits for the client");
    drop(stream);
    bench.tenant("test").images().delete("docker.io/library/big:1").await.expect("delete");
    assert_empty(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_floods_have_an_end() {
    let bench = bench().await;
    let code = |result: Result<Client, Status>| result.err().expect("refused").code();
    assert_eq!(code(Client::open(&bench, "test", store("x")).await), Code::InvalidArgument);
    assert_eq!(code(Client::named(&bench, "").await), Code::InvalidArgument);
    assert_eq!(code(Client::named(&bench, &"x".repeat(300)).await), Code::InvalidArgument);
    let one = Client::named(&bench, "one").await.expect("open");
    assert_eq!(code(Client::named(&bench, "one").await), Code::AlreadyExists);
    // Another namespace has an id of its own, and takes no stream of this one.
    let init = containerd_client::to_any(&StreamInit { id: "one".into() });
    drop(Client::open(&bench, "other", init).await.expect("open"));
    drop(one);

    let refused = [
        (import_from("nobody"), import_to(), Code::NotFound),
        (store("a"), import_from("x"), Code::Unimplemented),
        (store("missing"), store("b"), Code::NotFound),
        (Any { type_url: "x".into(), value: vec![1] }, store("b"), Code::Unimplemented),
        (
            containerd_client::to_any(&OciRegistry { reference: "A B".into(), resolver: None }),
            store("b"),
            Code::InvalidArgument,
        ),
    ];
    for (source, destination, expected) in refused {
        let error = transfer(&bench, source.clone(), destination, "").await.expect_err("refused");
        assert_eq!(error.code(), expected, "{} {error}", source.type_url);
    }
    assert_eq!(transfer(&bench, store("a"), store("b"), "nobody").await.expect_err("no stream").code(), Code::NotFound);

    let mut open = Vec::new();
    let flooded = loop {
        match Client::named(&bench, &format!("s{}", open.len())).await {
            Ok(client) => open.push(client),
            Err(error) => break error,
        }
        assert!(open.len() < 1000, "a client may open a thousand streams");
    };
    assert_eq!(flooded.code(), Code::ResourceExhausted);
    drop(open);
    for _ in 0..200 {
        if Client::named(&bench, "after").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("streams of a client that went away are still there");
}
