//! The engine's words in those of the wire.

use std::borrow::Cow;

use containerd_client::types;
use prost_types::{Any, Timestamp as Moment};
use windlass_engine::TypedBytes;
use windlass_model::filter::Filter;
use windlass_model::{Descriptor, Digest, Id, Mount, Timestamp};

/// The empty message.
pub(crate) type Nothing = ();

/// A moment; none where it did not happen.
pub(crate) fn moment(time: Timestamp) -> Option<Moment> {
    let (seconds, nanos) = time.parts();
    time.happened().then_some(Moment { seconds, nanos })
}

/// A count of bytes as the wire has it.
pub(crate) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A descriptor.
pub(crate) fn descriptor(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.to_string(),
        size: size(descriptor.size),
        annotations: descriptor.annotations.into_iter().collect(),
    }
}

/// The descriptor that a client wrote.
pub(crate) fn described(word: types::Descriptor) -> Result<Descriptor, tonic::Status> {
    let size =
        u64::try_from(word.size).map_err(|_| tonic::Status::invalid_argument("a descriptor's size is negative"))?;
    Ok(Descriptor {
        digest: digest(&word.digest)?,
        media_type: word.media_type,
        size,
        platform: None,
        annotations: word.annotations.into_iter().collect(),
        urls: Vec::new(),
    })
}

/// A mount.
pub(crate) fn mount(mount: Mount) -> types::Mount {
    types::Mount { r#type: mount.kind, source: mount.source, target: mount.target, options: mount.options }
}

/// A message of any type.
pub(crate) fn any(bytes: TypedBytes) -> Any {
    Any { type_url: bytes.type_url, value: bytes.value }
}

/// A mount that a client wrote.
pub(crate) fn mounted(word: types::Mount) -> Mount {
    Mount { kind: word.r#type, source: word.source, target: word.target, options: word.options }
}

/// A message of any type, as a client wrote it.
pub(crate) fn typed(any: Any) -> TypedBytes {
    TypedBytes { type_url: any.type_url, value: any.value }
}

/// A snapshot driver by the name that clients use.
pub(crate) fn snapshotter(driver: &str) -> &str {
    if driver == "overlay" { "overlayfs" } else { driver }
}

/// What a request must have.
pub(crate) fn required<T>(field: Option<T>, what: &str) -> Result<T, tonic::Status> {
    field.ok_or_else(|| tonic::Status::invalid_argument(format!("{what} is required")))
}

/// A digest that a client wrote.
pub(crate) fn digest(text: &str) -> Result<Digest, tonic::Status> {
    text.parse().map_err(crate::codes::status)
}

/// Of which things a list is to tell.
pub(crate) fn filter(texts: &[String]) -> Result<Filter, tonic::Status> {
    Filter::parse(texts).map_err(crate::codes::status)
}

/// A field's value for a filter, which takes an empty one for none.
pub(crate) fn field<'a>(value: impl Into<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    Some(value.into()).filter(|value| !value.is_empty())
}

/// An id that a client wrote.
pub(crate) fn id(text: &str) -> Result<Id, tonic::Status> {
    text.parse().map_err(crate::codes::status)
}
