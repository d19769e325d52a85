//! From two trees to the layer that makes one of the other (OCI image spec 1.1, `layer.md`, "Change Types").
//!
//! A layer holds what is new or changed, with the folders above it; `.wh.<name>` for what is gone; and `.wh..wh..opq` in a
//! folder of which nothing below counts any more. Names are in the order of their bytes, times in whole seconds, and
//! nothing of this machine is in it, so the same trees give the same bytes.
//!
//! An overlay's upper folder holds only what changed, so it is walked alone and looked up in the tree below it; other
//! trees are walked side by side ([`walk`]). Trees may belong to a container that runs: what vanishes meanwhile is passed
//! over, and no link in them is followed.

mod node;
mod walk;
mod write;

use std::io::Write;
use std::os::fd::OwnedFd;

use windlass_model::{Context, Error, Result};

use self::walk::Walk;
use self::write::Layer;

/// How much stack the deepest tree takes, in bytes; what is not used takes no memory.
const STACK: usize = 16 << 20;

/// What a layer is made from.
pub(crate) enum Trees {
    /// Two whole trees, or one and nothing.
    Whole {
        /// The older one.
        lower: Option<OwnedFd>,
        /// The newer one.
        upper: OwnedFd,
    },
    /// The upper folder of an overlay, and the tree below it.
    Overlay {
        /// What all lower folders show together.
        lower: OwnedFd,
        /// The folder with the changes.
        upper: OwnedFd,
    },
}

/// Writes the layer as a tar archive; gives `out` back. No entry is younger than `newest`, in seconds since 1970.
///
/// # Errors
/// `Unimplemented` for an overlay's upper folder that cannot be read without its overlay: its [`Trees::Whole`] can.
/// `FailedPrecondition` for names that a layer cannot hold, `ResourceExhausted` for trees that are too deep.
pub(crate) fn diff<W: Write + Send>(trees: &Trees, newest: Option<i64>, out: W) -> Result<W> {
    let work = || {
        let mut walk = Walk::new(Layer::new(out, newest));
        let walked = match trees {
            Trees::Whole { lower, upper } => walk.whole(lower.as_ref(), upper),
            Trees::Overlay { lower, upper } => walk.overlay(lower, upper),
        };
        walked.context(|| "compare the trees".into())?;
        walk.finish()
    };
    // The walk goes down into folders by calling itself.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("diff".into()).stack_size(STACK).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("the thread that compares trees panicked")))
    })
}

#[cfg(test)]
mod tests;
