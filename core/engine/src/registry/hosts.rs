//! Which hosts serve a registry's name: `hosts.toml` directories as containerd reads them (`docs/hosts.md` there).
//!
//! Under each configured folder the directory `<host>_<port>_`, `<host>[:<port>]` or `_default` is looked for, in that
//! order. Its `hosts.toml` lists `[host."url"]` tables, which are tried in the order of the file, and then the `server`
//! (the registry itself where it is not written). A directory without `hosts.toml` may hold certificates by Docker's
//! pattern: `*.crt` authorities, `*.cert` with `*.key` client pairs. Unlike containerd, a file that does not parse
//! fails the pull: falling back would silently go around the mirror that somebody meant to be used.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;
use windlass_model::{Context, Error, Result};

use super::Config;

/// The largest `hosts.toml` that is read.
const MAX_FILE: u64 = 1 << 20;

/// How a host's certificate is checked and which one is shown to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    /// Authorities beside those of the system.
    pub(crate) authorities: Vec<PathBuf>,
    /// Certificate and key; without a key, both are in the first file.
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether any certificate is good; `None` where nothing was said.
    pub(crate) skip_verify: Option<bool>,
}

impl Tls {
    fn is_explicit(&self) -> bool {
        !self.authorities.is_empty() || !self.client.is_empty() || self.skip_verify.is_some()
    }
}

/// A host that may serve a registry's name.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// The root of its API: `https://registry-1.docker.io/v2`.
    pub(crate) base: Url,
    pub(crate) pull: bool,
    pub(crate) resolve: bool,
    pub(crate) push: bool,
    pub(crate) tls: Tls,
    /// Sent with each request to this host; values are marked sensitive.
    pub(crate) headers: HeaderMap,
    /// The registry's name, sent as `ns=` to a host that is not that registry.
    pub(crate) namespace: Option<String>,
    /// The same host spoken to in the other scheme, for where the scheme is a guess.
    pub(crate) alternate: bool,
    /// The last resort, which is asked more patiently.
    pub(crate) origin: bool,
    /// For connecting, where the file says so.
    pub(crate) dial_timeout: Option<Duration>,
}

/// A registry's entry in a `hosts.toml`, and the top level of the file.
#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    capabilities: Vec<String>,
    ca: Option<OneOrMany<String>>,
    client: Option<OneOrMany<ClientPair>>,
    skip_verify: Option<bool>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: toml::Table,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientPair {
    Together(PathBuf),
    Apart(PathBuf, PathBuf),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// The hosts for `registry`, in the order in which they are asked. One of which no file says anything is spoken to without
/// TLS if that is wanted. Blocks on small files.
pub(crate) fn hosts_for(config: &Config, registry: &str, plain_http: bool) -> Result<Vec<Host>> {
    let Some(folder) = find_folder(config, registry) else {
        let hosts = defaults(registry, Entry::default(), Path::new("/"), Tls::default())?;
        let clear = |host: Host| both_schemes(host, "http").swap_remove(0);
        return Ok(if plain_http { hosts.into_iter().take(1).map(clear).collect() } else { hosts });
    };
    let path = folder.join("hosts.toml");
    match read_capped(&path) {
        Ok(text) if text.trim().is_empty() => defaults(registry, Entry::default(), &folder, certificates(&folder)?),
        Ok(text) => parse(&text, &folder, registry).context(|| format!("read {}", path.display())),
        Err(error) if error.is_not_found() => defaults(registry, Entry::default(), &folder, certificates(&folder)?),
        Err(error) => Err(error).context(|| format!("read {}", path.display())),
    }
}

/// True where `host[:port]` is this machine, which is spoken to without TLS unless told otherwise.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = split_port(authority).0;
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn find_folder(config: &Config, registry: &str) -> Option<PathBuf> {
    let roots: Vec<PathBuf> = std::env::split_paths(config.config_path.as_ref()?).collect();
    let with_port = match split_port(registry) {
        (host, Some(port)) => Some(format!("{host}_{port}_")),
        _ => None,
    };
    let names = || with_port.iter().map(String::as_str).chain([registry, "_default"]);
    roots.iter().flat_map(|root| names().map(|name| root.join(name))).find(|folder| folder.exists())
}

fn read_capped(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::invalid("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Docker's pattern of certificate files.
fn certificates(folder: &Path) -> Result<Tls> {
    let mut names: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Tls::default()),
        Err(error) => return Err(error).context(|| format!("list {}", folder.display())),
    };
    names.sort();
    let mut tls = Tls::default();
    for name in names {
        match name.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.authorities.push(name),
            Some("cert") => {
                let key = name.with_extension("key");
                tls.client.push((name, key.exists().then_some(key)));
            }
            _ => {}
        }
    }
    Ok(tls)
}

pub(crate) fn parse(text: &str, folder: &Path, registry: &str) -> Result<Vec<Host>> {
    let invalid =
        |error: toml::de::Error| Error::with_source(windlass_model::Kind::InvalidArgument, "it is not valid", error);
    // The table keeps the order of the file (feature `preserve_order`).
    let mut top: toml::Table = toml::from_str(text).map_err(invalid)?;
    let tables = match top.remove("host") {
        None => toml::Table::new(),
        Some(toml::Value::Table(tables)) => tables,
        Some(_) => return Err(Error::invalid("`host` is not a table")),
    };
    let server = match top.remove("server") {
        None => String::new(),
        Some(toml::Value::String(server)) => server,
        Some(_) => return Err(Error::invalid("`server` is not a string")),
    };
    let mut hosts = Vec::new();
    for (name, table) in tables {
        let entry: Entry = table.try_into().map_err(invalid)?;
        hosts.extend(configured(&name, entry, folder, registry, false).context(|| format!("host {name:?}"))?);
    }
    let entry: Entry = toml::Value::Table(top).try_into().map_err(invalid)?;
    if server.is_empty() {
        hosts.extend(defaults(registry, entry, folder, Tls::default())?);
    } else {
        hosts.extend(configured(&server, entry, folder, registry, true).context(|| format!("server {server:?}"))?);
    }
    Ok(hosts)
}

/// A host that is written in the file.
fn configured(name: &str, entry: Entry, folder: &Path, registry: &str, origin: bool) -> Result<Vec<Host>> {
    let text = if name.contains("://") { name.to_owned() } else { format!("https://{name}") };
    let mut base: Url = text.parse().map_err(|error| Error::invalid(format!("not a URL: {error}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(Error::invalid("not the URL of an http or https host"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(Error::invalid("credentials do not belong into the URL of a host"));
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let path = if entry.override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    base.set_path(&path);
    base.set_query(None);
    base.set_fragment(None);
    let host = host(base, entry, folder, registry, origin, Tls::default())?;
    let ambiguous =
        host.base.scheme() == "http" && host.tls.is_explicit() && host.base.port_or_known_default() != Some(80);
    Ok(if ambiguous { both_schemes(host, "https") } else { vec![host] })
}

/// The registry itself, where no file names it.
fn defaults(registry: &str, entry: Entry, folder: &Path, certificates: Tls) -> Result<Vec<Host>> {
    let authority = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let loopback = is_loopback(authority);
    let port = split_port(authority).1;
    let secure = !loopback || matches!(port, None | Some("443"));
    let scheme = if secure { "https" } else { "http" };
    let base = format!("{scheme}://{authority}/v2")
        .parse()
        .map_err(|error| Error::invalid(format!("registry {registry:?} gives no URL: {error}")))?;
    // What a registry itself can do is not for a file to narrow: containerd sets all capabilities here, too.
    let entry = Entry { capabilities: Vec::new(), ..entry };
    let mut host = host(base, entry, folder, registry, true, certificates)?;
    if !loopback || port == Some("80") {
        return Ok(vec![host]);
    }
    host.tls.skip_verify.get_or_insert(true);
    Ok(both_schemes(host, scheme))
}

/// The host in `first`, and in the other scheme should it not speak that.
fn both_schemes(host: Host, first: &str) -> Vec<Host> {
    let in_scheme = |scheme: &str, alternate: bool| {
        let mut host = Host { alternate, ..host.clone() };
        // Written out so that the port survives: 5000 stays, and none means the other scheme's own.
        let changed = format!("{scheme}{}", &host.base.as_str()[host.base.scheme().len()..]);
        if let Ok(base) = changed.parse() {
            host.base = base;
        }
        host
    };
    let second = if first == "http" { "https" } else { "http" };
    vec![in_scheme(first, false), in_scheme(second, true)]
}

fn host(base: Url, entry: Entry, folder: &Path, registry: &str, origin: bool, mut tls: Tls) -> Result<Host> {
    let absolute = |path: PathBuf| folder.join(path);
    tls.skip_verify = entry.skip_verify.or(tls.skip_verify);
    tls.authorities
        .extend(entry.ca.map(OneOrMany::into_vec).unwrap_or_default().into_iter().map(|path| absolute(path.into())));
    for pair in entry.client.map(OneOrMany::into_vec).unwrap_or_default() {
        tls.client.push(match pair {
            ClientPair::Together(both) => (absolute(both), None),
            ClientPair::Apart(certificate, key) if key.as_os_str().is_empty() => (absolute(certificate), None),
            ClientPair::Apart(certificate, key) => (absolute(certificate), Some(absolute(key))),
        });
    }
    let all = entry.capabilities.is_empty();
    let (mut pull, mut resolve, mut push) = (all, all, all);
    for capability in &entry.capabilities {
        match capability.to_ascii_lowercase().as_str() {
            "pull" => pull = true,
            "resolve" => resolve = true,
            "push" => push = true,
            "referrers" => {}
            _ => return Err(Error::invalid(format!("unknown capability {capability:?}"))),
        }
    }
    let namespace = (!same_registry(&base, registry)).then(|| registry.to_owned());
    let headers = headers(&entry.header)?;
    let dial_timeout = entry.dial_timeout.as_deref().map(go_duration).transpose()?;
    Ok(Host { base, pull, resolve, push, tls, headers, namespace, alternate: false, origin, dial_timeout })
}

/// True where `base` is the registry that references call `registry`: the one host that is shown credentials.
fn same_registry(base: &Url, registry: &str) -> bool {
    let authority = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let Ok(expected) = format!("{}://{authority}", base.scheme()).parse::<Url>() else { return false };
    base.host_str() == expected.host_str() && base.port_or_known_default() == expected.port_or_known_default()
}

fn headers(table: &toml::Table) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let refuse = || Error::invalid(format!("header {name:?} is not a string or a list of strings"));
        let values = match value {
            toml::Value::String(_) => std::slice::from_ref(value),
            toml::Value::Array(values) => values,
            _ => return Err(refuse()),
        };
        let name: HeaderName = name.parse().map_err(|_| Error::invalid(format!("{name:?} is no header name")))?;
        for value in values {
            let text = value.as_str().ok_or_else(refuse)?;
            let mut value: HeaderValue = text.parse().map_err(|_| refuse())?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

/// A duration as Go writes it: `1m30s`, `500ms`.
fn go_duration(text: &str) -> Result<Duration> {
    let refuse = || Error::invalid(format!("{text:?} is not a duration such as 10s or 1m30s"));
    let mut rest = text;
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(refuse()),
            };
        rest = &rest[unit..];
    }
    if seconds > 0.0 { Duration::try_from_secs_f64(seconds).map_err(|_| refuse()) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests;
