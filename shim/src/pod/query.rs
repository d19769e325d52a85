//! The verbs that only ask: state, wait, pids, stats, connect, and the pod's own status and metrics.

use std::collections::HashMap;

use windlass_model::process::Exit;
use windlass_model::{Result, Timestamp};
use windlass_wire::protobuf::MessageField;
use windlass_wire::sandbox::{SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse};
use windlass_wire::task::{
    ConnectResponse, Empty, PidsResponse, ProcessDetails, ProcessInfo, StateRequest, StateResponse, StatsResponse,
    WaitRequest,
};
use windlass_wire::{convert, words};

use super::{Pod, answer, metrics};
use crate::serve::Reply;

impl Pod {
    pub(super) fn wait(&mut self, request: &WaitRequest, reply: Reply<Exit>) {
        match self.process(&request.id, &request.exec_id) {
            Ok(process) => match process.exit {
                Some(exit) => answer(reply, Ok(exit)),
                None => process.waiting.push(reply),
            },
            Err(error) => answer(reply, Err(error)),
        }
    }

    pub(super) fn state(&mut self, request: &StateRequest) -> Result<StateResponse> {
        let bundle = self.container(&request.id)?.bundle.path.display().to_string();
        let process = self.process(&request.id, &request.exec_id)?;
        let exit = process.exit;
        Ok(StateResponse {
            id: request.id.clone(),
            bundle,
            pid: process.pid,
            status: convert::state(process.state()),
            stdin: process.wish.stdin.clone(),
            stdout: process.wish.stdout.clone(),
            stderr: process.wish.stderr.clone(),
            terminal: process.wish.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map_or_else(MessageField::none, |exit| convert::timestamp(exit.at)),
            exec_id: request.exec_id.clone(),
            ..StateResponse::default()
        })
    }

    pub(super) fn pids(&mut self, id: &str) -> Result<PidsResponse> {
        let layout = self.limits.layout.clone();
        let container = self.container(id)?;
        let mut processes = Vec::new();
        for pid in layout.processes(&container.bundle.cgroup)? {
            let exec = container.execs.iter().find(|(_, exec)| exec.process.pid == pid);
            let info = exec.map(|(name, _)| {
                let details = ProcessDetails { exec_id: name.clone(), ..ProcessDetails::default() };
                convert::any(words::TYPE_PROCESS_DETAILS, &details)
            });
            let info = MessageField::from_option(info.transpose()?);
            processes.push(ProcessInfo { pid, info, ..ProcessInfo::default() });
        }
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    pub(super) fn stats(&mut self, id: &str) -> Result<StatsResponse> {
        let layout = self.limits.layout.clone();
        let any = metrics::read(&layout, &self.container(id)?.bundle.cgroup)?;
        Ok(StatsResponse { stats: MessageField::some(any), ..StatsResponse::default() })
    }

    pub(super) fn connect(&mut self, id: &str) -> Result<ConnectResponse> {
        let task_pid = self.containers.get(id).map_or(0, |container| container.init.pid);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: "v3".into(),
            ..ConnectResponse::default()
        })
    }

    pub(super) fn sandbox_status(&mut self, request: &SandboxStatusRequest) -> Result<SandboxStatusResponse> {
        self.check_made(&request.sandbox_id)?;
        let (started, exit) = (self.sandbox.started, self.sandbox.end.exit());
        let ready = started.is_some() && exit.is_none();
        Ok(SandboxStatusResponse {
            sandbox_id: self.id.to_string(),
            // Before the start there is no process whose namespaces are the pod's.
            pid: started.map_or(0, |_| self.sandbox_pid()),
            state: if ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.into(),
            info: if request.verbose { self.details() } else { Default::default() },
            created_at: started.map_or_else(Default::default, convert::timestamp),
            exited_at: exit.map_or_else(Default::default, |exit| convert::timestamp(exit.at)),
            ..SandboxStatusResponse::default()
        })
    }

    /// What a person wants to know who looks for a fault.
    fn details(&self) -> HashMap<String, String> {
        let containers: Vec<&str> = self.containers.keys().map(String::as_str).collect();
        let mut details = vec![
            ("bundle", self.bundle.display().to_string()),
            ("shim_pid", std::process::id().to_string()),
            ("containers", containers.join(" ")),
        ];
        if let Some(plan) = &self.sandbox.wish {
            details.push(("network_namespace", plan.netns.clone()));
            details.push(("cgroup", plan.options.cgroup.clone()));
        }
        if let Some(exit) = self.sandbox.end.exit() {
            details.push(("exit_status", exit.status.to_string()));
        }
        let told = details.into_iter().filter(|(_, value)| !value.is_empty());
        told.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What the pod's cgroup has used; nothing but the moment where the pod has no cgroup of its own.
    pub(super) fn sandbox_metrics(&mut self, id: &str) -> Result<SandboxMetricsResponse> {
        self.check_made(id)?;
        let mut response = SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.id = id.to_owned();
        metric.timestamp = convert::timestamp(Timestamp::now());
        let cgroup = self.sandbox.wish.as_ref().map(|plan| plan.options.cgroup.as_str());
        if let Some(cgroup) = cgroup.filter(|cgroup| !cgroup.is_empty()) {
            metric.data = MessageField::some(metrics::read(&self.limits.layout, cgroup)?);
        }
        Ok(response)
    }

    /// Ends a shim that serves no pod and has no container left.
    pub(super) fn shutdown(&mut self, now: bool) -> Result<Empty> {
        if now || (self.containers.is_empty() && !self.sandbox.is_pod()) {
            self.over = true;
        }
        Ok(Empty::default())
    }

    pub(super) fn oom_killed(&mut self, container: &str) {
        self.outbox.publish(windlass_model::event::Event::TaskOom { container: container.into() });
    }
}

/// The end of a process that was never there to be seen.
pub(super) fn unseen() -> Exit {
    Exit { status: 137, at: Timestamp::now() }
}
