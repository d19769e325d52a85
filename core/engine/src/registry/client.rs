//! Conversations with one registry and its mirrors: who is asked, redirects, credentials, retries.

mod refusal;
mod tls;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;
use url::Url;
use windlass_model::{Context, Error, Kind, Reference, Result};

use self::refusal::{Again, Refusal};
use super::auth::Authorizer;
use super::hosts::{Host, hosts_for};
use super::{Access, Client, Credentials, Patience};
pub(crate) use refusal::status_error;
pub(crate) use transport::{Http, next_piece, read_small};

/// How many redirects one request follows.
const MAX_REDIRECTS: usize = 10;
/// How often one request answers challenges: once for a first token, once more for one that ran out meanwhile.
const MAX_CHALLENGES: usize = 2;
/// A wait that is not over after this many tries will not be over after more.
const TIMED_OUT_ATTEMPTS: u32 = 2;

/// A host of this session, with what was learned about it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    client: reqwest::Client,
    authorizer: Authorizer,
    /// It gave bytes that were not what it was asked for.
    distrusted: AtomicBool,
}

/// A conversation about one repository.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) reference: Reference,
    pub(crate) patience: Patience,
    http: Arc<Http>,
    endpoints: Vec<Endpoint>,
    /// What tokens must allow beside what a challenge names.
    scopes: Vec<String>,
}

/// What is wanted of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Where.
    pub(crate) at: Place,
    pub(crate) accept: &'static str,
    /// The first byte that is wanted, where it is not 0.
    pub(crate) from: u64,
    /// Headers beside those.
    pub(crate) headers: HeaderMap,
    /// What is sent.
    pub(crate) body: Option<Bytes>,
    /// Whether a failure is told at once, for what must not simply be sent again.
    pub(crate) once: bool,
}

/// Where something is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Below the repository: `manifests/latest`, perhaps with a query.
    Path(String),
    /// Where the host itself said.
    Url(Url),
}

impl Ask {
    /// A question without a body.
    pub(crate) fn new(method: Method, path: String, accept: &'static str) -> Self {
        let at = Place::Path(path);
        Self { method, at, accept, from: 0, headers: HeaderMap::new(), body: None, once: false }
    }
}

impl Session {
    pub(super) async fn open(
        registry: &Client,
        reference: &Reference,
        access: Access,
        scopes: Vec<String>,
    ) -> Result<Self> {
        let (mut config, http, name) = (registry.config.clone(), registry.http.clone(), reference.host().to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            config.config_path = access.config_path.or(config.config_path);
            endpoints(&config, &http, &name, access.auth, access.plain_http)
        })
        .await;
        let endpoints =
            opened.map_err(|error| Error::with_source(Kind::Internal, "the hosts were not read", error))??;
        let (patience, http) = (registry.patience, registry.http.clone());
        Ok(Self { reference: reference.clone(), patience, http, endpoints, scopes })
    }

    /// The hosts to try, in order, that `can` do what is wanted; those that lied are left out.
    pub(crate) fn candidates(&self, can: impl Fn(&Host) -> bool) -> Vec<&Endpoint> {
        let honest = |endpoint: &&Endpoint| !endpoint.distrusted.load(Ordering::Relaxed);
        self.endpoints.iter().filter(honest).filter(|endpoint| can(&endpoint.host)).collect()
    }

    /// The host at `base`.
    pub(crate) fn endpoint(&self, base: &Url) -> Result<&Endpoint> {
        let found = self.endpoints.iter().find(|endpoint| endpoint.host.base == *base);
        found.ok_or_else(|| Error::internal(format!("{} is not a host of this session", shown(base))))
    }

    /// Takes a host that gave wrong bytes out of this session; false where nobody is left to ask instead.
    pub(crate) fn distrust(&self, base: &Url) -> bool {
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.host.base == *base) {
            endpoint.distrusted.store(true, Ordering::Relaxed);
        }
        self.candidates(|host| host.pull).iter().any(|endpoint| !endpoint.host.alternate)
    }

    /// Asks one host after the other until one has the answer; the registry's own error, the last, is the result.
    pub(crate) async fn first<'a, T>(
        &'a self,
        can: impl Fn(&Host) -> bool,
        ask: impl Fn(&'a Endpoint) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        let mut failed: Option<Error> = None;
        let mut before: Vec<String> = Vec::new();
        for endpoint in self.candidates(can) {
            if endpoint.host.alternate && !failed.as_ref().is_some_and(may_be_the_wrong_scheme) {
                continue;
            }
            match ask(endpoint).await {
                Ok(result) => return Ok(result),
                Err(_) if endpoint.host.alternate => {}
                Err(error) => {
                    tracing::debug!(host = %endpoint.host.base, %error, "a registry host failed");
                    before.extend(failed.replace(error).map(|error| error.to_string()));
                }
            }
        }
        let error = failed.unwrap_or_else(|| {
            Error::precondition(format!("no host is configured that serves {}", self.reference.host()))
        });
        if before.is_empty() {
            return Err(error);
        }
        Err(error).context(|| format!("after mirrors failed ({})", before.join("; ")))
    }

    /// Asks one host, with credentials and retries; a success status is the only good end.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Response> {
        let attempts = match &endpoint.host {
            host if host.alternate || ask.once => 1,
            host if host.origin => self.patience.attempts,
            _ => self.patience.mirror_attempts,
        };
        let mut back_off = self.patience.back_off;
        let mut attempt = 1;
        loop {
            let Refusal { error, again } = match self.ask_once(endpoint, ask).await {
                Ok(response) => return Ok(response),
                Err(refusal) => refusal,
            };
            let wait = match again {
                Again::Soon if attempt < attempts => back_off,
                Again::Once if attempt < attempts.min(TIMED_OUT_ATTEMPTS) => back_off,
                Again::After(wait) if attempt < attempts && wait <= self.patience.retry_after => wait,
                _ => return Err(error),
            };
            tracing::debug!(%error, ?wait, attempt, "asking again");
            tokio::time::sleep(wait).await;
            back_off *= 2;
            attempt += 1;
        }
    }

    async fn ask_once(&self, endpoint: &Endpoint, ask: &Ask) -> std::result::Result<Response, Refusal> {
        let mut challenges = 0;
        loop {
            let (generation, authorization) = endpoint.authorizer.header();
            let response = self.send_following(endpoint, ask, authorization).await.map_err(Refusal::of_transport)?;
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status() != StatusCode::UNAUTHORIZED || challenges == MAX_CHALLENGES {
                return Err(Refusal::of_status(&self.http, response).await);
            }
            challenges += 1;
            let headers = response.headers().clone();
            let refused = status_error(&self.http, response).await;
            let repository = self.reference.repository();
            let answered = endpoint.authorizer.answer(
                &self.http,
                &endpoint.client,
                &endpoint.host,
                &headers,
                repository,
                &self.scopes,
                generation,
            );
            if let Err(error) = answered.await {
                let again = if error.kind() == Kind::Unavailable { Again::Soon } else { Again::No };
                return Err(Refusal { error: join(refused, &error), again });
            }
        }
    }

    /// Sends one request and follows its redirects, leaving behind what belongs to the first host.
    async fn send_following(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<HeaderValue>,
    ) -> Result<Response> {
        let mut headers = ask.headers.clone();
        if !ask.accept.is_empty() {
            headers.insert(ACCEPT, HeaderValue::from_static(ask.accept));
        }
        if ask.from > 0 {
            headers.insert(RANGE, range_from(ask.from)?);
        }
        let mut own = endpoint.host.headers.clone();
        if let Some(authorization) = authorization {
            own.insert(AUTHORIZATION, authorization);
        }
        let mut url = match &ask.at {
            Place::Path(path) => self.url(endpoint, path),
            Place::Url(url) => url.clone(),
        };
        let home = endpoint.host.base.origin();
        for _ in 0..=MAX_REDIRECTS {
            let at_home = url.origin() == home;
            let client = if at_home { endpoint.client.clone() } else { self.http.client_for(&url).await? };
            let mut sent = headers.clone();
            if at_home {
                sent.extend(own.clone());
            }
            let response = self.http.send(&client, ask.method.clone(), url.clone(), sent, ask.body.clone()).await?;
            let Some(next) = redirect(&url, &response)? else { return Ok(response) };
            url = next;
        }
        Err(Error::unavailable(format!("{} redirects without end", shown(&url))))
    }

    fn url(&self, endpoint: &Endpoint, path: &str) -> Url {
        let mut url = endpoint.host.base.clone();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_query(query);
        let whole = format!("{}/{}/{path}", url.path().trim_end_matches('/'), self.reference.repository());
        url.set_path(&whole);
        if let Some(namespace) = &endpoint.host.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Reads the whole of a small answer.
    pub(crate) async fn read_small(&self, response: Response, limit: usize) -> Result<Vec<u8>> {
        read_small(&self.http, response, limit).await
    }
}

fn endpoints(
    config: &super::Config,
    http: &Http,
    registry: &str,
    credentials: Option<Credentials>,
    plain_http: bool,
) -> Result<Vec<Endpoint>> {
    let endpoint = |host: Host| {
        // A host that is asked in a registry's place is not that registry, whoever wrote it there.
        let credentials = if host.namespace.is_none() { credentials.clone() } else { None };
        // A file that is missing on this node is no image that is missing.
        let client = http.client_of(&host).map_err(|error| {
            Error::with_source(Kind::FailedPrecondition, format!("set up TLS for {}", shown(&host.base)), error)
        })?;
        Ok(Endpoint { client, authorizer: Authorizer::new(credentials), distrusted: AtomicBool::new(false), host })
    };
    hosts_for(config, registry, plain_http)?.into_iter().map(endpoint).collect()
}

/// True where the error may come from speaking TLS to a host that does not, or the other way round.
fn may_be_the_wrong_scheme(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::InvalidArgument)
}

pub(super) fn redirect(from: &Url, response: &Response) -> Result<Option<Url>> {
    use StatusCode as Code;
    let moved =
        [Code::MOVED_PERMANENTLY, Code::FOUND, Code::SEE_OTHER, Code::TEMPORARY_REDIRECT, Code::PERMANENT_REDIRECT];
    if !moved.contains(&response.status()) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok());
    match target.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some()) {
        Some(url) => Ok(Some(url)),
        None => Err(Error::unavailable(format!("{} redirects to nowhere", shown(from)))),
    }
}

/// A URL as it may stand in a log: without user, password and query, which may hold signatures.
pub(crate) fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or("?").to_owned() + &port(url), url.path())
}

fn port(url: &Url) -> String {
    url.port().map(|port| format!(":{port}")).unwrap_or_default()
}

fn join(refused: Error, answer: &Error) -> Error {
    Error::new(answer.kind(), format!("{refused}; {answer}"))
}

fn range_from(first: u64) -> Result<HeaderValue> {
    let text = format!("bytes={first}-");
    HeaderValue::try_from(text).map_err(|error| Error::with_source(Kind::Internal, "a range is no header", error))
}
