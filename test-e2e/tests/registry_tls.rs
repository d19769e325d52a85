//! Registries over TLS: whose certificate is believed, which one is shown, and what a refusal looks like.
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::image::Image;
use windlass_test_e2e::secure::{Authority, Pair, SecureRegistry};
use windlass_test_e2e::trouble::{Fault, Troublemaker, Where};
use windlass_test_e2e::{Node, code};

/// A node with an image in its registry, and certificates beside it.
struct Scene {
    node: Node,
    dir: PathBuf,
    /// Signs what the registry shows.
    trusted: Authority,
    /// The file of `trusted`, that of another one, and what the registry shows.
    ca: PathBuf,
    stranger: PathBuf,
    shown: Pair,
}

impl Scene {
    async fn new() -> Result<Self> {
        let node = Node::start().await?;
        node.registry.push("busybox", "1", &Image::busybox()?)?;
        let dir = node.dir().join("tls");
        fs::create_dir_all(&dir)?;
        let (trusted, other) = (Authority::new("trusted")?, Authority::new("stranger")?);
        let (ca, stranger) = (dir.join("ca.pem"), dir.join("stranger.pem"));
        trusted.write(&ca)?;
        other.write(&stranger)?;
        let shown = trusted.sign(&dir, "server", &["127.0.0.1", "localhost"])?;
        Ok(Self { node, dir, trusted, ca, stranger, shown })
    }

    /// Writes `hosts.toml` for the registry's name `name`.
    fn hosts(&self, name: &str, text: &str) -> Result<()> {
        let folder = self.node.setup.certs.join(name);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join("hosts.toml"), text)?)
    }

    /// Pulls and forgets again.
    async fn pulls(&self, reference: &str, how: &str) -> Result<()> {
        self.node.cri.pull(reference).await.with_context(|| how.to_owned())?;
        ensure!(self.node.cri.image(reference).await?.is_some(), "{how}: no image");
        Ok(self.node.cri.remove_image(reference).await?)
    }

    /// The message of a pull that must fail and leave nothing.
    async fn refused(&self, reference: &str, how: &str) -> Result<String> {
        let status = self.node.cri.pull(reference).await.err().with_context(|| format!("{how}: the pull succeeds"))?;
        println!("{how}: {:?} {}", status.code(), status.message());
        ensure!(self.node.is_reference() || status.code() == Code::FailedPrecondition, "{how}: {status:?}");
        ensure!(self.node.cri.image(reference).await?.is_none(), "{how}: half an image");
        Ok(status.message().to_lowercase())
    }
}

fn quoted(path: &Path) -> String {
    format!("{path:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_believed_only_if_its_authority_is() -> Result<()> {
    let scene = Scene::new().await?;
    let registry = SecureRegistry::beside(&scene.node.registry, &scene.dir.join("r"), &scene.shown, None)?;
    // A name that resolves nowhere: only the configuration leads to the registry.
    let (name, reference) = ("images.example:5443", "images.example:5443/busybox:1");
    let host = format!("server = \"https://{}\"\n", registry.host());
    let (ca, stranger) = (quoted(&scene.ca), quoted(&scene.stranger));

    scene.hosts(name, &format!("{host}ca = {ca}\n"))?;
    scene.pulls(reference, "with its authority").await?;
    scene.hosts(name, &format!("{host}ca = [{stranger}, {ca}]\n"))?;
    scene.pulls(reference, "with two authorities").await?;
    for (how, more) in
        [("without an authority", String::new()), ("with another authority", format!("ca = {stranger}\n"))]
    {
        scene.hosts(name, &format!("{host}{more}"))?;
        let message = scene.refused(reference, how).await?;
        ensure!(message.contains("certificate") || message.contains("x509"), "{how}: {message}");
    }
    scene.hosts(name, &format!("{host}ca = {stranger}\nskip_verify = true\n"))?;
    scene.pulls(reference, "without a check").await?;
    scene.hosts(
        name,
        &format!("[host.\"https://{}\"]\nca = {ca}\ncapabilities = [\"pull\", \"resolve\"]\n", registry.host()),
    )?;
    scene.pulls(reference, "as a mirror").await?;
    if !scene.node.is_reference() {
        scene.hosts(name, &format!("{host}ca = \"/nowhere/ca.pem\"\n"))?;
        let message = scene.refused(reference, "with a file that is not there").await?;
        ensure!(message.contains("/nowhere/ca.pem"), "{message}");
    }
    // Docker's way: files without a hosts.toml, in a folder named after the host.
    let folder = scene.node.setup.certs.join(registry.host());
    fs::create_dir_all(&folder)?;
    fs::copy(&scene.ca, folder.join("ca.crt"))?;
    scene.pulls(&format!("{}/busybox:1", registry.host()), "with Docker's files").await?;
    drop(registry);
    scene.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() -> Result<()> {
    let scene = Scene::new().await?;
    let shown = scene.trusted.sign(&scene.dir, "elsewhere", &["elsewhere.example"])?;
    let registry = SecureRegistry::beside(&scene.node.registry, &scene.dir.join("r"), &shown, None)?;
    let ca = quoted(&scene.ca);
    scene.hosts("images.example", &format!("server = \"https://{}\"\nca = {ca}\n", registry.host()))?;
    let message = scene.refused("images.example/busybox:1", "a wrong name").await?;
    ensure!(message.contains("certificate") || message.contains("x509"), "{message}");
    drop(registry);
    scene.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_ask_for_a_certificate() -> Result<()> {
    let scene = Scene::new().await?;
    let clients = Authority::new("clients")?;
    let clients_ca = scene.dir.join("clients.pem");
    clients.write(&clients_ca)?;
    let ours = clients.sign(&scene.dir, "node", &[])?;
    let foreign = Authority::new("foreign")?.sign(&scene.dir, "foreign", &[])?;
    let registry = SecureRegistry::beside(&scene.node.registry, &scene.dir.join("r"), &scene.shown, Some(&clients_ca))?;
    let together = scene.dir.join("together.pem");
    fs::write(&together, [fs::read(&ours.certificate)?, fs::read(&ours.key)?].concat())?;

    let (name, reference) = ("images.example", "images.example/busybox:1");
    let host = format!("server = \"https://{}\"\nca = {}\n", registry.host(), quoted(&scene.ca));
    let pair = |pair: &Pair| format!("client = [[{}, {}]]\n", quoted(&pair.certificate), quoted(&pair.key));
    scene.hosts(name, &format!("{host}{}", pair(&ours)))?;
    scene.pulls(reference, "with certificate and key").await?;
    scene.hosts(name, &format!("{host}client = {}\n", quoted(&together)))?;
    scene.pulls(reference, "with both in one file").await?;
    scene.hosts(name, &host)?;
    scene.refused(reference, "without a certificate").await?;
    scene.hosts(name, &format!("{host}{}", pair(&foreign)))?;
    scene.refused(reference, "with somebody else's certificate").await?;

    let folder = scene.node.setup.certs.join(registry.host());
    fs::create_dir_all(&folder)?;
    for (from, to) in [(&scene.ca, "ca.crt"), (&ours.certificate, "node.cert"), (&ours.key, "node.key")] {
        fs::copy(from, folder.join(to))?;
    }
    scene.pulls(&format!("{}/busybox:1", registry.host()), "with Docker's files").await?;
    ensure!(!fs::read_to_string(&scene.node.setup.log)?.contains("PRIVATE KEY"), "a key in the daemon's log");
    drop(registry);
    scene.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_the_code_that_the_kubelet_expects() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("its pulls answer Unknown whatever the registry said") {
        return Ok(());
    }
    let registry = Troublemaker::start()?;
    let image = Image::busybox()?;
    let reference = registry.hold("codes", "1", &image);
    for (status, expected) in [
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::NotFound),
        (429, Code::ResourceExhausted),
        (500, Code::Unavailable),
        (503, Code::Unavailable),
    ] {
        for place in [Where::Manifests, Where::Blob(image.layers[0].clone())] {
            registry.fail(place.clone(), Fault::Status(status), usize::MAX);
            let answer = node.cri.pull(&reference).await;
            ensure!(code(&answer) == expected, "{status} at {place:?}: {answer:?}");
            ensure!(node.cri.image(&reference).await?.is_none(), "{status} at {place:?}: half an image");
        }
    }
    registry.heal();
    node.cri.pull(&reference).await.context("all is well again")?;
    // One refusal in passing is waited out.
    node.cri.remove_image(&reference).await?;
    registry.fail(Where::Everything, Fault::Status(429), 2);
    node.cri.pull(&reference).await.context("two refusals that said when to come back")?;
    drop(registry);
    node.cri.remove_image(&reference).await?;
    let gone = node.cri.pull(&reference).await;
    ensure!(code(&gone) == Code::Unavailable, "nobody listens: {gone:?}");
    node.finish().await
}
