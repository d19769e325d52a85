//! The CRI server: the kubelet's verbs over one tenant of the engine.
//!
//! A call enters in [`server`], one line per RPC, and goes to the file that has the verb's name: `pod/run.rs`,
//! `container/create.rs`, `image/pull.rs`. Plans check a request and touch nothing, ladders act, records remember.

mod announce;
mod calls;
mod codes;
mod container;
mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handlers;
mod health;
mod image;
mod instrument;
mod metrics;
mod names;
mod network;
mod node;
mod nri;
mod pod;
mod readiness;
mod recover;
mod reload;
mod selinux;
mod server;
mod stats;
mod stream;
mod streaming;
mod timeline;

pub use health::look_at_yourself;
pub use nri::NriConfig;
pub use reload::Reload;
pub use server::{CgroupDriver, Rpc, Runtime, Server, ServerConfig};
pub use streaming::{Listener, StreamingConfig, Tls};
