//! A pod's network: which network the node's configuration names, and the plugins that attach pods to it (CNI).

pub mod bandwidth;
pub mod cni;
pub mod conf;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod generate;
mod leftover;
pub mod pod;
pub mod result;
mod template;

pub use pod::{Attachment, Hold, Network};

#[cfg(test)]
mod real_tests;
