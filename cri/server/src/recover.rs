//! After a start of the daemon: the memory indexes are filled, and what a crash left half done is finished or undone.

use std::path::Path;
use std::sync::Arc;

use tracing::{info, warn};
use windlass_model::{Id, Result};

use crate::Server;
use crate::network::Hold;
use crate::pod::{Pod, Rung, blocking, users};

impl Server {
    /// Prepares the server for its first call. Pods and containers that run are left alone; half-built pods come down
    /// their ladder in the background, and whoever asks for a pod of that name meanwhile waits for it.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        self.load_pods().await?;
        self.load_containers().await?;
        self.recover_containers().await?;
        for pod in self.pods.all() {
            self.recover_pod(&pod);
        }
        self.start_nri().await?;
        self.watch_processors();
        let (server, hold) = (self.clone(), self.network.hold());
        // Ends with its work; only attachments wait for it.
        tokio::spawn(async move { server.tidy(hold).await });
        Ok(())
    }

    fn recover_pod(self: &Arc<Self>, pod: &Arc<Pod>) {
        let forget = match pod.rung {
            // A dead shim makes the pod not ready, and the kubelet stops it; a stopped one waits for its removal.
            Rung::Ready | Rung::Stopped => return,
            Rung::Down => false,
            Rung::Reserved | Rung::Networked | Rung::Booted => true,
        };
        info!(pod = %pod.id, rung = ?pod.rung, "take down a pod that was left half way");
        let (server, id) = (self.clone(), pod.id.clone());
        self.verbs.begin(crate::pod::subject(&pod.name), "recover", async move {
            let done = server.take_down_left(&id, forget).await;
            done.inspect_err(|error| warn!(pod = %id, %error, "a pod that was left half way is not all down"))
        });
    }

    async fn take_down_left(&self, id: &Id, forget: bool) -> Result<()> {
        self.network.end_leftover(id).await?;
        if forget { self.clear_pod(id).await } else { self.bring_down(id).await.map(drop) }
    }

    /// Takes unknown pods off the network, has its plugins forget what no pod has, and removes what unknown pods left.
    async fn tidy(self: Arc<Self>, hold: Hold) {
        // A pod is in the index before the first of these is made, so what is found here and not there is an orphan.
        for id in self.orphans(&self.config.state.join("netns")) {
            let pin = self.config.state.join("netns").join(&id);
            if let Err(error) = self.take_off(&id, &pin).await {
                warn!(pod = %id, %error, "an unknown pod could not be taken off the network");
            }
            report(&id, blocking(move || windlass_sys::netns::remove(&pin)).await);
        }
        for id in self.orphans(&self.config.state.join("userns")) {
            let pin = users::pin(&self.config.state, &id);
            report(&id, blocking(move || windlass_sys::netns::remove(&pin)).await);
        }
        let attached: Vec<Id> =
            self.pods.all().iter().filter(|pod| pod.attachment.is_some()).map(|pod| pod.id.clone()).collect();
        if let Err(error) = self.network.collect(&attached).await {
            warn!(%error, "the network could not forget what no pod has");
        }
        drop(hold);
        let server = self.clone();
        // Ends with its work; nothing waits for it.
        tokio::task::spawn_blocking(move || server.sweep());
    }

    /// Detaches a pod of which only the namespace is left. A node without a network has nothing to detach it with.
    async fn take_off(&self, id: &Id, pin: &Path) -> Result<()> {
        self.network.end_leftover(id).await?;
        let Ok(attachment) = self.network.unknown(pin.to_owned()).await else { return Ok(()) };
        self.network.detach(id, &attachment).await
    }

    /// Removes files of pods that have no record. Blocks.
    fn sweep(&self) {
        for id in self.orphans(&self.config.state.join("pods")) {
            report(&id, windlass_sys::fs::remove_tree(&self.config.state.join("pods").join(&id)));
        }
    }

    /// The names in a folder that are ids of pods nobody knows.
    fn orphans(&self, folder: &Path) -> Vec<Id> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).filter(|id: &Id| !self.pods.knows(id)).collect()
    }
}

fn report(id: &Id, removed: Result<()>) {
    match removed {
        Ok(()) => info!(pod = %id, "removed what an unknown pod left"),
        Err(error) => warn!(pod = %id, %error, "what an unknown pod left cannot be removed"),
    }
}
