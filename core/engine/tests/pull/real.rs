//! The registry that everybody runs: Debian's docker-registry.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use windlass_model::Digest;

use crate::Node;
use crate::image::{MANIFEST, Packed, parts, tar};

/// Killed when dropped.
pub struct DockerRegistry {
    child: Child,
    pub host: String,
    _folder: tempfile::TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    /// `None` where it is not installed.
    pub async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = folder.path().join("config.yml");
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.env("OTEL_TRACES_EXPORTER", "none").spawn().ok()?;
        let registry = Self { child, host, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&registry.host).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(registry)
    }

    pub async fn push(&self, name: &str, tag: &str, layers: &[(Vec<u8>, Packed)]) -> Vec<Digest> {
        let (manifest, config, blobs, chain) = parts(layers);
        for blob in blobs.into_iter().chain([config]) {
            self.put_blob(name, blob).await;
        }
        self.put_manifest(name, tag, MANIFEST, manifest).await;
        chain
    }

    /// An image of Docker's own kind, without the history that this registry needs to give it in the oldest form.
    pub async fn push_docker(&self, name: &str, tag: &str) {
        let media_type = "application/vnd.docker.distribution.manifest.v2+json";
        let (layer, config) = (tar(&[("old", b"x")]), br#"{"rootfs": {"type": "layers"}}"#.to_vec());
        let blob = |kind: &str, bytes: &[u8]| serde_json::json!({"mediaType": kind, "size": bytes.len(), "digest": Digest::of(bytes)});
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media_type,
            "config": blob("application/vnd.docker.container.image.v1+json", &config),
            "layers": [blob("application/vnd.docker.image.rootfs.diff.tar", &layer)]});
        self.put_blob(name, layer).await;
        self.put_blob(name, config).await;
        self.put_manifest(name, tag, media_type, manifest.to_string().into_bytes()).await;
    }

    async fn put_blob(&self, name: &str, blob: Vec<u8>) {
        let client = client();
        let begin = client.post(format!("http://{}/v2/{name}/blobs/uploads/", self.host)).send().await.unwrap();
        let location = begin.headers()["location"].to_str().unwrap().to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={}", Digest::of(&blob));
        assert!(client.put(url).body(blob).send().await.unwrap().status().is_success());
    }

    async fn put_manifest(&self, name: &str, tag: &str, media_type: &str, manifest: Vec<u8>) {
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.host);
        let put = client().put(url).header("content-type", media_type).body(manifest).send().await.unwrap();
        assert!(put.status().is_success());
    }
}

fn client() -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    reqwest::Client::builder().use_preconfigured_tls(tls).no_proxy().build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_is_pulled_from() {
    let Some(registry) = DockerRegistry::start().await else {
        eprintln!("docker-registry is not installed; skipped");
        return;
    };
    let node = Node::start().await;
    let busybox = std::fs::read("/bin/busybox").unwrap_or_else(|_| vec![1; 1 << 20]);
    let layers = [
        (tar(&[("bin/", b""), ("bin/busybox", &busybox)]), Packed::Gzip),
        (tar(&[("etc/hello", b"world")]), Packed::Zstd),
        (tar(&[("plain", b"tar")]), Packed::Plain),
    ];
    let chain = registry.push("library/busybox", "1", &layers).await;
    let reference = format!("{}/library/busybox:1", registry.host);
    let pulled = node.pull(&reference).await.unwrap();
    assert_eq!(pulled.detail.layers.len(), 3);
    assert_eq!(std::fs::read(node.layer(&chain[0]).await.join("bin/busybox")).unwrap(), busybox);
    assert!(node.pull(&format!("{}/library/busybox:2", registry.host)).await.unwrap_err().is_not_found());
    assert!(node.pull(&format!("{}/nobody/nothing:2", registry.host)).await.unwrap_err().is_not_found());
}

/// Prints what a cold pull of 300 MB in 8 layers takes: `cargo nextest run --run-ignored only cold`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn cold_pull_of_300_megabytes() {
    let Some(registry) = DockerRegistry::start().await else { return };
    let node = Node::start().await;
    let mut seed = 1u64;
    let mut noise = |length: usize| -> Vec<u8> {
        // Compresses to about half, as programs do.
        (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 60) as u8
            })
            .collect()
    };
    let mut layers = Vec::new();
    for _ in 0..8 {
        let files: Vec<(String, Vec<u8>)> = (0..200).map(|file| (format!("usr/lib/{file}"), noise(375_000))).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        layers.push((tar(&files), Packed::Gzip));
    }
    registry.push("big", "1", &layers).await;
    let size: usize = parts(&layers).2.iter().map(Vec::len).sum();
    drop(layers);
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
        (fields[10] + fields[11]) / 100.0
    };
    let (begin, before) = (Instant::now(), cpu());
    node.pull(&format!("{}/big:1", registry.host)).await.unwrap();
    println!("{} MB compressed: {:.2} s, {:.2} CPU s", size / 1_000_000, begin.elapsed().as_secs_f64(), cpu() - before);
}
