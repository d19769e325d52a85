//! Names that both sides must spell alike: the shim's binary, files of a bundle, environment, type URLs.

/// The shim's executable.
pub const SHIM_NAME: &str = "containerd-shim-windlass-v1";
/// The runtime name that stands for [`SHIM_NAME`].
pub const RUNTIME_NAME: &str = "io.containerd.windlass.v1";

/// The header of a ttrpc request that names the namespace, which shims of others ask for.
pub const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// Environment of a shim: the socket where the daemon serves ttrpc events.
pub const ENV_TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Environment of a shim: the socket where the daemon serves gRPC.
pub const ENV_GRPC_ADDRESS: &str = "GRPC_ADDRESS";
/// Environment of our shim: the folder where the shims of a daemon share compiled seccomp profiles.
pub const ENV_SECCOMP_CACHE: &str = "WINDLASS_SECCOMP_CACHE";
/// Environment of a shim: the namespace of its tasks.
pub const ENV_NAMESPACE: &str = "NAMESPACE";

/// In a pod's bundle: how to reach the shim, see [`crate::bootstrap`].
pub const BOOTSTRAP_FILE: &str = "bootstrap.json";
/// In a pod's bundle: the shim's process id in decimal.
pub const PID_FILE: &str = "shim.pid";
/// In a pod's bundle: the shim's socket, where the path is short enough for one.
pub const SOCKET_FILE: &str = "s.sock";
/// In a pod's bundle: events that the daemon has not acknowledged, see [`crate::outbox`].
pub const OUTBOX_DIR: &str = "outbox";
/// In a pod's bundle: the tmpfs that containers share as `/dev/shm`.
pub const SHM_DIR: &str = "shm";
/// In a pod's bundle: what the shim has to say about itself.
pub const LOG_FILE: &str = "log";
/// In a container's bundle: where the root file system is mounted.
pub const ROOTFS_DIR: &str = "rootfs";
/// In a container's bundle: the OCI runtime specification.
pub const SPEC_FILE: &str = "config.json";

/// The type URL of [`crate::extension::PodOptions`] in `CreateSandboxRequest.options`.
pub const TYPE_POD_OPTIONS: &str = "windlass.shim.v1.PodOptions";
/// The type URL of [`crate::task::Options`] in `CreateTaskRequest.options`.
pub const TYPE_RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
/// The type URL of an OCI `Process` as JSON in `ExecProcessRequest.spec`.
pub const TYPE_PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The type URL of an OCI `Spec` as JSON.
pub const TYPE_SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The type URL of an OCI `LinuxResources` as JSON in `UpdateTaskRequest.resources`.
pub const TYPE_RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// The type URL of cgroup v1 metrics in `StatsResponse.stats`.
pub const TYPE_METRICS_V1: &str = "io.containerd.cgroups.v1.Metrics";
/// The type URL of cgroup v2 metrics in `StatsResponse.stats`.
pub const TYPE_METRICS_V2: &str = "io.containerd.cgroups.v2.Metrics";
/// The type URL of [`crate::task::ProcessDetails`] in `PidsResponse`.
pub const TYPE_PROCESS_DETAILS: &str = "containerd.runc.v1.ProcessDetails";

/// The message's name in a type URL: what follows the last `/`, where a host stands before it, else all of it.
///
/// Clients write `containerd.events.TaskExit` as well as `type.googleapis.com/containerd.events.TaskExit`.
pub fn message_name(type_url: &str) -> &str {
    type_url.strip_prefix("type.googleapis.com/").unwrap_or(type_url)
}
