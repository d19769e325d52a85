//! Every method of the containerd API, each with a whole request about something that another tenant has.

use std::collections::HashMap;
use std::fmt;

use containerd_client::events::TaskExit;
use containerd_client::services::v1::sandbox::*;
use containerd_client::services::v1::snapshots::{Info as Snapshot, *};
use containerd_client::services::v1::{Info as Blob, UpdateRequest as UpdateContentRequest, *};
use containerd_client::types::transfer::{ImageStore, OciRegistry};
use containerd_client::types::{Descriptor, Envelope, Mount, Sandbox};
use prost_types::{Any, FieldMask};

use crate::mounts::{Activate, Change, Named};
use crate::newer::Bytes;

use Does::{Changes, Looks};
use Owed::{Missing, Never, Own};

/// What one tenant has, by a name of each kind; where it has none of a kind, its container's id stands there.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// A container with a running task.
    pub container: String,
    /// A sandbox.
    pub sandbox: String,
    /// An image's name.
    pub image: String,
    /// The digest of what that name is for.
    pub digest: String,
    /// The type of what that name is for.
    pub media_type: String,
    /// A snapshot that is written to.
    pub snapshot: String,
    /// A committed snapshot.
    pub layer: String,
    /// The mounts of the snapshot that is written to.
    pub mounts: Vec<Mount>,
    /// A lease.
    pub lease: String,
}

/// Whether a method only looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// It looks.
    Looks,
    /// It changes something.
    Changes,
}

/// What a method may answer in the namespace of the one who asks, who has nothing of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// An error, whatever the one who asks has made of its own by such names.
    Never,
    /// An error until there is something of its own by that name.
    Missing,
    /// Something of its own, or about nobody.
    Own,
}

/// One method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its service's full name.
    pub service: &'static str,
    /// Its own.
    pub name: &'static str,
    /// What it does.
    pub does: Does,
    /// What is owed to a stranger.
    pub owed: Owed,
    /// The request.
    pub ask: fn(&Target) -> Bytes,
}

impl Target {
    /// The names by which its things are known.
    pub fn names(&self) -> Vec<&str> {
        let all = [
            &self.namespace,
            &self.container,
            &self.sandbox,
            &self.image,
            &self.digest,
            &self.snapshot,
            &self.layer,
            &self.lease,
        ];
        all.into_iter().map(String::as_str).filter(|name| !name.is_empty()).collect()
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.name)
    }
}

/// All methods, service by service.
pub fn all() -> impl Iterator<Item = Method> {
    METHODS.iter().flat_map(|(service, rows)| {
        rows.iter().map(|&(name, does, owed, ask)| Method { service, name, does, owed, ask })
    })
}

type Row = (&'static str, Does, Owed, fn(&Target) -> Bytes);

/// The word by which clients call the overlay driver.
const DRIVER: &str = "overlayfs";

const METHODS: &[(&str, &[Row])] = &[
    (
        "grpc.health.v1.Health",
        &[
            ("Check", Looks, Own, |_| Bytes::default()),
            ("List", Looks, Own, |_| Bytes::default()),
            ("Watch", Looks, Own, |_| Bytes::default()),
        ],
    ),
    ("containerd.services.version.v1.Version", &[("Version", Looks, Own, |_| Bytes::default())]),
    (
        "containerd.services.introspection.v1.Introspection",
        &[
            ("Plugins", Looks, Own, |_| Bytes::default()),
            ("Server", Looks, Own, |_| Bytes::default()),
            ("PluginInfo", Looks, Own, |_| {
                Bytes::of(&PluginInfoRequest {
                    r#type: "io.containerd.runtime.v2".into(),
                    id: "task".into(),
                    options: None,
                })
            }),
        ],
    ),
    (
        "containerd.services.namespaces.v1.Namespaces",
        &[
            ("Get", Looks, Never, |t| Bytes::of(&GetNamespaceRequest { name: t.namespace.clone() })),
            ("List", Looks, Own, |_| Bytes::default()),
            ("Create", Changes, Never, |t| Bytes::of(&CreateNamespaceRequest { namespace: Some(namespace(t)) })),
            ("Update", Changes, Never, |t| {
                let update_mask = mask("labels.x");
                Bytes::of(&UpdateNamespaceRequest { namespace: Some(namespace(t)), update_mask })
            }),
            ("Delete", Changes, Never, |t| Bytes::of(&DeleteNamespaceRequest { name: t.namespace.clone() })),
        ],
    ),
    (
        "containerd.services.leases.v1.Leases",
        &[
            ("Create", Changes, Own, |t| Bytes::of(&CreateRequest { id: t.lease.clone(), labels: mark() })),
            ("Delete", Changes, Missing, |t| Bytes::of(&DeleteRequest { id: t.lease.clone(), sync: true })),
            ("List", Looks, Own, |_| Bytes::default()),
            ("AddResource", Changes, Missing, |t| {
                Bytes::of(&AddResourceRequest { id: t.lease.clone(), resource: resource(t) })
            }),
            ("DeleteResource", Changes, Missing, |t| {
                Bytes::of(&DeleteResourceRequest { id: t.lease.clone(), resource: resource(t) })
            }),
            ("ListResources", Looks, Missing, |t| Bytes::of(&ListResourcesRequest { id: t.lease.clone() })),
        ],
    ),
    (
        "containerd.services.content.v1.Content",
        &[
            ("Info", Looks, Never, |t| Bytes::of(&InfoRequest { digest: t.digest.clone() })),
            ("Update", Changes, Never, |t| {
                let info = Some(Blob { digest: t.digest.clone(), labels: mark(), ..Default::default() });
                Bytes::of(&UpdateContentRequest { info, update_mask: mask("labels.x") })
            }),
            ("List", Looks, Own, |_| Bytes::default()),
            ("Delete", Changes, Never, |t| Bytes::of(&DeleteContentRequest { digest: t.digest.clone() })),
            ("Read", Looks, Never, |t| {
                Bytes::of(&ReadContentRequest { digest: t.digest.clone(), ..Default::default() })
            }),
            ("Status", Looks, Missing, |t| Bytes::of(&StatusRequest { r#ref: t.digest.clone() })),
            ("ListStatuses", Looks, Own, |_| Bytes::default()),
            ("Write", Changes, Own, |t| {
                let (r#ref, expected) = (t.digest.clone(), t.digest.clone());
                Bytes::of(&WriteContentRequest { r#ref, expected, ..Default::default() })
            }),
            ("Abort", Changes, Missing, |t| Bytes::of(&AbortRequest { r#ref: t.digest.clone() })),
        ],
    ),
    (
        "containerd.services.images.v1.Images",
        &[
            ("Get", Looks, Missing, |t| Bytes::of(&GetImageRequest { name: t.image.clone() })),
            ("List", Looks, Own, |_| Bytes::default()),
            ("Create", Changes, Own, |t| {
                Bytes::of(&CreateImageRequest { image: Some(image(t)), ..Default::default() })
            }),
            ("Update", Changes, Missing, |t| {
                let update_mask = mask("labels.x");
                Bytes::of(&UpdateImageRequest { image: Some(image(t)), update_mask, ..Default::default() })
            }),
            ("Delete", Changes, Missing, |t| {
                Bytes::of(&DeleteImageRequest { name: t.image.clone(), sync: true, ..Default::default() })
            }),
        ],
    ),
    (
        "containerd.services.snapshots.v1.Snapshots",
        &[
            ("Prepare", Changes, Never, |t| {
                let (snapshotter, key, parent) = (DRIVER.into(), "stolen".into(), t.layer.clone());
                Bytes::of(&PrepareSnapshotRequest { snapshotter, key, parent, labels: mark() })
            }),
            ("View", Changes, Never, |t| {
                let (snapshotter, key, parent) = (DRIVER.into(), "seen".into(), t.layer.clone());
                Bytes::of(&ViewSnapshotRequest { snapshotter, key, parent, labels: mark() })
            }),
            ("Mounts", Looks, Never, |t| {
                Bytes::of(&MountsRequest { snapshotter: DRIVER.into(), key: t.snapshot.clone() })
            }),
            ("Commit", Changes, Never, |t| {
                let (snapshotter, name, key) = (DRIVER.into(), "stolen-layer".into(), t.snapshot.clone());
                Bytes::of(&CommitSnapshotRequest { snapshotter, name, key, labels: mark() })
            }),
            ("Remove", Changes, Never, |t| {
                Bytes::of(&RemoveSnapshotRequest { snapshotter: DRIVER.into(), key: t.snapshot.clone() })
            }),
            ("Stat", Looks, Never, |t| {
                Bytes::of(&StatSnapshotRequest { snapshotter: DRIVER.into(), key: t.layer.clone() })
            }),
            ("Update", Changes, Never, |t| {
                let info = Snapshot { name: t.layer.clone(), labels: mark(), ..Default::default() };
                let update_mask = mask("labels.x");
                Bytes::of(&UpdateSnapshotRequest { snapshotter: DRIVER.into(), info: Some(info), update_mask })
            }),
            ("List", Looks, Own, |_| {
                Bytes::of(&ListSnapshotsRequest { snapshotter: DRIVER.into(), ..Default::default() })
            }),
            ("Usage", Looks, Never, |t| {
                Bytes::of(&UsageRequest { snapshotter: DRIVER.into(), key: t.snapshot.clone() })
            }),
            ("Cleanup", Changes, Own, |_| Bytes::of(&CleanupRequest { snapshotter: DRIVER.into() })),
        ],
    ),
    (
        "containerd.services.diff.v1.Diff",
        &[
            ("Apply", Changes, Never, |t| {
                let mounts = t.mounts.clone();
                Bytes::of(&ApplyRequest { diff: Some(descriptor(t)), mounts, ..Default::default() })
            }),
            ("Diff", Changes, Never, |t| {
                let (right, r#ref) = (t.mounts.clone(), "stolen-diff".into());
                let media_type = "application/vnd.oci.image.layer.v1.tar".into();
                Bytes::of(&DiffRequest { right, media_type, r#ref, ..Default::default() })
            }),
        ],
    ),
    (
        "containerd.services.containers.v1.Containers",
        &[
            ("Get", Looks, Missing, |t| Bytes::of(&GetContainerRequest { id: t.container.clone() })),
            ("List", Looks, Own, |_| Bytes::default()),
            ("ListStream", Looks, Own, |_| Bytes::default()),
            ("Create", Changes, Own, |t| Bytes::of(&CreateContainerRequest { container: Some(container(t)) })),
            ("Update", Changes, Missing, |t| {
                let update_mask = mask("labels.x");
                Bytes::of(&UpdateContainerRequest { container: Some(container(t)), update_mask })
            }),
            ("Delete", Changes, Missing, |t| Bytes::of(&DeleteContainerRequest { id: t.container.clone() })),
        ],
    ),
    (
        "containerd.services.tasks.v1.Tasks",
        &[
            ("Create", Changes, Never, |t| {
                let (container_id, rootfs) = (t.container.clone(), t.mounts.clone());
                Bytes::of(&CreateTaskRequest { container_id, rootfs, ..Default::default() })
            }),
            ("Start", Changes, Never, |t| {
                Bytes::of(&StartRequest { container_id: t.container.clone(), ..Default::default() })
            }),
            ("Delete", Changes, Never, |t| Bytes::of(&DeleteTaskRequest { container_id: t.container.clone() })),
            ("DeleteProcess", Changes, Never, |t| {
                Bytes::of(&DeleteProcessRequest { container_id: t.container.clone(), exec_id: "e".into() })
            }),
            ("Get", Looks, Never, |t| {
                Bytes::of(&GetRequest { container_id: t.container.clone(), ..Default::default() })
            }),
            ("List", Looks, Own, |_| Bytes::default()),
            ("Kill", Changes, Never, |t| {
                let container_id = t.container.clone();
                Bytes::of(&KillRequest { container_id, signal: 9, all: true, ..Default::default() })
            }),
            ("Exec", Changes, Never, |t| {
                let spec = r#"{"args":["/bin/true"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
                let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".into();
                let spec = Some(Any { type_url, value: spec.into() });
                let (container_id, exec_id) = (t.container.clone(), "e".into());
                Bytes::of(&ExecProcessRequest { container_id, exec_id, spec, ..Default::default() })
            }),
            ("ResizePty", Changes, Never, |t| {
                let container_id = t.container.clone();
                Bytes::of(&ResizePtyRequest { container_id, width: 9, height: 9, ..Default::default() })
            }),
            ("CloseIO", Changes, Never, |t| {
                Bytes::of(&CloseIoRequest { container_id: t.container.clone(), stdin: true, ..Default::default() })
            }),
            ("Pause", Changes, Never, |t| Bytes::of(&PauseTaskRequest { container_id: t.container.clone() })),
            ("Resume", Changes, Never, |t| Bytes::of(&ResumeTaskRequest { container_id: t.container.clone() })),
            ("ListPids", Looks, Never, |t| Bytes::of(&ListPidsRequest { container_id: t.container.clone() })),
            ("Checkpoint", Changes, Never, |t| {
                Bytes::of(&CheckpointTaskRequest { container_id: t.container.clone(), ..Default::default() })
            }),
            ("Update", Changes, Never, |t| {
                let type_url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into();
                let resources = Some(Any { type_url, value: r#"{"cpu":{"shares":2}}"#.into() });
                Bytes::of(&UpdateTaskRequest { container_id: t.container.clone(), resources, ..Default::default() })
            }),
            ("Metrics", Looks, Own, |t| Bytes::of(&MetricsRequest { filters: vec![format!("id=={}", t.container)] })),
            ("Wait", Looks, Never, |t| {
                Bytes::of(&WaitRequest { container_id: t.container.clone(), ..Default::default() })
            }),
        ],
    ),
    (
        "containerd.services.events.v1.Events",
        &[
            ("Publish", Changes, Own, |t| {
                Bytes::of(&PublishRequest { topic: "/tasks/exit".into(), event: Some(exit(t)) })
            }),
            ("Forward", Changes, Never, |t| {
                let (namespace, topic, timestamp) =
                    (t.namespace.clone(), "/tasks/exit".into(), Some(Default::default()));
                let envelope = Some(Envelope { namespace, topic, timestamp, event: Some(exit(t)) });
                Bytes::of(&ForwardRequest { envelope })
            }),
            ("Subscribe", Looks, Own, |t| {
                Bytes::of(&SubscribeRequest { filters: vec![format!("namespace=={}", t.namespace)] })
            }),
        ],
    ),
    (
        "containerd.services.streaming.v1.Streaming",
        &[("Stream", Changes, Own, |t| Bytes::of(&containerd_client::to_any(&StreamInit { id: t.container.clone() })))],
    ),
    (
        "containerd.services.transfer.v1.Transfer",
        &[("Transfer", Changes, Never, |t| {
            let source = ImageStore { name: t.image.clone(), ..Default::default() };
            let destination = OciRegistry { reference: "127.0.0.1:1/stolen:1".into(), resolver: None };
            let (source, destination) = (containerd_client::to_any(&source), containerd_client::to_any(&destination));
            let options = None;
            Bytes::of(&TransferRequest { source: Some(source), destination: Some(destination), options })
        })],
    ),
    (
        "containerd.services.sandbox.v1.Store",
        &[
            ("Create", Changes, Own, |t| Bytes::of(&StoreCreateRequest { sandbox: Some(sandbox(t)) })),
            ("Update", Changes, Missing, |t| {
                Bytes::of(&StoreUpdateRequest { sandbox: Some(sandbox(t)), fields: vec!["labels.x".into()] })
            }),
            ("Delete", Changes, Missing, |t| Bytes::of(&StoreDeleteRequest { sandbox_id: t.sandbox.clone() })),
            ("List", Looks, Own, |_| Bytes::default()),
            ("Get", Looks, Missing, |t| Bytes::of(&StoreGetRequest { sandbox_id: t.sandbox.clone() })),
        ],
    ),
    (
        "containerd.services.sandbox.v1.Controller",
        &[
            ("Create", Changes, Missing, |t| {
                let sandbox_id = t.sandbox.clone();
                Bytes::of(&ControllerCreateRequest { sandbox_id, ..Default::default() })
            }),
            ("Start", Changes, Missing, |t| {
                Bytes::of(&ControllerStartRequest { sandbox_id: t.sandbox.clone(), ..Default::default() })
            }),
            ("Platform", Looks, Missing, |t| {
                Bytes::of(&ControllerPlatformRequest { sandbox_id: t.sandbox.clone(), ..Default::default() })
            }),
            ("Stop", Changes, Own, |t| {
                Bytes::of(&ControllerStopRequest { sandbox_id: t.sandbox.clone(), ..Default::default() })
            }),
            ("Wait", Looks, Missing, |t| {
                Bytes::of(&ControllerWaitRequest { sandbox_id: t.sandbox.clone(), ..Default::default() })
            }),
            ("Status", Looks, Missing, |t| {
                let sandbox_id = t.sandbox.clone();
                Bytes::of(&ControllerStatusRequest { sandbox_id, verbose: true, ..Default::default() })
            }),
            ("Shutdown", Changes, Missing, |t| {
                Bytes::of(&ControllerShutdownRequest { sandbox_id: t.sandbox.clone(), ..Default::default() })
            }),
            ("Metrics", Looks, Missing, |t| {
                Bytes::of(&ControllerMetricsRequest { sandbox_id: t.sandbox.clone(), ..Default::default() })
            }),
            ("Update", Changes, Missing, |t| {
                let (sandbox_id, sandbox) = (t.sandbox.clone(), Some(sandbox(t)));
                let fields = vec!["labels.x".into()];
                Bytes::of(&ControllerUpdateRequest { sandbox_id, sandbox, fields, ..Default::default() })
            }),
        ],
    ),
    (
        "containerd.services.mounts.v1.Mounts",
        &[
            ("Activate", Changes, Never, |t| {
                let (name, mounts) = (t.snapshot.clone(), t.mounts.clone());
                Bytes::of(&Activate { name, mounts, ..Default::default() })
            }),
            ("Deactivate", Changes, Missing, |t| Bytes::of(&Named { name: t.snapshot.clone() })),
            ("Info", Looks, Missing, |t| Bytes::of(&Named { name: t.snapshot.clone() })),
            ("Update", Changes, Missing, |t| {
                Bytes::of(&Change { info: Some(Named { name: t.snapshot.clone() }), update_mask: mask("labels.x") })
            }),
            ("List", Looks, Own, |_| Bytes::default()),
        ],
    ),
];

/// The label that is found where a change succeeded.
fn mark() -> HashMap<String, String> {
    HashMap::from([("x".into(), "crossed".into())])
}

fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![path.into()] })
}

fn namespace(target: &Target) -> Namespace {
    Namespace { name: target.namespace.clone(), labels: mark() }
}

fn resource(target: &Target) -> Option<Resource> {
    Some(Resource { id: target.digest.clone(), r#type: "content".into() })
}

fn descriptor(target: &Target) -> Descriptor {
    let (media_type, digest) = (target.media_type.clone(), target.digest.clone());
    Descriptor { media_type, digest, size: 1, ..Default::default() }
}

fn image(target: &Target) -> Image {
    Image { name: target.image.clone(), labels: mark(), target: Some(descriptor(target)), ..Default::default() }
}

fn container(target: &Target) -> Container {
    Container {
        id: target.container.clone(),
        labels: mark(),
        image: target.image.clone(),
        runtime: Some(container::Runtime { name: "io.containerd.runc.v2".into(), options: None }),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: r#"{"ociVersion":"1.0.2"}"#.into(),
        }),
        snapshotter: DRIVER.into(),
        snapshot_key: target.snapshot.clone(),
        sandbox: target.sandbox.clone(),
        ..Default::default()
    }
}

fn sandbox(target: &Target) -> Sandbox {
    Sandbox { sandbox_id: target.sandbox.clone(), labels: mark(), ..Default::default() }
}

/// A word that the container's task has ended.
fn exit(target: &Target) -> Any {
    let (container_id, id) = (target.container.clone(), target.container.clone());
    containerd_client::to_any(&TaskExit { container_id, id, pid: 1, exit_status: 99, exited_at: None })
}
