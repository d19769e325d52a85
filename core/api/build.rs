//! Generates servers for the containerd services over the messages of `containerd-client`, without any schema file.
//!
//! A method that is not listed here is not built; the generated server answers it with `Unimplemented`.

use std::error::Error;

use tonic_build::manual::{Builder, Method, Service};

/// Where the messages of most services are.
const V1: &str = "containerd_client::services::v1";

/// Where those of the snapshots service are.
const SNAPSHOTS: &str = "containerd_client::services::v1::snapshots";

/// One method: its name on the wire, what it takes, what it gives, and whether it gives a stream.
type Row = (&'static str, &'static str, &'static str, bool);

/// No message; the builder takes names of types only, so `()` has one.
const EMPTY: &str = "crate::words::Nothing";

/// Package, service, where its messages are, and its methods.
const SERVICES: &[(&str, &str, &str, &[Row])] = &[
    ("containerd.services.version.v1", "Version", V1, &[("Version", EMPTY, "VersionResponse", false)]),
    ("grpc.health.v1", "Health", "crate::health", &[("Check", "HealthCheckRequest", "HealthCheckResponse", false)]),
    ("containerd.services.introspection.v1", "Introspection", V1, &[("Server", EMPTY, "ServerResponse", false)]),
    (
        "containerd.services.namespaces.v1",
        "Namespaces",
        V1,
        &[
            ("Get", "GetNamespaceRequest", "GetNamespaceResponse", false),
            ("List", "ListNamespacesRequest", "ListNamespacesResponse", false),
            ("Create", "CreateNamespaceRequest", "CreateNamespaceResponse", false),
            ("Update", "UpdateNamespaceRequest", "UpdateNamespaceResponse", false),
            ("Delete", "DeleteNamespaceRequest", EMPTY, false),
        ],
    ),
    (
        "containerd.services.content.v1",
        "Content",
        V1,
        &[
            ("Info", "InfoRequest", "InfoResponse", false),
            ("List", "ListContentRequest", "ListContentResponse", true),
            ("Delete", "DeleteContentRequest", EMPTY, false),
            ("Read", "ReadContentRequest", "ReadContentResponse", true),
            ("Status", "StatusRequest", "StatusResponse", false),
            ("ListStatuses", "ListStatusesRequest", "ListStatusesResponse", false),
            ("Abort", "AbortRequest", EMPTY, false),
        ],
    ),
    (
        "containerd.services.images.v1",
        "Images",
        V1,
        &[
            ("Get", "GetImageRequest", "GetImageResponse", false),
            ("List", "ListImagesRequest", "ListImagesResponse", false),
            ("Delete", "DeleteImageRequest", EMPTY, false),
        ],
    ),
    (
        "containerd.services.snapshots.v1",
        "Snapshots",
        SNAPSHOTS,
        &[
            ("Mounts", "MountsRequest", "MountsResponse", false),
            ("Stat", "StatSnapshotRequest", "StatSnapshotResponse", false),
            ("List", "ListSnapshotsRequest", "ListSnapshotsResponse", true),
            ("Usage", "UsageRequest", "UsageResponse", false),
        ],
    ),
    (
        "containerd.services.containers.v1",
        "Containers",
        V1,
        &[
            ("Get", "GetContainerRequest", "GetContainerResponse", false),
            ("List", "ListContainersRequest", "ListContainersResponse", false),
            ("ListStream", "ListContainersRequest", "ListContainerMessage", true),
        ],
    ),
    (
        "containerd.services.tasks.v1",
        "Tasks",
        V1,
        &[
            ("Create", "CreateTaskRequest", "CreateTaskResponse", false),
            ("Start", "StartRequest", "StartResponse", false),
            ("Delete", "DeleteTaskRequest", "DeleteResponse", false),
            ("DeleteProcess", "DeleteProcessRequest", "DeleteResponse", false),
            ("Get", "GetRequest", "GetResponse", false),
            ("List", "ListTasksRequest", "ListTasksResponse", false),
            ("Kill", "KillRequest", EMPTY, false),
            ("Exec", "ExecProcessRequest", EMPTY, false),
            ("ResizePty", "ResizePtyRequest", EMPTY, false),
            ("CloseIO", "CloseIoRequest", EMPTY, false),
            ("Pause", "PauseTaskRequest", EMPTY, false),
            ("Resume", "ResumeTaskRequest", EMPTY, false),
            ("ListPids", "ListPidsRequest", "ListPidsResponse", false),
            ("Update", "UpdateTaskRequest", EMPTY, false),
            ("Metrics", "MetricsRequest", "MetricsResponse", false),
            ("Wait", "WaitRequest", "WaitResponse", false),
        ],
    ),
    ("containerd.services.leases.v1", "Leases", V1, &[("List", "ListRequest", "ListResponse", false)]),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let services: Vec<Service> = SERVICES.iter().map(service).collect();
    Builder::new().build_client(false).compile(&services);
    Ok(())
}

fn service((package, name, messages, methods): &(&str, &str, &str, &[Row])) -> Service {
    let place = |message: &str| if message == EMPTY { EMPTY.to_owned() } else { format!("{messages}::{message}") };
    let mut service = Service::builder().package(package).name(name);
    for (route, takes, gives, streams) in *methods {
        let method = Method::builder()
            .name(snake(route))
            .route_name(route)
            .input_type(place(takes))
            .output_type(place(gives))
            .codec_path("tonic_prost::ProstCodec");
        service = service.method(if *streams { method.server_streaming().build() } else { method.build() });
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
