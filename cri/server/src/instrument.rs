//! Wraps each RPC: a span with the ids it is about, its duration, one log line, and the code for its error.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};
use tracing::{Instrument as _, Level, Span, debug, field, info, span, warn};
use windlass_cri_api::v1;
use windlass_model::{Error, Kind, Result};

use crate::container::Container;
use crate::names::pod_name;
use crate::{Server, codes};

/// The header that tells how long the caller waits.
const DEADLINE: &str = "grpc-timeout";
/// How far ahead of the caller's deadline a call is given up.
const AHEAD: Duration = Duration::from_millis(5);

/// What a request is about, for spans and log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject<'a> {
    pod: Option<&'a str>,
    container: Option<&'a str>,
    image: Option<&'a str>,
}

/// Whose stages are those of a call's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A pod's, by its unique name.
    Pod(String),
    /// A container's that is there.
    Container(String),
    /// A container's that is to be there: the pod, its name, its attempt.
    Creation(String, String, u32),
}

/// Requests that say what they are about.
pub(crate) trait Named {
    /// The ids in the request.
    fn subject(&self) -> Subject<'_> {
        Subject::default()
    }

    /// Whose stages to look at when the call takes too long.
    fn work(&self) -> Option<Work> {
        None
    }
}

/// How loud a finished call is: the kubelet polls, and a poll is no news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loudness {
    /// Changes something.
    Verb,
    /// Only reads.
    Query,
}

macro_rules! named {
    ($($request:ident $($field:ident: $path:ident $(. $more:ident)?)?;)*) => {$(
        impl Named for v1::$request {
            $(fn subject(&self) -> Subject<'_> {
                Subject { $field: named!(@get self $path $($more)?), ..Subject::default() }
            })?
        }
    )*};
    (@get $self:ident $path:ident) => { Some($self.$path.as_str()) };
    (@get $self:ident $path:ident $more:ident) => { $self.$path.as_ref().map(|inner| inner.$more.as_str()) };
}

named! {
    VersionRequest;
    StopPodSandboxRequest pod: pod_sandbox_id;
    RemovePodSandboxRequest pod: pod_sandbox_id;
    PodSandboxStatusRequest pod: pod_sandbox_id;
    ListPodSandboxRequest;
    StreamPodSandboxesRequest;
    StopContainerRequest container: container_id;
    RemoveContainerRequest container: container_id;
    ListContainersRequest;
    StreamContainersRequest;
    ContainerStatusRequest container: container_id;
    UpdateContainerResourcesRequest container: container_id;
    ReopenContainerLogRequest container: container_id;
    ExecSyncRequest container: container_id;
    ExecRequest container: container_id;
    AttachRequest container: container_id;
    PortForwardRequest pod: pod_sandbox_id;
    ContainerStatsRequest container: container_id;
    ListContainerStatsRequest;
    StreamContainerStatsRequest;
    PodSandboxStatsRequest pod: pod_sandbox_id;
    ListPodSandboxStatsRequest;
    StreamPodSandboxStatsRequest;
    UpdateRuntimeConfigRequest;
    StatusRequest;
    CheckpointContainerRequest container: container_id;
    GetEventsRequest;
    ListMetricDescriptorsRequest;
    ListPodSandboxMetricsRequest;
    StreamPodSandboxMetricsRequest;
    RuntimeConfigRequest;
    UpdatePodSandboxResourcesRequest pod: pod_sandbox_id;
    ListImagesRequest;
    StreamImagesRequest;
    ImageStatusRequest image: image.image;
    PullImageRequest image: image.image;
    RemoveImageRequest image: image.image;
    ImageFsInfoRequest;
}

impl Named for v1::RunPodSandboxRequest {
    fn subject(&self) -> Subject<'_> {
        let metadata = self.config.as_ref().and_then(|config| config.metadata.as_ref());
        Subject { pod: metadata.map(|metadata| metadata.name.as_str()), ..Subject::default() }
    }

    fn work(&self) -> Option<Work> {
        let metadata = self.config.as_ref().and_then(|config| config.metadata.as_ref())?;
        Some(Work::Pod(pod_name(metadata)))
    }
}

impl Named for v1::CreateContainerRequest {
    fn subject(&self) -> Subject<'_> {
        Subject { pod: Some(&self.pod_sandbox_id), ..Subject::default() }
    }

    fn work(&self) -> Option<Work> {
        let metadata = self.config.as_ref().and_then(|config| config.metadata.clone())?;
        Some(Work::Creation(self.pod_sandbox_id.clone(), metadata.name, metadata.attempt))
    }
}

impl Named for v1::StartContainerRequest {
    fn subject(&self) -> Subject<'_> {
        Subject { container: Some(&self.container_id), ..Subject::default() }
    }

    fn work(&self) -> Option<Work> {
        Some(Work::Container(self.container_id.clone()))
    }
}

impl Server {
    /// The stages at which some work is, in words; empty where none is under way.
    fn whereabouts(&self, work: &Work) -> String {
        let id = match work {
            Work::Pod(name) => self.pods.named(name).map(|pod| pod.id.clone()),
            Work::Container(id) => self.containers.find(id).ok().map(|container| container.id.clone()),
            Work::Creation(pod, name, attempt) => {
                let wanted = |one: &Container| {
                    one.config.metadata.as_ref().is_some_and(|known| (&known.name, &known.attempt) == (name, attempt))
                };
                let pod = self.pods.find(pod).ok();
                let containers = pod.map(|pod| self.containers.of_pod(&pod.id)).unwrap_or_default();
                containers.into_iter().find(|one| wanted(one)).map(|one| one.id.clone())
            }
        };
        id.map(|id| self.timelines.at(&id)).unwrap_or_default()
    }
}

/// Runs one call of a verb.
pub(crate) async fn verb<Req, Res, F>(
    server: &Server,
    name: &'static str,
    request: Request<Req>,
    run: impl FnOnce(Req) -> F,
) -> Result<Response<Res>, Status>
where
    Req: Named,
    F: Future<Output = Result<Res>>,
{
    observed(server, name, Loudness::Verb, request, run).await
}

/// Runs one call that only reads.
pub(crate) async fn query<Req, Res, F>(
    server: &Server,
    name: &'static str,
    request: Request<Req>,
    run: impl FnOnce(Req) -> F,
) -> Result<Response<Res>, Status>
where
    Req: Named,
    F: Future<Output = Result<Res>>,
{
    observed(server, name, Loudness::Query, request, run).await
}

async fn observed<Req, Res, F>(
    server: &Server,
    name: &'static str,
    loudness: Loudness,
    request: Request<Req>,
    run: impl FnOnce(Req) -> F,
) -> Result<Response<Res>, Status>
where
    Req: Named,
    F: Future<Output = Result<Res>>,
{
    let patience = request.metadata().get(DEADLINE).and_then(|text| text.to_str().ok()).and_then(patience);
    let request = request.into_inner();
    let (counted, work) = (server.calls.begin(name), request.work());
    let span = span_of(name, request.subject());
    let begun = Instant::now();
    let call = run(request).instrument(span.clone());
    let result = match patience {
        None => call.await,
        Some(patience) => tokio::time::timeout(patience, call)
            .await
            .unwrap_or_else(|_| Err(late(name, &work.map(|work| server.whereabouts(&work)).unwrap_or_default()))),
    };
    let _inside = span.enter();
    let millis = Millis(begun);
    match &result {
        Ok(_) if loudness == Loudness::Verb => info!(%millis, "done"),
        Ok(_) => debug!(%millis, "done"),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unimplemented) => {
            debug!(%millis, %error, "refused");
        }
        Err(error) => warn!(%millis, kind = ?error.kind(), %error, "failed"),
    }
    let result = result.map(Response::new).map_err(|error| codes::status(&error));
    counted.end(result.as_ref().map_or_else(Status::code, |_| Code::Ok));
    result
}

/// The error of a call whose caller waits no longer, while its work goes on.
fn late(name: &str, at: &str) -> Error {
    let stage = if at.is_empty() { String::new() } else { format!("; it is at: {at}") };
    Error::deadline(format!("{name} took longer than its caller waits{stage}"))
}

fn span_of(name: &'static str, subject: Subject<'_>) -> Span {
    let span =
        span!(Level::INFO, "cri", rpc = name, pod = field::Empty, container = field::Empty, image = field::Empty);
    for (key, value) in [("pod", subject.pod), ("container", subject.container), ("image", subject.image)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            span.record(key, value);
        }
    }
    span
}

/// How long the call may take, from the value of [`DEADLINE`] (gRPC over HTTP/2, "Requests"): a moment less than the
/// caller waits, because the transport ends a late call with `Cancelled`, and a kubelet asks for `DeadlineExceeded`.
fn patience(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    let whole = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(whole.saturating_sub(AHEAD.min(whole / 10)))
}

/// Prints the milliseconds since a moment, with two decimals.
struct Millis(Instant);

impl Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2}", self.0.elapsed().as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_patience_is_read_from_the_header() {
        assert_eq!(patience("2S"), Some(Duration::from_millis(1995)));
        assert_eq!(patience("1000u"), Some(Duration::from_micros(900)));
        for bad in ["", "S", "5", "-1S", "123456789S", "1x", "1ä"] {
            assert_eq!(patience(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_late_call_says_where_it_is() {
        let late = |at: &str| late("RunPodSandbox", at).to_string();
        assert_eq!(late(""), "RunPodSandbox took longer than its caller waits");
        let said = late("network for 29.8 s");
        assert_eq!(said, "RunPodSandbox took longer than its caller waits; it is at: network for 29.8 s");
    }

    #[test]
    fn a_request_names_what_it_is_about() {
        let start = v1::StartContainerRequest { container_id: "c1".into() };
        assert_eq!(start.subject().container, Some("c1"));
        let pull = v1::PullImageRequest {
            image: Some(v1::ImageSpec { image: "a:b".into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(pull.subject().image, Some("a:b"));
        assert_eq!(v1::PullImageRequest::default().subject(), Subject::default());
    }
}
