//! What clients see as plugins: the parts that they ask for by containerd's names.
//!
//! Nothing here can be loaded or left out. A client looks for a snapshotter and the platforms it unpacks for, for the
//! runtime, or for the name of a service before it uses it.

use std::borrow::Cow;

use containerd_client::services::v1::Plugin;
use containerd_client::types::Platform as PlatformWord;
use windlass_engine::Core;
use windlass_model::Platform;

use crate::words;

/// The type of all gRPC services.
const GRPC: &str = "io.containerd.grpc.v1";

/// The type of what runs tasks.
pub(super) const RUNTIME: &str = "io.containerd.runtime.v2";

/// Parts that are for this machine's platform only.
const HERE: [(&str, &str); 2] = [(RUNTIME, "task"), ("io.containerd.differ.v1", "walking")];

/// Parts that know no platform.
const ANYWHERE: [(&str, &str); 10] = [
    ("io.containerd.content.v1", "content"),
    ("io.containerd.event.v1", "exchange"),
    ("io.containerd.gc.v1", "scheduler"),
    ("io.containerd.lease.v1", "manager"),
    ("io.containerd.metadata.v1", "bolt"),
    ("io.containerd.sandbox.controller.v1", "shim"),
    ("io.containerd.sandbox.store.v1", "local"),
    ("io.containerd.service.v1", "diff-service"),
    ("io.containerd.service.v1", "introspection-service"),
    ("io.containerd.service.v1", "tasks-service"),
];

/// Services, by the names of their plugins.
const SERVICES: [&str; 14] = [
    "containers",
    "content",
    "diff",
    "events",
    "healthcheck",
    "images",
    "introspection",
    "leases",
    "namespaces",
    "sandbox-controllers",
    "sandboxes",
    "snapshots",
    "tasks",
    "version",
];

/// All of them, in the order of their types.
pub(super) fn all(core: &Core) -> Vec<Plugin> {
    let host = host();
    let plugin = |kind: &str, id: &str| Plugin { r#type: kind.to_owned(), id: id.to_owned(), ..Default::default() };
    let here = |kind: &str, id: &str| Plugin { platforms: vec![host.clone()], ..plugin(kind, id) };
    let mut found: Vec<Plugin> = HERE.iter().map(|(kind, id)| here(kind, id)).collect();
    found.extend(ANYWHERE.iter().map(|(kind, id)| plugin(kind, id)));
    found.extend(SERVICES.iter().map(|id| plugin(GRPC, id)));
    found.push(Plugin {
        // Without these nerdctl offers `always` only.
        capabilities: ["no", "always", "on-failure", "unless-stopped"].map(str::to_owned).to_vec(),
        ..plugin("io.containerd.internal.v1", "restart")
    });
    found.extend(core.drivers().map(|driver| Plugin {
        exports: [("root".to_owned(), driver.root().display().to_string())].into(),
        ..here("io.containerd.snapshotter.v1", words::snapshotter(driver.name()))
    }));
    found.sort_by(|one, two| (&one.r#type, &one.id).cmp(&(&two.r#type, &two.id)));
    found
}

/// What a filter sees of a plugin.
pub(super) fn field<'a>(plugin: &'a Plugin, path: &[String]) -> Option<Cow<'a, str>> {
    match path.first()?.as_str() {
        "type" => words::field(&plugin.r#type),
        "id" => words::field(&plugin.id),
        _ => None,
    }
}

fn host() -> PlatformWord {
    let Platform { os, architecture, variant } = Platform::host();
    PlatformWord { os, architecture, variant, ..Default::default() }
}
