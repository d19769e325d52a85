//! The words of the Container Runtime Interface 1.36: messages, servers and clients generated from `protos/cri.proto`.

mod redact;

/// The package `runtime.v1`, generated at build.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The largest message either side sends, in bytes: the kubelet's own limit.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
