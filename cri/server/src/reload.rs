//! What can be changed while the server runs, without anybody noticing: the images that are pinned, where lines of logs are
//! cut, and the certificate of the streaming server.

use std::sync::Arc;

use windlass_model::Result;

use crate::Server;
use crate::image::Pins;

/// The values of a configuration that was read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// The images that the kubelet must not remove, as [`crate::ServerConfig`] has them.
    pub pinned_images: Vec<String>,
    /// The longest piece of a line in one entry of a log, in bytes; for containers that start from now on.
    pub max_log_line: usize,
}

/// Those values, in force.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) pins: Arc<Pins>,
    pub(crate) max_log_line: usize,
}

impl Live {
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a pattern that is none.
    pub(crate) fn new(reload: &Reload) -> Result<Self> {
        Ok(Self { pins: Arc::new(Pins::parse(&reload.pinned_images)?), max_log_line: reload.max_log_line })
    }
}

impl Server {
    /// Takes new values over; reads the streaming server's certificate again, where it is one from files. Blocks.
    ///
    /// # Errors
    /// For a pattern that is none, and where the certificate is of no use; then all stays as it was.
    pub fn reload(&self, reload: &Reload) -> Result<()> {
        let live = Live::new(reload)?;
        self.streaming.renew(&self.config.streaming)?;
        *self.live.write() = live;
        Ok(())
    }

    /// The values in force.
    pub(crate) fn live(&self) -> Live {
        self.live.read().clone()
    }
}
