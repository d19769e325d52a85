//! A registry that misbehaves on purpose: wrong answers, wrong bytes, half a body, no answer, and asking for credentials.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use crate::image::{Blob, Image};

/// On which requests a fault falls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// Every request below `/v2/`.
    Everything,
    /// Manifests by tag or digest.
    Manifests,
    /// The blob with this digest.
    Blob(String),
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An answer with this code and nothing useful.
    Status(u16),
    /// The first bytes, then nothing, with the connection left open.
    Stall(usize),
    /// The first bytes, then the end, though more was promised.
    Truncate(usize),
    /// The right length and one wrong byte in the middle.
    Corrupt,
    /// More bytes after the last one, in chunks, for as long as anybody reads.
    Endless,
    /// Bytes that are no HTTP.
    Rubbish,
}

/// How a client must prove itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Anybody may read.
    Open,
    /// `Authorization: Basic`, with this user and password.
    Basic(String, String),
    /// A bearer token, given to this user and password, or to everybody when the user is empty.
    Token(String, String),
}

#[derive(Debug)]
struct Shelf {
    blobs: HashMap<String, Blob>,
    tags: HashMap<String, String>,
    fault: Option<(Where, Fault, usize)>,
    guard: Guard,
    requests: Vec<String>,
}

/// The registry. Its threads end when it is dropped.
#[derive(Debug)]
pub struct Troublemaker {
    host: String,
    shelf: Arc<Mutex<Shelf>>,
    over: Arc<AtomicBool>,
}

struct Call {
    method: String,
    path: String,
    authorization: Option<String>,
    range: Option<usize>,
}

impl Troublemaker {
    /// Starts it on a free loopback port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        let shelf = Shelf {
            blobs: HashMap::new(),
            tags: HashMap::new(),
            fault: None,
            guard: Guard::Open,
            requests: Vec::new(),
        };
        let (shelf, over) = (Arc::new(Mutex::new(shelf)), Arc::new(AtomicBool::new(false)));
        let (their_shelf, their_over, their_host) = (shelf.clone(), over.clone(), host.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if their_over.load(Ordering::Relaxed) {
                    break;
                }
                let (shelf, over, host) = (their_shelf.clone(), their_over.clone(), their_host.clone());
                std::thread::spawn(move || serve(stream, &shelf, &over, &host).ok());
            }
        });
        Ok(Self { host, shelf, over })
    }

    /// Puts an image on the shelf as `name:tag` and returns the whole reference.
    pub fn hold(&self, name: &str, tag: &str, image: &Image) -> String {
        let mut shelf = self.shelf();
        for blob in image.blobs.iter().chain(&image.manifests) {
            shelf.blobs.insert(blob.digest(), blob.clone());
        }
        shelf.tags.insert(tag.to_owned(), image.top().digest());
        format!("{}/{name}:{tag}", self.host)
    }

    /// From now on the next `times` requests of that kind fail like this.
    pub fn fail(&self, place: Where, fault: Fault, times: usize) {
        self.shelf().fault = Some((place, fault, times));
    }

    /// All is well again.
    pub fn heal(&self) {
        self.shelf().fault = None;
    }

    /// Asks for credentials from now on.
    pub fn guard(&self, guard: Guard) {
        self.shelf().guard = guard;
    }

    /// The requests so far, `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        self.shelf().requests.clone()
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Troublemaker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        TcpStream::connect(&self.host).ok();
    }
}

fn read_call(stream: &TcpStream) -> Result<Call> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut call = Call { method, path, authorization: None, range: None };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            return Ok(call);
        }
        let Some((name, value)) = header.trim().split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => call.authorization = Some(value.trim().to_owned()),
            "range" => {
                call.range = value.trim().strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse().ok())
            }
            _ => {}
        }
    }
}

fn head(status: u16, more: &str) -> String {
    format!(
        "HTTP/1.1 {status} Whatever\r\nConnection: close\r\nDocker-Distribution-Api-Version: registry/2.0\r\n{more}"
    )
}

fn refuse(stream: &mut TcpStream, status: u16, more: &str, code: &str) -> Result<()> {
    let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"as asked\"}}]}}");
    let head = head(status, more);
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(())
}

fn serve(mut stream: TcpStream, shelf: &Mutex<Shelf>, over: &AtomicBool, host: &str) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let call = read_call(&stream)?;
    let (guard, fault, blob) = {
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.requests.push(format!("{} {}", call.method, call.path));
        (shelf.guard.clone(), take_fault(&mut shelf, &call.path), find(&shelf, &call.path))
    };
    if call.path.starts_with("/token") {
        return give_token(&mut stream, &guard, &call);
    }
    if !allowed(&guard, &call) {
        let challenge = match guard {
            Guard::Token(..) => {
                format!("Bearer realm=\"http://{host}/token\",service=\"trouble\",scope=\"repository:x:pull\"")
            }
            _ => "Basic realm=\"trouble\"".to_owned(),
        };
        return refuse(&mut stream, 401, &format!("WWW-Authenticate: {challenge}\r\n"), "UNAUTHORIZED");
    }
    if let Some(Fault::Status(status)) = fault {
        return refuse(&mut stream, status, "Retry-After: 0\r\n", "TOOMANYREQUESTS");
    }
    if fault == Some(Fault::Rubbish) {
        stream.write_all(b"\x16\x03\x01rubbish\r\n\r\n")?;
        return Ok(());
    }
    if call.path == "/v2/" || call.path == "/v2" {
        write!(stream, "{}Content-Length: 2\r\n\r\n{{}}", head(200, ""))?;
        return Ok(());
    }
    let Some(blob) = blob else { return refuse(&mut stream, 404, "", "MANIFEST_UNKNOWN") };
    send(&mut stream, &call, &blob, fault, over)
}

fn take_fault(shelf: &mut Shelf, path: &str) -> Option<Fault> {
    let (place, fault, times) = shelf.fault.as_mut()?;
    let here = match place {
        Where::Everything => true,
        Where::Manifests => path.contains("/manifests/"),
        Where::Blob(digest) => path.ends_with(digest.as_str()),
    };
    if !here || *times == 0 {
        return None;
    }
    *times -= 1;
    Some(fault.clone())
}

fn find(shelf: &Shelf, path: &str) -> Option<Blob> {
    let last = path.split('?').next()?.rsplit('/').next()?;
    let digest = shelf.tags.get(last).map_or(last, String::as_str);
    shelf.blobs.get(digest).cloned()
}

fn allowed(guard: &Guard, call: &Call) -> bool {
    let given = call.authorization.as_deref().unwrap_or_default();
    match guard {
        Guard::Open => true,
        Guard::Basic(user, password) => given == basic(user, password),
        Guard::Token(..) => given == "Bearer sesame",
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// Base64 as HTTP wants it; too little to carry a crate for.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * at)) as usize & 63] as char;
            out.push(if at <= three.len() { letter } else { '=' });
        }
    }
    out
}

fn give_token(stream: &mut TcpStream, guard: &Guard, call: &Call) -> Result<()> {
    if let Guard::Token(user, password) = guard
        && !user.is_empty()
        && call.authorization.as_deref() != Some(&basic(user, password))
    {
        return refuse(stream, 401, "", "UNAUTHORIZED");
    }
    let body = "{\"token\":\"sesame\",\"expires_in\":300}";
    write!(stream, "{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", head(200, ""), body.len())?;
    Ok(())
}

fn send(stream: &mut TcpStream, call: &Call, blob: &Blob, fault: Option<Fault>, over: &AtomicBool) -> Result<()> {
    let mut bytes = blob.bytes.clone();
    if fault == Some(Fault::Corrupt) {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
    }
    let from = call.range.filter(|from| *from < bytes.len()).unwrap_or(0);
    let mut more = format!("Content-Type: {}\r\nDocker-Content-Digest: {}\r\n", blob.media_type, blob.digest());
    if from > 0 {
        more.push_str(&format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()));
    }
    let head = head(if from > 0 { 206 } else { 200 }, &more);
    let body = &bytes[from..];
    if fault == Some(Fault::Endless) && call.method == "GET" {
        return send_without_end(stream, &head, body, over);
    }
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len())?;
    if call.method == "HEAD" {
        return Ok(());
    }
    match fault {
        Some(Fault::Truncate(length)) => stream.write_all(&body[..length.min(body.len())])?,
        Some(Fault::Stall(length)) => {
            stream.write_all(&body[..length.min(body.len())])?;
            stream.flush()?;
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        _ => stream.write_all(body)?,
    }
    Ok(())
}

fn send_without_end(stream: &mut TcpStream, head: &str, body: &[u8], over: &AtomicBool) -> Result<()> {
    write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n")?;
    write!(stream, "{:x}\r\n", body.len())?;
    stream.write_all(body)?;
    stream.write_all(b"\r\n")?;
    let more = vec![0u8; 65536];
    while !over.load(Ordering::Relaxed) {
        write!(stream, "{:x}\r\n", more.len())?;
        stream.write_all(&more)?;
        stream.write_all(b"\r\n")?;
    }
    Ok(())
}
