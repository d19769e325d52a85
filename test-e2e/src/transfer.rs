//! A client of transfers that says its credentials over a stream when it is asked.

use anyhow::{Context, Result};
use containerd_client::services::v1::streaming_client::StreamingClient;
use containerd_client::services::v1::transfer_client::TransferClient;
use containerd_client::services::v1::{StreamInit, TransferRequest};
use containerd_client::to_any;
use containerd_client::types::transfer::{
    AuthRequest, AuthResponse, AuthType, ImageStore, OciRegistry, RegistryResolver, UnpackConfiguration,
};
use futures::StreamExt as _;
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming};

use crate::tenant::Tenant;

/// The stream's id.
const STREAM: &str = "credentials";

/// What a client says when it is asked.
#[derive(Clone, Copy, Debug)]
pub enum Says<'a> {
    /// A user and a password.
    Password(&'a str, &'a str),
    /// The value of an `Authorization` header.
    Header(&'a str),
    /// That it has none.
    Nothing,
    /// No word: it ends the stream.
    Leaves,
}

/// Which way an image goes.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// From the registry to the store, and unpacked.
    Pull,
    /// From the store to the registry.
    Push,
}

/// Moves the image `reference` between its registry, spoken to without TLS, and the store of `namespace`. Also gives what
/// the daemon asked for.
///
/// # Errors
/// Those of the harness; the transfer's own is within.
pub async fn transfer(
    client: &Tenant,
    namespace: &'static str,
    way: Way,
    reference: &str,
    says: Says<'_>,
) -> Result<(Result<(), Status>, Option<AuthRequest>)> {
    let (sender, incoming) = open(client, namespace).await?;
    let resolver = RegistryResolver { auth_stream: STREAM.into(), default_scheme: "http".into(), ..Default::default() };
    let registry = to_any(&OciRegistry { reference: reference.to_owned(), resolver: Some(resolver) });
    let unpacks = vec![UnpackConfiguration { platform: None, snapshotter: "overlayfs".into() }];
    let store = to_any(&ImageStore { name: reference.to_owned(), unpacks, ..Default::default() });
    let (source, destination) = match way {
        Way::Pull => (registry, store),
        Way::Push => (store, registry),
    };
    let request = TransferRequest { source: Some(source), destination: Some(destination), options: None };
    let mut calls = TransferClient::new(client.channel.clone());
    let (outcome, asked) = tokio::join!(calls.transfer(of(namespace, request)), answer(sender, incoming, says));
    Ok((outcome.map(drop), asked))
}

/// Opens the stream.
async fn open(client: &Tenant, namespace: &'static str) -> Result<(mpsc::Sender<Any>, Streaming<Any>)> {
    let (sender, messages) = mpsc::channel(4);
    sender.send(to_any(&StreamInit { id: STREAM.into() })).await?;
    let messages = futures::stream::unfold(messages, |mut messages| async move {
        let message = messages.recv().await?;
        Some((message, messages))
    });
    let mut calls = StreamingClient::new(client.channel.clone());
    let mut incoming = calls.stream(of(namespace, messages.boxed())).await?.into_inner();
    incoming.message().await?.context("the stream is not confirmed")?;
    Ok((sender, incoming))
}

/// Answers the daemon's question, if there is one before the stream ends.
async fn answer(sender: mpsc::Sender<Any>, mut incoming: Streaming<Any>, says: Says<'_>) -> Option<AuthRequest> {
    let question = incoming.message().await.ok()??;
    let asked = AuthRequest::decode(question.value.as_slice()).ok()?;
    let (kind, username, secret) = match says {
        Says::Password(user, password) => (AuthType::Credentials, user, password),
        Says::Header(value) => (AuthType::Header, "", value),
        Says::Nothing => (AuthType::None, "", ""),
        Says::Leaves => return Some(asked),
    };
    let (username, secret) = (username.to_owned(), secret.to_owned());
    sender.send(to_any(&AuthResponse { auth_type: kind.into(), secret, username, expire_at: None })).await.ok()?;
    while let Ok(Some(_)) = incoming.message().await {}
    Some(asked)
}

fn of<T>(namespace: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(namespace));
    request
}
