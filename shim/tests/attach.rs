//! Clients attached to a container, and execs that nobody asks for any more: on the real binary.

#![allow(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use windlass_wire::extension::{AttachRequest, EndExecsRequest};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::task::{CloseIORequest, ExecProcessRequest};
use windlass_wire::words;

mod rig;
use rig::Rig;

const RUNC: &str = "/usr/sbin/runc";

/// One attached client.
struct Client {
    stdin: Option<File>,
    stdout: File,
}

fn fifo(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.dir.join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    path
}

fn nonblocking(path: &PathBuf) -> File {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
}

impl Client {
    async fn new(rig: &Rig, container: &str, name: &str, stdin: bool) -> Self {
        let out = fifo(rig, &format!("{name}-out"));
        let stdout = nonblocking(&out);
        let input = stdin.then(|| fifo(rig, &format!("{name}-in")));
        let held = input.as_ref().map(|path| OpenOptions::new().read(true).write(true).open(path).unwrap());
        let request = AttachRequest {
            container_id: container.into(),
            stdin: input.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            stdout: out.display().to_string(),
            ..Default::default()
        };
        rig.extension.attach(rig::soon(), &request).await.unwrap();
        let stdin = input.map(|path| OpenOptions::new().write(true).open(path).unwrap());
        drop(held);
        Self { stdin, stdout }
    }

    fn say(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Reads until what came ends with `text`.
    async fn until(&mut self, text: &str) -> String {
        let begin = Instant::now();
        let mut all = Vec::new();
        let mut piece = [0; 65536];
        while !all.ends_with(text.as_bytes()) {
            match self.stdout.read(&mut piece) {
                Ok(count) => all.extend_from_slice(&piece[..count]),
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "no {text:?}: {:?}", String::from_utf8_lossy(&all));
        }
        String::from_utf8(all).unwrap()
    }

    /// Waits until the shim has closed its end.
    async fn end(&mut self) {
        let begin = Instant::now();
        let mut piece = [0; 65536];
        while !matches!(self.stdout.read(&mut piece), Ok(0)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(begin.elapsed() < Duration::from_secs(20), "the client sees no end");
        }
    }
}

/// Runs a container whose input is for those who attach.
async fn run(rig: &Rig, container: &str, script: &str, stdin: &str, terminal: bool) {
    rig.bundle(container, script, terminal);
    let mut request = rig.request(container, terminal);
    request.stdin = stdin.into();
    rig.task.create(rig::soon(), &request).await.unwrap();
    rig.start(container, "").await.unwrap();
}

fn descriptors(rig: &Rig) -> usize {
    fs::read_dir(format!("/proc/{}/fd", rig.shim_pid())).unwrap().count()
}

async fn until_descriptors(rig: &Rig, count: usize) {
    let begin = Instant::now();
    while descriptors(rig) != count {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begin.elapsed() < Duration::from_secs(10), "{} descriptors and not {count}", descriptors(rig));
    }
}

async fn clients_share_the_streams(rig: &Rig) {
    run(rig, "c", "cat", "attach://", false).await;
    let before = descriptors(rig);
    let mut first = Client::new(rig, "c", "first", true).await;
    let mut second = Client::new(rig, "c", "second", true).await;
    first.say("one\n");
    assert_eq!(first.until("one\n").await, "one\n");
    second.say("two\n");
    assert_eq!(second.until("two\n").await, "one\ntwo\n");
    assert_eq!(first.until("two\n").await, "two\n");
    // The end of one client's input is not the container's, and it still sees what comes.
    first.stdin = None;
    second.say("three\n");
    assert_eq!(first.until("three\n").await, "three\n");
    drop((first, second));
    until_descriptors(rig, before).await;
    let log = rig.log("c");
    assert!(log.lines().map(|line| line.rsplit(' ').next().unwrap()).eq(["one", "two", "three"]), "{log}");

    let mut last = Client::new(rig, "c", "last", true).await;
    let close = CloseIORequest { id: "c".into(), stdin: true, ..Default::default() };
    rig.task.close_io(rig::soon(), &close).await.unwrap();
    last.end().await;
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 0);
    rig.delete("c", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_share_a_container() {
    let rig = Rig::new("attach").await;
    clients_share_the_streams(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_share_a_container_of_runc() {
    let mut rig = Rig::new("attach-runc").await;
    rig.runtime = RUNC.into();
    clients_share_the_streams(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_for_one_client_ends_with_it() {
    let rig = Rig::new("once").await;
    run(&rig, "c", "cat; echo over; exit 4", "attach://once", false).await;
    let mut client = Client::new(&rig, "c", "a", true).await;
    client.say("hi\n");
    client.stdin = None;
    assert_eq!(client.until("over\n").await, "hi\nover\n");
    client.end().await;
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_its_end_key_pressed() {
    let rig = Rig::new("once-tty").await;
    run(&rig, "c", "cat; echo over", "attach://once", true).await;
    let mut client = Client::new(&rig, "c", "a", true).await;
    client.say("hi\n");
    client.until("hi\r\nhi\r\n").await;
    client.stdin = None;
    client.until("over\r\n").await;
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_up_nothing() {
    let rig = Rig::new("stalled").await;
    run(&rig, "c", "read go; seq 1 300000; echo done; read go; echo again; sleep 1000", "attach://", false).await;
    let mut stalled = Client::new(&rig, "c", "stalled", true).await;
    let mut keen = Client::new(&rig, "c", "keen", false).await;
    stalled.say("go\n");
    let seen = keen.until("done\n").await;
    // Whoever keeps up at this speed is not certain; the log is.
    assert!(seen.starts_with("1\n2\n"));
    let begin = Instant::now();
    while !rig.log("c").ends_with(" F done\n") {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(rig.log("c").lines().count(), 300_001);
    let mut early = vec![0; 1 << 20];
    let count = stalled.stdout.read(&mut early).unwrap();
    assert!(early[..count].starts_with(b"1\n2\n"));
    while stalled.stdout.read(&mut early).is_ok_and(|count| count > 0) {}
    stalled.say("go\n");
    let told = stalled.until("again\n").await;
    assert!(told.contains("bytes are missing here"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_attached_is_told() {
    let rig = Rig::new("unattached").await;
    rig.run("c", "sleep 1000").await;
    let path = fifo(&rig, "in");
    let _held = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut request =
        AttachRequest { container_id: "c".into(), stdin: path.display().to_string(), ..Default::default() };
    let error = rig.extension.attach(rig::soon(), &request).await.unwrap_err();
    assert!(error.to_string().contains("without an input"), "{error}");
    request.stdin = rig.dir.join("nothing").display().to_string();
    assert!(rig.extension.attach(rig::soon(), &request).await.is_err());
    request.container_id = "unknown".into();
    assert!(rig.extension.attach(rig::soon(), &request).await.is_err());
}

async fn start_exec(rig: &Rig, name: &str, script: &str) -> u32 {
    let spec = Any {
        type_url: words::TYPE_PROCESS.into(),
        value: serde_json::to_vec(&rig::process_spec(script, false)).unwrap(),
        ..Default::default()
    };
    let spec = MessageField::some(spec);
    let request = ExecProcessRequest { id: "c".into(), exec_id: name.into(), spec, ..Default::default() };
    rig.task.exec(rig::soon(), &request).await.unwrap();
    rig.start("c", name).await.unwrap()
}

async fn end(rig: &Rig, prefix: &str, grace_seconds: u32) -> u32 {
    let request = EndExecsRequest { prefix: prefix.into(), grace_seconds, ..Default::default() };
    rig.extension.end_execs(rig::soon(), &request).await.unwrap().ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execs_that_nobody_wants_end_and_are_forgotten() {
    let rig = Rig::new("end-execs").await;
    rig.run("c", "sleep 1000").await;
    let before = descriptors(&rig);
    let stubborn = start_exec(&rig, "mine-1", "trap '' HUP; sleep 1000 & wait").await;
    let polite = start_exec(&rig, "mine-2", "sleep 1000").await;
    let other = start_exec(&rig, "other", "sleep 1000").await;
    start_exec(&rig, "mine-3", "true").await;
    rig.wait("c", "mine-3").await.unwrap();
    assert_eq!(end(&rig, "none", 0).await, 0);
    assert_eq!(end(&rig, "mine-", 1).await, 3);
    let begin = Instant::now();
    while rig::is_running(polite) || rig::is_running(stubborn) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    assert!(rig::is_running(other));
    assert_eq!(end(&rig, "other", 0).await, 1);
    let begin = Instant::now();
    while end(&rig, "o", 0).await + end(&rig, "mine", 0).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begin.elapsed() < Duration::from_secs(10), "execs are not forgotten");
    }
    assert!(!rig::is_running(other));
    until_descriptors(&rig, before).await;
    let request = EndExecsRequest::default();
    assert!(rig.extension.end_execs(rig::soon(), &request).await.is_err(), "an empty prefix would be everybody's");
}
