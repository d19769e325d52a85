//! Sockets of single tenants: a client there cannot name, list, see or change anything of another, by any method.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use containerd_client::services::v1::sandbox::{
    ControllerShutdownRequest, ControllerShutdownResponse, ControllerStatusRequest, ControllerStatusResponse,
    ControllerStopRequest, ControllerStopResponse,
};
use containerd_client::services::v1::{
    AbortRequest, CreateNamespaceRequest, DeleteNamespaceRequest, ForwardRequest, GetNamespaceRequest,
    GetNamespaceResponse, ListContainersRequest, ListContainersResponse, ListImagesRequest, ListImagesResponse,
    ListNamespacesRequest, ListNamespacesResponse, Namespace, ReadContentRequest, ReadContentResponse,
    WriteContentRequest, WriteContentResponse,
};
use containerd_client::types::Envelope;
use futures::StreamExt as _;
use tonic::Code;
use windlass_test_e2e::crossing::{answer, holds};
use windlass_test_e2e::newer::Bytes;
use windlass_test_e2e::tenant::Tenant;
use windlass_test_e2e::{Node, Plan, code, methods};

/// A message with `text` where the methods of the API have a name: in its first fields, behind a driver's name, or in a
/// message in its first field.
fn naming(text: &str) -> [Bytes; 3] {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Texts {
        #[prost(string, tag = "1")]
        one: String,
        #[prost(string, tag = "2")]
        two: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Inside {
        #[prost(message, optional, tag = "1")]
        one: Option<Texts>,
    }
    let texts = |one: &str, two: &str| Texts { one: one.into(), two: two.into() };
    [
        Bytes::of(&texts(text, text)),
        Bytes::of(&texts("overlayfs", text)),
        Bytes::of(&Inside { one: Some(texts(text, text)) }),
    ]
}

async fn node(more_cri: &str) -> Result<(Node, PathBuf)> {
    let more_config = "[[tenant]]\nnamespace = \"moby\"\nalso = [\"plugins.moby\"]\nsocket = \"{dir}/moby.sock\"\n\
                       [[tenant]]\nnamespace = \"other\"\nsocket = \"{dir}/other.sock\"\nuids = [12345]\ngids = [54321]\n";
    let plan = Plan { more_config: more_config.to_owned(), more_cri: more_cri.to_owned(), ..Plan::default() };
    let node = Node::start_with(plan).await?;
    let socket = node.dir().join("moby.sock");
    Ok((node, socket))
}

/// The digests of an image's manifest, configuration and layers, as the main socket tells them.
async fn digests(main: &Tenant) -> Result<Vec<String>> {
    use containerd_client::services::v1::{ListContentRequest, ListContentResponse};
    let mut found = Vec::new();
    let mut messages = main.open("content.v1.Content", "List", &ListContentRequest::default()).await?;
    while let Some(message) = messages.next().await? {
        found.extend(message.read::<ListContentResponse>()?.info.into_iter().map(|info| info.digest));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_of_a_tenants_socket_reaches_another_tenant() -> Result<()> {
    let (mut node, socket) = node("").await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let image = node.busybox().await?;
    let pod = node.run(node.pod("secret"), &image, &["sleep", "1000"]).await?;
    let main = Tenant::connect(&node.setup.socket, Some("k8s.io")).await?;
    let digests = digests(&main).await?;
    ensure!(!digests.is_empty(), "the CRI has no content");
    let mut names = vec![pod.id.clone(), pod.container.clone(), image.clone(), "k8s.io".to_owned()];
    names.extend(digests.iter().take(3).cloned());

    let client = Tenant::connect(&socket, None).await?;
    let stranger = client.named(Some("k8s.io"));
    let mut tried = 0;
    for methods::Method { service, name: method, .. } in methods::all() {
        let calls = names.iter().flat_map(|name| naming(name));
        let long = ["Subscribe", "Wait", "Watch", "Stream"].contains(&method);
        let calls: Vec<_> = calls.take(if long { 9 } else { usize::MAX }).collect();
        tried += calls.len();
        let (client, stranger) = (&client, &stranger);
        let answers = futures::stream::iter(calls)
            .map(|request| async move {
                let refused = answer(stranger, service, method, request.clone()).await;
                let answered = answer(client, service, method, request.clone()).await;
                (request, refused, answered)
            })
            .buffer_unordered(8)
            .collect::<Vec<_>>()
            .await;
        for (request, refused, answered) in answers {
            match refused {
                Err(status) => {
                    ensure!(status.code() == Code::PermissionDenied, "{service}/{method} named another: {status:?}");
                }
                Ok(bytes) => bail!("{service}/{method} named another and got {} bytes", bytes.len()),
            }
            // What it was asked with it may say again.
            let told = |bytes: &[u8], name: &String| holds(bytes, name) && !holds(&request.0, name);
            let leaked = answered.is_ok_and(|bytes| names.iter().any(|name| told(&bytes, name)));
            ensure!(!leaked, "{service}/{method} tells of another tenant");
        }
    }
    println!("{} methods, {tried} requests each way", methods::all().count());
    // The main socket tells what no other did.
    let told = answer(&main, "containerd.services.containers.v1.Containers", "List", Bytes(Vec::new())).await?;
    ensure!(holds(&told, &pod.container), "there was nothing to tell");
    ensure!(methods::all().count() >= 91, "{} methods", methods::all().count());

    // Nothing of the CRI's has changed.
    let sandbox = ControllerStatusRequest { sandbox_id: pod.id.clone(), ..Default::default() };
    let status: ControllerStatusResponse = main.ask("sandbox.v1.Controller", "Status", &sandbox).await?;
    ensure!(status.state == "SANDBOX_READY" && status.pid != 0, "{status:?}");
    let foreign = client.ask::<ControllerStatusResponse>("sandbox.v1.Controller", "Status", &sandbox).await;
    ensure!(code(&foreign) == Code::NotFound, "{foreign:?}");
    ensure!(node.cri.output(&pod.container, &["echo", "well"]).await? == "well\n");
    ensure!(self::digests(&main).await? == digests, "the CRI's content has changed");
    let images: ListImagesResponse = main.ask("images.v1.Images", "List", &ListImagesRequest::default()).await?;
    ensure!(images.images.iter().any(|found| found.name == image && !found.labels.contains_key("x")));
    let containers: ListContainersResponse =
        main.ask("containers.v1.Containers", "List", &ListContainersRequest::default()).await?;
    ensure!(containers.containers.iter().any(|found| found.id == pod.container));
    node.cri.remove_everything().await?;
    node.mark().await;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_socket_shows_its_own_namespaces_and_no_blob_by_its_digest() -> Result<()> {
    let (mut node, socket) = node("").await?;
    if node.is_reference() {
        return node.finish().await;
    }
    node.busybox().await?;
    let main = Tenant::connect(&node.setup.socket, Some("k8s.io")).await?;
    let client = Tenant::connect(&socket, None).await?;
    let namespaces = "namespaces.v1.Namespaces";
    for name in ["moby", "plugins.moby"] {
        let namespace = Some(Namespace { name: name.into(), ..Default::default() });
        client.ask::<()>(namespaces, "Create", &CreateNamespaceRequest { namespace }).await?;
    }
    let namespace = Some(Namespace { name: "mine".into(), ..Default::default() });
    let made = client.ask::<()>(namespaces, "Create", &CreateNamespaceRequest { namespace }).await;
    ensure!(code(&made) == Code::PermissionDenied, "{made:?}");
    let seen: ListNamespacesResponse = client.ask(namespaces, "List", &ListNamespacesRequest::default()).await?;
    let names: Vec<_> = seen.namespaces.into_iter().map(|namespace| namespace.name).collect();
    ensure!(names == ["moby", "plugins.moby"], "{names:?}");
    for name in ["k8s.io", "nowhere"] {
        let got =
            client.ask::<GetNamespaceResponse>(namespaces, "Get", &GetNamespaceRequest { name: name.into() }).await;
        ensure!(code(&got) == Code::NotFound, "{got:?}");
        let gone = client.ask::<()>(namespaces, "Delete", &DeleteNamespaceRequest { name: name.into() }).await;
        ensure!(code(&gone) == Code::NotFound, "{gone:?}");
    }
    client
        .named(Some("plugins.moby"))
        .ask::<ListImagesResponse>("images.v1.Images", "List", &ListImagesRequest::default())
        .await?;

    // A digest is no key to what it names.
    for digest in digests(&main).await? {
        let request = ReadContentRequest { digest: digest.clone(), ..Default::default() };
        let mut messages = client.open("content.v1.Content", "Read", &request).await;
        let read = match &mut messages {
            Ok(messages) => {
                messages.next().await.and_then(|message| message.map(|m| m.read::<ReadContentResponse>()).transpose())
            }
            Err(status) => Err(status.clone()),
        };
        ensure!(code(&read) == Code::NotFound, "{digest}: {read:?}");
        let request =
            WriteContentRequest { r#ref: format!("guess {digest}"), expected: digest.clone(), ..Default::default() };
        let mut messages = client.open("content.v1.Content", "Write", &request).await?;
        let written: WriteContentResponse = match messages.next().await? {
            Some(message) => message.read()?,
            None => bail!("{digest}: a write without an answer"),
        };
        ensure!(written.offset == 0, "{digest}: {} bytes are there already", written.offset);
        drop(messages);
        let abort = AbortRequest { r#ref: request.r#ref };
        windlass_test_e2e::eventually("the ingest is free", Duration::from_secs(5), async || {
            client.ask::<()>("content.v1.Content", "Abort", &abort).await.ok()
        })
        .await?;
    }
    // Nor can an event be published for another.
    let envelope = Envelope {
        namespace: "k8s.io".into(),
        topic: "/tasks/exit".into(),
        timestamp: Some(Default::default()),
        event: None,
    };
    let forwarded = client.ask::<()>("events.v1.Events", "Forward", &ForwardRequest { envelope: Some(envelope) }).await;
    ensure!(code(&forwarded) == Code::PermissionDenied, "{forwarded:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_are_named_may_connect() -> Result<()> {
    let (node, socket) = node("").await?;
    if node.is_reference() {
        return node.finish().await;
    }
    let mode = |path: &PathBuf| path.metadata().map(|found| found.permissions().mode() & 0o777);
    ensure!(mode(&socket)? == 0o600 && mode(&node.setup.socket)? == 0o600);
    // Shims' events are taken from root only.
    ensure!(mode(&PathBuf::from(format!("{}.ttrpc", node.setup.socket.display())))? == 0o600);
    let other = node.dir().join("other.sock");
    std::fs::set_permissions(node.dir(), std::fs::Permissions::from_mode(0o755))?;
    // Root is not among them.
    let asked = match Tenant::connect(&other, None).await {
        Ok(client) => code(&client.ask::<()>("version.v1.Version", "Version", &()).await),
        Err(_) => Code::Unavailable,
    };
    ensure!(asked != Code::Ok, "root was let in");
    let windlass = windlass_test_e2e::daemon::bin_dir()?.join("windlass");
    let copy = node.dir().join("windlass");
    std::fs::copy(windlass, &copy)?;
    for (words, good) in [
        (&["--reuid", "12345", "--regid", "1", "--clear-groups"][..], true),
        (&["--reuid", "1", "--regid", "1", "--groups", "7,54321"], true),
        (&["--reuid", "1", "--regid", "54321", "--clear-groups"], true),
        (&["--reuid", "1", "--regid", "1", "--clear-groups"], false),
    ] {
        let output = std::process::Command::new("setpriv")
            .args(words)
            .arg(&copy)
            .args(["--address", &other.to_string_lossy(), "--namespace", "other", "images", "list"])
            .output()?;
        ensure!(output.status.success() == good, "{words:?}: {output:?}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_socket_can_be_kept_from_the_cris_namespace() -> Result<()> {
    for word in ["read-only", "hidden"] {
        let (mut node, _) = node(&format!("main_socket = {word:?}")).await?;
        if node.is_reference() {
            return node.finish().await;
        }
        let image = node.busybox().await?;
        let main = Tenant::connect(&node.setup.socket, Some("k8s.io")).await?;
        let hidden = word == "hidden";
        let listed = main.ask::<ListImagesResponse>("images.v1.Images", "List", &ListImagesRequest::default()).await;
        let deletion =
            containerd_client::services::v1::DeleteImageRequest { name: image.clone(), ..Default::default() };
        let deleted = main.ask::<()>("images.v1.Images", "Delete", &deletion).await;
        ensure!(code(&listed) == if hidden { Code::PermissionDenied } else { Code::Ok }, "{word}: {listed:?}");
        ensure!(code(&deleted) == Code::PermissionDenied, "{word}: {deleted:?}");
        let seen: ListNamespacesResponse =
            main.ask("namespaces.v1.Namespaces", "List", &ListNamespacesRequest::default()).await?;
        ensure!(seen.namespaces.iter().any(|found| found.name == "k8s.io") != hidden, "{word}: {seen:?}");
        // Others are as they were, and the CRI goes on.
        let other = main.named(Some("default"));
        other.ask::<ListImagesResponse>("images.v1.Images", "List", &ListImagesRequest::default()).await?;
        let pod = node.run(node.pod("free"), &image, &["sleep", "1000"]).await?;
        // Its sandbox is kept as its tasks are.
        let (sandboxes, sandbox_id) = ("sandbox.v1.Controller", pod.id.clone());
        let request = ControllerStatusRequest { sandbox_id: sandbox_id.clone(), ..Default::default() };
        let status = main.ask::<ControllerStatusResponse>(sandboxes, "Status", &request).await;
        ensure!(code(&status) == if hidden { Code::PermissionDenied } else { Code::Ok }, "{word}: {status:?}");
        let request = ControllerStopRequest { sandbox_id: sandbox_id.clone(), ..Default::default() };
        let stopped = main.ask::<ControllerStopResponse>(sandboxes, "Stop", &request).await;
        ensure!(code(&stopped) == Code::PermissionDenied, "{word}: {stopped:?}");
        let request = ControllerShutdownRequest { sandbox_id, ..Default::default() };
        let shut = main.ask::<ControllerShutdownResponse>(sandboxes, "Shutdown", &request).await;
        ensure!(code(&shut) == Code::PermissionDenied, "{word}: {shut:?}");
        let shut = other.ask::<ControllerShutdownResponse>(sandboxes, "Shutdown", &request).await;
        ensure!(code(&shut) == Code::NotFound, "{word}: {shut:?}");
        ensure!(node.cri.output(&pod.container, &["echo", "well"]).await? == "well\n");
        node.cri.remove_everything().await?;
        node.mark().await;
        node.finish().await?;
    }
    Ok(())
}
