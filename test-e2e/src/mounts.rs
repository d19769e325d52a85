//! Messages of the mounts service, which `containerd-client` does not have; their fields as far as they are looked at.

use std::collections::HashMap;

use containerd_client::types::Mount;
use prost::Message;
use prost_types::FieldMask;

/// Asks for an activation.
#[derive(Clone, PartialEq, Message)]
pub struct Activate {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What is to be mounted.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// Its labels.
    #[prost(map = "string, string", tag = "3")]
    pub labels: HashMap<String, String>,
    /// All is to be mounted, for a while.
    #[prost(bool, tag = "4")]
    pub temporary: bool,
}

/// Names an activation.
#[derive(Clone, PartialEq, Message)]
pub struct Named {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Changes an activation.
#[derive(Clone, PartialEq, Message)]
pub struct Change {
    /// Which one.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Named>,
    /// What of it.
    #[prost(message, optional, tag = "2")]
    pub update_mask: Option<FieldMask>,
}

/// Tells of an activation.
#[derive(Clone, PartialEq, Message)]
pub struct Told {
    /// What is known of it.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// An activation.
#[derive(Clone, PartialEq, Message)]
pub struct Info {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What is mounted.
    #[prost(message, repeated, tag = "2")]
    pub active: Vec<Active>,
    /// What is left to the client.
    #[prost(message, repeated, tag = "3")]
    pub system: Vec<Mount>,
}

/// A mount that is there.
#[derive(Clone, PartialEq, Message)]
pub struct Active {
    /// Where.
    #[prost(string, tag = "3")]
    pub mount_point: String,
}
