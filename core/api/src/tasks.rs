//! `containerd.services.tasks.v1.Tasks`: what runs.
//!
//! A verb that changes something goes on where its client hangs up: half a task is nobody's.

use std::borrow::Cow;

use containerd_client::services::v1::{
    CloseIoRequest, CreateTaskRequest, CreateTaskResponse, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest,
    ExecProcessRequest, GetRequest, GetResponse, KillRequest, ListPidsRequest, ListPidsResponse, ListTasksRequest,
    ListTasksResponse, MetricsRequest, MetricsResponse, PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest,
    StartRequest, StartResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_client::types::Metric;
use containerd_client::types::v1::{Process, ProcessInfo as MemberWord, Status as StatusWord};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tonic::{Request, Response, Status};
use windlass_engine::Core;
use windlass_engine::tasks::{AddExec, CreateTask, Member, ProcessInfo, Tasks as Engine};
use windlass_model::process::{Exit, State};
use windlass_model::{Error, Id, Timestamp};

use crate::codes::status;
use crate::finish::{Answer, finish};
use crate::served::tasks_server::{Tasks, TasksServer};
use crate::{runtime, tenant, words};

/// The namespace of a request's metrics in filters.
const NAMESPACE: &str = "namespace";

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> TasksServer<impl Tasks> {
    TasksServer::new(Service { core })
}

impl Service {
    fn tasks<T>(&self, request: &Request<T>) -> Result<Engine, Status> {
        Ok(tenant::of(&self.core, request)?.tasks())
    }
}

/// The exec that a client names; an empty name is the container's first process.
fn exec(text: &str) -> Result<Option<Id>, Status> {
    if text.is_empty() { Ok(None) } else { words::id(text).map(Some) }
}

#[tonic::async_trait]
impl Tasks for Service {
    async fn create(&self, request: Request<CreateTaskRequest>) -> Answer<CreateTaskResponse> {
        let tenant = tenant::of(&self.core, &request)?;
        let request = request.into_inner();
        let id = words::id(&request.container_id)?;
        finish(async move {
            if request.checkpoint.is_some() {
                return Err(Error::unimplemented("a task from a checkpoint"));
            }
            let record = tenant.containers().get(&id).await?;
            let runtime = runtime::of(&record, &request.runtime_path, request.options)?;
            let spec =
                record.spec.ok_or_else(|| Error::precondition(format!("container {id} has no specification")))?;
            let create = CreateTask {
                id: id.clone(),
                sandbox: record.sandbox,
                spec: spec.value,
                rootfs: request.rootfs.into_iter().map(words::mounted).collect(),
                terminal: request.terminal,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                runtime,
            };
            let pid = tenant.tasks().create(create).await?;
            Ok(CreateTaskResponse { container_id: id.into(), pid })
        })
        .await
    }

    async fn start(&self, request: Request<StartRequest>) -> Answer<StartResponse> {
        let tasks = self.tasks(&request)?;
        let (id, exec) = (words::id(&request.get_ref().container_id)?, exec(&request.get_ref().exec_id)?);
        finish(async move {
            let pid = match exec {
                None => tasks.start(&id).await?,
                Some(exec) => tasks.start_exec(&id, &exec).await?,
            };
            Ok(StartResponse { pid })
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteTaskRequest>) -> Answer<DeleteResponse> {
        let tasks = self.tasks(&request)?;
        let id = words::id(&request.get_ref().container_id)?;
        finish(async move {
            let pid = tasks.pid(&id);
            let exit = tasks.delete(&id).await?;
            Ok(deleted(&id, pid, exit))
        })
        .await
    }

    async fn delete_process(&self, request: Request<DeleteProcessRequest>) -> Answer<DeleteResponse> {
        let tasks = self.tasks(&request)?;
        let (id, exec) = (words::id(&request.get_ref().container_id)?, words::id(&request.get_ref().exec_id)?);
        finish(async move {
            let (pid, exit) = tasks.delete_exec(&id, &exec).await?;
            Ok(deleted(&exec, pid, exit))
        })
        .await
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<GetResponse> {
        let tasks = self.tasks(&request)?;
        let (id, exec) = (words::id(&request.get_ref().container_id)?, exec(&request.get_ref().exec_id)?);
        let info = tasks.describe(&id, exec.as_ref()).await.map_err(status)?;
        Ok(Response::new(GetResponse { process: Some(process(id.into(), info)) }))
    }

    async fn list(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        let all = self.tasks(&request)?.describe_all().await;
        let tasks = all.into_iter().map(|info| process(info.id.clone(), info)).collect();
        Ok(Response::new(ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Answer<()> {
        let tasks = self.tasks(&request)?;
        let KillRequest { container_id, exec_id, signal, all } = request.into_inner();
        let (id, exec) = (words::id(&container_id)?, exec(&exec_id)?);
        finish(async move {
            match exec {
                None => tasks.kill(&id, signal, all).await,
                Some(exec) => tasks.kill_exec(&id, &exec, signal).await,
            }
        })
        .await
    }

    async fn exec(&self, request: Request<ExecProcessRequest>) -> Answer<()> {
        let tasks = self.tasks(&request)?;
        let request = request.into_inner();
        let add = AddExec {
            container: words::id(&request.container_id)?,
            id: words::id(&request.exec_id)?,
            process: request.spec.map(|spec| spec.value).unwrap_or_default(),
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        finish(async move { tasks.add_exec(add).await }).await
    }

    async fn resize_pty(&self, request: Request<ResizePtyRequest>) -> Answer<()> {
        let tasks = self.tasks(&request)?;
        let ResizePtyRequest { container_id, exec_id, width, height } = request.into_inner();
        let (id, exec) = (words::id(&container_id)?, exec(&exec_id)?);
        let clamp = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
        tasks.resize(&id, exec.as_ref(), clamp(width), clamp(height)).await.map(Response::new).map_err(status)
    }

    async fn close_io(&self, request: Request<CloseIoRequest>) -> Answer<()> {
        let tasks = self.tasks(&request)?;
        let CloseIoRequest { container_id, exec_id, stdin } = request.into_inner();
        let (id, exec) = (words::id(&container_id)?, exec(&exec_id)?);
        if !stdin {
            return Ok(Response::new(()));
        }
        tasks.close_stdin(&id, exec.as_ref()).await.map(Response::new).map_err(status)
    }

    async fn pause(&self, request: Request<PauseTaskRequest>) -> Answer<()> {
        let tasks = self.tasks(&request)?;
        let id = words::id(&request.get_ref().container_id)?;
        finish(async move { tasks.pause(&id).await }).await
    }

    async fn resume(&self, request: Request<ResumeTaskRequest>) -> Answer<()> {
        let tasks = self.tasks(&request)?;
        let id = words::id(&request.get_ref().container_id)?;
        finish(async move { tasks.resume(&id).await }).await
    }

    async fn list_pids(&self, request: Request<ListPidsRequest>) -> Answer<ListPidsResponse> {
        let tasks = self.tasks(&request)?;
        let id = words::id(&request.get_ref().container_id)?;
        let word = |member: Member| MemberWord { pid: member.pid, info: member.details.map(words::any) };
        let processes = tasks.pids(&id).await.map_err(status)?.into_iter().map(word).collect();
        Ok(Response::new(ListPidsResponse { processes }))
    }

    async fn update(&self, request: Request<UpdateTaskRequest>) -> Answer<()> {
        let tasks = self.tasks(&request)?;
        let UpdateTaskRequest { container_id, resources, annotations: _ } = request.into_inner();
        let id = words::id(&container_id)?;
        let resources = resources.ok_or_else(|| status(Error::invalid("no resources to update")))?.value;
        finish(async move { tasks.update(&id, resources).await }).await
    }

    async fn metrics(&self, request: Request<MetricsRequest>) -> Answer<MetricsResponse> {
        let filter = words::filter(&request.get_ref().filters)?;
        let tenant = tenant::of(&self.core, &request)?;
        let (tasks, namespace) = (tenant.tasks(), tenant.namespace().as_str());
        let mut ids = tasks.list();
        ids.retain(|id| filter.matches(|path| field(id, namespace, path)));
        ids.sort();
        let mut asked: FuturesOrdered<_> = ids
            .iter()
            .map(async |id| {
                // One that has ended, or whose shim does not answer, uses nothing that could be told.
                let data = tasks.stats(id).await.ok()?;
                let timestamp = words::moment(Timestamp::now());
                Some(Metric { timestamp, id: id.to_string(), data: Some(words::any(data)) })
            })
            .collect();
        let mut metrics = Vec::with_capacity(ids.len());
        while let Some(one) = asked.next().await {
            metrics.extend(one);
        }
        Ok(Response::new(MetricsResponse { metrics }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Answer<WaitResponse> {
        let tasks = self.tasks(&request)?;
        let (id, exec) = (words::id(&request.get_ref().container_id)?, exec(&request.get_ref().exec_id)?);
        let exit = match exec {
            None => tasks.wait(&id).await,
            Some(exec) => tasks.wait_exec(&id, &exec).await,
        };
        let Exit { status: exit_status, at } = exit.map_err(status)?;
        Ok(Response::new(WaitResponse { exit_status, exited_at: words::moment(at) }))
    }
}

/// What a filter sees of a task.
fn field<'a>(id: &'a Id, namespace: &'a str, path: &[String]) -> Option<Cow<'a, str>> {
    match path.first().map(String::as_str) {
        Some("id") => words::field(id.as_str()),
        Some(NAMESPACE) => words::field(namespace),
        _ => None,
    }
}

fn deleted(id: &Id, pid: u32, exit: Exit) -> DeleteResponse {
    DeleteResponse { id: id.to_string(), pid, exit_status: exit.status, exited_at: words::moment(exit.at) }
}

fn process(container_id: String, info: ProcessInfo) -> Process {
    let ProcessInfo { id, state, stdin, stdout, stderr, terminal } = info;
    let word = match state.state {
        State::Unknown => StatusWord::Unknown,
        State::Created => StatusWord::Created,
        State::Running => StatusWord::Running,
        State::Stopped => StatusWord::Stopped,
        State::Paused => StatusWord::Paused,
        State::Pausing => StatusWord::Pausing,
    };
    Process {
        container_id,
        id,
        pid: state.pid,
        status: word.into(),
        stdin,
        stdout,
        stderr,
        terminal,
        exit_status: state.exit.map_or(0, |exit| exit.status),
        exited_at: state.exit.and_then(|exit| words::moment(exit.at)),
    }
}
