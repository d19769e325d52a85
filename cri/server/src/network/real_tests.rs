//! The plugins that every node has, `bridge`, `host-local` and `portmap`, run for real: the "host" is a network
//! namespace of the test's own, so nothing of the machine's network is touched.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_model::{Id, Result};
use windlass_sys::netns;

use super::cni::Plugins;
use super::conf::NetworkList;
use super::pod::{Attachment, Network};

const PLUGINS: &str = "/usr/lib/cni";

/// A host of its own: a namespace, a folder with a configuration, and the addresses that are taken.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    /// `None` where the plugins are not installed.
    fn new() -> Option<Self> {
        if !Path::new(PLUGINS).join("host-local").exists() {
            eprintln!("skipped: no CNI plugins in {PLUGINS}");
            return None;
        }
        let host = Self { folder: tempfile::tempdir().unwrap() };
        netns::create(&host.path("host")).unwrap();
        std::fs::create_dir(host.path("bin")).unwrap();
        for plugin in ["bridge", "host-local", "portmap"] {
            std::os::unix::fs::symlink(Path::new(PLUGINS).join(plugin), host.path("bin").join(plugin)).unwrap();
        }
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, more: &[Value]) {
        let bridge = json!({
            "type": "bridge", "bridge": "wl0", "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": self.path("taken"),
                "ranges": [[{"subnet": "10.213.7.0/24"}], [{"subnet": "fd00:213::/64"}]],
            },
        });
        let plugins: Vec<Value> = [bridge].iter().chain(more).cloned().collect();
        let list = json!({"cniVersion": "1.0.0", "name": "real", "plugins": plugins});
        std::fs::create_dir_all(self.path("net.d")).unwrap();
        std::fs::write(self.path("net.d/10-real.conflist"), list.to_string()).unwrap();
    }

    fn attachment(&self, capabilities: Value) -> Attachment {
        let pin = self.path("pod");
        netns::create(&pin).unwrap();
        Attachment {
            netns: pin,
            list: NetworkList::load(&self.path("net.d")).unwrap(),
            args: "IgnoreUnknown=1;K8S_POD_NAME=p".into(),
            capabilities: capabilities.as_object().cloned().unwrap_or_default(),
            result: None,
        }
    }

    /// Runs `work` on the host: plugins are children of the thread, and so in its namespace.
    fn run<R: Send>(&self, work: impl AsyncFnOnce(Network, Id) -> R + Send) -> R {
        let plugins = Plugins { folders: vec![self.path("bin")], timeout: Duration::from_secs(20) };
        let network = Network::of(self.path("net.d"), plugins);
        netns::enter(&self.path("host"), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work(network, "pod1".parse().unwrap()))
        })
        .unwrap()
    }

    /// The addresses that host-local has given away.
    fn taken(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("taken/real")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pin in ["pod", "host"] {
            netns::remove(&self.path(pin)).unwrap();
        }
    }
}

async fn attach(network: &Network, id: &Id, attachment: &Attachment) -> Result<Attachment> {
    let result = network.attach(id, attachment).await?;
    Ok(Attachment { result: Some(result), ..attachment.clone() })
}

#[test]
fn a_pod_is_attached_checked_and_detached() {
    let Some(host) = Host::new() else { return };
    host.configure(&[]);
    let before = host.attachment(json!({}));
    let (pin, taken) = (before.netns.clone(), &host);
    host.run(async move |network, id| {
        assert_eq!(network.current().await.unwrap().name, "real");
        let after = attach(&network, &id, &before).await.unwrap();
        let addresses = after.addresses();
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6());
        let listener = netns::enter(&pin, || TcpListener::bind((addresses[0], 0))).unwrap().unwrap();
        TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
        network.check(&id, &after).await.unwrap();
        assert_eq!(taken.taken().len(), 2);
        network.detach(&id, &after).await.unwrap();
        assert!(taken.taken().is_empty(), "{:?}", taken.taken());
        assert!(network.check(&id, &after).await.is_err());
        network.detach(&id, &after).await.unwrap();
    });
}

#[test]
fn a_pod_is_detached_after_its_namespace_is_gone() {
    let Some(host) = Host::new() else { return };
    host.configure(&[]);
    let before = host.attachment(json!({}));
    let world = &host;
    host.run(async move |network, id| {
        let after = attach(&network, &id, &before).await.unwrap();
        netns::remove(&after.netns).unwrap();
        network.detach(&id, &after).await.unwrap();
        assert!(world.taken().is_empty());
    });
}

#[test]
fn what_a_broken_chain_left_is_taken_away() {
    let Some(host) = Host::new() else { return };
    let broken = host.path("bin/broken");
    std::fs::write(&broken, "#!/bin/sh\n[ $CNI_COMMAND = ADD ] && exit 1\nexit 0\n").unwrap();
    std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host.configure(&[json!({"type": "broken"})]);
    let before = host.attachment(json!({}));
    let world = &host;
    host.run(async move |network, id| {
        let error = network.attach(&id, &before).await.unwrap_err().to_string();
        assert!(error.contains("\"broken\""), "{error}");
        assert_eq!(world.taken().len(), 2, "bridge was there first");
        network.detach(&id, &before).await.unwrap();
        assert!(world.taken().is_empty());
    });
}

#[test]
fn a_host_port_leads_into_the_pod() {
    let Some(host) = Host::new() else { return };
    host.configure(&[json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true})]);
    let mappings = json!([{"hostPort": 18080, "containerPort": 8080, "protocol": "tcp", "hostIP": ""}]);
    let before = host.attachment(json!({"portMappings": mappings}));
    let pin = before.netns.clone();
    host.run(async move |network, id| {
        let after = attach(&network, &id, &before).await.unwrap();
        let address = after.addresses()[0];
        let _listener = netns::enter(&pin, || TcpListener::bind((address, 8080))).unwrap().unwrap();
        // The bridge's own address is the host's as the pod sees it.
        let gateway: IpAddr = "10.213.7.1".parse().unwrap();
        TcpStream::connect_timeout(&(gateway, 18080).into(), Duration::from_secs(5)).unwrap();
        network.detach(&id, &after).await.unwrap();
        assert!(TcpStream::connect_timeout(&(gateway, 18080).into(), Duration::from_secs(1)).is_err());
    });
}

#[test]
fn a_network_without_its_plugins_is_not_ready() {
    let Some(host) = Host::new() else { return };
    host.configure(&[json!({"type": "nowhere"})]);
    host.run(async move |network, _| {
        let error = network.current().await.unwrap_err();
        assert_eq!(error.kind(), windlass_model::Kind::FailedPrecondition);
        assert!(error.to_string().contains("nowhere"), "{error}");
    });
}
