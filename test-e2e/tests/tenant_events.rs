//! Events of tenants: what containerd's clients see, what they publish, and that nobody who comes back misses one.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, ForwardRequest, Namespace, PublishRequest, SubscribeRequest,
};
use containerd_client::types::Envelope;
use futures::{StreamExt as _, TryStreamExt as _};
use prost_types::{Any, Timestamp};
use tonic::{Code, Request, Streaming};
use windlass_test_e2e::image::Image;
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::{Node, code};

type Subscription = Streaming<Envelope>;

/// A subscription, and the number that it began behind.
async fn subscribe(
    client: &Tenant,
    filters: &[&str],
    after: Option<u64>,
) -> Result<(Subscription, u64), tonic::Status> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let mut request = Request::new(SubscribeRequest { filters });
    if let Some(after) = after {
        request.metadata_mut().insert("windlass-events-after", after.into());
    }
    let answer = EventsClient::new(client.channel.clone()).subscribe(request).await?;
    let number = answer.metadata().get("windlass-events-sequence").and_then(|value| value.to_str().ok()?.parse().ok());
    Ok((answer.into_inner(), number.unwrap_or_default()))
}

async fn publish(client: &Tenant, topic: &str, text: &str) -> Result<(), tonic::Status> {
    let event = Some(Any { type_url: "example.com/Text".into(), value: text.into() });
    client.ask("events.v1.Events", "Publish", &PublishRequest { topic: topic.into(), event }).await
}

/// The next event's text, or its topic where it is one of the daemon's own.
async fn next(subscription: &mut Subscription) -> Result<String> {
    let message = tokio::time::timeout(Duration::from_secs(5), subscription.message()).await.context("no event")??;
    let envelope = message.context("the end")?;
    let event = envelope.event.unwrap_or_default();
    Ok(if event.type_url == "example.com/Text" { String::from_utf8(event.value)? } else { envelope.topic })
}

async fn silent(subscription: &mut Subscription) -> bool {
    tokio::time::timeout(Duration::from_millis(300), subscription.message()).await.is_err()
}

const DOCKERD: &[&str] = &["namespace==moby,topic~=|^/tasks/|"];

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_comes_back_after_a_kill_has_missed_nothing() -> Result<()> {
    let mut node = Node::start().await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let (mut dockerd, _) = subscribe(&moby, DOCKERD, None).await?;
    let (mut exact, before) = subscribe(&moby, DOCKERD, None).await?;
    publish(&moby, "/tasks/exit", "one").await?;
    publish(&moby, "/images/create", "not wanted").await?;
    ensure!(next(&mut dockerd).await? == "one" && next(&mut exact).await? == "one");
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(exact);
    for round in ["first", "second"] {
        node.restart().await?;
        ensure!(dockerd.message().await.is_err(), "a stream outlives its daemon");
        let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
        // As a shim delivers an exit before dockerd has come back.
        publish(&moby, "/tasks/exit", round).await?;
        let (mut other, _) = subscribe(&moby, &["namespace==moby"], None).await?;
        (dockerd, _) = subscribe(&moby, DOCKERD, None).await?;
        publish(&moby, "/tasks/exit", "live").await?;
        ensure!(next(&mut dockerd).await? == round, "{round} is missed");
        ensure!(next(&mut dockerd).await? == "live");
        ensure!(next(&mut other).await? == "live", "a new listener gets what is old");
        ensure!(silent(&mut dockerd).await);
        drop(other);
        // Where it is has to be written down before the next kill.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let (mut exact, _) = subscribe(&moby, DOCKERD, Some(before)).await?;
    for expected in ["one", "first", "live", "second", "live"] {
        ensure!(next(&mut exact).await? == expected, "{expected}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exits_while_the_daemon_is_dead_are_told_to_who_comes_back() -> Result<()> {
    const COUNT: u32 = 5;
    let mut node = Node::start().await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let image = node.registry.push("busybox", "1", &Image::busybox()?)?;
    let address = node.setup.socket.to_string_lossy().into_owned();
    let windlass = |words: &[&str]| -> Result<()> {
        let output = std::process::Command::new(windlass_test_e2e::daemon::bin_dir()?.join("windlass"))
            .args(["--address", &address, "--namespace", "moby"])
            .args(words)
            .output()?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    windlass(&["images", "pull", &image])?;
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let (mut dockerd, _) = subscribe(&moby, DOCKERD, None).await?;
    let gate = node.dir().join("gate");
    let mount = format!("type=bind,src={},dst=/node,options=rbind:ro", node.dir().display());
    for number in 0..COUNT {
        let script = format!("while [ ! -e /node/gate ]; do sleep 0.1; done; exit {}", 40 + number);
        windlass(&["run", "-d", "--mount", &mount, &image, &format!("c{number}"), "sh", "-c", &script])?;
    }
    node.daemon.kill();
    std::fs::write(&gate, "")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    while let Ok(Some(told)) = dockerd.message().await {
        ensure!(told.topic != "/tasks/exit", "an exit before its time: {told:?}");
    }
    node.resume().await?;
    // Shims bring what they kept before the listener is back.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let (mut dockerd, _) = subscribe(&moby, DOCKERD, None).await?;
    let mut ends = BTreeSet::new();
    while ends.len() < COUNT as usize {
        let told = tokio::time::timeout(Duration::from_secs(10), dockerd.message()).await.context("an exit is lost")?;
        let told = told?.context("the end")?;
        if told.topic == "/tasks/exit" {
            let event = told.event.unwrap_or_default();
            let exit = <containerd_client::events::TaskExit as prost::Message>::decode(event.value.as_slice())?;
            ensure!(exit.id == exit.container_id, "{exit:?}");
            ensure!(ends.insert((exit.container_id, exit.exit_status)), "the same end twice");
        }
    }
    let expected: BTreeSet<_> = (0..COUNT).map(|number| (format!("c{number}"), 40 + number)).collect();
    ensure!(ends == expected, "{ends:?}");
    for number in 0..COUNT {
        windlass(&["tasks", "rm", &format!("c{number}")])?;
        windlass(&["containers", "rm", &format!("c{number}")])?;
    }
    // The image stays.
    node.mark().await;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_order_ends_listeners_and_loses_nothing_either() -> Result<()> {
    let mut node = Node::start().await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let (mut dockerd, _) = subscribe(&moby, DOCKERD, None).await?;
    publish(&moby, "/tasks/exit", "one").await?;
    ensure!(next(&mut dockerd).await? == "one");
    let begin = std::time::Instant::now();
    ensure!(node.daemon.terminate().await?.success());
    ensure!(begin.elapsed() < Duration::from_secs(5), "a listener holds the daemon up: {:?}", begin.elapsed());
    // dockerd comes back after anything but `Canceled`.
    let end = dockerd.message().await;
    ensure!(!matches!(code(&end), Code::Ok | Code::Cancelled), "{end:?}");
    node.resume().await?;
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    publish(&moby, "/tasks/exit", "early").await?;
    let (mut dockerd, _) = subscribe(&moby, DOCKERD, None).await?;
    ensure!(next(&mut dockerd).await? == "early");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_events_are_containerds_and_clients_pass_untouched() -> Result<()> {
    let node = Node::start().await?;
    let main = Tenant::connect(&node.setup.socket, Some("default")).await?;
    let (mut all, _) = subscribe(&main, &["namespace==test", "topic==\"/my/topic\""], None).await?;
    let namespace = Namespace { name: "test".into(), labels: [("a".to_owned(), "1".to_owned())].into() };
    let namespaces = "namespaces.v1.Namespaces";
    main.named(Some("test"))
        .ask::<()>(namespaces, "Create", &CreateNamespaceRequest { namespace: Some(namespace) })
        .await?;
    let made = all.message().await?.context("the end")?;
    ensure!((made.namespace.as_str(), made.topic.as_str()) == ("test", "/namespaces/create"), "{made:?}");
    let event = made.event.unwrap_or_default();
    ensure!(event.type_url == "containerd.events.NamespaceCreate", "{}", event.type_url);
    let event = <containerd_client::events::NamespaceCreate as prost::Message>::decode(event.value.as_slice())?;
    ensure!(event.name == "test" && event.labels["a"] == "1", "{event:?}");

    let any = Any { type_url: "types.example.com/whatever/1".into(), value: vec![0, 1, 255] };
    let timestamp = Some(Timestamp { seconds: 7, nanos: 9 });
    let envelope = Envelope { timestamp, namespace: "far".into(), topic: "/my/topic".into(), event: Some(any.clone()) };
    let forward = ForwardRequest { envelope: Some(envelope.clone()) };
    main.ask::<()>("events.v1.Events", "Forward", &forward).await?;
    let passed = all.message().await?.context("the end")?;
    ensure!(passed == envelope, "{passed:?}");

    for (topic, namespace) in
        [("", "far"), ("my/topic", "far"), ("/", "far"), ("/a b", "far"), ("/a", ""), ("/a", "b/c")]
    {
        let envelope = Envelope { topic: topic.into(), namespace: namespace.into(), ..envelope.clone() };
        let answer = main.ask::<()>("events.v1.Events", "Forward", &ForwardRequest { envelope: Some(envelope) }).await;
        ensure!(code(&answer) == Code::InvalidArgument, "{topic:?} {namespace:?}: {answer:?}");
    }
    let nobody = main.named(None);
    ensure!(code(&publish(&nobody, "/a", "x").await) == Code::FailedPrecondition);
    ensure!(code(&subscribe(&main, &["namespace=="], None).await) == Code::InvalidArgument);
    main.ask::<()>(namespaces, "Delete", &DeleteNamespaceRequest { name: "test".into() }).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_does_not_read_holds_nobody_up_and_is_told() -> Result<()> {
    let node = Node::start().await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let moby = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let sleeper = Tenant::connect(&node.setup.socket, Some("moby")).await?;
    let (mut slow, _) = subscribe(&sleeper, DOCKERD, None).await?;
    // More than the connection and the daemon's backlog hold.
    const EVENTS: usize = 5000;
    let text = "x".repeat(8000);
    let publishing = futures::stream::iter(0..EVENTS).map(|number| {
        let (moby, text) = (&moby, format!("{number} {text}"));
        async move { publish(moby, "/tasks/oom", &text).await }
    });
    publishing.buffered(32).try_collect::<()>().await?;
    let mut had = BTreeSet::new();
    let number = |text: &str| text.split(' ').next().unwrap_or_default().parse::<usize>();
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(5), slow.message()).await? {
            Ok(Some(envelope)) => {
                let text = String::from_utf8(envelope.event.unwrap_or_default().value)?;
                ensure!(had.insert(number(&text)?), "the same event twice");
            }
            Ok(None) => anyhow::bail!("a quiet end after {} events", had.len()),
            Err(status) => break status,
        }
    };
    ensure!(end.code() == Code::ResourceExhausted, "{end:?}");
    // It comes back, and gets the rest: every event once.
    let (mut again, _) = subscribe(&sleeper, DOCKERD, None).await?;
    while had.len() < EVENTS {
        ensure!(had.insert(number(&next(&mut again).await?)?), "the same event twice");
    }
    ensure!(silent(&mut again).await);
    node.finish().await
}
