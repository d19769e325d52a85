//! Owners against shims at the edge: scripts that fail in the ways executables fail, and a ttrpc server inside the test
//! that fails in the ways processes fail.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use windlass_model::event::Event;
use windlass_model::{Kind, Namespace};
use windlass_wire::sandbox as wire_sandbox;
use windlass_wire::task as wire;
use windlass_wire::ttrpc::asynchronous::{Server, TtrpcContext, transport::Listener};
use windlass_wire::{convert, ttrpc};

use super::bundle::Bundles;
use super::launch::Launcher;
use super::*;
use crate::events::{Events, Received, Receiver};
use crate::meta;

/// A script that answers as a shim does whose server listens in the bundle already.
const GOOD: &str = r#"
for word in "$@"; do last=$word; done
case $last in
start) echo "{\"version\":3,\"address\":\"unix://$PWD/s.sock\",\"protocol\":\"ttrpc\"}" ;;
delete) echo run >> "$PWD/../../../deleted" ;;
esac"#;

struct House {
    folder: TempDir,
    events: Events,
    shim: PathBuf,
}

/// What a shim's server does wrong.
#[derive(Default)]
struct Faults {
    hang: bool,
    refuse_create: bool,
}

/// A shim's server with containers that are only numbers.
#[derive(Default)]
struct Fake {
    faults: Mutex<Faults>,
    /// Containers and their exit status.
    tasks: Mutex<HashMap<String, Option<u32>>>,
}

impl House {
    async fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = meta::Db::open(&folder.path().join("meta")).await.unwrap();
        let events = Events::open(&db, crate::events::Config::default()).await.unwrap();
        // The numbers of one block are enough for a test.
        db.close().await;
        let shim = folder.path().join("shim");
        fs::write(&shim, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, events, shim }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    async fn roster(&self) -> Roster {
        let socket = self.folder.path().join("sock");
        let config = ShimConfig { shim: self.shim.clone(), events_address: socket.clone(), api_address: socket };
        Roster::open(self.state(), config, self.events.clone()).await.unwrap()
    }

    /// Serves a shim for `pod` where its script says.
    async fn serve(&self, pod: &str, fake: &Arc<Fake>) -> Server {
        let bundle = Bundles::new(&self.state()).of(&namespace(), &id(pod));
        bundle.make().unwrap();
        serve(&bundle.path().join("s.sock"), fake).await
    }

    fn deletes(&self) -> usize {
        fs::read_to_string(self.state().join("deleted")).map_or(0, |text| text.lines().count())
    }
}

async fn serve(socket: &Path, fake: &Arc<Fake>) -> Server {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    let mut server = Server::new()
        .add_listener(Listener::new(UnixListenerStream::new(listener)))
        .register_service(wire::create_task(fake.clone()))
        .register_service(wire_sandbox::create_sandbox(fake.clone()));
    server.start().await.unwrap();
    server
}

fn namespace() -> Namespace {
    "k8s.io".parse().unwrap()
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn boot(pod: &str) -> BootSandbox {
    BootSandbox { id: id(pod), shim: None, netns: None, options: PodOptions::default() }
}

fn create(pod: &str, container: &str) -> CreateTask {
    CreateTask {
        id: id(container),
        sandbox: Some(id(pod)),
        spec: b"{}".to_vec(),
        rootfs: Vec::new(),
        terminal: false,
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
        runtime: TaskRuntime::default(),
    }
}

/// The next event that `wanted` likes; fails after a second.
async fn event(receiver: &mut Receiver, wanted: impl Fn(&Event) -> bool) -> Event {
    let found = async {
        loop {
            match receiver.recv().await {
                Some(Received::Event(envelope)) if wanted(&envelope.event) => return envelope.event.clone(),
                Some(_) => {}
                None => panic!("the bus ended"),
            }
        }
    };
    timeout(Duration::from_secs(5), found).await.expect("the event comes")
}

#[tokio::test]
async fn an_executable_that_fails_says_why_and_leaves_nothing() {
    for (script, kind, said) in [
        ("echo no such luck >&2; exit 3", Kind::Unavailable, "no such luck"),
        ("echo rubbish", Kind::DataLoss, "rubbish"),
        ("kill -9 $$", Kind::Unavailable, "signal: 9"),
        ("true", Kind::DataLoss, "start"),
        ("head -c 1000000 /dev/zero", Kind::Unavailable, "it said nothing"),
        ("echo unix:///old", Kind::NotFound, "/old"),
        (r#"echo '{"version":4,"address":"unix:///a","protocol":"ttrpc"}'"#, Kind::Unimplemented, "task service 4"),
        (r#"echo '{"version":3,"address":"unix:///nowhere","protocol":"ttrpc"}'"#, Kind::NotFound, "nowhere"),
    ] {
        let house = House::new(script).await;
        let roster = house.roster().await;
        let tasks = Tasks::of(roster.clone(), namespace());
        let error = tasks.boot(boot("pod")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{script}: {error}");
        assert!(error.to_string().contains(said), "{script}: {error}");
        assert!(!house.state().join("bundles/k8s.io/pod").exists(), "{script}");
        tasks.down(&id("pod")).await.unwrap();
        assert!(!tasks.sandbox_alive(&id("pod")).await);
        assert!(roster.is_empty());
    }
}

#[tokio::test]
async fn an_executable_that_hangs_is_killed() {
    let house = House::new("exec sleep 1000").await;
    let roster = house.roster().await;
    let bundle = Bundles::new(&house.state()).of(&namespace(), &id("pod"));
    bundle.make().unwrap();
    let launcher = Launcher {
        binary: house.shim.clone(),
        namespace: namespace(),
        id: id("pod"),
        bundle,
        config: roster.inner().config.clone(),
        patience: Duration::from_millis(200),
    };
    let started = Instant::now();
    assert_eq!(launcher.start().await.unwrap_err().kind(), Kind::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_shim_that_keeps_the_pipes_open_delays_nobody() {
    let house = House::new(&format!("{GOOD}\nsleep 3 &")).await;
    let roster = house.roster().await;
    let fake = Arc::new(Fake::default());
    let _server = house.serve("pod", &fake).await;
    let started = Instant::now();
    Tasks::of(roster, namespace()).boot(boot("pod")).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_pod_lives_and_goes_down() {
    let house = House::new(GOOD).await;
    let roster = house.roster().await;
    let mut receiver = house.events.subscribe();
    let fake = Arc::new(Fake::default());
    let mut server = house.serve("pod", &fake).await;
    let tasks = Tasks::of(roster.clone(), namespace());
    assert_eq!(tasks.boot(boot("pod")).await.unwrap().pid, 4242);
    assert_eq!(tasks.boot(boot("pod")).await.unwrap_err().kind(), Kind::AlreadyExists);
    assert!(tasks.sandbox_alive(&id("pod")).await);
    assert_eq!(tasks.create(create("pod", "c1")).await.unwrap(), 7);
    assert_eq!(tasks.create(create("pod", "c1")).await.unwrap_err().kind(), Kind::AlreadyExists);
    tasks.start(&id("c1")).await.unwrap();

    // The exit is reported twice and taken once.
    let exit = Event::TaskExit { container: "c1".into(), process: "c1".into(), pid: 7, status: 3, at: Timestamp(5) };
    roster.take(&namespace(), exit.clone(), Timestamp::now());
    roster.take(&namespace(), exit.clone(), Timestamp::now());
    assert_eq!(event(&mut receiver, |_| true).await, exit);
    assert_eq!(tasks.wait(&id("c1")).await.unwrap().status, 3);
    fake.tasks.lock().insert("c1".into(), Some(3));
    assert_eq!(tasks.delete(&id("c1")).await.unwrap().status, 3);
    assert_eq!(tasks.delete(&id("c1")).await.unwrap_err().kind(), Kind::NotFound);
    assert!(!house.state().join("bundles/k8s.io/c1").exists());

    tasks.create(create("pod", "c2")).await.unwrap();
    let down = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.down(&id("pod")).await }
    });
    // The fake cannot end itself: its end is that of the server.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _ = timeout(Duration::from_millis(200), server.disconnect()).await;
    down.await.unwrap().unwrap();
    assert!(matches!(event(&mut receiver, |_| true).await, Event::TaskExit { container, .. } if container == "c2"));
    event(&mut receiver, |event| matches!(event, Event::SandboxExit { id, .. } if id == "pod")).await;
    assert!(!tasks.sandbox_alive(&id("pod")).await);
    assert_eq!(house.deletes(), 0, "it went down in order");
    assert!(tasks.state(&id("c2")).await.unwrap().exit.is_some(), "known until it is deleted");
    tasks.delete(&id("c2")).await.unwrap();
    tasks.down(&id("pod")).await.unwrap();
    assert_eq!(fs::read_dir(house.state().join("bundles/k8s.io")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_sandbox_is_created_and_started_in_two_steps() {
    // Its socket is elsewhere: a bundle that is there already is taken for a leftover.
    let house = House::new(&GOOD.replace("$PWD/s.sock", "$PWD/../../../fake.sock")).await;
    let tasks = Tasks::of(house.roster().await, namespace());
    let mut receiver = house.events.subscribe();
    let fake = Arc::new(Fake::default());
    let socket = house.state().join("fake.sock");
    fs::create_dir_all(house.state()).unwrap();
    let mut server = serve(&socket, &fake).await;
    let wanted = || CreateSandbox {
        id: id("pod"),
        shim: None,
        spec: Some(b"{}".to_vec()),
        rootfs: Vec::new(),
        options: None,
        netns: String::new(),
        annotations: BTreeMap::new(),
    };
    assert!(tasks.start_sandbox(&id("pod")).await.unwrap_err().is_not_found());
    tasks.create_sandbox(wanted()).await.unwrap();
    assert_eq!(fs::read(house.state().join("bundles/k8s.io/pod/config.json")).unwrap(), b"{}");
    assert_eq!(tasks.create_sandbox(wanted()).await.unwrap_err().kind(), Kind::AlreadyExists);
    // One bundle cannot be two things.
    let mut own = create("pod", "pod");
    own.sandbox = None;
    assert_eq!(tasks.create(own).await.unwrap_err().kind(), Kind::AlreadyExists);
    assert!(tasks.delete(&id("pod")).await.unwrap_err().is_not_found());
    assert_eq!(tasks.start_sandbox(&id("pod")).await.unwrap().pid, 4242);
    tasks.create(create("pod", "c")).await.unwrap();
    let mut twin = wanted();
    twin.id = id("c");
    assert_eq!(tasks.create_sandbox(twin).await.unwrap_err().kind(), Kind::AlreadyExists);
    assert!(tasks.create(create("c", "d")).await.unwrap_err().is_not_found(), "a container is no sandbox");
    assert!(tasks.shutdown_sandbox(&id("c")).await.unwrap_err().is_not_found());
    for topic in ["/sandboxes/create", "/sandboxes/start"] {
        assert_eq!(event(&mut receiver, |_| true).await.topic(), topic);
    }
    let waiting = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.wait_sandbox(&id("pod")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _ = timeout(Duration::from_millis(200), server.disconnect()).await;
    fs::remove_file(socket).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status, 137, "its shim is dead");
    event(&mut receiver, |event| matches!(event, Event::SandboxExit { status: 137, .. })).await;
    assert!(tasks.wait_sandbox(&id("nothing")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_task_that_cannot_be_made_leaves_nothing() {
    let house = House::new(GOOD).await;
    let tasks = Tasks::of(house.roster().await, namespace());
    let fake = Arc::new(Fake::default());
    let _server = house.serve("pod", &fake).await;
    tasks.boot(boot("pod")).await.unwrap();
    fake.faults.lock().refuse_create = true;
    let error = tasks.create(create("pod", "c")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().contains("no such program"), "{error}");
    assert!(!house.state().join("bundles/k8s.io/c").exists());
    fake.faults.lock().refuse_create = false;
    tasks.create(create("pod", "c")).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_shim_is_the_end_of_its_tasks() {
    let house = House::new(GOOD).await;
    let tasks = Tasks::of(house.roster().await, namespace());
    let fake = Arc::new(Fake::default());
    let mut server = house.serve("pod", &fake).await;
    tasks.boot(boot("pod")).await.unwrap();
    tasks.create(create("pod", "told")).await.unwrap();
    tasks.create(create("pod", "untold")).await.unwrap();
    let bundle = house.state().join("bundles/k8s.io/pod");
    let told =
        Event::TaskExit { container: "told".into(), process: "told".into(), pid: 7, status: 5, at: Timestamp(9) };
    let entry = windlass_wire::outbox::Entry {
        sequence: 1,
        timestamp: Timestamp(9),
        namespace: namespace(),
        event: told.clone(),
    };
    fs::create_dir(bundle.join("outbox")).unwrap();
    fs::write(windlass_wire::outbox::file(&bundle, 1), windlass_wire::outbox::encode(&entry)).unwrap();

    let mut receiver = house.events.subscribe();
    let waiting = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.wait(&id("untold")).await }
    });
    server.shutdown().await.unwrap();
    fs::remove_file(bundle.join("s.sock")).unwrap();
    assert_eq!(event(&mut receiver, |_| true).await, told);
    assert_eq!(waiting.await.unwrap().unwrap().status, 137);
    event(&mut receiver, |event| matches!(event, Event::SandboxExit { .. })).await;
    assert!(!tasks.sandbox_alive(&id("pod")).await);
    assert_eq!(house.deletes(), 1);
    assert!(!bundle.exists());

    // A daemon that starts now still knows how they ended.
    let tasks = Tasks::of(house.roster().await, namespace());
    assert_eq!(tasks.state(&id("told")).await.unwrap().exit.unwrap().status, 5);
    assert_eq!(tasks.delete(&id("untold")).await.unwrap().status, 137);
}

#[tokio::test]
async fn a_shim_that_hangs_stops_only_its_own_pod() {
    let house = House::new(GOOD).await;
    let roster = house.roster().await;
    let tasks = Tasks::of(roster.clone(), namespace());
    let (good, bad) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    let _servers = (house.serve("good", &good).await, house.serve("bad", &bad).await);
    tasks.boot(boot("good")).await.unwrap();
    tasks.boot(boot("bad")).await.unwrap();
    tasks.create(create("good", "g")).await.unwrap();
    tasks.create(create("bad", "b")).await.unwrap();
    bad.faults.lock().hang = true;
    let stuck = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.state(&id("b")).await }
    });
    let started = Instant::now();
    tasks.state(&id("g")).await.unwrap();

    // The next daemon opens at once, and waits for the hung one only where it is asked about it.
    roster.close().await;
    let tasks = Tasks::of(house.roster().await, namespace());
    tasks.state(&id("g")).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(tasks.state(&id("b")).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(stuck.await.unwrap().unwrap_err().kind(), Kind::DeadlineExceeded);
    assert!(tasks.sandbox_alive(&id("bad")).await, "silence is not death");

    // It can still be taken down.
    tasks.down(&id("bad")).await.unwrap();
    assert!(!tasks.sandbox_alive(&id("bad")).await);
    assert_eq!(house.deletes(), 1);
}

#[tokio::test]
async fn a_new_daemon_learns_what_happened_meanwhile() {
    let house = House::new(GOOD).await;
    let roster = house.roster().await;
    let tasks = Tasks::of(roster.clone(), namespace());
    let fake = Arc::new(Fake::default());
    let _server = house.serve("pod", &fake).await;
    tasks.boot(boot("pod")).await.unwrap();
    tasks.create(create("pod", "c")).await.unwrap();
    roster.close().await;
    fake.tasks.lock().insert("c".into(), Some(11));
    let mut receiver = house.events.subscribe();
    let tasks = Tasks::of(house.roster().await, namespace());
    assert_eq!(tasks.wait(&id("c")).await.unwrap().status, 11);
    event(&mut receiver, |event| matches!(event, Event::TaskExit { status: 11, .. })).await;
}

#[tokio::test]
async fn what_was_half_booted_is_taken_down() {
    let house = House::new(GOOD).await;
    let bundle = Bundles::new(&house.state()).of(&namespace(), &id("pod"));
    bundle.make().unwrap();
    // A process that looks like the shim, as a daemon leaves it that died before the answer.
    let mut orphan = std::process::Command::new("/bin/sh")
        .args(["-c", "kill -STOP $$; true", "-namespace", "k8s.io", "-id", "pod", "start"])
        .spawn()
        .unwrap();
    // Whoever starts a process goes on before the kernel shows the arguments of that.
    let arguments = format!("/proc/{}/cmdline", orphan.id());
    while fs::read(&arguments).unwrap().is_empty() {
        std::thread::yield_now();
    }
    let tasks = Tasks::of(house.roster().await, namespace());
    tasks.down(&id("pod")).await.unwrap();
    assert!(!orphan.wait().unwrap().success());
    assert!(!bundle.exists());
    tasks.down(&id("pod")).await.unwrap();
}

#[tokio::test]
async fn a_bundle_that_was_never_whole_goes_with_its_container() {
    let house = House::new(GOOD).await;
    let bundle = Bundles::new(&house.state()).of(&namespace(), &id("container"));
    bundle.make().unwrap();
    let tasks = Tasks::of(house.roster().await, namespace());
    assert!(tasks.delete(&id("container")).await.unwrap_err().is_not_found());
    assert!(!bundle.exists());
}

impl Fake {
    async fn answer<T: Default>(&self) -> ttrpc::Result<T> {
        if self.faults.lock().hang {
            std::future::pending::<()>().await;
        }
        Ok(T::default())
    }
}

#[async_trait]
impl wire_sandbox::Sandbox for Fake {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire_sandbox::CreateSandboxRequest,
    ) -> ttrpc::Result<wire_sandbox::CreateSandboxResponse> {
        self.answer().await
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire_sandbox::StartSandboxRequest,
    ) -> ttrpc::Result<wire_sandbox::StartSandboxResponse> {
        Ok(wire_sandbox::StartSandboxResponse { pid: 4242, ..Default::default() })
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire_sandbox::PingRequest,
    ) -> ttrpc::Result<wire_sandbox::PingResponse> {
        self.answer().await
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire_sandbox::WaitSandboxRequest,
    ) -> ttrpc::Result<wire_sandbox::WaitSandboxResponse> {
        std::future::pending().await
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire_sandbox::StopSandboxRequest,
    ) -> ttrpc::Result<wire_sandbox::StopSandboxResponse> {
        self.tasks.lock().values_mut().for_each(|exit| *exit = exit.or(Some(137)));
        self.answer().await
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire_sandbox::ShutdownSandboxRequest,
    ) -> ttrpc::Result<wire_sandbox::ShutdownSandboxResponse> {
        self.answer().await
    }
}

#[async_trait]
impl wire::Task for Fake {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: wire::CreateTaskRequest,
    ) -> ttrpc::Result<wire::CreateTaskResponse> {
        if self.faults.lock().refuse_create {
            return Err(convert::error(&windlass_model::Error::invalid("no such program")));
        }
        self.tasks.lock().insert(request.id, None);
        Ok(wire::CreateTaskResponse { pid: 7, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, _: wire::StartRequest) -> ttrpc::Result<wire::StartResponse> {
        Ok(wire::StartResponse { pid: 7, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: wire::StateRequest) -> ttrpc::Result<wire::StateResponse> {
        self.answer::<()>().await?;
        let exit = self.tasks.lock().get(&request.id).copied().ok_or_else(missing)?;
        let state = if exit.is_some() { State::Stopped } else { State::Running };
        Ok(wire::StateResponse {
            id: request.id,
            pid: 7,
            status: convert::state(state),
            exit_status: exit.unwrap_or(0),
            exited_at: exit.map(|_| convert::timestamp(Timestamp(1))).unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: wire::DeleteRequest) -> ttrpc::Result<wire::DeleteResponse> {
        let exit = self.tasks.lock().remove(&request.id).ok_or_else(missing)?;
        let exited_at = convert::timestamp(Timestamp(1));
        Ok(wire::DeleteResponse { pid: 7, exit_status: exit.unwrap_or(0), exited_at, ..Default::default() })
    }
}

fn missing() -> ttrpc::Error {
    convert::error(&windlass_model::Error::not_found("no such task"))
}
