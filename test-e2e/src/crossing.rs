//! Attempts to cross from one tenant to another by every method of the containerd API.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tonic::{Code, Status};

use crate::methods::{self, Does, Method, Owed, Target};
use crate::newer::Bytes;
use crate::tenant::Tenant;

/// How long an answer is waited for that need not come.
const PATIENCE: Duration = Duration::from_millis(500);

/// A word that stands in the environment of what a tenant runs, and so in its records.
pub const SECRET: &str = "hush-4711";

/// Services that are of no namespace, and answer what is nobody's, or by what the message says.
const OF_NOBODY: [&str; 5] = [
    "grpc.health.v1.Health",
    "containerd.services.version.v1.Version",
    "containerd.services.introspection.v1.Introspection",
    "containerd.services.namespaces.v1.Namespaces",
    "containerd.services.events.v1.Events",
];

/// What a call answered within a moment, in bytes; nothing where it waits for something.
///
/// # Errors
/// The call's own.
pub async fn answer(client: &Tenant, service: &str, method: &str, request: Bytes) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    let asking = async {
        let mut messages = client.calls.open(service, method, request).await?;
        while let Some(message) = messages.next().await? {
            bytes.extend(message.0);
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Err(_) | Ok(Ok(())) => Ok(bytes),
        Ok(Err(status)) => Err(status),
    }
}

/// Whether `text` stands in `bytes`.
pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

async fn ask(client: &Tenant, method: &Method, target: &Target) -> (Bytes, Result<Vec<u8>, Status>) {
    let request = (method.ask)(target);
    let answered = answer(client, method.service, method.name, request.clone()).await;
    (request, answered)
}

/// Fails unless every method is refused where `client`, which is locked to other namespaces, names the target's. Gives
/// how many there were.
///
/// # Errors
/// The first method that was not.
pub async fn locked_out(client: &Tenant, target: &Target) -> Result<usize> {
    for method in methods::all() {
        let (_, answered) = ask(client, &method, target).await;
        ensure!(is_denied(&answered), "{method} in {}: {answered:?}", target.namespace);
    }
    Ok(methods::all().count())
}

/// Fails unless every method is refused, or of no namespace and tells nothing, where `client` names the target's
/// namespace, which is hidden from its socket.
///
/// # Errors
/// The first method that was not.
pub async fn hidden_from(client: &Tenant, target: &Target) -> Result<usize> {
    for method in methods::all() {
        let (request, answered) = ask(client, &method, target).await;
        if is_denied(&answered) {
            continue;
        }
        let of_nobody = OF_NOBODY.contains(&method.service) && method.name != "Publish";
        ensure!(of_nobody, "{method} in {}: {answered:?}", target.namespace);
        silent(&method, target, &request, &answered)?;
    }
    Ok(methods::all().count())
}

/// Fails unless every method that changes something is refused where `client` names the target's namespace, which is
/// read-only for its socket, and the others answer. Gives how many changes were refused, and who of the others failed.
///
/// # Errors
/// The first method that changed something.
pub async fn read_only_for(client: &Tenant, target: &Target) -> Result<(usize, Vec<String>)> {
    let (mut refused, mut failed) = (0, Vec::new());
    for method in methods::all() {
        let (_, answered) = ask(client, &method, target).await;
        match method.does {
            Does::Changes => {
                ensure!(is_denied(&answered), "{method} in {}: {answered:?}", target.namespace);
                refused += 1;
            }
            Does::Looks if answered.is_err() => failed.push(method.to_string()),
            Does::Looks => {}
        }
    }
    Ok((refused, failed))
}

/// Fails unless `client`, which asks in a namespace of its own, is refused whatever would need something of the target's,
/// and is told nothing of it by anything else. In the end all is tried again with what it could make of its own by the
/// target's names. Gives how many requests there were.
///
/// # Errors
/// The first method that answered too much.
pub async fn stranger_to(client: &Tenant, target: &Target) -> Result<usize> {
    let makes = |method: &Method| method.owed == Owed::Own && method.does == Does::Changes;
    for method in methods::all().filter(|method| !makes(method)) {
        let (request, answered) = ask(client, &method, target).await;
        ensure!(
            method.owed == Owed::Own || answered.is_err(),
            "{method} works on {}'s: {answered:?}",
            target.namespace
        );
        silent(&method, target, &request, &answered)?;
    }
    let makers = methods::all().filter(makes);
    for method in makers.chain(methods::all()) {
        let (_, answered) = ask(client, &method, target).await;
        let Ok(bytes) = answered else { continue };
        ensure!(method.owed != Owed::Never, "{method} works on {}'s: {bytes:?}", target.namespace);
        ensure!(!holds(&bytes, SECRET), "{method} tells the secret of {}", target.namespace);
    }
    Ok(methods::all().count() * 2)
}

/// Fails where an answer says more of the target than it was asked with.
fn silent(method: &Method, target: &Target, request: &Bytes, answered: &Result<Vec<u8>, Status>) -> Result<()> {
    let Ok(bytes) = answered else { return Ok(()) };
    let told = |name: &&str| holds(bytes, name) && !holds(&request.0, name);
    match target.names().into_iter().chain([SECRET]).find(told) {
        Some(name) => bail!("{method} tells {name} of {}", target.namespace),
        None => Ok(()),
    }
}

fn is_denied(answered: &Result<Vec<u8>, Status>) -> bool {
    answered.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied)
}
