//! A real registry (Debian's docker-registry) on a free loopback port, and pushing images into it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::http;
use crate::image::Image;
use crate::trouble::base64;

/// A running docker-registry; killed when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    host: String,
    data: PathBuf,
    /// What this module presents to it.
    authorization: Option<String>,
}

/// Who is let into a private registry.
pub const USER: &str = "ann";
/// And by which word.
pub const PASSWORD: &str = "geheim";
/// The line of `htpasswd -B` for the two.
const HTPASSWD: &str = "ann:$2y$05$abcdefghijklmnopqrstuuVWu8RjbNovPZWAMRdd7iqaaG0mI53Uu\n";

/// A loopback port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Registry {
    /// Starts a registry that keeps its data under `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "", None)
    }

    /// The same, for [`USER`] with [`PASSWORD`] only.
    pub fn start_private(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let users = dir.join("users");
        std::fs::write(&users, HTPASSWD)?;
        let auth = format!("auth:\n  htpasswd:\n    realm: private\n    path: {}\n", users.display());
        let authorization = format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes()));
        Self::start_with(dir, &auth, Some(authorization))
    }

    fn start_with(dir: &Path, auth: &str, authorization: Option<String>) -> Result<Self> {
        std::fs::create_dir_all(dir.join("data"))?;
        let host = format!("127.0.0.1:{}", free_port()?);
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {host}\n{auth}",
            dir.join("data").display()
        );
        std::fs::write(dir.join("config.yml"), config)?;
        let log = std::fs::File::create(dir.join("log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry (Debian package docker-registry)")?;
        let registry = Self { child, host, data: dir.join("data"), authorization };
        let deadline = Instant::now() + crate::patient(Duration::from_secs(20));
        while !registry.request("GET", "/v2/", &[], &[]).is_ok_and(|answer| answer.status == 200) {
            ensure!(Instant::now() < deadline, "docker-registry does not answer on {}", registry.host);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `address:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where it keeps what it holds.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// One request, with what the registry wants to see.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<http::Answer> {
        let mut headers = headers.to_vec();
        headers.extend(self.authorization.as_deref().map(|value| ("Authorization", value)));
        http::request(&self.host, method, path, &headers, body)
    }

    /// Pushes an image as `name:tag` and returns the whole reference.
    pub fn push(&self, name: &str, tag: &str, image: &Image) -> Result<String> {
        for blob in &image.blobs {
            let start = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), &[], &[])?;
            ensure!(start.status == 202, "upload of a blob: {} {}", start.status, String::from_utf8_lossy(&start.body));
            let location = start.headers.get("location").context("upload without a location")?;
            let path = location
                .strip_prefix("http://")
                .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
                .unwrap_or(location);
            let joint = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{joint}digest={}", blob.digest());
            let done = self.request("PUT", &path, &[("Content-Type", "application/octet-stream")], &blob.bytes)?;
            ensure!(done.status == 201, "end of an upload: {} {}", done.status, String::from_utf8_lossy(&done.body));
        }
        for manifest in &image.manifests {
            // The one for another platform stands in the index only; its config is not there and need not be.
            self.put_manifest(name, &manifest.digest(), manifest)?;
        }
        self.put_manifest(name, tag, image.top())?;
        Ok(format!("{}/{name}:{tag}", self.host))
    }

    fn put_manifest(&self, name: &str, reference: &str, manifest: &crate::image::Blob) -> Result<()> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let done = self.request("PUT", &path, &[("Content-Type", &manifest.media_type)], &manifest.bytes)?;
        ensure!(done.status == 201, "manifest {reference}: {} {}", done.status, String::from_utf8_lossy(&done.body));
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
