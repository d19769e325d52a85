//! What our shim serves beyond containerd's protocol (`protos/windlass.proto`): the log's reopening,
//! attaching, the end of execs, and a pod's options.

#[allow(missing_docs, unused, unused_qualifications, nonstandard_style, clippy::all)]
mod windlass {
    include!(concat!(env!("OUT_DIR"), "/windlass.rs"));
}

#[allow(missing_docs, unused, unused_qualifications, nonstandard_style, clippy::all)]
mod windlass_ttrpc {
    use super::windlass;
    include!(concat!(env!("OUT_DIR"), "/windlass_ttrpc.rs"));
}

pub use windlass::{
    AttachRequest, AttachResponse, EndExecsRequest, EndExecsResponse, PodOptions, ReopenLogRequest, ReopenLogResponse,
};
pub use windlass_ttrpc::{Extension, ExtensionClient, create_extension};
