//! What the kubelet asks about the node: Version, Status, RuntimeConfig.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;
use windlass_cri_api::v1;
use windlass_model::Result;

use crate::pod::blocking;
use crate::readiness::{self, Fault, condition};
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
        let config = self.config.clone();
        let runtime = blocking(move || Ok(readiness::fault(&config)));
        let (runtime, network) = tokio::join!(runtime, self.network.fault());
        let network = network.map(|error| Fault::of_network(&error));
        let network_said = network.as_ref().map(|fault| fault.message.clone());
        let conditions = vec![condition("RuntimeReady", runtime?), condition("NetworkReady", network)];
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            info: if request.verbose { self.status_info(network_said).await } else { HashMap::new() },
            runtime_handlers: self.runtime_handlers().await,
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: true,
            }),
        })
    }

    /// What `crictl info` shows beyond the conditions: the configuration in force and the network.
    async fn status_info(&self, fault: Option<String>) -> HashMap<String, String> {
        let config = &self.config;
        let network = self.network.current().await.ok();
        let config = json!({
            "root": config.root,
            "state": config.state,
            "namespace": self.tenant.namespace().as_str(),
            "snapshotter": config.snapshotter,
            "systemdCgroup": config.cgroup_driver == CgroupDriver::Systemd,
            "defaultRuntime": config.default_runtime,
            "runtimes": config.runtimes.keys().collect::<Vec<_>>(),
            "maxContainerLogLineSize": self.live().max_log_line,
            "shim": config.shim,
            "cni": {
                "confDir": config.cni_conf_dir,
                "binDirs": config.cni_bin_dirs,
                "confTemplate": config.cni_conf_template,
            },
        });
        let loaded = fault.unwrap_or_else(|| "OK".into());
        HashMap::from([
            ("config".into(), config.to_string()),
            ("cniconfig".into(), json!(network).to_string()),
            ("lastCNILoadStatus".into(), loaded),
        ])
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
