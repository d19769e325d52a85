//! The calls of the sandbox service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use windlass_model::process::Exit;
use windlass_model::{Id, Platform, Result};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::sandbox::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest, SandboxStatusRequest,
    ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
};
use windlass_wire::{convert, ttrpc, words};

use super::super::{BootSandbox, Booted, CreateSandbox, PodOptions, SandboxInfo};
use super::{Client, QUICK, SLOW, STOP, call, silent, typed};
use crate::TypedBytes;

/// How much longer than a stop may take its answer may take.
const MARGIN: Duration = Duration::from_secs(2);

impl Client {
    /// Asks for a sign of life; a shim without the sandbox service gives one by saying so.
    pub(in super::super) async fn ping(&self, sandbox: &Id) -> Result<()> {
        let request = PingRequest { sandbox_id: sandbox.to_string(), ..PingRequest::default() };
        match timeout(QUICK, self.sandbox.ping_sandbox(self.metadata(), &request)).await {
            Ok(Ok(_) | Err(ttrpc::Error::RpcStatus(_))) => Ok(()),
            Ok(Err(error)) => Err(convert::from_error(error)),
            Err(_) => Err(silent("PingSandbox", QUICK)),
        }
    }

    /// Says what the sandbox is to be, and has it made.
    pub(in super::super) async fn boot(&self, bundle: &Path, request: &BootSandbox) -> Result<Booted> {
        let options = convert::any(words::TYPE_POD_OPTIONS, &wire_options(&request.options))?;
        let create = CreateSandboxRequest {
            sandbox_id: request.id.to_string(),
            bundle_path: bundle.display().to_string(),
            netns_path: text(request.netns.as_ref()),
            options: MessageField::some(options),
            ..CreateSandboxRequest::default()
        };
        self.describe_sandbox(&create).await?;
        self.start_sandbox(&request.id).await
    }

    /// Says what the sandbox is to be, in the words of whoever wants it.
    pub(in super::super) async fn create_sandbox(&self, bundle: &Path, request: &CreateSandbox) -> Result<()> {
        let CreateSandbox { id, shim: _, spec: _, rootfs, options, netns, annotations } = request;
        let any = |TypedBytes { type_url, value }: &TypedBytes| Any {
            type_url: type_url.clone(),
            value: value.clone(),
            ..Any::default()
        };
        let create = CreateSandboxRequest {
            sandbox_id: id.to_string(),
            bundle_path: bundle.display().to_string(),
            rootfs: rootfs.iter().map(convert::mount).collect(),
            options: MessageField::from_option(options.as_ref().map(any)),
            netns_path: netns.clone(),
            annotations: annotations.clone().into_iter().collect(),
            ..CreateSandboxRequest::default()
        };
        self.describe_sandbox(&create).await
    }

    async fn describe_sandbox(&self, request: &CreateSandboxRequest) -> Result<()> {
        call(SLOW, "CreateSandbox", self.sandbox.create_sandbox(self.metadata(), request)).await.map(drop)
    }

    /// Has the sandbox made.
    pub(in super::super) async fn start_sandbox(&self, sandbox: &Id) -> Result<Booted> {
        let start = StartSandboxRequest { sandbox_id: sandbox.to_string(), ..StartSandboxRequest::default() };
        let started = call(SLOW, "StartSandbox", self.sandbox.start_sandbox(self.metadata(), &start)).await?;
        let _ = self.pid.set(started.pid);
        Ok(Booted { pid: started.pid, created_at: convert::from_timestamp(&started.created_at) })
    }

    /// The process whose namespaces are the sandbox's.
    pub(in super::super) async fn sandbox_pid(&self, sandbox: &Id) -> Result<u32> {
        if let Some(pid) = self.pid.get() {
            return Ok(*pid);
        }
        let pid = self.sandbox_status(sandbox, false).await?.pid;
        if pid != 0 {
            let _ = self.pid.set(pid);
        }
        Ok(pid)
    }

    /// Where the sandbox is in its life, as its shim says.
    pub(in super::super) async fn sandbox_status(&self, sandbox: &Id, verbose: bool) -> Result<SandboxInfo> {
        let request =
            SandboxStatusRequest { sandbox_id: sandbox.to_string(), verbose, ..SandboxStatusRequest::default() };
        let status = call(QUICK, "SandboxStatus", self.sandbox.sandbox_status(self.metadata(), &request)).await?;
        Ok(SandboxInfo {
            pid: status.pid,
            state: status.state,
            info: status.info.into_iter().collect(),
            created_at: convert::from_timestamp(&status.created_at),
            exited_at: convert::from_timestamp(&status.exited_at),
            extra: status.extra.into_option().map(typed),
        })
    }

    /// The platform that the sandbox's containers are for.
    pub(in super::super) async fn platform(&self, sandbox: &Id) -> Result<Platform> {
        let request = PlatformRequest { sandbox_id: sandbox.to_string(), ..PlatformRequest::default() };
        let answer = call(QUICK, "Platform", self.sandbox.platform(self.metadata(), &request)).await?;
        let platform = answer.platform.into_option().unwrap_or_default();
        Ok(Platform { os: platform.os, architecture: platform.architecture, variant: platform.variant })
    }

    /// What the sandbox has used, in the words of its shim; nothing where that tells nothing.
    pub(in super::super) async fn sandbox_metrics(&self, sandbox: &Id) -> Result<Option<TypedBytes>> {
        let request = SandboxMetricsRequest { sandbox_id: sandbox.to_string(), ..SandboxMetricsRequest::default() };
        let answer = call(QUICK, "SandboxMetrics", self.sandbox.sandbox_metrics(self.metadata(), &request)).await?;
        Ok(answer.metrics.into_option().and_then(|metric| metric.data.into_option()).map(typed))
    }

    /// Waits for the end of the sandbox, however long that takes.
    pub(in super::super) async fn wait_sandbox(&self, sandbox: &Id) -> Result<Exit> {
        let request = WaitSandboxRequest { sandbox_id: sandbox.to_string(), ..WaitSandboxRequest::default() };
        let answer = self.sandbox.wait_sandbox(self.metadata(), &request).await.map_err(convert::from_error)?;
        Ok(Exit { status: answer.exit_status, at: convert::from_timestamp(&answer.exited_at) })
    }

    /// Ends every process of the sandbox within `limit`, in whole seconds; nothing: [`STOP`].
    pub(in super::super) async fn stop(&self, sandbox: &Id, limit: Option<Duration>) -> Result<()> {
        let limit = limit.unwrap_or(STOP);
        let request = StopSandboxRequest {
            sandbox_id: sandbox.to_string(),
            timeout_secs: u32::try_from(limit.as_secs()).unwrap_or(u32::MAX),
            ..StopSandboxRequest::default()
        };
        let limit = limit.saturating_add(MARGIN);
        call(limit, "StopSandbox", self.sandbox.stop_sandbox(self.metadata(), &request)).await.map(drop)
    }

    /// Ends the shim of a sandbox.
    pub(in super::super) async fn shutdown(&self, sandbox: &Id) -> Result<()> {
        let request = ShutdownSandboxRequest { sandbox_id: sandbox.to_string(), ..ShutdownSandboxRequest::default() };
        call(QUICK, "ShutdownSandbox", self.sandbox.shutdown_sandbox(self.metadata(), &request)).await.map(drop)
    }
}

/// A path as the wire has it; empty for none.
fn text(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn wire_options(options: &PodOptions) -> windlass_wire::extension::PodOptions {
    windlass_wire::extension::PodOptions {
        hostname: options.hostname.clone(),
        new_ipc: options.new_ipc,
        new_uts: options.new_uts,
        shared_pid: options.shared_pid,
        sysctls: options.sysctls.clone().into_iter().collect(),
        cgroup: options.cgroup.clone(),
        systemd_cgroup: options.systemd_cgroup,
        oom_score_adj: options.oom_score_adj,
        shm_bytes: options.shm_bytes,
        runtime_binary: text(options.runtime_binary.as_ref()),
        userns_path: text(options.userns.as_ref()),
        shm_uid: options.shm_owner.0,
        shm_gid: options.shm_owner.1,
        ..Default::default()
    }
}
