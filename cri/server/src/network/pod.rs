//! A pod's attachment to the network: what is recorded before the first plugin runs, and what the plugins answered.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;
use windlass_model::{Error, Id, Result};

use super::cni::{Call, Plugins};
use super::conf::NetworkList;
use super::{leftover, result};
use crate::ServerConfig;
use crate::pod::blocking;

/// The pod's interface inside its namespace, as Kubernetes expects it.
const INTERFACE: &str = "eth0";

/// The time for all plugins together to attach a pod; half of it to detach one. The kubelet waits 240 s for the whole of
/// RunPodSandbox and 120 s for StopPodSandbox.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a status waits for the plugins' STATUS.
const STATUS: Duration = Duration::from_secs(5);

/// The node's network: which configuration is in force and where its plugins are.
#[derive(Clone, Debug)]
pub struct Network {
    folder: PathBuf,
    plugins: Plugins,
    /// Attachments wait while this is true.
    held: watch::Sender<bool>,
}

/// Holds back new attachments until it is dropped: a GC would take them for leftovers.
#[derive(Debug)]
pub struct Hold(watch::Sender<bool>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// All that is needed to take a pod off the network again, also after the node's configuration changed or the node was
/// booted anew; kept in the pod's record from before ADD until DEL succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// Where the pod's network namespace is pinned.
    pub netns: PathBuf,
    /// The network as it was configured when the pod was attached.
    pub list: NetworkList,
    /// `CNI_ARGS`.
    pub args: String,
    /// Values for the capabilities that plugins ask for.
    #[serde(default)]
    pub capabilities: Map<String, Value>,
    /// What ADD answered; `None` where it did not end.
    #[serde(default)]
    pub result: Option<Value>,
}

impl Network {
    /// The network that the configured folders describe.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a folder of plugins that cannot be part of a search path.
    pub fn new(config: &ServerConfig) -> Result<Self> {
        let folders = config.cni_bin_dirs.clone();
        std::env::join_paths(&folders).map_err(|error| Error::invalid(format!("folders of CNI plugins: {error}")))?;
        Ok(Self {
            folder: config.cni_conf_dir.clone(),
            plugins: Plugins { folders, timeout: PLUGIN_TIMEOUT },
            held: watch::Sender::new(false),
        })
    }

    /// For tests, which have plugins of their own.
    #[cfg(test)]
    pub(super) fn of(folder: PathBuf, plugins: Plugins) -> Self {
        Self { folder, plugins, held: watch::Sender::new(false) }
    }

    /// The network that the next pod is attached to. An error is the reason why the node's network is not ready.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`], naming the file that is missing or wrong, or the plugin that is not
    /// installed.
    pub async fn current(&self) -> Result<NetworkList> {
        let this = self.clone();
        let load = move || {
            let list = NetworkList::load(&this.folder)?;
            this.plugins.installed(&list)?;
            Ok(list)
        };
        blocking(load).await
    }

    /// Why pods cannot be attached now; nothing where they can. The plugins are asked where they know STATUS.
    pub async fn fault(&self) -> Option<Error> {
        let list = match self.current().await {
            Ok(list) => list,
            Err(error) => return Some(error),
        };
        match tokio::time::timeout(STATUS, self.plugins.status(&list)).await {
            Ok(answer) => answer.err(),
            Err(_) => Some(Error::deadline(format!("network {:?}: STATUS took longer than {STATUS:?}", list.name))),
        }
    }

    /// Holds back new attachments from now on.
    pub fn hold(&self) -> Hold {
        self.held.send_replace(true);
        Hold(self.held.clone())
    }

    /// Has the plugins of the present network forget every attachment but those of the pods `valid`.
    ///
    /// # Errors
    /// The first failure, naming network and plugin; a node without a network has nothing to forget.
    pub async fn collect(&self, valid: &[Id]) -> Result<()> {
        let Ok(list) = self.current().await else { return Ok(()) };
        let valid: Vec<_> = valid.iter().map(|id| (id.to_string(), INTERFACE.to_owned())).collect();
        self.plugins.gc(&list, &valid).await
    }

    /// An attachment of which nothing is known but its namespace: to be detached from the present network.
    ///
    /// # Errors
    /// As [`Network::current`].
    pub async fn unknown(&self, netns: PathBuf) -> Result<Attachment> {
        let list = self.current().await?;
        Ok(Attachment { netns, list, args: String::new(), capabilities: Map::new(), result: None })
    }

    /// Attaches a pod whose namespace is pinned; the answer belongs into [`Attachment::result`].
    ///
    /// # Errors
    /// The first plugin's failure, naming it; or that the pod got no address. In both cases [`Network::detach`] is
    /// still to be called.
    pub async fn attach(&self, id: &Id, attachment: &Attachment) -> Result<Value> {
        // An error says that nobody can hold it any more.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        let result = self.plugins.add(&attachment.call(id, true)).await?;
        let named = |error: Error| Error::new(error.kind(), format!("network {:?}: {error}", attachment.list.name));
        result::check(&result).map_err(named)?;
        if addresses(&result).is_empty() {
            return Err(Error::internal(format!("network {:?} gave the pod no address", attachment.list.name)));
        }
        Ok(result)
    }

    /// Takes a pod off the network; succeeds where nothing is left to do.
    ///
    /// # Errors
    /// The first plugin's failure, naming it.
    pub async fn detach(&self, id: &Id, attachment: &Attachment) -> Result<()> {
        let alive = windlass_sys::netns::is_pinned(&attachment.netns);
        self.plugins.del(&attachment.call(id, alive), attachment.result.as_ref()).await
    }

    /// Ends plugins that a killed daemon left at work for a pod; comes before the [`Network::detach`] of a pod that was
    /// found half way after a start.
    ///
    /// # Errors
    /// [`windlass_model::Kind::Unavailable`] where a plugin does not die.
    pub async fn end_leftover(&self, id: &Id) -> Result<()> {
        let id = id.clone();
        blocking(move || leftover::end(&id)).await
    }

    /// Asks the plugins whether the attachment is as they made it.
    ///
    /// # Errors
    /// The first plugin's complaint.
    pub async fn check(&self, id: &Id, attachment: &Attachment) -> Result<()> {
        let alive = windlass_sys::netns::is_pinned(&attachment.netns);
        match &attachment.result {
            Some(result) => self.plugins.check(&attachment.call(id, alive), result).await,
            None => Err(Error::precondition("the pod was never attached to the network")),
        }
    }
}

impl Attachment {
    /// The pod's addresses, the primary one first; none before ADD has answered.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.result.as_ref().map(addresses).unwrap_or_default()
    }

    fn call<'a>(&'a self, id: &'a Id, alive: bool) -> Call<'a> {
        Call {
            list: &self.list,
            id: id.as_str(),
            netns: alive.then_some(self.netns.as_path()),
            interface: INTERFACE,
            args: &self.args,
            capabilities: &self.capabilities,
            valid: None,
        }
    }
}

/// The addresses of a result (CNI specification, section 5): those of the pod's interface, or all where the result does
/// not say whose they are. The first IPv4 address is the primary one, as with containerd's defaults.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let list = |field: &str| result.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let interfaces = list("interfaces");
    let is_pods = |ip: &&Value| {
        let index = ip.get("interface").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        let interface = index.and_then(|index| interfaces.get(index));
        interface.is_none_or(|interface| {
            let text = |field: &str| interface.get(field).and_then(Value::as_str).unwrap_or_default();
            text("name") == INTERFACE && !text("sandbox").is_empty()
        })
    };
    let address = |ip: &Value| ip.get("address")?.as_str()?.split('/').next()?.parse().ok();
    let mut found: Vec<IpAddr> = list("ips").iter().filter(is_pods).filter_map(address).collect();
    if found.is_empty() {
        found = list("ips").iter().filter_map(address).collect();
    }
    if let Some(first) = found.iter().position(IpAddr::is_ipv4) {
        // Only the first one moves: the order of the others is the plugins' business.
        found.get_mut(..=first).into_iter().for_each(|head| head.rotate_right(1));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(result: Value) -> Vec<String> {
        addresses(&result).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_the_pods_own_interface_counts() {
        let result = json!({
            "interfaces": [{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/n"}],
            "ips": [
                {"address": "10.0.0.1/24", "interface": 0},
                {"address": "fd00::5/64", "interface": 2},
                {"address": "10.0.0.5/24", "interface": 2},
                {"address": "10.0.0.6/24", "interface": 2},
            ],
        });
        assert_eq!(texts(result), ["10.0.0.5", "fd00::5", "10.0.0.6"]);
    }

    #[test]
    fn addresses_without_an_interface_are_the_pods() {
        assert_eq!(texts(json!({"ips": [{"address": "fd00::1/64"}]})), ["fd00::1"]);
        assert_eq!(texts(json!({"ips": [{"address": "1.2.3.4/8", "interface": 99}]})), ["1.2.3.4"]);
        let other = json!({"interfaces": [{"name": "net1", "sandbox": "/n"}], "ips": [{"address": "1.2.3.4/8", "interface": 0}]});
        assert_eq!(texts(other), ["1.2.3.4"]);
    }

    #[test]
    fn rubbish_has_no_addresses() {
        for rubbish in
            [json!({}), json!({"ips": 3}), json!({"ips": [{}, {"address": 5}, {"address": "x/24"}]}), json!([])]
        {
            assert!(addresses(&rubbish).is_empty(), "{rubbish}");
        }
    }
}
