//! Sandboxes of the containerd API: made and started in two steps, shared by containers, and outliving the daemon.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_client::services::v1::container::Runtime as ContainerRuntime;
use containerd_client::services::v1::sandbox::{
    ControllerCreateRequest, ControllerCreateResponse, ControllerMetricsRequest, ControllerMetricsResponse,
    ControllerPlatformRequest, ControllerPlatformResponse, ControllerShutdownRequest, ControllerShutdownResponse,
    ControllerStartRequest, ControllerStartResponse, ControllerStatusRequest, ControllerStatusResponse,
    ControllerStopRequest, ControllerStopResponse, ControllerUpdateRequest, ControllerUpdateResponse,
    ControllerWaitRequest, ControllerWaitResponse, StoreCreateRequest, StoreCreateResponse, StoreDeleteRequest,
    StoreDeleteResponse,
};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateContainerResponse, CreateNamespaceRequest, CreateNamespaceResponse,
    CreateTaskRequest, CreateTaskResponse, DeleteContainerRequest, DeleteNamespaceRequest, DeleteResponse,
    DeleteTaskRequest, GetRequest, GetResponse, Namespace, StartRequest, StartResponse, SubscribeRequest, WaitRequest,
    WaitResponse,
};
use containerd_client::types::sandbox::Runtime;
use containerd_client::types::{Envelope, Sandbox};
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Code;
use windlass_test_e2e::cri::Answer;
use windlass_test_e2e::edge::{self, Gate};
use windlass_test_e2e::newer::Messages;
use windlass_test_e2e::tasks::rootfs;
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::{Ctr, Node, code, eventually};

/// The service under test.
const CONTROLLER: &str = "sandbox.v1.Controller";
/// A namespace that is nobody's else.
const NS: &str = "sandboxes-e2e";
/// How a specification is told apart from other messages.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// A node, a client, and a root file system with busybox.
struct Bench {
    node: Node,
    client: Tenant,
    rootfs: PathBuf,
}

/// None where containerd is judged.
async fn bench() -> Result<Option<Bench>> {
    let mut node = Node::start().await?;
    if node.excused("containerd's own shim serves no sandboxes") {
        return Ok(None);
    }
    let rootfs = rootfs(&node)?;
    node.mark().await;
    let client = Tenant::connect(&node.setup.socket, Some(NS)).await?;
    Ok(Some(Bench { node, client, rootfs }))
}

fn spec(value: &Value) -> Option<Any> {
    Some(Any { type_url: SPEC.into(), value: value.to_string().into_bytes() })
}

impl Bench {
    /// The specification of a sandbox with namespaces of its own.
    fn pod_spec(&self, id: &str) -> Value {
        let kinds = ["ipc", "uts", "network", "pid", "mount"];
        json!({"ociVersion": "1.1.0", "hostname": format!("host-{id}"), "linux": {
            "cgroupsPath": format!("/{}/{id}", self.node.tag()),
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "7"},
            "namespaces": kinds.map(|kind| json!({"type": kind}))}})
    }

    fn described(&self, id: &str, runtime: &str) -> Sandbox {
        Sandbox {
            sandbox_id: id.into(),
            runtime: Some(Runtime { name: runtime.into(), options: None }),
            spec: spec(&self.pod_spec(id)),
            sandboxer: "shim".into(),
            ..Sandbox::default()
        }
    }

    async fn record(&self, id: &str) -> Answer<()> {
        let request = StoreCreateRequest { sandbox: Some(self.described(id, "io.containerd.runc.v2")) };
        self.client.ask::<StoreCreateResponse>("sandbox.v1.Store", "Create", &request).await.map(drop)
    }

    /// Creates what is recorded.
    async fn create(&self, id: &str) -> Answer<()> {
        let request = ControllerCreateRequest { sandbox_id: id.into(), ..ControllerCreateRequest::default() };
        self.client.ask::<ControllerCreateResponse>(CONTROLLER, "Create", &request).await.map(drop)
    }

    async fn start(&self, id: &str) -> Answer<ControllerStartResponse> {
        let request = ControllerStartRequest { sandbox_id: id.into(), sandboxer: "shim".into() };
        self.client.ask(CONTROLLER, "Start", &request).await
    }

    /// A sandbox that runs, and its process.
    async fn boot(&self, id: &str) -> Result<u32> {
        self.record(id).await?;
        self.create(id).await?;
        Ok(self.start(id).await?.pid)
    }

    async fn status(&self, id: &str) -> Answer<ControllerStatusResponse> {
        let request = ControllerStatusRequest { sandbox_id: id.into(), verbose: true, sandboxer: String::new() };
        self.client.ask(CONTROLLER, "Status", &request).await
    }

    async fn state(&self, id: &str) -> Result<String> {
        Ok(self.status(id).await?.state)
    }

    /// The shim's own process.
    async fn shim(&self, id: &str) -> Result<u32> {
        Ok(self.status(id).await?.info.get("shim_pid").context("no shim_pid")?.parse()?)
    }

    async fn stop(&self, id: &str) -> Answer<()> {
        let request = ControllerStopRequest { sandbox_id: id.into(), timeout_secs: 5, sandboxer: String::new() };
        self.client.ask::<ControllerStopResponse>(CONTROLLER, "Stop", &request).await.map(drop)
    }

    async fn wait(&self, id: &str) -> Answer<ControllerWaitResponse> {
        wait(&self.client, id).await
    }

    async fn shutdown(&self, id: &str) -> Answer<()> {
        let request = ControllerShutdownRequest { sandbox_id: id.into(), sandboxer: String::new() };
        self.client.ask::<ControllerShutdownResponse>(CONTROLLER, "Shutdown", &request).await.map(drop)
    }

    async fn forget(&self, id: &str) -> Answer<()> {
        let request = StoreDeleteRequest { sandbox_id: id.into() };
        self.client.ask::<StoreDeleteResponse>("sandbox.v1.Store", "Delete", &request).await.map(drop)
    }

    /// Records a container that joins the namespaces of `pid`; of nobody where that is 0.
    async fn describe(&self, id: &str, sandbox: &str, pid: u32, script: &str) -> Answer<()> {
        let mut namespaces = vec![json!({"type": "mount"})];
        for (kind, file) in [("ipc", "ipc"), ("uts", "uts"), ("network", "net"), ("pid", "pid")] {
            namespaces.extend((pid != 0).then(|| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")})));
        }
        let text = json!({"ociVersion": "1.1.0", "root": {"path": self.rootfs},
            "process": {"args": ["/bin/sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/bin"]},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}],
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/{}/{id}", self.node.tag())}});
        let container = Container {
            id: id.into(),
            sandbox: sandbox.into(),
            spec: spec(&text),
            runtime: Some(ContainerRuntime { name: "io.containerd.runc.v2".into(), options: None }),
            ..Container::default()
        };
        let request = CreateContainerRequest { container: Some(container) };
        self.client.ask::<CreateContainerResponse>("containers.v1.Containers", "Create", &request).await.map(drop)
    }

    fn log(&self, id: &str) -> PathBuf {
        self.node.dir().join(format!("{id}.log"))
    }

    async fn task(&self, id: &str) -> Answer<u32> {
        let stdout = format!("file://{}", self.log(id).display());
        let request = CreateTaskRequest { container_id: id.into(), stdout, ..CreateTaskRequest::default() };
        let made: CreateTaskResponse = self.client.ask("tasks.v1.Tasks", "Create", &request).await?;
        let request = StartRequest { container_id: id.into(), ..StartRequest::default() };
        self.client.ask::<StartResponse>("tasks.v1.Tasks", "Start", &request).await?;
        Ok(made.pid)
    }

    /// Runs a script in a sandbox; the process.
    async fn run(&self, id: &str, sandbox: &str, pid: u32, script: &str) -> Result<u32> {
        self.describe(id, sandbox, pid, script).await?;
        Ok(self.task(id).await?)
    }

    async fn exit(&self, id: &str) -> Result<u32> {
        let request = WaitRequest { container_id: id.into(), ..WaitRequest::default() };
        let exit = self.client.ask::<WaitResponse>("tasks.v1.Tasks", "Wait", &request);
        Ok(tokio::time::timeout(Duration::from_secs(20), exit).await??.exit_status)
    }

    /// Forgets an ended task and its container; its status.
    async fn remove(&self, id: &str) -> Result<u32> {
        let request = DeleteTaskRequest { container_id: id.into() };
        let deleted: DeleteResponse = self.client.ask("tasks.v1.Tasks", "Delete", &request).await?;
        self.drop_record(id).await?;
        Ok(deleted.exit_status)
    }

    async fn drop_record(&self, id: &str) -> Answer<()> {
        let request = DeleteContainerRequest { id: id.into() };
        self.client.ask("containers.v1.Containers", "Delete", &request).await
    }

    async fn events(&self) -> Result<Messages> {
        let filters = vec![format!("namespace=={NS},topic~=|^/sandboxes/|")];
        Ok(self.client.open("events.v1.Events", "Subscribe", &SubscribeRequest { filters }).await?)
    }

    /// Kills the daemon and starts another one.
    async fn kill_daemon(&mut self) -> Result<()> {
        self.node.daemon.kill();
        self.node.resume().await?;
        self.client = Tenant::connect(&self.node.setup.socket, Some(NS)).await?;
        Ok(())
    }

    async fn end(self, sandboxes: &[&str]) -> Result<()> {
        for id in sandboxes {
            self.shutdown(id).await?;
            self.forget(id).await?;
        }
        self.node.finish().await
    }
}

async fn wait(client: &Tenant, id: &str) -> Answer<ControllerWaitResponse> {
    let request = ControllerWaitRequest { sandbox_id: id.into(), sandboxer: "shim".into() };
    let answer = client.ask(CONTROLLER, "Wait", &request);
    tokio::time::timeout(Duration::from_secs(20), answer)
        .await
        .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("nothing")))
}

/// The topics of all events until nothing more comes.
async fn topics(events: &mut Messages) -> Result<Vec<String>> {
    let mut found = Vec::new();
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(500), events.next()).await {
        found.push(message?.context("the end")?.read::<Envelope>()?.topic);
    }
    Ok(found)
}

/// The parent of a process.
fn parent(pid: u32) -> Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("a process has a name")?;
    Ok(rest.split_whitespace().nth(1).context("a process has a parent")?.parse()?)
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) -> Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), signal)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_created_started_shared_stopped_and_shut_down() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let mut events = bench.events().await?;
    bench.record("s").await?;
    bench.create("s").await?;
    ensure!(code(&bench.create("s").await) == Code::AlreadyExists);
    let made = bench.status("s").await?;
    ensure!(made.state == "SANDBOX_NOTREADY" && made.pid == 0 && made.exited_at.is_none(), "{made:?}");
    bench.describe("early", "s", 0, "true").await?;
    ensure!(code(&bench.task("early").await) == Code::FailedPrecondition, "a task before the start");
    bench.drop_record("early").await?;

    let started = bench.start("s").await?;
    ensure!(started.created_at.is_some() && started.address.starts_with("ttrpc+unix://"), "{started:?}");
    ensure!(code(&bench.start("s").await) == Code::FailedPrecondition, "a second start");
    let ready = bench.status("s").await?;
    ensure!(ready.state == "SANDBOX_READY" && ready.pid == started.pid, "{ready:?}");
    let request = ControllerPlatformRequest { sandbox_id: "s".into(), ..ControllerPlatformRequest::default() };
    let platform: ControllerPlatformResponse = bench.client.ask(CONTROLLER, "Platform", &request).await?;
    ensure!(platform.platform.is_some_and(|platform| platform.os == "linux" && !platform.architecture.is_empty()));

    let script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ip link show lo; exec sleep 1000";
    let (shim, one) = (bench.shim("s").await?, bench.run("one", "s", started.pid, script).await?);
    let two = bench.run("two", "s", started.pid, "ps; exit 7").await?;
    ensure!(bench.exit("two").await? == 7 && bench.remove("two").await? == 7);
    ensure!(parent(one)? == shim, "the container joined the sandbox's shim");
    let link = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    let own = std::process::id();
    for kind in ["net", "ipc", "uts", "pid"] {
        ensure!(link(one, kind)? == link(started.pid, kind)? && link(one, kind)? != link(own, kind)?, "{kind}");
    }
    let said = fs::read_to_string(bench.log("one"))?;
    ensure!(said.starts_with("host-s\n7\n") && said.contains("LOOPBACK,UP"), "{said}");
    let seen = fs::read_to_string(bench.log("two"))?;
    ensure!(seen.contains("sleep 1000") && two != one, "they share their processes: {seen}");
    let request = ControllerMetricsRequest { sandbox_id: "s".into(), ..ControllerMetricsRequest::default() };
    let metrics: ControllerMetricsResponse = bench.client.ask(CONTROLLER, "Metrics", &request).await?;
    let data = metrics.metrics.context("metrics")?.data.context("data")?;
    ensure!(data.type_url.starts_with("io.containerd.cgroups.v"), "{}", data.type_url);

    let client = bench.client.clone();
    let waiting = tokio::spawn(async move { wait(&client, "s").await });
    bench.stop("s").await?;
    let exit = waiting.await??;
    ensure!(exit.exit_status == 0 && exit.exited_at.is_some(), "{exit:?}");
    ensure!(bench.wait("s").await? == exit, "who comes late is told the same");
    let stopped = bench.status("s").await?;
    ensure!(stopped.state == "SANDBOX_NOTREADY" && stopped.exited_at == exit.exited_at, "{stopped:?}");
    ensure!(bench.exit("one").await? == 137);
    bench.describe("late", "s", 0, "true").await?;
    ensure!(code(&bench.task("late").await) == Code::FailedPrecondition, "a task after the end");
    bench.drop_record("late").await?;
    bench.stop("s").await?;
    ensure!(bench.remove("one").await? == 137);

    bench.shutdown("s").await?;
    let over = bench.status("s").await?;
    ensure!(over.state == "SANDBOX_NOTREADY" && over.exited_at.is_some() && over.pid == 0, "{over:?}");
    bench.forget("s").await?;
    ensure!(code(&bench.status("s").await) == Code::NotFound);
    ensure!(code(&bench.shutdown("s").await) == Code::NotFound);
    bench.stop("s").await?;
    let told = topics(&mut events).await?;
    ensure!(told == ["/sandboxes/create", "/sandboxes/start", "/sandboxes/exit"], "{told:?}");
    bench.end(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_outlive_the_daemon() -> Result<()> {
    let Some(mut bench) = bench().await? else { return Ok(()) };
    bench.record("s").await?;
    bench.create("s").await?;
    let shim = bench.shim("s").await?;
    bench.kill_daemon().await?;
    ensure!(bench.shim("s").await? == shim && bench.state("s").await? == "SANDBOX_NOTREADY");
    ensure!(code(&bench.create("s").await) == Code::AlreadyExists);
    let pid = bench.start("s").await?.pid;
    bench.run("c", "s", pid, "exec sleep 1000").await?;
    let old = bench.client.clone();
    let waiting = tokio::spawn(async move { wait(&old, "s").await });
    bench.kill_daemon().await?;
    ensure!(waiting.await?.is_err(), "a wait outlives its daemon");
    let status = bench.status("s").await?;
    ensure!(status.state == "SANDBOX_READY" && status.pid == pid, "{status:?}");
    let request = GetRequest { container_id: "c".into(), ..GetRequest::default() };
    let task: GetResponse = bench.client.ask("tasks.v1.Tasks", "Get", &request).await?;
    ensure!(task.process.is_some_and(|process| process.status == 2), "it runs");
    bench.run("d", "s", pid, "exit 4").await?;
    ensure!(bench.exit("d").await? == 4 && bench.remove("d").await? == 4);
    let client = bench.client.clone();
    let waiting = tokio::spawn(async move { wait(&client, "s").await });
    bench.stop("s").await?;
    ensure!(waiting.await??.exit_status == 0);
    bench.kill_daemon().await?;
    ensure!(bench.wait("s").await?.exit_status == 0, "the end is known to the next daemon");
    ensure!(bench.remove("c").await? == 137);
    bench.end(&["s"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_dies_with_its_shim() -> Result<()> {
    let Some(mut bench) = bench().await? else { return Ok(()) };
    let mut events = bench.events().await?;
    for (id, away) in [("s", false), ("t", true)] {
        let pid = bench.boot(id).await?;
        bench.run("c", id, pid, "exec sleep 1000").await?;
        let shim = bench.shim(id).await?;
        if away {
            bench.node.daemon.kill();
            signal(shim, nix::sys::signal::Signal::SIGKILL)?;
            bench.kill_daemon().await?;
            eventually("the sandbox is gone", Duration::from_secs(10), async || {
                (code(&bench.wait(id).await) == Code::NotFound).then_some(())
            })
            .await?;
        } else {
            let client = bench.client.clone();
            let waiting = tokio::spawn(async move { wait(&client, "s").await });
            tokio::time::sleep(Duration::from_millis(200)).await;
            signal(shim, nix::sys::signal::Signal::SIGKILL)?;
            ensure!(waiting.await??.exit_status == 137);
            let told = topics(&mut events).await?;
            ensure!(told == ["/sandboxes/create", "/sandboxes/start", "/sandboxes/exit"], "{told:?}");
        }
        ensure!(bench.exit("c").await? == 137 && bench.remove("c").await? == 137);
        let over = bench.status(id).await?;
        ensure!(over.state == "SANDBOX_NOTREADY" && over.pid == 0, "{over:?}");
        ensure!(code(&bench.start(id).await) == Code::NotFound);
        // The name is free again.
        bench.create(id).await?;
        bench.start(id).await?;
        bench.shutdown(id).await?;
        bench.forget(id).await?;
    }
    // So does one whose process 1 dies.
    let pid = bench.boot("u").await?;
    signal(pid, nix::sys::signal::Signal::SIGKILL)?;
    ensure!(bench.wait("u").await?.exit_status == 137 && bench.state("u").await? == "SANDBOX_NOTREADY");
    bench.end(&["u"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_over_a_creation_leaves_nothing() -> Result<()> {
    let Some(mut bench) = bench().await? else { return Ok(()) };
    let (gate, wrapper) = (Gate::open_at(bench.node.dir(), "start"), bench.node.dir().join("wrapped-shim"));
    let shim = windlass_test_e2e::daemon::bin_dir()?.join("containerd-shim-windlass-v1");
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do last=$word; done\nsaid=$({} \"$@\") || exit 1\n\
         if [ \"$last\" = start ]; then\n{}fi\necho \"$said\"\n",
        shim.display(),
        gate.wait_lines()
    );
    edge::write_executable(&wrapper, &script)?;
    for runtime in [wrapper.to_string_lossy().into_owned(), String::new()] {
        let request = ControllerCreateRequest {
            sandbox_id: "s".into(),
            sandbox: Some(bench.described("s", &runtime)),
            ..ControllerCreateRequest::default()
        };
        let creating = {
            let (client, request) = (bench.client.clone(), request.clone());
            tokio::spawn(async move { client.ask::<ControllerCreateResponse>(CONTROLLER, "Create", &request).await })
        };
        if runtime.is_empty() {
            creating.await??;
            continue;
        }
        gate.shut()?;
        gate.reached().await?;
        bench.kill_daemon().await?;
        gate.open();
        ensure!(creating.await?.is_err());
        let bundle = bench.node.setup.state.join("bundles").join(NS).join("s");
        eventually("the half-made sandbox is gone", Duration::from_secs(20), async || (!bundle.exists()).then_some(()))
            .await?;
        ensure!(code(&bench.status("s").await) == Code::NotFound);
    }
    // Nobody recorded it, yet its namespace is not empty.
    bench.start("s").await?;
    let namespaces = "namespaces.v1.Namespaces";
    let namespace = Some(Namespace { name: NS.into(), ..Namespace::default() });
    let request = CreateNamespaceRequest { namespace };
    bench.client.ask::<CreateNamespaceResponse>(namespaces, "Create", &request).await?;
    let request = DeleteNamespaceRequest { name: NS.into() };
    let refused = bench.client.ask::<()>(namespaces, "Delete", &request).await;
    ensure!(code(&refused) == Code::FailedPrecondition, "{refused:?}");
    bench.shutdown("s").await?;
    bench.client.ask::<()>(namespaces, "Delete", &request).await?;
    bench.end(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_and_names_are_kept_apart() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let asked = |sandbox_id: &str, sandboxer: &str| ControllerCreateRequest {
        sandbox_id: sandbox_id.into(),
        sandboxer: sandboxer.into(),
        ..ControllerCreateRequest::default()
    };
    for (request, expected) in [
        (asked("s", "shim"), Code::NotFound),
        (asked("s", "podsandbox"), Code::NotFound),
        (asked("../s", ""), Code::InvalidArgument),
        (asked("", ""), Code::InvalidArgument),
    ] {
        let answer = bench.client.ask::<ControllerCreateResponse>(CONTROLLER, "Create", &request).await;
        ensure!(code(&answer) == expected, "{request:?}: {answer:?}");
    }
    let refused = async |change: &dyn Fn(&mut ControllerCreateRequest)| {
        let mut request = asked("s", "");
        request.sandbox = Some(bench.described("s", ""));
        change(&mut request);
        bench.client.ask::<ControllerCreateResponse>(CONTROLLER, "Create", &request).await.map_err(|error| error.code())
    };
    let other = refused(&|request| request.sandbox = Some(bench.described("t", ""))).await;
    ensure!(other == Err(Code::InvalidArgument), "{other:?}");
    let nowhere = refused(&|request| request.sandbox = Some(bench.described("s", "io.containerd.none.v9"))).await;
    ensure!(nowhere == Err(Code::NotFound), "{nowhere:?}");
    let strange = refused(&|request| request.options = Some(Any { type_url: "x.Y".into(), value: vec![1] })).await;
    ensure!(strange == Err(Code::InvalidArgument), "{strange:?}");
    let rubbish = refused(&|request| {
        request.sandbox.iter_mut().for_each(|sandbox| sandbox.spec = spec(&json!({"linux": 7})));
    })
    .await;
    ensure!(rubbish == Err(Code::InvalidArgument), "{rubbish:?}");
    ensure!(code(&bench.start("s").await) == Code::NotFound && code(&bench.wait("s").await) == Code::NotFound);
    ensure!(code(&bench.status("s").await) == Code::NotFound && code(&bench.shutdown("s").await) == Code::NotFound);

    // A sandbox and a container with a shim of its own would have the same folder.
    bench.boot("s").await?;
    bench.describe("s", "", 0, "exec sleep 1000").await?;
    ensure!(code(&bench.task("s").await) == Code::AlreadyExists);
    bench.drop_record("s").await?;
    ensure!(bench.state("s").await? == "SANDBOX_READY", "the sandbox is untouched");
    bench.run("own", "", 0, "exec sleep 1000").await?;
    bench.record("own").await?;
    ensure!(code(&bench.create("own").await) == Code::AlreadyExists);
    ensure!(code(&bench.shutdown("own").await) == Code::NotFound, "a container is no sandbox");
    bench.describe("in", "own", 0, "true").await?;
    ensure!(code(&bench.task("in").await) == Code::NotFound);
    bench.describe("lost", "nowhere", 0, "true").await?;
    ensure!(code(&bench.task("lost").await) == Code::NotFound);

    // Another namespace has another sandbox of that name, or none.
    let other = bench.client.named(Some("sandboxes-other"));
    let request = ControllerStopRequest { sandbox_id: "s".into(), ..ControllerStopRequest::default() };
    other.ask::<ControllerStopResponse>(CONTROLLER, "Stop", &request).await?;
    let request = ControllerShutdownRequest { sandbox_id: "s".into(), ..ControllerShutdownRequest::default() };
    let shut = other.ask::<ControllerShutdownResponse>(CONTROLLER, "Shutdown", &request).await;
    ensure!(code(&shut) == Code::NotFound && bench.state("s").await? == "SANDBOX_READY");

    let update = |id: &str, fields: &[&str]| ControllerUpdateRequest {
        sandbox_id: id.into(),
        sandbox: Some(bench.described("s", "")),
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        ..ControllerUpdateRequest::default()
    };
    for (request, expected) in [
        (update("s", &[]), Code::Ok),
        (update("s", &["labels.a", "extensions"]), Code::Ok),
        (update("s", &["spec"]), Code::Unimplemented),
        (update("s", &["moon"]), Code::InvalidArgument),
        (update("t", &[]), Code::NotFound),
        (ControllerUpdateRequest { sandbox: None, ..update("s", &[]) }, Code::InvalidArgument),
    ] {
        let answer = bench.client.ask::<ControllerUpdateResponse>(CONTROLLER, "Update", &request).await;
        ensure!(code(&answer) == expected, "{:?}: {answer:?}", request.fields);
    }
    let kill =
        containerd_client::services::v1::KillRequest { container_id: "own".into(), signal: 9, ..Default::default() };
    bench.client.ask::<()>("tasks.v1.Tasks", "Kill", &kill).await?;
    ensure!(bench.exit("own").await? == 137 && bench.remove("own").await? == 137);
    for id in ["in", "lost"] {
        bench.drop_record(id).await?;
    }
    bench.forget("own").await?;
    bench.end(&["s"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_of_containerd_2_runs_sandboxes() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let Some(ctr) = Ctr::newer(&bench.node) else { return bench.end(&[]).await };
    let file = bench.node.dir().join("pod.json");
    fs::write(&file, bench.pod_spec("s").to_string())?;
    ctr.run(NS, &["sandboxes", "run", &file.to_string_lossy(), "s"])?;
    ensure!(ctr.run(NS, &["sandboxes", "ls"])?.contains("io.containerd.runc.v2"));
    ensure!(bench.state("s").await? == "SANDBOX_READY");
    ctr.run(NS, &["sandboxes", "rm", "s"])?;
    ensure!(code(&bench.status("s").await) == Code::NotFound);
    bench.end(&[]).await
}
