//! The sandbox service of the real shim: made in two steps, waited for, and shut down with what runs in it.

#![allow(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

mod rig;

use std::fs;
use std::time::{Duration, Instant};

use rig::{Rig, is_running, soon};
use serde_json::json;
use windlass_model::Kind;
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::sandbox::{
    CreateSandboxRequest, SandboxMetricsRequest, SandboxStatusRequest, SandboxStatusResponse, StartSandboxRequest,
    WaitSandboxRequest,
};
use windlass_wire::{convert, ttrpc, words};

fn kind<T>(answer: ttrpc::Result<T>) -> Kind {
    convert::from_error(answer.err().unwrap()).kind()
}

fn create(rig: &Rig) -> CreateSandboxRequest {
    CreateSandboxRequest { sandbox_id: rig.id.clone(), ..Default::default() }
}

fn start(rig: &Rig) -> StartSandboxRequest {
    StartSandboxRequest { sandbox_id: rig.id.clone(), ..Default::default() }
}

async fn status(rig: &Rig) -> ttrpc::Result<SandboxStatusResponse> {
    let request = SandboxStatusRequest { sandbox_id: rig.id.clone(), verbose: true, ..Default::default() };
    rig.sandbox.sandbox_status(soon(), &request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_is_made_as_its_specification_says() {
    let rig = Rig::new("spec").await;
    assert_eq!(kind(status(&rig).await), Kind::NotFound, "nobody created it");
    let cgroup = format!("{}-pod", rig.cgroup);
    let spec = json!({"hostname": "here", "linux": {"cgroupsPath": cgroup,
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "7"},
        "namespaces": [{"type": "network"}, {"type": "uts"}, {"type": "ipc"}, {"type": "pid"}]}});
    fs::write(rig.pod().join(words::SPEC_FILE), spec.to_string()).unwrap();
    rig.sandbox.create_sandbox(soon(), &create(&rig)).await.unwrap();
    assert_eq!(kind(rig.sandbox.create_sandbox(soon(), &create(&rig)).await), Kind::AlreadyExists);
    let made = status(&rig).await.unwrap();
    assert_eq!((made.state.as_str(), made.pid), ("SANDBOX_NOTREADY", 0));
    assert_eq!(kind(rig.create("c", "true").await), Kind::FailedPrecondition);
    let pid = rig.sandbox.start_sandbox(soon(), &start(&rig)).await.unwrap().pid;
    assert_eq!(kind(rig.sandbox.start_sandbox(soon(), &start(&rig)).await), Kind::FailedPrecondition);
    assert_ne!(pid, rig.shim_pid(), "its pid namespace has a process 1");
    for name in ["net", "uts", "ipc", "pid"] {
        let link = |of: &str| fs::read_link(format!("/proc/{of}/ns/{name}")).unwrap();
        assert_ne!(link(&pid.to_string()), link("self"), "{name}");
    }
    let ready = status(&rig).await.unwrap();
    assert_eq!((ready.state.as_str(), ready.info["cgroup"].as_str()), ("SANDBOX_READY", cgroup.as_str()));
    rig.run("c", "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; exec sleep 1000").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !rig.log("c").contains(" stdout F 7\n") {
        assert!(Instant::now() < deadline, "{}", rig.log("c"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(rig.log("c").contains(" stdout F here\n"));
    let request = SandboxMetricsRequest { sandbox_id: rig.id.clone(), ..Default::default() };
    let metrics = rig.sandbox.sandbox_metrics(soon(), &request).await.unwrap();
    assert!(metrics.metrics.data.type_url.starts_with("io.containerd.cgroups."));

    let request = WaitSandboxRequest { sandbox_id: rig.id.clone(), ..Default::default() };
    let (waited, ()) = tokio::join!(rig.sandbox.wait_sandbox(soon(), &request), rig.stop());
    assert_eq!(waited.unwrap().exit_status, 0);
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 137);
    let ended = status(&rig).await.unwrap();
    assert!(ended.state == "SANDBOX_NOTREADY" && ended.exited_at.is_some());
    assert_eq!(kind(rig.create("d", "true").await), Kind::FailedPrecondition);
    rig.delete("c", "").await.unwrap();
    rig.shutdown().await;
    assert!(!is_running(pid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_ended_before_the_shim() {
    let rig = Rig::new("leave").await;
    rig.boot(Default::default()).await;
    let pid = rig.run("c", "sleep 1000").await;
    rig.shutdown().await;
    assert!(!is_running(pid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_ends_with_its_process_1() {
    let rig = Rig::new("first").await;
    let pid = rig.boot(windlass_wire::extension::PodOptions { shared_pid: true, ..Default::default() }).await;
    windlass_sys::process::signal(pid, 9).unwrap();
    let request = WaitSandboxRequest { sandbox_id: rig.id.clone(), ..Default::default() };
    assert_eq!(rig.sandbox.wait_sandbox(soon(), &request).await.unwrap().exit_status, 137);
    assert_eq!(status(&rig).await.unwrap().state, "SANDBOX_NOTREADY");
    rig.stop().await;
    rig.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_of_others_are_refused() {
    let rig = Rig::new("strange").await;
    let options = MessageField::some(Any { type_url: "x.Y".into(), value: vec![1], ..Default::default() });
    let request = CreateSandboxRequest { options, ..create(&rig) };
    assert_eq!(kind(rig.sandbox.create_sandbox(soon(), &request).await), Kind::InvalidArgument);
    let other = CreateSandboxRequest { sandbox_id: "other".into(), ..Default::default() };
    assert_eq!(kind(rig.sandbox.create_sandbox(soon(), &other).await), Kind::NotFound);
    rig.sandbox.create_sandbox(soon(), &create(&rig)).await.unwrap();
    rig.sandbox.start_sandbox(soon(), &start(&rig)).await.unwrap();
    rig.shutdown().await;
}
