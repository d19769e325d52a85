//! HTTP clients with their connections, and requests and answers with an end to their patience.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::HeaderMap;
use parking_lot::Mutex;
use reqwest::Response;
use url::Url;
use windlass_model::{Error, Kind, Result};

use super::refusal::transport_error;
use super::shown;
use super::tls::Loaded;
use crate::registry::Patience;
use crate::registry::hosts::{Host, Tls, is_loopback};

/// How many differently configured HTTP clients are kept for the next pull.
const MAX_CLIENTS: usize = 32;
/// What a connection must carry at least, in bytes a second.
const SLOWEST: u64 = 32 << 10;

/// HTTP clients with their connections, kept from pull to pull.
#[derive(Debug)]
pub(crate) struct Http {
    patience: Patience,
    clients: Mutex<HashMap<ClientKey, reqwest::Client>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClientKey {
    tls: Loaded,
    /// Through the proxy that the environment names; never to this machine itself.
    proxy: bool,
    connect: Duration,
}

impl Http {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, clients: Mutex::default() }
    }

    /// A client for `url` with the system's authorities; builds it off this thread where there is none yet.
    pub(crate) async fn client_for(self: &Http, url: &Url) -> Result<reqwest::Client> {
        let loaded = if url.scheme() == "https" { Loaded::system() } else { Loaded::clear_text() };
        let key = ClientKey { tls: loaded, proxy: !is_loopback(url.authority()), connect: self.patience.connect };
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let build = key.clone();
        let built = tokio::task::spawn_blocking(move || build.build()).await;
        let client = built.map_err(|error| Error::with_source(Kind::Internal, "the client was not built", error))??;
        Ok(self.keep(key, client))
    }

    /// A client for a host of a session. Blocks: reads certificates.
    pub(super) fn client_of(&self, host: &Host) -> Result<reqwest::Client> {
        let loaded = match host.base.scheme() {
            "https" if host.tls == Tls::default() => Loaded::system(),
            "https" => Loaded::read(&host.tls)?,
            _ => Loaded::clear_text(),
        };
        let connect = host.dial_timeout.unwrap_or(self.patience.connect);
        let key = ClientKey { tls: loaded, proxy: !is_loopback(host.base.authority()), connect };
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let client = key.build()?;
        Ok(self.keep(key, client))
    }

    fn keep(&self, key: ClientKey, client: reqwest::Client) -> reqwest::Client {
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.entry(key).or_insert(client).clone()
    }

    /// Sends one request and waits for the head of its answer, whatever its status.
    pub(crate) async fn send(
        &self,
        client: &reqwest::Client,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response> {
        let asked = shown(&url);
        // What is sent takes its time before an answer can come.
        let sending = Duration::from_secs(body.as_ref().map_or(0, |body| body.len() as u64) / SLOWEST);
        let mut request = client.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let patience = self.patience.answer + sending;
        match tokio::time::timeout(patience, request.send()).await {
            Err(_) => Err(Error::deadline(format!("{asked} gave no answer in {patience:?}"))),
            Ok(Err(error)) => Err(transport_error(error, &asked)),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

impl ClientKey {
    fn build(&self) -> Result<reqwest::Client> {
        let builder = reqwest::Client::builder()
            .use_preconfigured_tls(self.tls.config()?)
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.connect)
            .pool_idle_timeout(Duration::from_secs(30));
        let builder = if self.proxy { builder } else { builder.no_proxy() };
        builder
            .build()
            .map_err(|error| Error::with_source(Kind::FailedPrecondition, "the HTTP client cannot be set up", error))
    }
}

/// Reads an answer that must not be longer than `limit` bytes, each piece within the time for an answer.
pub(crate) async fn read_small(http: &Http, mut response: Response, limit: usize) -> Result<Vec<u8>> {
    let asked = shown(response.url());
    let too_long = || Error::data_loss(format!("the answer of {asked} is longer than {limit} bytes"));
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_long());
    }
    let mut body = Vec::new();
    while let Some(piece) = next_piece(&mut response, http.patience.answer).await? {
        if body.len() + piece.len() > limit {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The next bytes of a body; `DeadlineExceeded` when none come within `patience`.
pub(crate) async fn next_piece(response: &mut Response, patience: Duration) -> Result<Option<Bytes>> {
    match tokio::time::timeout(patience, response.chunk()).await {
        Err(_) => Err(Error::deadline(format!("{} sent nothing for {patience:?}", shown(response.url())))),
        Ok(Err(error)) => Err(transport_error(error, &shown(response.url()))),
        Ok(Ok(piece)) => Ok(piece),
    }
}
