//! The content store on real files: convergence, resumption, verification, deletion.

use std::io::Read as _;
use std::path::Path;

use super::*;
use crate::testing::{close, open, tenant};

fn expecting(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: Default::default(),
        urls: Vec::new(),
    }
}

async fn put(store: &Store, bytes: &[u8], labels: Labels) -> Result<Digest> {
    let expected = expecting(bytes);
    let mut writer = store.ingest(&format!("put {}", expected.digest), Some(&expected), None).await?;
    writer.write(bytes).await?;
    writer.commit(None, None, labels).await
}

fn label(key: &str) -> Labels {
    Labels::from([(key.to_owned(), "x".to_owned())])
}

fn files(folder: &Path, below: &str) -> usize {
    fs::read_dir(folder.join("root/content").join(below)).unwrap().count()
}

#[tokio::test]
async fn a_blob_is_written_read_labelled_and_deleted() {
    let (folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let digest = put(&store, b"hello", label("a")).await.unwrap();
    let info = store.info(&digest).await.unwrap();
    assert_eq!((info.size, info.labels), (5, label("a")));
    assert_eq!(store.read(&digest, 5).await.unwrap(), b"hello");
    assert_eq!(store.read(&digest, 4).await.unwrap_err().kind(), Kind::ResourceExhausted);
    let (mut file, size) = store.open(&digest).await.unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), size), ("hello", 5));
    let info = store.update_labels(&digest, |labels| drop(labels.insert("b".into(), "y".into()))).await.unwrap();
    assert_eq!(info.labels.len(), 2);
    assert_eq!(store.list().await.unwrap(), [info]);
    assert_eq!(files(folder.path(), "ingest"), 0);
    store.delete(&digest).await.unwrap();
    assert!(store.info(&digest).await.unwrap_err().is_not_found());
    assert!(store.delete(&digest).await.unwrap_err().is_not_found());
    assert_eq!((files(folder.path(), "blobs/sha256"), files(folder.path(), "trash")), (0, 0));
}

#[tokio::test]
async fn wrong_bytes_leave_nothing_and_missing_ones_are_resumed() {
    let (folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let expected = expecting(b"right");
    let mut writer = store.ingest("a", Some(&expected), None).await.unwrap();
    writer.write(b"wrong").await.unwrap();
    let refused = writer.commit(None, None, Labels::new()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert!(refused.to_string().contains(&Digest::of(b"wrong").to_string()), "{refused}");
    assert_eq!((files(folder.path(), "blobs/sha256"), files(folder.path(), "ingest")), (0, 0));

    let mut writer = store.ingest("a", Some(&expected), None).await.unwrap();
    writer.write(b"rig").await.unwrap();
    assert_eq!(writer.commit(None, None, Labels::new()).await.unwrap_err().kind(), Kind::FailedPrecondition);
    let mut writer = store.ingest("a", Some(&expected), None).await.unwrap();
    assert_eq!(writer.offset(), 3);
    assert_eq!(writer.write(b"htt").await.unwrap_err().kind(), Kind::FailedPrecondition);
    assert_eq!(writer.offset(), 3);
    writer.write_blocking(b"ht").unwrap();
    assert_eq!(writer.commit(None, None, Labels::new()).await.unwrap(), expected.digest);
}

#[tokio::test]
async fn the_digest_may_be_known_only_at_the_end() {
    let (_folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let mut writer = store.ingest("a", None, None).await.unwrap();
    writer.write(b"abcdef").await.unwrap();
    assert_eq!(writer.truncate(7).await.unwrap_err().kind(), Kind::OutOfRange);
    writer.truncate(3).await.unwrap();
    writer.write(b"xyz").await.unwrap();
    let digest = writer.commit(Some(6), Some(&Digest::of(b"abcxyz")), Labels::new()).await.unwrap();
    assert_eq!(store.read(&digest, 100).await.unwrap(), b"abcxyz");
}

#[tokio::test]
async fn one_reference_has_one_writer() {
    let (_folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let writer = store.ingest("a", None, None).await.unwrap();
    let second = store.ingest("a", None, None).await.err().unwrap();
    assert_eq!(second.kind(), Kind::Unavailable);
    assert!(second.to_string().contains("locked"), "{second}");
    assert_eq!(store.abort("a", None).await.unwrap_err().kind(), Kind::Unavailable);
    drop(writer);
    store.abort("a", None).await.unwrap();
    assert!(store.status("a").await.unwrap_err().is_not_found());
    assert!(store.abort("a", None).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_one_digest_converge() {
    let (folder, tenant, _) = tenant().await;
    let bytes = vec![7; 300_000];
    let writers = (0..8).map(|number| {
        let (store, bytes) = (tenant.content(), bytes.clone());
        tokio::spawn(async move {
            let mut writer = match store.ingest(&format!("writer {number}"), Some(&expecting(&bytes)), None).await {
                Err(error) if error.kind() == Kind::AlreadyExists => return Digest::of(&bytes),
                writer => writer.unwrap(),
            };
            for piece in bytes.chunks(10_000) {
                writer.write(piece).await.unwrap();
            }
            writer.commit(None, None, label(&format!("writer{number}"))).await.unwrap()
        })
    });
    for outcome in futures::future::join_all(writers).await {
        assert_eq!(outcome.unwrap(), Digest::of(&bytes));
    }
    assert_eq!((files(folder.path(), "blobs/sha256"), files(folder.path(), "ingest")), (1, 0));
    assert_eq!(tenant.content().read(&Digest::of(&bytes), 1 << 20).await.unwrap(), bytes);
}

#[tokio::test]
async fn an_existing_blob_is_not_written_again_but_held() {
    let (_folder, tenant, _) = tenant().await;
    let (store, lease) = (tenant.content(), "lease".parse::<LeaseId>().unwrap());
    let digest = put(&store, b"hello", Labels::new()).await.unwrap();
    let expected = expecting(b"hello");
    assert!(store.ingest("a", Some(&expected), Some(&lease)).await.err().unwrap().is_not_found());
    tenant.leases().create(&lease, Labels::new()).await.unwrap();
    let refused = store.ingest("a", Some(&expected), Some(&lease)).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::AlreadyExists);
    assert_eq!(tenant.leases().resources(&lease).await.unwrap(), [Resource::content(&digest)]);
    let mut writer = store.ingest("b", None, Some(&lease)).await.unwrap();
    writer.write(b"other").await.unwrap();
    writer.commit(None, None, Labels::new()).await.unwrap();
    assert_eq!(tenant.leases().resources(&lease).await.unwrap().len(), 2);
}

#[tokio::test]
async fn namespaces_share_the_file_but_not_the_record() {
    let (folder, tenant, _) = tenant().await;
    let other = tenant.core().tenant("other".parse().unwrap());
    let digest = put(&tenant.content(), b"hello", Labels::new()).await.unwrap();
    assert!(other.content().info(&digest).await.unwrap_err().is_not_found());
    assert!(other.content().read(&digest, 10).await.unwrap_err().is_not_found());
    let mut lying = expecting(b"hello");
    lying.size += 1;
    assert_eq!(other.content().adopt(&lying, None).await.unwrap_err().kind(), Kind::FailedPrecondition);
    assert!(other.content().adopt(&expecting(b"unknown"), None).await.unwrap_err().is_not_found());
    // Who is isolated cannot have it by its digest alone.
    let isolated = other.clone().isolated();
    assert!(isolated.content().adopt(&expecting(b"hello"), None).await.unwrap_err().is_not_found());
    let asked = WriteRequest { reference: "guess".into(), total: 5, expected: Some(Digest::of(b"hello")), lease: None };
    let guess = isolated.content().writer(asked).await.unwrap();
    assert_eq!(guess.offset(), 0);
    guess.abort().await.unwrap();
    assert_eq!(other.content().adopt(&expecting(b"hello"), None).await.unwrap().size, 5);
    tenant.content().delete(&digest).await.unwrap();
    assert_eq!(other.content().read(&digest, 10).await.unwrap(), b"hello");
    other.content().delete(&digest).await.unwrap();
    assert_eq!(files(folder.path(), "blobs/sha256"), 0);
}

#[tokio::test]
async fn a_sealed_blob_lives_as_long_as_somebody_needs_it() {
    let (folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let seal = async |reference: &str| {
        let mut writer = store.ingest(reference, None, None).await.unwrap();
        writer.write(b"hello").await.unwrap();
        writer.seal(5, &Digest::of(b"hello")).await.unwrap()
    };
    let (first, second) = (seal("first").await, seal("second").await);
    drop(first);
    assert_eq!(files(folder.path(), "blobs/sha256"), 1);
    let events = tenant.events().clone();
    let db = &tenant.core.0.db;
    let kept = db.update(Durability::Power, move |tx| record(tx, &events, &second, label("a")).map(|()| second)).await;
    drop(kept.unwrap());
    assert_eq!(files(folder.path(), "blobs/sha256"), 1);
    assert_eq!(store.read(&Digest::of(b"hello"), 10).await.unwrap(), b"hello");
    store.delete(&Digest::of(b"hello")).await.unwrap();
    drop(seal("third").await);
    // The last unlink runs on a blocking thread.
    for _ in 0..100 {
        if files(folder.path(), "trash") == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((files(folder.path(), "blobs/sha256"), files(folder.path(), "trash")), (0, 0));
}

#[tokio::test]
async fn an_ingest_survives_a_restart_and_what_has_no_record_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (core, _) = open(folder.path()).await.unwrap();
    let tenant = core.tenant("test".parse().unwrap());
    drop(core);
    let store = tenant.content();
    let expected = expecting(b"0123456789");
    let mut writer = store.ingest("a", Some(&expected), None).await.unwrap();
    writer.write(b"01234").await.unwrap();
    drop(writer);
    put(&store, b"kept", Labels::new()).await.unwrap();
    let lost = put(&store, b"lost", Labels::new()).await.unwrap();
    drop(store);
    close(tenant).await;

    let content = folder.path().join("root/content");
    fs::write(content.join("blobs/sha256").join(Digest::of(b"orphan").hex()), b"orphan").unwrap();
    fs::write(content.join("blobs/sha256/rubbish"), b"").unwrap();
    fs::remove_file(content.join("blobs/sha256").join(lost.hex())).unwrap();
    let abandoned = content.join("ingest").join("0".repeat(64));
    fs::create_dir(&abandoned).unwrap();
    fs::write(abandoned.join("data"), b"half").unwrap();

    let (core, _) = open(folder.path()).await.unwrap();
    let store = core.tenant("test".parse().unwrap()).content();
    assert_eq!(files(folder.path(), "blobs/sha256"), 1);
    assert!(store.info(&lost).await.unwrap_err().is_not_found());
    core.collect().await.unwrap();
    assert_eq!(files(folder.path(), "ingest"), 1);
    let status = store.status("a").await.unwrap();
    assert_eq!((status.offset, status.total, status.expected), (5, 10, Some(expected.digest)));
    assert_eq!(store.statuses().await.unwrap(), [status]);
    let mut writer = store.ingest("a", Some(&expected), None).await.unwrap();
    assert_eq!(writer.offset(), 5);
    writer.write(b"56789").await.unwrap();
    writer.commit(None, None, Labels::new()).await.unwrap();
    assert_eq!(store.read(&expected.digest, 10).await.unwrap(), b"0123456789");
}

#[tokio::test]
async fn an_ingest_of_something_else_starts_anew() {
    let (_folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let mut writer = store.ingest("a", Some(&expecting(b"old bytes")), None).await.unwrap();
    writer.write(b"old").await.unwrap();
    drop(writer);
    let writer = store.ingest("a", Some(&expecting(b"new bytes")), None).await.unwrap();
    assert_eq!(writer.offset(), 0);
}

#[tokio::test]
async fn old_ingests_expire_unless_they_are_written() {
    let (folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let mut writers = Vec::new();
    for name in ["left", "written"] {
        let mut writer = store.ingest(name, None, None).await.unwrap();
        writer.write(b"bytes").await.unwrap();
        let data = store.blobs().ingests().join(Intent::folder_name(tenant.namespace(), name)).join("data");
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 60 * 60);
        File::options().write(true).open(data).unwrap().set_modified(long_ago).unwrap();
        writers.push(writer);
    }
    drop(writers.remove(0));
    assert_eq!(tenant.core().collect().await.unwrap().ingests, 1);
    assert_eq!(files(folder.path(), "ingest"), 1);
    assert_eq!(store.statuses().await.unwrap()[0].reference, "written");
}

#[tokio::test]
async fn damage_on_disk_is_noticed() {
    let (_folder, tenant, _) = tenant().await;
    let store = tenant.content();
    let digest = put(&store, b"hello", Labels::new()).await.unwrap();
    fs::write(store.blobs().path(&digest), b"jello").unwrap();
    assert_eq!(store.read(&digest, 10).await.unwrap_err().kind(), Kind::DataLoss);
    fs::write(store.blobs().path(&digest), b"hell").unwrap();
    assert_eq!(store.open(&digest).await.unwrap_err().kind(), Kind::DataLoss);
    fs::remove_file(store.blobs().path(&digest)).unwrap();
    assert_eq!(store.open(&digest).await.unwrap_err().kind(), Kind::DataLoss);
}

#[tokio::test]
async fn what_happens_to_blobs_is_told() {
    let (_folder, tenant, _) = tenant().await;
    let mut listener = tenant.events().subscribe();
    let digest = put(&tenant.content(), b"hello", Labels::new()).await.unwrap();
    tenant.content().delete(&digest).await.unwrap();
    let mut topics = Vec::new();
    let mut last = 0;
    for _ in 0..3 {
        let Some(crate::events::Received::Event(told)) = listener.recv().await else { panic!("no event") };
        assert!(told.sequence > last && &told.namespace == tenant.namespace());
        last = told.sequence;
        topics.push(told.event.topic().to_owned());
    }
    assert_eq!(topics, ["/namespaces/create", "/content/create", "/content/delete"]);
    assert!(tenant.core.0.db.view().has(&NAMESPACES, tenant.namespace()).unwrap());
}
