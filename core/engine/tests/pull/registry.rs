//! A registry double: serves images from memory over HTTP/1.1 and can be told to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use windlass_model::Digest;

/// A misbehaviour on paths that contain a word.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with a header.
    Status(u16, Option<(&'static str, String)>),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// A body without end.
    Endless,
    /// The whole length is announced and sent, but the bytes are others.
    Wrong,
    /// The length is announced, and nothing comes.
    Silent,
    /// Ranges are not known.
    NoRanges,
    /// The blob has lost its end.
    Short(usize),
    /// The answer comes late.
    Slow(Duration),
    /// The connection ends without an answer, and of what was sent only so many bytes are kept.
    Lost(usize),
    /// An upload is forgotten.
    Forgotten,
}

/// Who may come in.
#[derive(Clone, Debug)]
pub enum Door {
    Open,
    /// `user:password` by Basic.
    Basic(String),
    /// A token; the token server gives it to those who present this (or to all).
    Token(Option<String>),
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (String, Vec<u8>)>,
    /// Word in the path, fault, how often.
    faults: Vec<(String, Fault, usize)>,
    door: Option<Door>,
    seen: Vec<Seen>,
    redirect: Option<String>,
    /// Uploads under way, by their number.
    uploads: HashMap<String, Vec<u8>>,
    /// Repositories from which blobs are mounted.
    mountable: Vec<String>,
    /// Blobs that are in the repository that is pushed to.
    visible: std::collections::HashSet<String>,
}

#[derive(Clone)]
pub struct Registry {
    state: Arc<Mutex<State>>,
    pub host: String,
}

pub const TOKEN: &str = "the-token";

impl Registry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let registry = Self { state: Arc::default(), host };
        let me = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let me = me.clone();
                std::thread::spawn(move || while me.answer(&stream).unwrap_or(false) {});
            }
        });
        registry
    }

    pub fn add_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.state.lock().unwrap().blobs.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    pub fn add_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state.lock().unwrap();
        for name in [tag.to_owned(), digest.to_string()] {
            state.manifests.insert(name, (media_type.to_owned(), bytes.to_vec()));
        }
        digest
    }

    pub fn manifest_size(&self, digest: &Digest) -> usize {
        self.state.lock().unwrap().manifests[&digest.to_string()].1.len()
    }

    pub fn fault(&self, word: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.push((word.into(), fault, times));
    }

    pub fn forgive(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn door(&self, door: Door) {
        self.state.lock().unwrap().door = Some(door);
    }

    /// Sends those who ask for blobs to another registry.
    pub fn redirect(&self, host: &str) {
        self.state.lock().unwrap().redirect = Some(host.into());
    }

    /// Lets blobs be mounted from a repository.
    pub fn mountable(&self, repository: &str) {
        self.state.lock().unwrap().mountable.push(repository.into());
    }

    /// What was pushed under a tag or digest.
    pub fn manifest(&self, name: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().manifests.get(name).map(|(_, bytes)| bytes.clone())
    }

    pub fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.state.lock().unwrap().blobs.get(&digest.to_string()).cloned()
    }

    /// Uploads that are neither ended nor given up.
    pub fn open_uploads(&self) -> usize {
        self.state.lock().unwrap().uploads.len()
    }

    pub fn count(&self, method: &str, word: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.contains(word)).count()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    fn answer(&self, stream: &TcpStream) -> std::io::Result<bool> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut reader, &mut body)?;
        let text = String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned();
        let seen = Seen { method, path, headers, body: text };
        self.state.lock().unwrap().seen.push(seen.clone());
        self.respond(stream, &seen, body)
    }

    fn take_fault(&self, path: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let fault = state.faults.iter_mut().find(|(word, _, times)| path.contains(word.as_str()) && *times > 0)?;
        fault.2 -= 1;
        Some(fault.1.clone())
    }

    fn respond(&self, stream: &TcpStream, seen: &Seen, body: Vec<u8>) -> std::io::Result<bool> {
        let fault = self.take_fault(&seen.path);
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let state = self.state.lock().unwrap();
        let (door, redirect) = (state.door.clone().unwrap_or(Door::Open), state.redirect.clone());
        if path == "/token" {
            drop(state);
            let welcome = match &door {
                Door::Token(Some(secret)) => {
                    seen.headers.get("authorization") == Some(secret) || seen.body.contains(secret.as_str())
                }
                _ => true,
            };
            let _ = query;
            let answer = format!("{{\"access_token\":\"{TOKEN}\"}}");
            return if welcome {
                send(stream, 200, &[], answer.as_bytes(), seen)
            } else {
                send(stream, 401, &[], b"", seen)
            };
        }
        let authorization = seen.headers.get("authorization").map(String::as_str).unwrap_or_default();
        let challenge = match &door {
            Door::Open => None,
            Door::Basic(secret) if authorization == secret => None,
            Door::Basic(_) => Some("Basic realm=\"x\"".to_owned()),
            Door::Token(_) if authorization == format!("Bearer {TOKEN}") => None,
            Door::Token(_) => {
                Some(format!("Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:a/b:pull\"", self.host))
            }
        };
        if let Some(challenge) = challenge {
            drop(state);
            return send(
                stream,
                401,
                &[("WWW-Authenticate", challenge)],
                b"{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"who are you\"}]}",
                seen,
            );
        }
        if path.contains("/blobs/uploads/") || seen.method == "PUT" {
            drop(state);
            return self.take(stream, seen, body, fault);
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        let found = if path.contains("/blobs/") {
            // Where blobs can be mounted, those of other repositories are not in this one.
            let here = state.mountable.is_empty() || state.visible.contains(last) || seen.method != "HEAD";
            state.blobs.get(last).filter(|_| here).map(|bytes| ("application/octet-stream".to_owned(), bytes.clone()))
        } else {
            state.manifests.get(last).cloned()
        };
        drop(state);
        if let (Some(host), true) = (redirect, path.contains("/blobs/")) {
            return send(stream, 307, &[("Location", format!("http://{host}{path}"))], b"", seen);
        }
        let Some((media_type, mut bytes)) = found else {
            return send(
                stream,
                404,
                &[],
                b"{\"errors\":[{\"code\":\"NOT_FOUND\",\"message\":\"no such thing\"}]}",
                seen,
            );
        };
        let digest = Digest::of(&bytes).to_string();
        let mut head = vec![("Content-Type", media_type), ("Docker-Content-Digest", digest)];
        let mut status = 200;
        let range = seen
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok());
        if let Some(Fault::Short(length)) = fault {
            bytes.truncate(length);
        }
        if let (Some(first), false) = (range, matches!(fault, Some(Fault::NoRanges))) {
            if first >= bytes.len() {
                return send(stream, 416, &[], b"", seen);
            }
            head.push(("Content-Range", format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len())));
            bytes.drain(..first);
            status = 206;
        }
        let mut out = stream;
        match fault {
            Some(Fault::Status(status, header)) => {
                let header: Vec<_> = header.into_iter().collect();
                return send(stream, status, &header, b"", seen);
            }
            Some(Fault::Wrong) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
            Some(Fault::Slow(wait)) => std::thread::sleep(wait),
            Some(Fault::Cut(after)) if seen.method == "GET" => {
                start(stream, status, &head, bytes.len())?;
                out.write_all(&bytes[..after.min(bytes.len())])?;
                return Ok(false);
            }
            Some(Fault::Silent) if seen.method == "GET" => {
                start(stream, status, &head, bytes.len())?;
                std::thread::sleep(Duration::from_secs(60));
                return Ok(false);
            }
            Some(Fault::Endless) if seen.method == "GET" => {
                write!(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                loop {
                    write!(out, "{:x}\r\n", bytes.len())?;
                    out.write_all(&bytes)?;
                    out.write_all(b"\r\n")?;
                }
            }
            _ => {}
        }
        send(stream, status, &head, &bytes, seen)
    }
}

impl Registry {
    /// The part that takes pushes.
    fn take(&self, stream: &TcpStream, seen: &Seen, body: Vec<u8>, fault: Option<Fault>) -> std::io::Result<bool> {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        let asked = |key: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{key}=")));
            pair.map(|value| value.replace("%3A", ":").replace("%2F", "/"))
        };
        let mut state = self.state.lock().unwrap();
        match fault {
            Some(Fault::Status(status, header)) => {
                let header: Vec<_> = header.into_iter().collect();
                return send(stream, status, &header, b"", seen);
            }
            Some(Fault::Lost(kept)) => {
                if let Some(upload) = state.uploads.get_mut(&last) {
                    upload.extend_from_slice(&body[..kept.min(body.len())]);
                }
                return Ok(false);
            }
            Some(Fault::Forgotten) => drop(state.uploads.remove(&last)),
            _ => {}
        }
        if !path.contains("/blobs/uploads/") {
            let digest = Digest::of(&body).to_string();
            let media_type = seen.headers.get("content-type").cloned().unwrap_or_default();
            for name in [last, digest.clone()] {
                state.manifests.insert(name, (media_type.clone(), body.clone()));
            }
            return send(stream, 201, &[("Docker-Content-Digest", digest)], b"", seen);
        }
        let place = |number: &str| format!("{}/{number}?state=x", path.trim_end_matches(number).trim_end_matches('/'));
        let range = |length: usize| format!("0-{}", length.saturating_sub(1));
        match seen.method.as_str() {
            "POST" => {
                if let (Some(digest), Some(from)) = (asked("mount"), asked("from"))
                    && state.mountable.contains(&from)
                    && state.blobs.contains_key(&digest)
                {
                    state.visible.insert(digest);
                    return send(stream, 201, &[], b"", seen);
                }
                let number = format!("u{}", state.seen.len());
                state.uploads.insert(number.clone(), Vec::new());
                send(stream, 202, &[("Location", place(&number))], b"", seen)
            }
            "DELETE" => {
                let known = state.uploads.remove(&last).is_some();
                send(stream, if known { 204 } else { 404 }, &[], b"", seen)
            }
            method => {
                let Some(upload) = state.uploads.get_mut(&last) else { return send(stream, 404, &[], b"", seen) };
                if let Some(content) = seen.headers.get("content-range")
                    && content.split('-').next() != Some(&upload.len().to_string())
                {
                    return send(stream, 416, &[("Range", range(upload.len()))], b"", seen);
                }
                upload.extend_from_slice(&body);
                let length = upload.len();
                if method != "PUT" {
                    let status = if method == "GET" { 204 } else { 202 };
                    let head = [("Location", place(&last)), ("Range", range(length))];
                    return send(stream, status, &head, b"", seen);
                }
                let bytes = state.uploads.remove(&last).unwrap_or_default();
                let digest = Digest::of(&bytes).to_string();
                if asked("digest") != Some(digest.clone()) {
                    let told = b"{\"errors\":[{\"code\":\"DIGEST_INVALID\",\"message\":\"no\"}]}";
                    return send(stream, 400, &[], told, seen);
                }
                state.blobs.insert(digest.clone(), bytes);
                state.visible.insert(digest.clone());
                send(stream, 201, &[("Docker-Content-Digest", digest)], b"", seen)
            }
        }
    }
}

fn start(mut stream: &TcpStream, status: u16, headers: &[(&str, String)], length: usize) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n")?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")
}

fn send(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
    seen: &Seen,
) -> std::io::Result<bool> {
    start(stream, status, headers, body.len())?;
    if seen.method != "HEAD" {
        stream.write_all(body)?;
    }
    Ok(true)
}
