//! The runtime's side of the socket: plugins come in, and ask for changes of their own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Weak};

use prost::Message as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tracing::{info, warn};
use windlass_cri_api::nri;
use windlass_model::{Context as _, Error, Id, Result};

use super::link::Call;
use super::plugin::{Plugin, Started};
use super::{NriConfig, launch, words};
use crate::Server;
use crate::pod::blocking;

impl Server {
    /// Starts the installed plugins, one after another, and listens for others.
    ///
    /// # Errors
    /// Where the socket cannot be made. A plugin that cannot be started is left out.
    pub(crate) async fn start_nri(self: &Arc<Self>) -> Result<()> {
        let Some(config) = self.config.nri.clone() else { return Ok(()) };
        if self.nri.server.set(Arc::downgrade(self)).is_err() {
            return Ok(());
        }
        let listener = listen(&config.socket).await?;
        let looked = config.clone();
        for plugin in blocking(move || launch::installed(&looked)).await? {
            let title = plugin.title();
            let joined = match plugin.start() {
                Ok((socket, started)) => self.admit(&config, socket, Some(started)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = joined {
                warn!(plugin = title, %error, "an installed plugin is left out");
            }
        }
        // Ends when the server is gone.
        tokio::spawn(accept(Arc::downgrade(self), listener, config));
        Ok(())
    }

    /// Says good-bye to all plugins.
    pub async fn stop_nri(&self) {
        let plugins = self.nri.plugins();
        futures::future::join_all(plugins.iter().map(|plugin| plugin.shut_down())).await;
    }

    /// Lets a plugin register, tells it everything, and from then on asks it.
    async fn admit(self: &Arc<Self>, config: &NriConfig, socket: UnixStream, started: Option<Started>) -> Result<()> {
        let (plugin, calls) = Plugin::join(socket, started, config.patience()).await?;
        // Ends with the connection.
        tokio::spawn(answer(Arc::downgrade(self), plugin.clone(), calls));
        let updates = {
            let _alone = self.nri.gate.write().await;
            let (pods, containers) = self.state_for_plugins().await;
            let updates = plugin.synchronize(pods, containers).await.inspect_err(|_| plugin.link().close())?;
            self.nri.add(plugin.clone());
            updates
        };
        if plugin.link().has_ended() {
            // It left before it was on the list to be taken off.
            self.nri.prune();
        }
        info!(plugin = plugin.title(), "a plugin has joined");
        self.apply_updates(&plugin.title(), updates).await;
        Ok(())
    }

    /// Changes containers as a plugin wants; answers what could not be done and is not to be ignored.
    pub(super) async fn apply_updates(
        self: &Arc<Self>,
        plugin: &str,
        updates: Vec<nri::ContainerUpdate>,
    ) -> Vec<nri::ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            let resources = update.linux.clone().and_then(|linux| linux.resources).unwrap_or_default();
            let changed = self.set_limits(&update.container_id, words::cri_resources(&resources)).await;
            if let Err(error) = changed {
                warn!(plugin, container = update.container_id, %error, "an update that a plugin wants is not done");
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        failed
    }

    /// Ends containers that a plugin wants to be gone.
    pub(super) async fn evict(self: &Arc<Self>, plugin: &str, evictions: Vec<nri::ContainerEviction>) {
        for eviction in evictions {
            info!(plugin, container = eviction.container_id, reason = eviction.reason, "a plugin ends a container");
            let Ok(id) = eviction.container_id.parse::<Id>() else { continue };
            let request = windlass_cri_api::v1::StopContainerRequest { container_id: id.to_string(), timeout: 0 };
            if let Err(error) = self.stop_container(request).await {
                warn!(plugin, container = %id, %error, "it could not be ended");
            }
        }
    }
}

/// A socket that only its owner may connect to. One that somebody listens at is left alone.
async fn listen(path: &Path) -> Result<UnixListener> {
    let doing = || format!("listen for plugins at {}", path.display());
    if let Some(folder) = path.parent() {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).context(doing)?;
    }
    match UnixStream::connect(path).await {
        Ok(_) => return Err(Error::precondition(format!("another runtime listens for plugins at {}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        // Nobody listens any more.
        Err(_) => std::fs::remove_file(path).context(doing)?,
    }
    let listener = UnixListener::bind(path).context(doing)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).context(doing)?;
    Ok(listener)
}

async fn accept(server: Weak<Server>, listener: UnixListener, config: NriConfig) {
    loop {
        let accepted = listener.accept().await;
        let Some(server) = server.upgrade() else { return };
        match accepted {
            Ok((socket, _)) => {
                let config = config.clone();
                // Ends when the plugin has joined or failed to; both take a bounded time.
                tokio::spawn(async move {
                    if let Err(error) = server.admit(&config, socket, None).await {
                        warn!(%error, "a plugin did not join");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "no plugin can connect for a moment");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers what a plugin asks of us, until it is gone.
async fn answer(server: Weak<Server>, plugin: Arc<Plugin>, mut calls: mpsc::Receiver<Call>) {
    loop {
        let call = tokio::select! {
            call = calls.recv() => call,
            () = plugin.link().ended() => None,
        };
        let (Some(call), Some(server)) = (call, server.upgrade()) else { break };
        let answer = match call.method.as_deref() {
            Ok("UpdateContainers") => update(&server, &plugin, &call).await,
            Ok("RegisterPlugin") => Err(Error::already_exists("it has registered already")),
            Ok(other) => Err(Error::unimplemented(format!("there is no method {other:?}"))),
            Err(error) => Err(error.share()),
        };
        plugin.link().answer(&call, answer).await;
    }
    info!(plugin = plugin.title(), "a plugin is gone");
    // One that was started by us ends when nobody holds it.
    if let Some(server) = server.upgrade() {
        server.nri.prune();
    }
}

async fn update(server: &Arc<Server>, plugin: &Plugin, call: &Call) -> Result<Vec<u8>> {
    let request = nri::UpdateContainersRequest::decode(call.payload.as_slice());
    let request = request.map_err(|error| Error::invalid(format!("UpdateContainers: {error}")))?;
    let failed = server.apply_updates(&plugin.title(), request.update).await;
    server.evict(&plugin.title(), request.evict).await;
    Ok(nri::UpdateContainersResponse { failed }.encode_to_vec())
}
