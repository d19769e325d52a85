//! Pods of a kubelet, containers of Docker and tasks of `ctr` at the same time on one daemon: each sees only its own, all
//! outlive the daemon, and no method of the API crosses from one to another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use containerd_client::services::v1::sandbox::{StoreDeleteRequest, StoreListRequest, StoreListResponse};
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteImageRequest, DeleteNamespaceRequest, DeleteRequest, SubscribeRequest,
};
use containerd_client::types::Envelope;
use tonic::{Code, Request};
use windlass_test_e2e::inventory::Inventory;
use windlass_test_e2e::methods::Target;
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::together::House;
use windlass_test_e2e::words::*;
use windlass_test_e2e::{Context, Plan, Result, code, cri, crossing, ensure, eventually, methods};

/// Each list shows what is its asker's, and all of it.
async fn assert_separate(house: &House) -> Result<()> {
    assert_kubelet_sees_its_own(house).await?;
    let words = |text: String| -> BTreeSet<String> { text.split_whitespace().map(str::to_owned).collect() };
    let of = |list: &[String]| -> BTreeSet<String> { list.iter().cloned().collect() };
    ensure!(words(house.docker.run(&["ps", "-aq", "--no-trunc"])?) == of(&house.containers));
    ensure!(house.docker.run(&["images", "--format", "{{.Repository}}"])? == "box");
    let ask = |arguments: &[&str]| house.ctr.run(house.shell, arguments);
    ensure!(words(ask(&["containers", "ls", "-q"])?) == of(&house.tasks));
    ensure!(words(ask(&["tasks", "ls", "-q"])?) == of(&house.tasks));
    ensure!(words(ask(&["images", "ls", "-q"])?) == of(&house.images[1..]));
    let blobs = words(ask(&["content", "ls", "-q"])?);
    // An index or manifest, a configuration and two layers.
    ensure!((4..=5).contains(&blobs.len()), "{blobs:?}");
    let listed = ask(&["snapshots", "ls"])?;
    let keys: Vec<_> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let own = keys.iter().filter(|key| house.tasks.iter().any(|task| task == *key)).count();
    ensure!(own == house.tasks.len() && keys.len() == own + 2, "{keys:?}");
    Ok(())
}

async fn assert_kubelet_sees_its_own(house: &House) -> Result<()> {
    let cri = &house.node.cri;
    let pods: BTreeSet<_> = house.pods.iter().map(|pod| pod.id.clone()).collect();
    let containers: BTreeSet<_> = house.pods.iter().map(|pod| pod.container.clone()).collect();
    let listed = cri.pods(None).await?;
    ensure!(listed.into_iter().map(|pod| pod.id).collect::<BTreeSet<_>>() == pods);
    let listed = cri.containers(None).await?;
    ensure!(listed.into_iter().map(|container| container.id).collect::<BTreeSet<_>>() == containers);
    let names: Vec<_> = cri.images().await?.into_iter().flat_map(|image| image.repo_tags).collect();
    ensure!(names == house.images[..1], "{names:?}");
    let mut runtime = cri.runtime();
    let stats = runtime.list_container_stats(ListContainerStatsRequest { filter: None }).await?.into_inner().stats;
    let ids = stats.into_iter().filter_map(|one| one.attributes).map(|attributes| attributes.id);
    ensure!(ids.collect::<BTreeSet<_>>() == containers);
    let request = ListPodSandboxStatsRequest { filter: None };
    let stats = runtime.list_pod_sandbox_stats(request).await?.into_inner().stats;
    let ids = stats.into_iter().filter_map(|one| one.attributes).map(|attributes| attributes.id);
    ensure!(ids.collect::<BTreeSet<_>>() == pods);
    let request = ListPodSandboxMetricsRequest {};
    let metrics = runtime.list_pod_sandbox_metrics(request).await?.into_inner().pod_metrics;
    ensure!(metrics.into_iter().map(|one| one.pod_sandbox_id).collect::<BTreeSet<_>>() == pods);
    Ok(())
}

/// The kubelet's calls know nothing by the ids of others, and do nothing to them.
async fn assert_kubelet_reaches_nobody(house: &House) -> Result<()> {
    for id in house.containers.iter().chain(&house.tasks) {
        let found = known_to_the_kubelet(house, id).await?;
        ensure!(found.is_empty(), "{id} is known by {found:?}");
    }
    let foreign = [house.images[1].as_str(), "box", "docker.io/library/box:latest"];
    for image in foreign {
        ensure!(house.node.cri.image(image).await?.is_none(), "{image}");
        house.node.cri.remove_image(image).await?;
        let stolen = cri::container("stolen", image, &["true"]);
        let made = house.node.cri.create(&house.pods[0].id, &stolen, &house.pods[0].config);
        ensure!(code(&made.await) == Code::NotFound, "{image}");
    }
    Ok(())
}

/// The calls that do not say that there is no such thing. Stop and removal succeed where there is nothing.
async fn known_to_the_kubelet(house: &House, id: &str) -> Result<Vec<&'static str>> {
    let (cri, pod) = (&house.node.cri, &house.pods[0]);
    let mut runtime = cri.runtime();
    let id = || id.to_owned();
    let mut found = Vec::new();
    macro_rules! missing {
        ($name:literal, $call:expr) => {
            if code(&$call.await) != Code::NotFound {
                found.push($name);
            }
        };
    }
    let main = cri::container("main", &house.images[0], &["true"]);
    let (container_id, pod_sandbox_id, cmd) = (id(), id(), vec!["true".to_owned()]);
    missing!("ContainerStatus", cri.container_status(&id()));
    missing!("PodSandboxStatus", cri.pod_status(&id()));
    missing!("CreateContainer", cri.create(&id(), &main, &pod.config));
    missing!("StartContainer", cri.start(&id()));
    missing!("ExecSync", cri.exec(&id(), &["true"], 5));
    missing!("ReopenContainerLog", cri.reopen_log(&id()));
    missing!("Exec", runtime.exec(ExecRequest { container_id: id(), cmd, stdout: true, ..Default::default() }));
    missing!("Attach", runtime.attach(AttachRequest { container_id: id(), stdout: true, ..Default::default() }));
    missing!("PortForward", runtime.port_forward(PortForwardRequest { pod_sandbox_id: id(), port: vec![80] }));
    missing!("ContainerStats", runtime.container_stats(ContainerStatsRequest { container_id }));
    missing!("PodSandboxStats", runtime.pod_sandbox_stats(PodSandboxStatsRequest { pod_sandbox_id }));
    let linux = Some(LinuxContainerResources { cpu_shares: 2, ..Default::default() });
    let request = UpdateContainerResourcesRequest { container_id: id(), linux, ..Default::default() };
    missing!("UpdateContainerResources", runtime.update_container_resources(request));
    let filter = Some(ContainerFilter { id: id(), ..Default::default() });
    ensure!(cri.containers(filter).await?.is_empty());
    let filter = Some(PodSandboxFilter { id: id(), ..Default::default() });
    ensure!(cri.pods(filter).await?.is_empty());
    cri.stop(&id(), 0).await.or_else(only_not_found)?;
    cri.remove(&id()).await.or_else(only_not_found)?;
    cri.stop_pod(&id()).await.or_else(only_not_found)?;
    cri.remove_pod(&id()).await.or_else(only_not_found)?;
    Ok(found)
}

fn only_not_found(status: tonic::Status) -> std::result::Result<(), tonic::Status> {
    if status.code() == Code::NotFound { Ok(()) } else { Err(status) }
}

/// A client that writes down what it hears; killed when dropped.
struct Listener {
    child: Child,
    file: PathBuf,
}

impl Listener {
    fn start(house: &House, name: &str, mut command: Command) -> Result<Self> {
        let file = house.node.dir().join(name);
        let child = command.stdout(fs::File::create(&file)?).stderr(Stdio::null()).spawn()?;
        Ok(Self { child, file })
    }

    async fn heard(&self, what: &str) -> Result<String> {
        eventually(&format!("{what} is heard"), Duration::from_secs(20), async || {
            fs::read_to_string(&self.file).ok().filter(|text| text.contains(what))
        })
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What each hears while one more of each comes.
async fn assert_each_hears_its_own(house: &mut House) -> Result<()> {
    let mut kubelet =
        house.node.cri.runtime().get_container_events(Request::new(GetEventsRequest {})).await?.into_inner();
    let docker = Listener::start(house, "docker-events", house.docker.command(&["events", "--format", "{{json .}}"]))?;
    let filter = format!("namespace=={}", house.shell);
    let shell = Listener::start(house, "ctr-events", house.ctr.command(house.shell, &["events", &filter]))?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let index = house.pods.len();
    house.move_in(index).await?;
    let (pod, container, task) = (&house.pods[index], &house.containers[index], &house.tasks[index]);
    let docker = docker.heard("\"start\"").await?;
    let shell = shell.heard("/tasks/start").await?;
    let mut kubelet_heard = BTreeSet::new();
    while !kubelet_heard.contains(&pod.container) {
        let event = tokio::time::timeout(Duration::from_secs(20), kubelet.message()).await?;
        kubelet_heard.insert(event?.context("the events end")?.container_id);
    }
    ensure!(docker.contains(container.as_str()) && shell.contains(task.as_str()));
    for (own, others) in [
        (docker, [&pod.container, task]),
        (shell, [&pod.container, container]),
        (format!("{kubelet_heard:?}"), [container, task]),
    ] {
        let other = others.into_iter().find(|other| own.contains(other.as_str()));
        ensure!(other.is_none(), "{other:?} stands in {own}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_docker_and_ctr_live_on_one_daemon_and_each_sees_its_own() -> Result<()> {
    let Some(mut house) = House::open(Plan::default(), "s.sock").await? else { return Ok(()) };
    assert_separate(&house).await?;
    assert_each_hears_its_own(&mut house).await?;
    assert_kubelet_reaches_nobody(&house).await?;
    house.assert_alive().await?;
    house.node.restart().await?;
    house.assert_alive().await?;
    assert_separate(&house).await?;
    assert_each_hears_its_own(&mut house).await?;
    assert_kubelet_reaches_nobody(&house).await?;
    house.assert_alive().await?;
    house.close().await
}

/// What the main socket tells of all three namespaces.
struct Seen {
    inventories: BTreeMap<&'static str, Inventory>,
    targets: Vec<Target>,
}

impl Seen {
    async fn by(main: &Tenant, house: &House) -> Result<Self> {
        let mut seen = Self { inventories: BTreeMap::new(), targets: Vec::new() };
        let pod = &house.pods[0];
        for (namespace, container, sandbox) in [
            ("k8s.io", &pod.container, &pod.id),
            ("moby", &house.containers[0], &house.containers[0]),
            (house.shell, &house.tasks[0], &house.tasks[0]),
        ] {
            let client = main.named(Some(namespace));
            let inventory = Inventory::of(&client).await?;
            seen.targets.push(inventory.target(&client, namespace, container, sandbox).await?);
            seen.inventories.insert(namespace, inventory);
        }
        Ok(seen)
    }

    fn assert_same(&self, before: &Self) -> Result<()> {
        for (namespace, inventory) in &self.inventories {
            let (now, then) = (inventory.lines(), before.inventories[namespace].lines());
            let changed: Vec<_> = now.symmetric_difference(&then).collect();
            ensure!(changed.is_empty(), "{namespace} has changed: {changed:#?}");
        }
        Ok(())
    }
}

/// Starts the daemon again after a SIGKILL, with the CRI's namespace so for the main socket.
async fn restart_with(house: &mut House, word: &str) -> Result<Tenant> {
    house.node.setup.more_cri = format!("main_socket = {word:?}");
    house.node.setup.write_config()?;
    house.node.restart().await?;
    Tenant::connect(&house.node.setup.socket, None).await
}

/// Takes away what a stranger has made of its own, and its namespace, which then is empty.
async fn clear(stranger: &Tenant) -> Result<()> {
    let made = Inventory::of(stranger).await?;
    ensure!(made.tasks.is_empty() && made.blobs.is_empty() && made.snapshots.is_empty(), "{made:?}");
    for found in made.containers {
        let request = DeleteContainerRequest { id: found.id };
        stranger.ask::<()>("containers.v1.Containers", "Delete", &request).await?;
    }
    for found in made.images {
        let request = DeleteImageRequest { name: found.name, ..Default::default() };
        stranger.ask::<()>("images.v1.Images", "Delete", &request).await?;
    }
    for found in made.leases {
        stranger.ask::<()>("leases.v1.Leases", "Delete", &DeleteRequest { id: found.id, sync: true }).await?;
    }
    let sandboxes: StoreListResponse = stranger.ask("sandbox.v1.Store", "List", &StoreListRequest::default()).await?;
    for found in sandboxes.list {
        let request = StoreDeleteRequest { sandbox_id: found.sandbox_id };
        stranger.ask::<()>("sandbox.v1.Store", "Delete", &request).await?;
    }
    let request = DeleteNamespaceRequest { name: "stranger".into() };
    stranger.ask::<()>("namespaces.v1.Namespaces", "Delete", &request).await.context("the stranger has something")
}

/// The namespaces whose events come through a socket while one more of each comes.
async fn namespaces_heard(house: &mut House, sockets: &[Tenant]) -> Result<Vec<BTreeSet<String>>> {
    let mut streams = Vec::new();
    for socket in sockets {
        streams.push(socket.open("events.v1.Events", "Subscribe", &SubscribeRequest::default()).await?);
    }
    let index = house.pods.len();
    house.move_in(index).await?;
    let mut heard = Vec::new();
    for stream in &mut streams {
        let mut namespaces = BTreeSet::new();
        while let Ok(message) = tokio::time::timeout(Duration::from_secs(1), stream.next()).await {
            namespaces.insert(message?.context("the events end")?.read::<Envelope>()?.namespace);
        }
        heard.push(namespaces);
    }
    Ok(heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_crosses_between_pods_docker_and_ctr() -> Result<()> {
    let tenants = "[[tenant]]\nnamespace = \"moby\"\nalso = [\"plugins.moby\"]\nsocket = \"{dir}/moby.sock\"\n\
                   [[tenant]]\nnamespace = \"stranger\"\nsocket = \"{dir}/stranger.sock\"\n";
    let plan =
        Plan { more_config: tenants.to_owned(), more_cri: "main_socket = \"read-only\"".to_owned(), ..Plan::default() };
    // Docker lives behind a socket of its own.
    let Some(mut house) = House::open(plan, "moby.sock").await? else { return Ok(()) };
    let dir = house.node.dir().to_owned();
    let main = Tenant::connect(&house.node.setup.socket, None).await?;
    let before = Seen::by(&main, &house).await?;

    // Where the CRI's namespace may be looked at, no method changes it.
    let (refused, failed) = crossing::read_only_for(&main.named(Some("k8s.io")), &before.targets[0]).await?;
    println!("read-only: {refused} changes refused; what is not there: {}", failed.join(", "));
    for reads in ["Containers/Get", "Tasks/Get", "Tasks/ListPids", "Content/Read", "Images/Get", "Snapshots/Mounts"] {
        let failed = failed.iter().any(|method| method.ends_with(reads));
        ensure!(!failed, "{reads} fails where it may be called, so its refusal elsewhere proves nothing");
    }
    Seen::by(&main, &house).await?.assert_same(&before)?;

    // From sockets of other namespaces there is no way, by either name.
    let (moby, stranger) = (
        Tenant::connect(&dir.join("moby.sock"), None).await?,
        Tenant::connect(&dir.join("stranger.sock"), None).await?,
    );
    let mut tried = 0;
    for target in &before.targets {
        let namespace: &'static str =
            before.inventories.keys().find(|name| **name == target.namespace).context("known")?;
        tried += crossing::locked_out(&stranger.named(Some(namespace)), target).await?;
        tried += crossing::stranger_to(&stranger, target).await?;
        if namespace != "moby" {
            tried += crossing::locked_out(&moby.named(Some(namespace)), target).await?;
        }
    }
    Seen::by(&main, &house).await?.assert_same(&before)?;
    house.assert_alive().await?;
    clear(&stranger).await?;

    // Nor from the main socket where the CRI's namespace is hidden.
    let main = restart_with(&mut house, "hidden").await?;
    house.assert_alive().await?;
    tried += crossing::hidden_from(&main.named(Some("k8s.io")), &before.targets[0]).await?;
    house.assert_alive().await?;
    let moby = Tenant::connect(&dir.join("moby.sock"), None).await?;
    let heard = namespaces_heard(&mut house, &[main, moby]).await?;
    ensure!(heard[0] == BTreeSet::from(["moby".to_owned(), house.shell.to_owned()]), "{heard:?}");
    ensure!(heard[1] == BTreeSet::from(["moby".to_owned()]), "{heard:?}");
    println!("{} methods, {tried} requests", methods::all().count());
    house.close().await
}
