//! UpdateRuntimeConfig: the kubelet tells the node's address ranges, and from them and a template the network's
//! configuration is written, unless there is one.
//!
//! Without a template somebody else brings the configuration, and nothing is done.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use windlass_cri_api::v1;
use windlass_model::{Context as _, Error, Result};

use super::conf::NetworkList;
use super::template::{Template, Values};
use crate::Server;
use crate::pod::blocking;

/// The file that is written.
const FILE: &str = "10-windlass-net.conflist";
/// Where the ranges stand in the request.
const FIELD: &str = "runtime_config.network_config.pod_cidr";
/// The longest template, in bytes.
const LONGEST: u64 = 1024 * 1024;

impl Server {
    /// Takes over what the kubelet configures: the address ranges of the node's pods.
    pub(crate) async fn update_runtime_config(
        self: &Arc<Self>,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse> {
        let network = request.runtime_config.and_then(|config| config.network_config).unwrap_or_default();
        let values = values(&network.pod_cidr)?;
        match (values, self.config.cni_conf_template.clone()) {
            (Some(values), Some(template)) => {
                let folder = self.config.cni_conf_dir.clone();
                let work = async move { blocking(move || generate(&folder, &template, &values)).await };
                self.verbs.turn("node/network", "configure", work).await?;
            }
            (Some(_), None) => tracing::debug!("no template of a network configuration: somebody else brings it"),
            (None, _) => {}
        }
        Ok(v1::UpdateRuntimeConfigResponse {})
    }
}

/// What a template is filled in with; nothing without ranges.
fn values(ranges: &str) -> Result<Option<Values>> {
    if ranges.is_empty() {
        return Ok(None);
    }
    let ranges: Vec<String> = ranges.split(',').map(|range| range.trim().to_owned()).collect();
    let parsed = ranges.iter().map(|range| {
        range.parse::<IpNet>().map_err(|_| Error::invalid(format!("{FIELD}: {range:?} is no range of addresses")))
    });
    let parsed: Vec<IpNet> = parsed.collect::<Result<_>>()?;
    let has = |kind: fn(&IpAddr) -> bool| parsed.iter().any(|range| kind(&range.addr()));
    let routes = [(has(IpAddr::is_ipv4), "0.0.0.0/0"), (has(IpAddr::is_ipv6), "::/0")];
    let routes = routes.into_iter().filter(|(has, _)| *has).map(|(_, route)| route.to_owned()).collect();
    Ok(Some(Values { pod_cidr: ranges.first().cloned().unwrap_or_default(), ranges, routes }))
}

/// Writes the configuration unless there is one. Blocks.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] for a template that cannot be read or makes no network, and for a
/// configuration that is there and broken: it would hide ours.
fn generate(folder: &Path, template: &Path, values: &Values) -> Result<()> {
    let ours = folder.join(FILE);
    match NetworkList::load(folder) {
        Ok(list) => {
            tracing::debug!(network = %list.name, "there is a network configuration already");
            return Ok(());
        }
        Err(broken) if super::conf::first_file(folder).is_ok_and(|first| first != ours) => return Err(broken),
        Err(_) => {}
    }
    let refuse = |error: Error| Error::precondition(format!("network template {}: {error}", template.display()));
    let text = read(template).and_then(|text| Template::parse(&text)?.render(values)).map_err(refuse)?;
    let list = NetworkList::parse(text.as_bytes(), true).map_err(refuse)?;
    std::fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
    windlass_sys::fs::write_atomic(&ours, text.as_bytes())?;
    // Others read it, too: it is the node's.
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&ours, open).context(|| format!("let others read {}", ours.display()))?;
    tracing::info!(network = %list.name, file = %ours.display(), ranges = ?values.ranges, "wrote the network configuration");
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(file)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST { Err(Error::invalid(format!("longer than {LONGEST} bytes"))) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use windlass_model::Kind;

    use super::*;

    const TEMPLATE: &str = r#"{"cniVersion":"1.0.0","name":"made","plugins":[{"type":"bridge","ipam":{"type":"host-local",
        "ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}]}}]}"#;

    #[test]
    fn ranges_are_checked_and_give_routes() {
        let both = values(" 10.0.0.0/24 , fd00::/64").unwrap().unwrap();
        assert_eq!(both.ranges, ["10.0.0.0/24", "fd00::/64"]);
        assert_eq!((both.pod_cidr.as_str(), both.routes.len()), ("10.0.0.0/24", 2));
        assert_eq!(values("fd00::/64").unwrap().unwrap().routes, ["::/0"]);
        assert_eq!(values("").unwrap(), None);
        for bad in ["10.0.0.0", "x", "10.0.0.0/24,", "10.0.0.0/33"] {
            let error = values(bad).unwrap_err();
            assert!(error.kind() == Kind::InvalidArgument && error.to_string().contains("pod_cidr"), "{bad}");
        }
    }

    #[test]
    fn a_configuration_is_made_once_and_hides_nobody_elses() {
        let root = tempfile::tempdir().unwrap();
        let (folder, template) = (root.path().join("net.d"), root.path().join("template"));
        fs::write(&template, TEMPLATE).unwrap();
        let make = |range: &str| generate(&folder, &template, &values(range).unwrap().unwrap());
        make("10.1.0.0/24").unwrap();
        let first = fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(first.contains("10.1.0.0/24") && NetworkList::load(&folder).unwrap().name == "made");
        make("10.2.0.0/24").unwrap();
        assert_eq!(fs::read_to_string(folder.join(FILE)).unwrap(), first);
        fs::write(folder.join(FILE), "broken by hand").unwrap();
        make("10.2.0.0/24").unwrap();
        assert!(fs::read_to_string(folder.join(FILE)).unwrap().contains("10.2.0.0/24"));
        fs::write(folder.join("05-other.conflist"), "broken").unwrap();
        let error = make("10.3.0.0/24").unwrap_err().to_string();
        assert!(error.contains("05-other.conflist"), "{error}");
    }

    #[test]
    fn a_template_that_makes_no_network_is_refused_and_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let (folder, template) = (root.path().join("net.d"), root.path().join("template"));
        let make = || generate(&folder, &template, &values("10.1.0.0/24").unwrap().unwrap()).unwrap_err();
        assert_eq!(make().kind(), Kind::FailedPrecondition);
        for text in ["{{.Nonsense}}", "{\"name\": 5}", ""] {
            fs::write(&template, text).unwrap();
            let error = make();
            assert!(
                error.kind() == Kind::FailedPrecondition && error.to_string().contains("template"),
                "{text}: {error}"
            );
        }
        assert!(!folder.exists());
    }
}
