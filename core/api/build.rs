//! Generates servers for the containerd services over the messages of `containerd-client`, without any schema file.
//!
//! A method that is not listed here is not built; the generated server answers it with `Unimplemented`.

use std::error::Error;

use tonic_build::manual::{Builder, Method, Service};

use crate::Streams::{Answer, Both, Neither};

/// Where the messages of most services are.
const V1: &str = "containerd_client::services::v1";

/// Where those of the services of sandboxes are.
const SANDBOX: &str = "containerd_client::services::v1::sandbox";

/// Where those of the snapshots service are.
const SNAPSHOTS: &str = "containerd_client::services::v1::snapshots";

/// One method: its name on the wire, what it takes, what it gives, and which of the two are streams.
type Row = (&'static str, &'static str, &'static str, Streams);

/// Which side of a method is a stream.
#[derive(Clone, Copy)]
enum Streams {
    /// One message for one.
    Neither,
    /// One message is answered by a stream.
    Answer,
    /// A stream in, a stream out.
    Both,
}

/// No message; the builder takes names of types only, so `()` has one.
const EMPTY: &str = "crate::words::Nothing";

/// A message of any type.
const ANY: &str = "prost_types::Any";

/// Package, service, where its messages are, and its methods.
const SERVICES: &[(&str, &str, &str, &[Row])] = &[
    ("containerd.services.version.v1", "Version", V1, &[("Version", EMPTY, "VersionResponse", Neither)]),
    (
        "grpc.health.v1",
        "Health",
        "crate::health",
        &[
            ("Check", "HealthCheckRequest", "HealthCheckResponse", Neither),
            ("List", "HealthListRequest", "HealthListResponse", Neither),
            ("Watch", "HealthCheckRequest", "HealthCheckResponse", Answer),
        ],
    ),
    (
        "containerd.services.introspection.v1",
        "Introspection",
        V1,
        &[
            ("Plugins", "PluginsRequest", "PluginsResponse", Neither),
            ("Server", EMPTY, "ServerResponse", Neither),
            ("PluginInfo", "PluginInfoRequest", "PluginInfoResponse", Neither),
        ],
    ),
    (
        "containerd.services.namespaces.v1",
        "Namespaces",
        V1,
        &[
            ("Get", "GetNamespaceRequest", "GetNamespaceResponse", Neither),
            ("List", "ListNamespacesRequest", "ListNamespacesResponse", Neither),
            ("Create", "CreateNamespaceRequest", "CreateNamespaceResponse", Neither),
            ("Update", "UpdateNamespaceRequest", "UpdateNamespaceResponse", Neither),
            ("Delete", "DeleteNamespaceRequest", EMPTY, Neither),
        ],
    ),
    (
        "containerd.services.content.v1",
        "Content",
        V1,
        &[
            ("Info", "InfoRequest", "InfoResponse", Neither),
            ("List", "ListContentRequest", "ListContentResponse", Answer),
            ("Delete", "DeleteContentRequest", EMPTY, Neither),
            ("Read", "ReadContentRequest", "ReadContentResponse", Answer),
            ("Status", "StatusRequest", "StatusResponse", Neither),
            ("ListStatuses", "ListStatusesRequest", "ListStatusesResponse", Neither),
            ("Write", "WriteContentRequest", "WriteContentResponse", Both),
            ("Update", "UpdateRequest", "UpdateResponse", Neither),
            ("Abort", "AbortRequest", EMPTY, Neither),
        ],
    ),
    (
        "containerd.services.diff.v1",
        "Diff",
        V1,
        &[("Apply", "ApplyRequest", "ApplyResponse", Neither), ("Diff", "DiffRequest", "DiffResponse", Neither)],
    ),
    (
        "containerd.services.images.v1",
        "Images",
        V1,
        &[
            ("Get", "GetImageRequest", "GetImageResponse", Neither),
            ("List", "ListImagesRequest", "ListImagesResponse", Neither),
            ("Create", "CreateImageRequest", "CreateImageResponse", Neither),
            ("Update", "UpdateImageRequest", "UpdateImageResponse", Neither),
            ("Delete", "DeleteImageRequest", EMPTY, Neither),
        ],
    ),
    (
        "containerd.services.snapshots.v1",
        "Snapshots",
        SNAPSHOTS,
        &[
            ("Prepare", "PrepareSnapshotRequest", "PrepareSnapshotResponse", Neither),
            ("View", "ViewSnapshotRequest", "ViewSnapshotResponse", Neither),
            ("Mounts", "MountsRequest", "MountsResponse", Neither),
            ("Commit", "CommitSnapshotRequest", EMPTY, Neither),
            ("Remove", "RemoveSnapshotRequest", EMPTY, Neither),
            ("Stat", "StatSnapshotRequest", "StatSnapshotResponse", Neither),
            ("List", "ListSnapshotsRequest", "ListSnapshotsResponse", Answer),
            ("Update", "UpdateSnapshotRequest", "UpdateSnapshotResponse", Neither),
            ("Usage", "UsageRequest", "UsageResponse", Neither),
            ("Cleanup", "CleanupRequest", EMPTY, Neither),
        ],
    ),
    (
        "containerd.services.containers.v1",
        "Containers",
        V1,
        &[
            ("Get", "GetContainerRequest", "GetContainerResponse", Neither),
            ("List", "ListContainersRequest", "ListContainersResponse", Neither),
            ("ListStream", "ListContainersRequest", "ListContainerMessage", Answer),
            ("Create", "CreateContainerRequest", "CreateContainerResponse", Neither),
            ("Update", "UpdateContainerRequest", "UpdateContainerResponse", Neither),
            ("Delete", "DeleteContainerRequest", EMPTY, Neither),
        ],
    ),
    (
        "containerd.services.tasks.v1",
        "Tasks",
        V1,
        &[
            ("Create", "CreateTaskRequest", "CreateTaskResponse", Neither),
            ("Start", "StartRequest", "StartResponse", Neither),
            ("Delete", "DeleteTaskRequest", "DeleteResponse", Neither),
            ("DeleteProcess", "DeleteProcessRequest", "DeleteResponse", Neither),
            ("Get", "GetRequest", "GetResponse", Neither),
            ("List", "ListTasksRequest", "ListTasksResponse", Neither),
            ("Kill", "KillRequest", EMPTY, Neither),
            ("Exec", "ExecProcessRequest", EMPTY, Neither),
            ("ResizePty", "ResizePtyRequest", EMPTY, Neither),
            ("CloseIO", "CloseIoRequest", EMPTY, Neither),
            ("Pause", "PauseTaskRequest", EMPTY, Neither),
            ("Resume", "ResumeTaskRequest", EMPTY, Neither),
            ("ListPids", "ListPidsRequest", "ListPidsResponse", Neither),
            ("Update", "UpdateTaskRequest", EMPTY, Neither),
            ("Metrics", "MetricsRequest", "MetricsResponse", Neither),
            ("Wait", "WaitRequest", "WaitResponse", Neither),
        ],
    ),
    (
        "containerd.services.events.v1",
        "Events",
        V1,
        &[
            ("Publish", "PublishRequest", EMPTY, Neither),
            ("Forward", "ForwardRequest", EMPTY, Neither),
            ("Subscribe", "SubscribeRequest", "crate::events::Envelope", Answer),
        ],
    ),
    ("containerd.services.streaming.v1", "Streaming", V1, &[("Stream", ANY, ANY, Both)]),
    ("containerd.services.transfer.v1", "Transfer", V1, &[("Transfer", "TransferRequest", EMPTY, Neither)]),
    (
        "containerd.services.leases.v1",
        "Leases",
        V1,
        &[
            ("Create", "CreateRequest", "CreateResponse", Neither),
            ("Delete", "DeleteRequest", EMPTY, Neither),
            ("List", "ListRequest", "ListResponse", Neither),
            ("AddResource", "AddResourceRequest", EMPTY, Neither),
            ("DeleteResource", "DeleteResourceRequest", EMPTY, Neither),
            ("ListResources", "ListResourcesRequest", "ListResourcesResponse", Neither),
        ],
    ),
    (
        "containerd.services.mounts.v1",
        "Mounts",
        "crate::mounts",
        &[
            ("Activate", "ActivateRequest", "ActivateResponse", Neither),
            ("Deactivate", "DeactivateRequest", EMPTY, Neither),
            ("Info", "InfoRequest", "InfoResponse", Neither),
            ("Update", "UpdateRequest", "UpdateResponse", Neither),
            ("List", "ListRequest", "ListMessage", Answer),
        ],
    ),
    (
        "containerd.services.sandbox.v1",
        "Store",
        SANDBOX,
        &[
            ("Create", "StoreCreateRequest", "StoreCreateResponse", Neither),
            ("Update", "StoreUpdateRequest", "StoreUpdateResponse", Neither),
            ("Delete", "StoreDeleteRequest", "StoreDeleteResponse", Neither),
            ("List", "StoreListRequest", "StoreListResponse", Neither),
            ("Get", "StoreGetRequest", "StoreGetResponse", Neither),
        ],
    ),
    (
        "containerd.services.sandbox.v1",
        "Controller",
        SANDBOX,
        &[
            ("Create", "ControllerCreateRequest", "ControllerCreateResponse", Neither),
            ("Start", "ControllerStartRequest", "ControllerStartResponse", Neither),
            ("Platform", "ControllerPlatformRequest", "ControllerPlatformResponse", Neither),
            ("Stop", "ControllerStopRequest", "ControllerStopResponse", Neither),
            ("Wait", "ControllerWaitRequest", "ControllerWaitResponse", Neither),
            ("Status", "ControllerStatusRequest", "ControllerStatusResponse", Neither),
            ("Shutdown", "ControllerShutdownRequest", "ControllerShutdownResponse", Neither),
            ("Metrics", "ControllerMetricsRequest", "ControllerMetricsResponse", Neither),
            ("Update", "ControllerUpdateRequest", "ControllerUpdateResponse", Neither),
        ],
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let services: Vec<Service> = SERVICES.iter().map(service).collect();
    Builder::new().build_client(false).compile(&services);
    Ok(())
}

fn service((package, name, messages, methods): &(&str, &str, &str, &[Row])) -> Service {
    // A message of our own stands with its whole path.
    let place =
        |message: &str| if message.contains("::") { message.to_owned() } else { format!("{messages}::{message}") };
    let mut service = Service::builder().package(package).name(name);
    for (route, takes, gives, streams) in *methods {
        let method = Method::builder()
            .name(snake(route))
            .route_name(route)
            .input_type(place(takes))
            .output_type(place(gives))
            .codec_path("tonic_prost::ProstCodec");
        let method = match streams {
            Neither => method,
            Answer => method.server_streaming(),
            Both => method.client_streaming().server_streaming(),
        };
        service = service.method(method.build());
    }
    service.build()
}

/// `ListStatuses` as a function is called, and `CloseIO`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut small = false;
    for character in name.chars() {
        if character.is_uppercase() && small {
            out.push('_');
        }
        small = character.is_lowercase();
        out.extend(character.to_lowercase());
    }
    out
}
