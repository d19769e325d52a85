//! Tasks by the words of the API, where `ctr` has none: sizes of terminals, and each field of the events of a task.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_client::events as told;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{
    CreateTaskRequest, CreateTaskResponse, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest, ExecProcessRequest,
    KillRequest, PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, StartResponse, SubscribeRequest,
    WaitRequest, WaitResponse,
};
use containerd_client::types::{Envelope, Mount};
use prost::{Message, Name};
use prost_types::{Any, Timestamp};
use serde_json::{Value, json};
use tonic::{Code, Request, Streaming};
use windlass_test_e2e::tasks::Bench;
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::{Context, Result, code, ensure, eventually};

const TASKS: &str = "tasks.v1.Tasks";

/// Writes the size of its terminal down again and again.
fn watch_size(file: &str) -> String {
    format!("while :; do /bin/busybox stty size > /out/tmp-{file}; mv /out/tmp-{file} /out/{file}; sleep 0.05; done")
}

fn process(script: &str, terminal: bool) -> Value {
    json!({"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "terminal": terminal,
        "user": {"uid": 0, "gid": 0}})
}

/// Records a container whose root file system comes with its task.
fn record(bench: &Bench, name: &str, process: &Value, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let spec = json!({
        "ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            {"destination": "/out", "type": "bind", "source": out, "options": ["rbind", "rw"]}],
        "linux": {"cgroupsPath": format!("/{}/{name}", bench.namespace), "resources": {"memory": {"limit": 32 << 20}},
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]}
    });
    let file = bench.node.dir().join(format!("{name}.json"));
    fs::write(&file, spec.to_string())?;
    bench.run(&["containers", "create", "--config", &file.to_string_lossy(), name]).map(drop)
}

fn creation(bench: &Bench, name: &str, terminal: bool) -> CreateTaskRequest {
    let options = vec!["rbind".into(), "rw".into()];
    let rootfs = Mount { r#type: "bind".into(), source: bench.rootfs.clone(), target: String::new(), options };
    CreateTaskRequest { container_id: name.into(), rootfs: vec![rootfs], terminal, ..Default::default() }
}

async fn start(tenant: &Tenant, container: &str, exec: &str) -> Result<u32> {
    let request = StartRequest { container_id: container.into(), exec_id: exec.into() };
    Ok(tenant.ask::<StartResponse>(TASKS, "Start", &request).await?.pid)
}

async fn add_exec(tenant: &Tenant, container: &str, exec: &str, process: &Value) -> Result<()> {
    let value = process.to_string().into_bytes();
    let spec = Some(Any { type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(), value });
    let request = ExecProcessRequest {
        container_id: container.into(),
        exec_id: exec.into(),
        terminal: process["terminal"] == true,
        spec,
        ..Default::default()
    };
    Ok(tenant.ask(TASKS, "Exec", &request).await?)
}

async fn resize(tenant: &Tenant, container: &str, exec: &str, size: (u32, u32)) -> Result<(), tonic::Status> {
    let (width, height) = size;
    let request = ResizePtyRequest { container_id: container.into(), exec_id: exec.into(), width, height };
    tenant.ask(TASKS, "ResizePty", &request).await
}

/// Waits for what `stty` says: rows and columns.
async fn sized(file: &Path, size: (u32, u32)) -> Result<()> {
    let wanted = format!("{} {}\n", size.1, size.0);
    eventually(&format!("{} is {wanted:?}", file.display()), Duration::from_secs(10), async || {
        (fs::read_to_string(file).ok()? == wanted).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_get_the_size_that_a_client_wants() -> Result<()> {
    let Some(mut bench) = Bench::start().await? else { return Ok(()) };
    let out = bench.node.dir().join("out");
    let mut tenant = bench.tenant().await?;
    record(&bench, "t", &process(&watch_size("task"), true), &out)?;
    tenant.ask::<CreateTaskResponse>(TASKS, "Create", &creation(&bench, "t", true)).await?;
    // The program may find its size when it starts.
    resize(&tenant, "t", "", (90, 30)).await?;
    start(&tenant, "t", "").await?;
    sized(&out.join("task"), (90, 30)).await?;
    add_exec(&tenant, "t", "e", &process(&watch_size("exec"), true)).await?;
    ensure!(code(&resize(&tenant, "t", "e", (1, 1)).await) == Code::FailedPrecondition);
    start(&tenant, "t", "e").await?;
    for (round, size) in [(0, 100), (1, 130)] {
        if round == 1 {
            bench.node.restart().await?;
            tenant = bench.tenant().await?;
        }
        resize(&tenant, "t", "", (size, 40)).await?;
        resize(&tenant, "t", "e", (size + 1, 41)).await?;
        sized(&out.join("task"), (size, 40)).await?;
        sized(&out.join("exec"), (size + 1, 41)).await?;
    }
    add_exec(&tenant, "t", "plain", &process("exec sleep 1000", false)).await?;
    start(&tenant, "t", "plain").await?;
    ensure!(code(&resize(&tenant, "t", "plain", (1, 1)).await) == Code::FailedPrecondition);
    ensure!(code(&resize(&tenant, "t", "none", (1, 1)).await) == Code::NotFound);
    ensure!(code(&resize(&tenant, "none", "", (1, 1)).await) == Code::NotFound);
    bench.end("t").await?;
    bench.node.finish().await
}

/// The events of tasks from now on, or all after number `after`. A listener of another name is another one.
async fn subscribe(bench: &Bench, tenant: &Tenant, name: &str, after: Option<u64>) -> Result<Streaming<Envelope>> {
    let filters = vec![format!("namespace=={},topic~=|^/tasks/|", bench.namespace), format!("topic=={name}")];
    let mut request = Request::new(SubscribeRequest { filters });
    if let Some(after) = after {
        request.metadata_mut().insert("windlass-events-after", after.into());
    }
    Ok(EventsClient::new(tenant.channel.clone()).subscribe(request).await?.into_inner())
}

/// The next event, which is to be of this type.
async fn next<M: Message + Name + Default>(events: &mut Streaming<Envelope>, topic: &str) -> Result<M> {
    let envelope = tokio::time::timeout(Duration::from_secs(20), events.message()).await.context("no event")??;
    let envelope = envelope.context("the end of events")?;
    let event = envelope.event.unwrap_or_default();
    ensure!(
        envelope.topic == topic && event.type_url == M::full_name(),
        "{topic}: {} {}",
        envelope.topic,
        event.type_url
    );
    recent(envelope.timestamp)?;
    Ok(M::decode(event.value.as_slice())?)
}

fn recent(at: Option<Timestamp>) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    ensure!(at.is_some_and(|at| (now - 60..=now + 1).contains(&at.seconds)), "{at:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_task_have_all_their_fields() -> Result<()> {
    let Some(bench) = Bench::start().await? else { return Ok(()) };
    let tenant = bench.tenant().await?;
    let mut events = subscribe(&bench, &tenant, "one", None).await?;
    let (out, id) = (bench.node.dir().join("out"), || "c".to_owned());
    record(&bench, "c", &process("exec sleep 1000", false), &out)?;
    let log = format!("file://{}", out.join("log").display());
    let request = CreateTaskRequest { stdout: log.clone(), stderr: log.clone(), ..creation(&bench, "c", false) };
    let pid = tenant.ask::<CreateTaskResponse>(TASKS, "Create", &request).await?.pid;
    let event: told::TaskCreate = next(&mut events, "/tasks/create").await?;
    ensure!(Path::new(&event.bundle).join("config.json").exists(), "{event:?}");
    let io = Some(told::TaskIo { stdin: String::new(), stdout: log.clone(), stderr: log, terminal: false });
    let bundle = event.bundle.clone();
    let checkpoint = String::new();
    ensure!(event == told::TaskCreate { container_id: id(), bundle, rootfs: request.rootfs, io, checkpoint, pid });
    start(&tenant, "c", "").await?;
    let event: told::TaskStart = next(&mut events, "/tasks/start").await?;
    ensure!(event == told::TaskStart { container_id: id(), pid });

    add_exec(&tenant, "c", "e", &process("exit 5", false)).await?;
    let event: told::TaskExecAdded = next(&mut events, "/tasks/exec-added").await?;
    ensure!(event == told::TaskExecAdded { container_id: id(), exec_id: "e".into() });
    let exec = start(&tenant, "c", "e").await?;
    let event: told::TaskExecStarted = next(&mut events, "/tasks/exec-started").await?;
    ensure!(event == told::TaskExecStarted { container_id: id(), exec_id: "e".into(), pid: exec });
    let event: told::TaskExit = next(&mut events, "/tasks/exit").await?;
    let waited = WaitRequest { container_id: id(), exec_id: "e".into() };
    let exited_at = tenant.ask::<WaitResponse>(TASKS, "Wait", &waited).await?.exited_at;
    ensure!(event == told::TaskExit { container_id: id(), id: "e".into(), pid: exec, exit_status: 5, exited_at });
    let forget = DeleteProcessRequest { container_id: id(), exec_id: "e".into() };
    tenant.ask::<DeleteResponse>(TASKS, "DeleteProcess", &forget).await?;

    tenant.ask::<()>(TASKS, "Pause", &PauseTaskRequest { container_id: id() }).await?;
    ensure!(next::<told::TaskPaused>(&mut events, "/tasks/paused").await? == told::TaskPaused { container_id: id() });
    tenant.ask::<()>(TASKS, "Resume", &ResumeTaskRequest { container_id: id() }).await?;
    ensure!(
        next::<told::TaskResumed>(&mut events, "/tasks/resumed").await? == told::TaskResumed { container_id: id() }
    );

    add_exec(&tenant, "c", "eater", &process("exec tail /dev/zero", false)).await?;
    next::<told::TaskExecAdded>(&mut events, "/tasks/exec-added").await?;
    start(&tenant, "c", "eater").await?;
    next::<told::TaskExecStarted>(&mut events, "/tasks/exec-started").await?;
    // Either may be told first.
    let mut met = Vec::new();
    while met.len() < 2 {
        let envelope = tokio::time::timeout(Duration::from_secs(20), events.message()).await??.context("the end")?;
        let event = envelope.event.unwrap_or_default();
        match envelope.topic.as_str() {
            "/tasks/oom" => ensure!(told::TaskOom::decode(event.value.as_slice())?.container_id == "c"),
            "/tasks/exit" => ensure!(told::TaskExit::decode(event.value.as_slice())?.id == "eater"),
            other => ensure!(false, "{other}"),
        }
        if !met.contains(&envelope.topic) {
            met.push(envelope.topic);
        }
    }

    let kill = KillRequest { container_id: id(), signal: 9, ..Default::default() };
    tenant.ask::<()>(TASKS, "Kill", &kill).await?;
    let event: told::TaskExit = next(&mut events, "/tasks/exit").await?;
    recent(event.exited_at)?;
    let exited_at = event.exited_at;
    ensure!(event == told::TaskExit { container_id: id(), id: id(), pid, exit_status: 137, exited_at });
    tenant.ask::<DeleteResponse>(TASKS, "Delete", &DeleteTaskRequest { container_id: id() }).await?;
    let event: told::TaskDelete = next(&mut events, "/tasks/delete").await?;
    ensure!(event == told::TaskDelete { container_id: id(), pid, exit_status: 137, exited_at, id: String::new() });
    bench.run(&["containers", "rm", "c"])?;
    bench.node.finish().await
}

/// The container and process of the next exit within a while.
async fn next_exit(events: &mut Streaming<Envelope>) -> Option<(String, String)> {
    let limit = windlass_test_e2e::patient(Duration::from_secs(3));
    loop {
        let envelope = tokio::time::timeout(limit, events.message()).await.ok()?.ok()??;
        if envelope.topic == "/tasks/exit" {
            let exit = told::TaskExit::decode(envelope.event?.value.as_slice()).ok()?;
            return Some((exit.container_id, exit.id));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_told_just_before_a_kill_is_one_event_for_ever() -> Result<()> {
    let Some(mut bench) = Bench::start().await? else { return Ok(()) };
    let out = bench.node.dir().join("out");
    let mut tenant = bench.tenant().await?;
    record(&bench, "c", &process("exec sleep 1000", false), &out)?;
    tenant.ask::<CreateTaskResponse>(TASKS, "Create", &creation(&bench, "c", false)).await?;
    start(&tenant, "c", "").await?;
    let mut expected = Vec::new();
    for round in 0..6 {
        let name = format!("e{round}");
        let mut events = subscribe(&bench, &tenant, &name, None).await?;
        if round < 5 {
            add_exec(&tenant, "c", &name, &process("exit 5", false)).await?;
            start(&tenant, "c", &name).await?;
            expected.push(("c".to_owned(), name));
        } else {
            let kill = KillRequest { container_id: "c".into(), signal: 9, ..Default::default() };
            tenant.ask::<()>(TASKS, "Kill", &kill).await?;
            expected.push(("c".into(), "c".into()));
        }
        // The shim may still wait for its answer.
        ensure!(next_exit(&mut events).await == expected.last().cloned(), "{round}");
        bench.node.restart().await?;
        tenant = bench.tenant().await?;
        if round == 2 {
            // A daemon that dies at once changes nothing.
            bench.node.restart().await?;
            tenant = bench.tenant().await?;
        }
    }
    // What shims have to tell again they tell soon.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut all = subscribe(&bench, &tenant, "all", Some(0)).await?;
    let mut found = Vec::new();
    while let Some(exit) = next_exit(&mut all).await {
        found.push(exit);
    }
    ensure!(found == expected, "{found:?}");
    bench.remove("c")?;
    bench.node.finish().await
}
