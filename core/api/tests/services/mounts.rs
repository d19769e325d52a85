//! Mounts that the daemon makes; asked by messages of this file's own, as no crate here has them. They need root.

use containerd_client::types::Mount;
use tonic::{Code, Status};

use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct Activate {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
    #[prost(map = "string, string", tag = "3")]
    labels: HashMap<String, String>,
    #[prost(bool, tag = "4")]
    temporary: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    active: Vec<Active>,
    #[prost(message, repeated, tag = "3")]
    system: Vec<Mount>,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Active {
    #[prost(message, optional, tag = "1")]
    mount: Option<Mount>,
    #[prost(string, tag = "3")]
    mount_point: String,
}

async fn call<A: prost::Message + Send + Sync + 'static>(
    bench: &Bench,
    method: &'static str,
    message: A,
) -> Result<Option<Info>, Status> {
    let mut answers = bench.raw::<A, Answer>(method, within("one", message)).await?;
    Ok(answers.message().await?.and_then(|answer| answer.info))
}

#[tokio::test]
async fn mounts_are_made_for_a_while_told_labelled_and_taken_away() {
    let bench = bench().await;
    let tmpfs = Mount { r#type: "tmpfs".into(), source: "tmpfs".into(), ..Mount::default() };
    let ask =
        Activate { name: "work".into(), mounts: vec![tmpfs.clone()], labels: labels([("a", "1")]), temporary: true };
    let plain =
        call(&bench, "/containerd.services.mounts.v1.Mounts/Activate", Activate { temporary: false, ..ask.clone() });
    assert_eq!(plain.await.expect_err("the client's own").code(), Code::Unimplemented);
    let made = call(&bench, "/containerd.services.mounts.v1.Mounts/Activate", ask.clone()).await;
    let made = made.expect("activate").expect("an info");
    assert_eq!((made.active[0].mount.clone(), made.labels["a"].as_str()), (Some(tmpfs), "1"));
    assert_eq!((made.system[0].r#type.as_str(), &made.system[0].source), ("bind", &made.active[0].mount_point));
    let twice = call(&bench, "/containerd.services.mounts.v1.Mounts/Activate", ask).await.expect_err("twice");
    assert_eq!(twice.code(), Code::AlreadyExists);
    let name = || Named { name: "work".into() };
    let changed = Answer { info: Some(Info { labels: labels([("b", "2")]), ..made.clone() }) };
    let changed = call(&bench, "/containerd.services.mounts.v1.Mounts/Update", changed).await.expect("update");
    assert_eq!(changed.expect("an info").labels, labels([("b", "2")]));
    let found = call(&bench, "/containerd.services.mounts.v1.Mounts/Info", name()).await.expect("info");
    assert_eq!(found.expect("an info").labels, labels([("b", "2")]));
    let filter = |text: &str| Named { name: text.to_owned() };
    let listed = call(&bench, "/containerd.services.mounts.v1.Mounts/List", filter("labels.b==2")).await.expect("list");
    assert_eq!(listed.expect("an info").name, "work");
    let other = call(&bench, "/containerd.services.mounts.v1.Mounts/List", filter("name==other")).await.expect("list");
    assert!(other.is_none());
    call(&bench, "/containerd.services.mounts.v1.Mounts/Deactivate", name()).await.expect("deactivate");
    let gone = call(&bench, "/containerd.services.mounts.v1.Mounts/Info", name()).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    assert!(!Path::new(&made.active[0].mount_point).exists());
}

#[tokio::test]
async fn a_mount_that_names_another_is_prepared_and_nothing_of_the_host_is_mounted() {
    let bench = bench().await;
    let mount = |kind: &str, source: &str, options: &[&str]| Mount {
        r#type: kind.into(),
        source: source.into(),
        options: options.iter().map(|&option| option.into()).collect(),
        ..Mount::default()
    };
    let ask = |mounts, temporary| Activate { name: "work".into(), mounts, labels: HashMap::new(), temporary };
    let activate = |ask| call(&bench, "/containerd.services.mounts.v1.Mounts/Activate", ask);
    let snapshots = bench.core.tenant("one".parse().expect("a namespace")).snapshots("native").expect("a driver");
    snapshots.prepare("key", None, Labels::new(), None).await.expect("prepare");
    let mounts = snapshots.mounts("key").await.expect("mounts");
    let own = mounts[0].source.clone();
    let list = vec![
        mount("mkfs/loop", &format!("{own}/image"), &["X-containerd.mkfs.size=2MiB", "X-containerd.mkfs.fs=ext2"]),
        mount("format/ext2", "{{ source 0 }}", &["ro"]),
        mount("bind", "/whatever", &["ro"]),
    ];
    let made = activate(ask(list, false)).await.expect("activate").expect("an info");
    assert_eq!((made.active.len(), made.system.len()), (1, 2));
    let device = std::fs::read_link(&made.active[0].mount_point).expect("a link");
    assert_eq!(
        (made.system[0].r#type.as_str(), made.system[0].source.as_str()),
        ("ext2", device.to_str().expect("text"))
    );
    assert_eq!(made.system[1], mount("bind", "/whatever", &["ro"]));
    let name = Named { name: "work".into() };
    call(&bench, "/containerd.services.mounts.v1.Mounts/Deactivate", name).await.expect("deactivate");
    for (list, code) in [
        (vec![mount("bind", "/etc", &["ro"])], Code::PermissionDenied),
        (vec![mount("proc", "proc", &[])], Code::PermissionDenied),
        (vec![mount("format/bind", "{{ mount 0 }}", &[])], Code::InvalidArgument),
        (vec![mount("mkfs/loop", &format!("{own}/other"), &["X-containerd.mkfs.size=2PiB"])], Code::InvalidArgument),
    ] {
        let refused = activate(ask(list.clone(), true)).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{list:?}: {refused}");
    }
}
