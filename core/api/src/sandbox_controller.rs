//! `containerd.services.sandbox.v1.Controller`: sandboxes that run, each in a shim that its containers share.
//!
//! There is one controller, which containerd calls `shim`; a request that names none means it, too. A verb that changes
//! something goes on where its client hangs up.

use std::time::Duration;

use containerd_client::services::v1::sandbox::{
    ControllerCreateRequest, ControllerCreateResponse, ControllerMetricsRequest, ControllerMetricsResponse,
    ControllerPlatformRequest, ControllerPlatformResponse, ControllerShutdownRequest, ControllerShutdownResponse,
    ControllerStartRequest, ControllerStartResponse, ControllerStatusRequest, ControllerStatusResponse,
    ControllerStopRequest, ControllerStopResponse, ControllerUpdateRequest, ControllerUpdateResponse,
    ControllerWaitRequest, ControllerWaitResponse,
};
use containerd_client::types::{Metric, Platform as PlatformWord, Sandbox};
use tonic::{Request, Status};
use windlass_engine::tasks::CreateSandbox;
use windlass_engine::{Core, Tenant, TypedBytes};
use windlass_model::process::Exit;
use windlass_model::{Error, Id, Platform, Result, Timestamp};

use crate::codes::status;
use crate::finish::{Answer, finish};
use crate::served::controller_server::{Controller, ControllerServer};
use crate::{mask, tenant, words};

/// The only controller.
const SHIM: &str = "shim";

/// What is said of a sandbox whose shim is no more.
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// What of a sandbox cannot change once it is made, and what its shim does not look at.
const FIELDS: [&str; 2] = ["runtime", "spec"];
const MAPS: [&str; 2] = ["labels", "extensions"];

struct Service {
    core: Core,
}

pub(crate) fn service(core: Core) -> ControllerServer<impl Controller> {
    ControllerServer::new(Service { core })
}

impl Service {
    /// Whose request it is, and which sandbox it is about.
    fn subject<T>(
        &self,
        request: &Request<T>,
        name: impl Fn(&T) -> (&str, &str),
    ) -> std::result::Result<(Tenant, Id), Status> {
        let tenant = tenant::of(&self.core, request)?;
        let (id, sandboxer) = name(request.get_ref());
        check_sandboxer(sandboxer).map_err(status)?;
        Ok((tenant, words::id(id)?))
    }
}

fn check_sandboxer(name: &str) -> Result<()> {
    match name {
        "" | SHIM => Ok(()),
        other => Err(Error::not_found(format!("there is no sandbox controller {other:?}"))),
    }
}

#[tonic::async_trait]
impl Controller for Service {
    async fn create(&self, request: Request<ControllerCreateRequest>) -> Answer<ControllerCreateResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        let request = request.into_inner();
        finish(async move {
            let create = plan(&tenant, id.clone(), request).await?;
            tenant.tasks().create_sandbox(create).await?;
            Ok(ControllerCreateResponse { sandbox_id: id.into() })
        })
        .await
    }

    async fn start(&self, request: Request<ControllerStartRequest>) -> Answer<ControllerStartResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        finish(async move {
            let tasks = tenant.tasks();
            let started = tasks.start_sandbox(&id).await?;
            let (address, version) = tasks.sandbox_endpoint(&id).await?;
            Ok(ControllerStartResponse {
                sandbox_id: id.into(),
                pid: started.pid,
                created_at: words::moment(started.created_at),
                address,
                version,
                ..ControllerStartResponse::default()
            })
        })
        .await
    }

    async fn platform(&self, request: Request<ControllerPlatformRequest>) -> Answer<ControllerPlatformResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        let Platform { os, architecture, variant } = tenant.tasks().sandbox_platform(&id).await.map_err(status)?;
        let platform = PlatformWord { os, architecture, variant, ..PlatformWord::default() };
        Ok(tonic::Response::new(ControllerPlatformResponse { platform: Some(platform) }))
    }

    async fn stop(&self, request: Request<ControllerStopRequest>) -> Answer<ControllerStopResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        let limit = match request.get_ref().timeout_secs {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        };
        finish(async move {
            tenant.tasks().stop_sandbox(&id, limit).await?;
            Ok(ControllerStopResponse {})
        })
        .await
    }

    async fn wait(&self, request: Request<ControllerWaitRequest>) -> Answer<ControllerWaitResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        let Exit { status: exit_status, at } = tenant.tasks().wait_sandbox(&id).await.map_err(status)?;
        Ok(tonic::Response::new(ControllerWaitResponse { exit_status, exited_at: words::moment(at) }))
    }

    async fn status(&self, request: Request<ControllerStatusRequest>) -> Answer<ControllerStatusResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        let told = tell(&tenant, id, request.get_ref().verbose).await;
        told.map(tonic::Response::new).map_err(status)
    }

    async fn shutdown(&self, request: Request<ControllerShutdownRequest>) -> Answer<ControllerShutdownResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        finish(async move {
            tenant.tasks().shutdown_sandbox(&id).await?;
            Ok(ControllerShutdownResponse {})
        })
        .await
    }

    async fn metrics(&self, request: Request<ControllerMetricsRequest>) -> Answer<ControllerMetricsResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        let data = tenant.tasks().sandbox_metrics(&id).await.map_err(status)?;
        let timestamp = words::moment(Timestamp::now());
        let metric = Metric { timestamp, id: id.into(), data: data.map(words::any) };
        Ok(tonic::Response::new(ControllerMetricsResponse { metrics: Some(metric) }))
    }

    async fn update(&self, request: Request<ControllerUpdateRequest>) -> Answer<ControllerUpdateResponse> {
        let (tenant, id) = self.subject(&request, |asked| (&asked.sandbox_id, &asked.sandboxer))?;
        let ControllerUpdateRequest { sandbox, fields, .. } = request.into_inner();
        words::required(sandbox, "a sandbox")?;
        mask::check(&fields, "a sandbox", &FIELDS, &MAPS)?;
        if !tenant.tasks().has_sandbox(&id) {
            return Err(status(Error::not_found(format!("sandbox {id} does not run"))));
        }
        if let Some(fixed) = fields.iter().find(|field| FIELDS.contains(&field.as_str())) {
            return Err(Status::unimplemented(format!("the {fixed} of a sandbox that was made does not change")));
        }
        // Nothing that runs comes from labels and extensions: the store has them.
        Ok(tonic::Response::new(ControllerUpdateResponse {}))
    }
}

/// What is to be made of a request: the sandbox that it describes, or else the one that is recorded.
///
/// # Errors
/// `NotFound` where it describes none and none is recorded; `InvalidArgument` where it describes another one.
async fn plan(tenant: &Tenant, id: Id, request: ControllerCreateRequest) -> Result<CreateSandbox> {
    let ControllerCreateRequest { sandbox, rootfs, options, netns_path, annotations, .. } = request;
    let (runtime, spec) = match sandbox {
        Some(Sandbox { sandbox_id, .. }) if !sandbox_id.is_empty() && sandbox_id != id.as_str() => {
            return Err(Error::invalid(format!("sandbox {id} is described as sandbox {sandbox_id:?}")));
        }
        Some(Sandbox { runtime, spec, .. }) => (runtime.unwrap_or_default().name, spec.map(words::typed)),
        None => {
            let record = tenant.sandboxes().get(&id).await?;
            (record.runtime.name, record.spec)
        }
    };
    Ok(CreateSandbox {
        id,
        shim: Some(runtime).filter(|name| !name.is_empty()),
        spec: spec.map(|TypedBytes { value, .. }| value),
        rootfs: rootfs.into_iter().map(words::mounted).collect(),
        options: options.map(words::typed),
        netns: netns_path,
        annotations: annotations.into_iter().collect(),
    })
}

/// Where a sandbox is. One that is recorded and has no shim is over, since when is not known any more.
async fn tell(tenant: &Tenant, id: Id, verbose: bool) -> Result<ControllerStatusResponse> {
    let tasks = tenant.tasks();
    let info = match tasks.sandbox_status(&id, verbose).await {
        Ok(info) => info,
        Err(error) if error.is_not_found() => {
            tenant.sandboxes().get(&id).await.map_err(|_| error)?;
            return Ok(ControllerStatusResponse {
                sandbox_id: id.into(),
                state: NOT_READY.into(),
                exited_at: words::moment(Timestamp::now()),
                ..ControllerStatusResponse::default()
            });
        }
        Err(error) => return Err(error),
    };
    let (address, version) = tasks.sandbox_endpoint(&id).await?;
    Ok(ControllerStatusResponse {
        sandbox_id: id.into(),
        pid: info.pid,
        state: info.state,
        info: info.info.into_iter().collect(),
        created_at: words::moment(info.created_at),
        exited_at: words::moment(info.exited_at),
        extra: info.extra.map(words::any),
        address,
        version,
    })
}
