//! A shim under test: the real binary in a folder of its own, its services, and the events that it sends.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_model::event::Event;
use windlass_sys::cgroup::Layout;
use windlass_sys::{mount, process};
use windlass_wire::bootstrap::Bootstrap;
use windlass_wire::events::{Events, ForwardRequest, create_events};
use windlass_wire::extension::{ExtensionClient, PodOptions};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::sandbox::{
    CreateSandboxRequest, SandboxClient, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
};
use windlass_wire::task::{
    CreateTaskRequest, DeleteRequest, Empty, ExecProcessRequest, KillRequest, Options, StartRequest, StateRequest,
    StateResponse, TaskClient, WaitRequest, WaitResponse,
};
use windlass_wire::ttrpc::r#async::{Client, Server, TtrpcContext};
use windlass_wire::ttrpc::context::{Context, with_duration};
use windlass_wire::{convert, ttrpc, words};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A shim and its folder; dropping it takes everything away.
pub struct Rig {
    pub dir: PathBuf,
    pub id: String,
    pub task: TaskClient,
    pub sandbox: SandboxClient,
    pub extension: ExtensionClient,
    pub events: Arc<Mutex<Vec<Event>>>,
    pub cgroup: String,
    pub namespaces: Vec<Value>,
    pub runtime: String,
    server: Option<Server>,
}

struct Collector(Arc<Mutex<Vec<Event>>>);

#[async_trait]
impl Events for Collector {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        if let Ok(event) = convert::from_event(&request.envelope.topic, &request.envelope.event) {
            self.0.lock().unwrap().push(event);
        }
        Ok(Empty::default())
    }
}

pub fn soon() -> Context {
    with_duration(Duration::from_secs(20))
}

/// The shim of this build, or another one: `WINDLASS_SHIM` names the small static one for measurements.
pub fn program() -> PathBuf {
    let other = std::env::var_os("WINDLASS_SHIM");
    other.map_or_else(|| env!("CARGO_BIN_EXE_containerd-shim-windlass-v1").into(), PathBuf::from)
}

pub fn shim() -> Command {
    Command::new(program())
}

impl Rig {
    /// Starts a shim.
    pub async fn new(name: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{name}-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(format!("w-d-{id}"));
        let bundle = dir.join("pod");
        fs::create_dir_all(&bundle).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let server = serve_events(&dir, &events).await;
        let client = start(&dir, &id).await;
        Self {
            task: TaskClient::new(client.clone()),
            sandbox: SandboxClient::new(client.clone()),
            extension: ExtensionClient::new(client),
            events,
            cgroup: format!("/windlass-test-{id}"),
            dir,
            id,
            namespaces: vec![json!({"type": "pid"})],
            runtime: String::new(),
            server: Some(server),
        }
    }

    pub fn pod(&self) -> PathBuf {
        self.dir.join("pod")
    }

    pub fn log(&self, container: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{container}.log"))).unwrap_or_default()
    }

    pub fn shim_pid(&self) -> u32 {
        fs::read_to_string(self.pod().join(words::PID_FILE)).unwrap().parse().unwrap()
    }

    /// The daemon goes away; its socket answers no more.
    pub async fn daemon_dies(&mut self) {
        self.server.take().unwrap().shutdown().await.unwrap();
        fs::remove_file(self.dir.join("events.sock")).ok();
    }

    pub async fn daemon_returns(&mut self) {
        self.server = Some(serve_events(&self.dir, &self.events).await);
    }

    /// Boots the pod; gives the process that shows its namespaces.
    pub async fn boot(&self, options: PodOptions) -> u32 {
        let request = CreateSandboxRequest {
            sandbox_id: self.id.clone(),
            bundle_path: self.pod().display().to_string(),
            options: MessageField::some(convert::any(words::TYPE_POD_OPTIONS, &options).unwrap()),
            ..Default::default()
        };
        self.sandbox.create_sandbox(soon(), &request).await.unwrap();
        let request = StartSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.sandbox.start_sandbox(soon(), &request).await.unwrap().pid
    }

    /// A bundle with busybox that runs `script`.
    pub fn bundle(&self, container: &str, script: &str, terminal: bool) -> PathBuf {
        let bundle = self.dir.join(container);
        busybox(&bundle.join("rootfs"));
        let mut namespaces = vec![json!({"type": "mount"})];
        namespaces.extend(self.namespaces.iter().cloned());
        let spec = json!({
            "ociVersion": "1.1.0",
            "process": process_spec(script, terminal),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}],
            "linux": {"cgroupsPath": format!("{}/{container}", self.cgroup), "namespaces": namespaces,
                "resources": {"devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 64 * 1024 * 1024}}}
        });
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&spec).unwrap()).unwrap();
        bundle
    }

    /// Changes the specification of a bundle.
    pub fn amend(&self, container: &str, change: impl FnOnce(&mut Value)) {
        let config = self.dir.join(container).join("config.json");
        let mut spec = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        change(&mut spec);
        fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
    }

    pub fn request(&self, container: &str, terminal: bool) -> CreateTaskRequest {
        let log = format!("cri-log://{}/{container}.log?max_line=16384", self.dir.display());
        let options = Options { binary_name: self.runtime.clone(), ..Default::default() };
        CreateTaskRequest {
            id: container.into(),
            bundle: self.dir.join(container).display().to_string(),
            terminal,
            stdout: log.clone(),
            stderr: if terminal { String::new() } else { log },
            options: MessageField::some(convert::any(words::TYPE_RUNC_OPTIONS, &options).unwrap()),
            ..Default::default()
        }
    }

    pub async fn create(&self, container: &str, script: &str) -> ttrpc::Result<u32> {
        self.bundle(container, script, false);
        self.task.create(soon(), &self.request(container, false)).await.map(|answer| answer.pid)
    }

    pub async fn start(&self, container: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = StartRequest { id: container.into(), exec_id: exec.into(), ..Default::default() };
        self.task.start(soon(), &request).await.map(|answer| answer.pid)
    }

    pub async fn run(&self, container: &str, script: &str) -> u32 {
        self.create(container, script).await.unwrap();
        self.start(container, "").await.unwrap()
    }

    pub async fn wait(&self, container: &str, exec: &str) -> ttrpc::Result<WaitResponse> {
        let request = WaitRequest { id: container.into(), exec_id: exec.into(), ..Default::default() };
        self.task.wait(soon(), &request).await
    }

    pub async fn state(&self, container: &str) -> ttrpc::Result<StateResponse> {
        let request = StateRequest { id: container.into(), ..Default::default() };
        self.task.state(soon(), &request).await
    }

    pub async fn kill(&self, container: &str, signal: u32) -> ttrpc::Result<Empty> {
        let request = KillRequest { id: container.into(), signal, ..Default::default() };
        self.task.kill(soon(), &request).await
    }

    pub async fn delete(&self, container: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest { id: container.into(), exec_id: exec.into(), ..Default::default() };
        self.task.delete(soon(), &request).await.map(|answer| answer.exit_status)
    }

    /// Runs `script` in the container with its output in two named pipes; gives status and output.
    pub async fn exec(
        &self,
        container: &str,
        exec: &str,
        script: &str,
        terminal: bool,
    ) -> ttrpc::Result<(u32, String)> {
        self.execute(container, exec, &process_spec(script, terminal)).await
    }

    /// Runs an OCI process as [`Rig::exec`] runs a script.
    pub async fn execute(&self, container: &str, exec: &str, process: &Value) -> ttrpc::Result<(u32, String)> {
        let terminal = process["terminal"] == true;
        let fifo = |name: &str| {
            let path = self.dir.join(format!("{exec}-{name}"));
            fs::remove_file(&path).ok();
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            path
        };
        let (out, err) = (fifo("out"), fifo("err"));
        let open = |path: &Path| fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let (mut out_end, _err_end) = (open(&out), open(&err));
        let request = ExecProcessRequest {
            id: container.into(),
            exec_id: exec.into(),
            terminal,
            stdout: out.display().to_string(),
            stderr: if terminal { String::new() } else { err.display().to_string() },
            spec: MessageField::some(Any {
                type_url: words::TYPE_PROCESS.into(),
                value: serde_json::to_vec(process).unwrap(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.task.exec(soon(), &request).await?;
        if let Err(error) = self.start(container, exec).await {
            self.delete(container, exec).await.unwrap();
            return Err(error);
        }
        let exit = self.wait(container, exec).await?;
        // All of the output is there when the exit is told.
        use std::io::Read;
        use std::os::fd::AsFd;
        let mut output = Vec::new();
        let mut buffer = [0; 65536];
        loop {
            let waiting = rustix::io::ioctl_fionread(out_end.as_fd()).unwrap();
            if waiting == 0 {
                break;
            }
            let count = out_end.read(&mut buffer).unwrap();
            output.extend_from_slice(&buffer[..count]);
        }
        self.delete(container, exec).await?;
        Ok((exit.exit_status, String::from_utf8_lossy(&output).into_owned()))
    }

    /// Waits until `found` is true of the events so far.
    pub async fn until(&self, what: &str, found: impl Fn(&[Event]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !found(&self.events.lock().unwrap()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.events.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn stop(&self) {
        let request = StopSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.sandbox.stop_sandbox(soon(), &request).await.unwrap();
    }

    pub async fn shutdown(&self) {
        let pid = self.shim_pid();
        let request = ShutdownSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.sandbox.shutdown_sandbox(soon(), &request).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while is_running(pid) {
            assert!(Instant::now() < deadline, "the shim does not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// `delete`, as the daemon calls it after a shim was killed.
    pub fn clean_up(&self) {
        let output =
            shim().args(["-namespace", "test", "-id", &self.id, "delete"]).current_dir(self.pod()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let layout = Layout::detect().unwrap();
        if let Ok(pid) = fs::read_to_string(self.pod().join(words::PID_FILE)).unwrap_or_default().parse()
            && is_running(pid)
        {
            process::signal(pid, 9).ok();
        }
        layout.kill(&self.cgroup).ok();
        layout.remove(&self.cgroup).ok();
        if std::thread::panicking() {
            eprintln!("shim's log: {}", fs::read_to_string(self.pod().join("log")).unwrap_or_default());
        }
        for folder in fs::read_dir(&self.dir).unwrap().flatten() {
            mount::unmount(&folder.path().join("rootfs")).ok();
            mount::unmount(&folder.path().join("shm")).ok();
        }
        fs::remove_dir_all(&self.dir).ok();
    }
}

pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn process_spec(script: &str, terminal: bool) -> Value {
    let capabilities = json!(["CAP_KILL", "CAP_CHOWN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": true
    })
}

fn busybox(rootfs: &Path) {
    for folder in ["bin", "proc", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    let target = rootfs.join("bin/busybox");
    fs::copy("/bin/busybox", &target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).unwrap();
    for name in
        ["sh", "echo", "sleep", "cat", "yes", "head", "hostname", "ps", "kill", "tty", "stty", "id", "ls", "seq", "dd"]
    {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).ok();
    }
}

async fn serve_events(dir: &Path, events: &Arc<Mutex<Vec<Event>>>) -> Server {
    let services = create_events(Arc::new(Collector(Arc::clone(events))));
    let mut server =
        Server::new().bind(&format!("unix://{}/events.sock", dir.display())).unwrap().register_service(services);
    server.start().await.unwrap();
    server
}

async fn start(dir: &Path, id: &str) -> Client {
    let output = shim()
        .args(["-namespace", "test", "-id", id, "-address", "/none", "-publish-binary", "", "start"])
        .current_dir(dir.join("pod"))
        .env(words::ENV_TTRPC_ADDRESS, dir.join("events.sock"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bootstrap = Bootstrap::parse(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    Client::connect(&bootstrap.address).await.unwrap()
}
