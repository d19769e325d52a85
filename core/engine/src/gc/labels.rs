//! What the labels of a thing say about its life.
//!
//! ```text
//! containerd.io/gc.root                             the thing stays
//! containerd.io/gc.expire                           an RFC 3339 time: an image goes then, anything else stays until then
//! containerd.io/gc.ref.content[. or / and words]    it keeps the blob of that digest
//! containerd.io/gc.ref.image[. or / and words]      it keeps the image of that name
//! containerd.io/gc.ref.snapshot.DRIVER[/ and words] it keeps the snapshot of that key
//! containerd.io/gc.ref.mount[. or / and words]      it keeps the activation of mounts of that name
//! containerd.io/gc.bref.…                           the other way round: it is kept by that blob, image, snapshot,
//!                                                   or container (gc.bref.container), which need not exist yet
//! ```
//!
//! Source: containerd, `docs/garbage-collection.md` and package `core/metadata`.

use windlass_model::snapshotter::Labels;
use windlass_model::{Namespace, Timestamp};

use super::graph::Node;
use crate::leases;
use crate::snapshots::driver_name;

const ROOT: &str = "containerd.io/gc.root";
const REFERS: &str = "containerd.io/gc.ref.";
const IS_REFERRED: &str = "containerd.io/gc.bref.";

/// What one label ties a thing to.
pub(super) enum Tie {
    /// The thing keeps this.
    Keeps(Node),
    /// The thing is kept by this.
    KeptBy(Node),
}

/// True where the labels keep a thing, whatever refers to it.
pub(super) fn is_root(labels: &Labels, now: Timestamp) -> bool {
    labels.contains_key(ROOT) || expiry(labels).is_some_and(|end| end > now)
}

/// True where an image's time is over. One that cannot be read never is.
pub(super) fn is_over(labels: &Labels, now: Timestamp) -> bool {
    expiry(labels).is_some_and(|end| end <= now)
}

/// When a thing expires.
fn expiry(labels: &Labels) -> Option<Timestamp> {
    leases::expiry(labels).ok().flatten()
}

/// All that the labels tie a thing to.
pub(super) fn ties(namespace: &Namespace, labels: &Labels) -> impl Iterator<Item = Tie> {
    labels.iter().filter_map(move |(label, value)| {
        if let Some(rest) = label.strip_prefix(REFERS) {
            node(namespace, rest, value).filter(|node| !matches!(node, Node::Container(..))).map(Tie::Keeps)
        } else {
            node(namespace, label.strip_prefix(IS_REFERRED)?, value).map(Tie::KeptBy)
        }
    })
}

fn node(namespace: &Namespace, kind: &str, value: &str) -> Option<Node> {
    let namespace = namespace.clone();
    if let Some(driver) = kind.strip_prefix("snapshot.") {
        let driver = driver.split('/').next().unwrap_or(driver);
        return Some(Node::Snapshot(namespace, driver_name(driver).to_owned(), value.to_owned()));
    }
    match kind.split(['.', '/']).next()? {
        "content" => Some(Node::Blob(namespace, value.parse().ok()?)),
        "image" => Some(Node::Image(namespace, value.to_owned())),
        "mount" => Some(Node::Mount(namespace, value.to_owned())),
        "container" => Some(Node::Container(namespace, value.parse().ok()?)),
        _ => None,
    }
}
