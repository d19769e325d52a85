//! A pod network of its own for one test: a bridge, a subnet, a directory of configuration and one of plugins.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Where Debian keeps the CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A bridge network. The bridge and what iptables kept for it are deleted when dropped.
#[derive(Debug)]
pub struct Cni {
    /// Directory of the conflist.
    pub conf_dir: PathBuf,
    /// Directory of the plugins: links to Debian's, some may be replaced by faulty ones.
    pub bin_dir: PathBuf,
    /// host-local's reservations.
    pub data_dir: PathBuf,
    /// The bridge's name.
    pub bridge: String,
    /// The first three octets of the subnet, with the last dot.
    pub prefix: String,
    name: String,
}

impl Cni {
    /// A network whose bridge is named after `tag` (at most ten characters).
    pub fn create(dir: &Path, tag: &str) -> Result<Self> {
        let seed = crate::image::digest(tag.as_bytes()).into_bytes();
        let octet =
            |at: usize| 1 + (u32::from(seed[at]) * 31 + u32::from(seed[at + 1]) * 7 + u32::from(seed[at + 2])) % 250;
        let cni = Self {
            conf_dir: dir.join("net.d"),
            bin_dir: dir.join("bin"),
            data_dir: dir.join("reservations"),
            bridge: format!("wl-{tag}"),
            prefix: format!("10.{}.{}.", octet(10), octet(20)),
            name: format!("net-{tag}"),
        };
        for sub in [&cni.conf_dir, &cni.bin_dir, &cni.data_dir] {
            std::fs::create_dir_all(sub)?;
        }
        for entry in std::fs::read_dir(PLUGINS)
            .with_context(|| format!("{PLUGINS} (Debian package containernetworking-plugins)"))?
        {
            let entry = entry?;
            symlink(entry.path(), cni.bin_dir.join(entry.file_name()))?;
        }
        cni.write(&[])?;
        Ok(cni)
    }

    /// Writes the conflist, with `more` plugins at the end of the chain.
    pub fn write(&self, more: &[Value]) -> Result<()> {
        let v6 = format!("fd00:{}::/64", self.prefix.trim_end_matches('.').replace('.', ":"));
        let mut ranges = vec![json!([{ "subnet": format!("{}0/24", self.prefix) }])];
        if has_ipv6() {
            ranges.push(json!([{ "subnet": v6 }]));
        }
        let mut plugins = vec![
            json!({
                "type": "bridge", "bridge": self.bridge, "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": [{ "dst": "0.0.0.0/0" }], "dataDir": self.data_dir },
            }),
            json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }),
        ];
        plugins.extend_from_slice(more);
        let list = json!({ "cniVersion": "1.0.0", "name": self.name, "plugins": plugins });
        // By rename, as installers do: a daemon that watches the directory never reads half a file.
        let hidden = self.conf_dir.join(".10-test.tmp");
        std::fs::write(&hidden, serde_json::to_vec_pretty(&list)?)?;
        std::fs::rename(hidden, self.conf_dir.join("10-test.conflist"))?;
        Ok(())
    }

    /// Puts a script in the place of a plugin.
    pub fn replace_plugin(&self, name: &str, script: &str) -> Result<()> {
        let path = self.bin_dir.join(name);
        std::fs::remove_file(&path).ok();
        crate::edge::write_executable(&path, script)
    }

    /// Debian's own plugin back in its place.
    pub fn restore_plugin(&self, name: &str) -> Result<()> {
        let path = self.bin_dir.join(name);
        std::fs::remove_file(&path).ok();
        symlink(Path::new(PLUGINS).join(name), path)?;
        Ok(())
    }

    /// The addresses that host-local holds for pods.
    pub fn reservations(&self) -> Vec<String> {
        let dir = self.data_dir.join(&self.name);
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "lock" && !name.starts_with("last_reserved_ip")).collect()
    }

    /// The host's ends of the pods' veth pairs.
    pub fn ports(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(format!("/sys/class/net/{}/brif", self.bridge)) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// iptables rules that name an address of this network.
    pub fn rules(&self) -> Vec<String> {
        let output = Command::new("iptables-save").args(["-t", "nat"]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().filter(|line| line.contains(&self.prefix)).map(str::to_owned).collect()
    }

    /// The name of the network in the conflist.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        for port in self.ports() {
            Command::new("ip").args(["link", "del", &port]).output().ok();
        }
        Command::new("ip").args(["link", "del", &self.bridge]).output().ok();
    }
}

/// Whether the kernel gives interfaces IPv6 addresses.
pub fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}
