//! The words of the Container Runtime Interface 1.36 and of the Node Resource Interface 0.12: messages, servers and clients
//! generated from `protos/`.

mod redact;

/// The package `runtime.v1`, generated at build.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The package `nri.pkg.api.v1alpha1`: the words of the Node Resource Interface 0.12, generated at build.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod nri {
    tonic::include_proto!("nri.pkg.api.v1alpha1");
}

/// The package `ttrpc`: its envelopes, generated at build.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod ttrpc {
    tonic::include_proto!("ttrpc");
}

/// The largest message either side sends, in bytes: the kubelet's own limit.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
