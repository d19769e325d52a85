//! What the kubelet asks about the node: Version, Status, RuntimeConfig.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;
use windlass_cri_api::v1;
use windlass_model::Result;

use crate::{CgroupDriver, Server};

/// The version of the kubelet's own runtime API, which it compares letter by letter.
const KUBE_API_VERSION: &str = "0.1.0";
const NAME: &str = "windlass";
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Server {
    /// Who answers.
    pub(crate) async fn version(self: &Arc<Self>, _request: v1::VersionRequest) -> Result<v1::VersionResponse> {
        Ok(v1::VersionResponse {
            version: KUBE_API_VERSION.into(),
            runtime_name: NAME.into(),
            runtime_version: VERSION.into(),
            runtime_api_version: "v1".into(),
        })
    }

    /// Whether pods can be run, and with which handlers.
    pub(crate) async fn status(self: &Arc<Self>, request: v1::StatusRequest) -> Result<v1::StatusResponse> {
        let network = self.network.current().await;
        let condition = |kind: &str, reason: &str, message: Option<String>| v1::RuntimeCondition {
            r#type: kind.into(),
            status: message.is_none(),
            reason: message.as_ref().map(|_| reason.into()).unwrap_or_default(),
            message: message.unwrap_or_default(),
        };
        let conditions = vec![
            condition("RuntimeReady", "", None),
            condition("NetworkReady", "NetworkPluginNotReady", network.err().map(|error| error.to_string())),
        ];
        // The empty name is the handler of pods that name none.
        let names = std::iter::once("").chain(self.config.runtimes.keys().map(String::as_str));
        let features = v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        let runtime_handlers =
            names.map(|name| v1::RuntimeHandler { name: name.into(), features: Some(features) }).collect();
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            info: if request.verbose { self.status_info() } else { HashMap::new() },
            runtime_handlers,
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        })
    }

    fn status_info(&self) -> HashMap<String, String> {
        let config = &self.config;
        let config = json!({
            "root": config.root,
            "state": config.state,
            "namespace": self.tenant.namespace().as_str(),
            "snapshotter": config.snapshotter,
            "systemdCgroup": config.cgroup_driver == CgroupDriver::Systemd,
            "defaultRuntime": config.default_runtime,
            "runtimes": config.runtimes.keys().collect::<Vec<_>>(),
            "cni": {"confDir": config.cni_conf_dir, "binDirs": config.cni_bin_dirs},
        });
        HashMap::from([("config".into(), config.to_string())])
    }

    /// What the kubelet takes over from the runtime: the cgroup driver.
    pub(crate) async fn runtime_config(
        self: &Arc<Self>,
        _request: v1::RuntimeConfigRequest,
    ) -> Result<v1::RuntimeConfigResponse> {
        let driver = match self.config.cgroup_driver {
            CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
            CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        };
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: driver as i32 };
        Ok(v1::RuntimeConfigResponse { linux: Some(linux) })
    }
}
