//! How a registry is shown who asks: challenges (RFC 9110, 11) answered with Basic, or with a bearer token from the
//! token server that the challenge names (distribution's token specification, and its OAuth 2 form for identity tokens).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use url::Url;
use windlass_model::{Context, Error, Kind, Result};

use super::Credentials;
use super::client::{Http, read_small, shown, status_error};
use super::hosts::{Host, is_loopback};

/// The longest challenge that is read.
const MAX_CHALLENGE: usize = 8 << 10;
/// The longest answer of a token server.
const MAX_TOKEN_ANSWER: usize = 256 << 10;
/// Who asks the token server.
const CLIENT_ID: &str = "windlass";

/// One way that a server offers for showing who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What one host was told and has told about who asks.
#[derive(Debug)]
pub(crate) struct Authorizer {
    /// Only where the host is the registry for which they were given.
    credentials: Option<Credentials>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the headers, so that of several requests refused with the same one only the first asks for another.
    generation: u64,
    header: Option<HeaderValue>,
}

/// A token that is wanted, and from whom.
struct TokenRequest<'a> {
    http: &'a Http,
    client: reqwest::Client,
    realm: Url,
    service: Option<String>,
    scope: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Authorizer {
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        let header = match &credentials {
            Some(Credentials::Registry(token)) => bearer(token),
            _ => None,
        };
        Self { credentials, state: Mutex::new(State { generation: 0, header }) }
    }

    /// What to send now, and which generation that is.
    pub(crate) fn header(&self) -> (u64, Option<HeaderValue>) {
        let state = self.state.lock();
        (state.generation, state.header.clone())
    }

    /// Finds a header that answers the challenges of a 401 to a request of `generation`. A token is asked for the scopes
    /// that the challenge names (reading `repository` where it names none) and those `beside`.
    ///
    /// # Errors
    /// `Unauthenticated` where there is nothing (more) to show.
    #[allow(clippy::too_many_arguments, reason = "one conversation's whole context")]
    pub(crate) async fn answer(
        &self,
        http: &Http,
        client: &reqwest::Client,
        host: &Host,
        challenges: &HeaderMap,
        repository: &str,
        beside: &[String],
        generation: u64,
    ) -> Result<()> {
        if self.state.lock().generation != generation {
            return Ok(());
        }
        let offered = challenges_in(challenges);
        let header = match self.choose(&offered) {
            Some(Challenge::Basic) => self.basic()?,
            Some(Challenge::Bearer { realm, service, scope }) => {
                let mut scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
                for more in beside {
                    if !scope.split(' ').any(|known| known == more) {
                        scope = format!("{scope} {more}");
                    }
                }
                let realm = token_server(realm)?;
                // The registry's own certificates count where it is its own token server.
                let own = realm.host_str() == host.base.host_str();
                let client = if own { client.clone() } else { http.client_for(&realm).await? };
                let ask = TokenRequest { http, client, realm, service: service.clone(), scope };
                Some(self.token(host, &ask).await?)
            }
            None => None,
        };
        let Some(header) = header else {
            return Err(Error::new(
                Kind::Unauthenticated,
                "the registry asks for credentials and none were given for it",
            ));
        };
        let mut state = self.state.lock();
        state.generation += 1;
        state.header = Some(header);
        Ok(())
    }

    fn choose<'a>(&self, offered: &'a [Challenge]) -> Option<&'a Challenge> {
        if matches!(self.credentials, Some(Credentials::Registry(_))) {
            return None;
        }
        let bearer = offered.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        bearer.or_else(|| offered.first())
    }

    fn basic(&self) -> Result<Option<HeaderValue>> {
        let Some(Credentials::Basic { user, password }) = &self.credentials else { return Ok(None) };
        Ok(Some(basic(user, password)?))
    }

    async fn token(&self, host: &Host, ask: &TokenRequest<'_>) -> Result<HeaderValue> {
        if self.credentials.is_some() && !may_see_secrets(&ask.realm, host) {
            let realm = shown(&ask.realm);
            return Err(Error::precondition(format!("the registry wants the credentials sent without TLS to {realm}")));
        }
        let token = match &self.credentials {
            Some(Credentials::Identity(token)) => {
                ask.post(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
            }
            Some(Credentials::Basic { user, password }) => match ask.get(Some((user, password))).await {
                // Some servers know only the OAuth 2 form.
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unimplemented) => {
                    ask.post(&[("grant_type", "password"), ("username", user), ("password", password)]).await
                }
                result => result,
            },
            _ => ask.get(None).await,
        };
        let token = token.context(|| format!("ask {} for a token", shown(&ask.realm)))?;
        bearer(&token).ok_or_else(|| Error::unavailable("the token server gave a token that is no header value"))
    }
}

impl TokenRequest<'_> {
    /// The distribution project's form.
    async fn get(&self, account: Option<(&str, &str)>) -> Result<String> {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            // A challenge may hold several scopes.
            for scope in self.scope.split(' ') {
                query.append_pair("scope", scope);
            }
            if let Some((user, _)) = account {
                query.append_pair("account", user);
            }
        }
        let mut headers = HeaderMap::new();
        if let Some((user, password)) = account {
            headers.insert(AUTHORIZATION, basic(user, password)?);
        }
        read_token(self.http, self.http.send(&self.client, Method::GET, url, headers, None).await?).await
    }

    /// The OAuth 2 form (RFC 6749).
    async fn post(&self, grant: &[(&str, &str)]) -> Result<String> {
        let form = self.form(grant);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let response = self.http.send(&self.client, Method::POST, self.realm.clone(), headers, Some(form.into()));
        read_token(self.http, response.await?).await
    }

    fn form(&self, grant: &[(&str, &str)]) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", CLIENT_ID).append_pair("scope", &self.scope).extend_pairs(grant);
        if let Some(service) = &self.service {
            form.append_pair("service", service);
        }
        form.finish()
    }
}

fn token_server(realm: &str) -> Result<Url> {
    let url =
        realm.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
    url.ok_or_else(|| Error::unavailable("the registry names a token server that is not an http URL"))
}

/// Secrets go over TLS, to this machine, or to the very host that the administrator configured without TLS.
fn may_see_secrets(realm: &Url, host: &Host) -> bool {
    let authority = realm.authority();
    let same_host = realm.host_str() == host.base.host_str();
    realm.scheme() == "https" || is_loopback(authority) || (host.base.scheme() == "http" && same_host)
}

fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        .map_err(|_| Error::invalid("the credentials do not fit a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn read_token(http: &Http, response: reqwest::Response) -> Result<String> {
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        return Err(Error::unimplemented("the token server does not take this method"));
    }
    if response.status() == StatusCode::BAD_REQUEST {
        // OAuth 2 answers 400 to a grant that it does not like (RFC 6749, 5.2).
        let error = status_error(http, response).await;
        return Err(Error::new(Kind::Unauthenticated, error.to_string()));
    }
    if !response.status().is_success() {
        return Err(status_error(http, response).await);
    }
    let body = read_small(http, response, MAX_TOKEN_ANSWER).await?;
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| Error::unavailable("the token server's answer is not a token"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(Error::new(Kind::Unauthenticated, "the token server gave no token"));
    }
    Ok(token)
}

fn challenges_in(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(parse_challenges).collect()
}

/// The challenges of one `WWW-Authenticate` value that are understood; rubbish gives none.
pub(crate) fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = if text.len() <= MAX_CHALLENGE { text } else { "" };
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token_char(c)).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        let word = rest[..end].to_ascii_lowercase();
        let after = rest[end..].trim_start_matches([' ', '\t']);
        // `name=value` belongs to the scheme before it; a bare word starts the next scheme.
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, remainder) = parameter_value(value.trim_start_matches([' ', '\t']));
                parameters.push((word, value));
                rest = remainder;
            }
            (Some(_), None) => break,
            (None, _) => {
                found.push((word, Vec::new()));
                rest = after;
            }
        }
    }
    found.into_iter().filter_map(understood).collect()
}

fn understood((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get = |name: &str| {
        let value = parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        value.filter(|value| !value.is_empty())
    };
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") }),
        _ => None,
    }
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_servers_challenge_is_read() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(parse_challenges(text), [expected]);
    }

    #[test]
    fn several_schemes_stand_in_one_header() {
        let found = parse_challenges(r#"Negotiate, BASIC realm="x, y", bearer realm=http://t/ , error="a\"b""#);
        let bearer = Challenge::Bearer { realm: "http://t/".into(), service: None, scope: None };
        assert_eq!(found, [Challenge::Basic, bearer]);
    }

    #[test]
    fn rubbish_gives_nothing() {
        for bad in ["", "=", "\"", "Bearer", "Bearer realm=", "Bearer realm=\"", ",,,", "realm=\"x\"", "\u{e9}"] {
            assert_eq!(parse_challenges(bad), [], "{bad:?}");
        }
        assert_eq!(parse_challenges(&format!("Basic {}", "a".repeat(MAX_CHALLENGE))), []);
    }
}
