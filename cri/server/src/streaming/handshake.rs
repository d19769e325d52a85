//! What a request asks for and what it gets: the path, the transport and the subprotocol, decided without any I/O.
//!
//! The answers to wrong requests are those of the kubelet's own library, because clients were written against it:
//! 404 for a token that is not known, 400 without upgrade headers, 403 without a common subprotocol.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use http::header::{HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Session;
use super::spdy::remote_command::Version;
use super::status::Report;
use super::websocket::Codec;
use super::websocket::port_forward::MOST;
use super::websocket::remote_command::Subprotocol;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The subprotocols of exec and attach over SPDY.
const COMMAND_OVER_SPDY: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

/// The subprotocol of port-forward over SPDY.
const PORTS_OVER_SPDY: [(&str, ()); 1] = [("portforward.k8s.io", ())];

/// The subprotocols of exec and attach over WebSocket; no name is the first version.
const COMMAND_OVER_WEBSOCKET: [(&str, Subprotocol); 8] = [
    ("v5.channel.k8s.io", Subprotocol { codec: Codec::Binary, closing: true, report: Report::Json }),
    ("v4.channel.k8s.io", Subprotocol { codec: Codec::Binary, closing: false, report: Report::Json }),
    ("v3.channel.k8s.io", Subprotocol { codec: Codec::Binary, closing: false, report: Report::Text }),
    ("v2.channel.k8s.io", Subprotocol { codec: Codec::Binary, closing: false, report: Report::Text }),
    ("channel.k8s.io", Subprotocol { codec: Codec::Binary, closing: false, report: Report::Text }),
    ("v4.base64.channel.k8s.io", Subprotocol { codec: Codec::Base64, closing: false, report: Report::Json }),
    ("base64.channel.k8s.io", Subprotocol { codec: Codec::Base64, closing: false, report: Report::Text }),
    ("", Subprotocol { codec: Codec::Binary, closing: false, report: Report::Text }),
];

/// How ports are carried over WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// SPDY in binary messages.
    Tunnel,
    /// Two channels for each port of the request.
    Channels(Codec),
}

const PORTS_OVER_WEBSOCKET: [(&str, Ports); 4] = [
    ("SPDY/3.1+portforward.k8s.io", Ports::Tunnel),
    ("v4.channel.k8s.io", Ports::Channels(Codec::Binary)),
    ("v4.base64.channel.k8s.io", Ports::Channels(Codec::Base64)),
    ("", Ports::Channels(Codec::Binary)),
];

/// The answer to a request that is not served.
pub(super) type Refusal = Box<Response<String>>;

/// What an upgraded connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    CommandOverSpdy(Version),
    CommandOverWebSocket(Subprotocol),
    PortsOverSpdy,
    PortsOverWebSocket(Ports),
}

/// Whether a path belongs to a session of this kind.
pub(super) fn belongs(place: &str, session: &Session) -> bool {
    matches!(
        (place, session),
        ("exec", Session::Exec(_)) | ("attach", Session::Attach(_)) | ("portforward", Session::PortForward(_))
    )
}

/// The place and the token of a request, or its refusal.
pub(super) fn route<'a>(method: &Method, path: &'a str) -> Result<(&'a str, &'a str), Refusal> {
    let mut parts = path.split('/');
    let (Some(""), Some(place @ ("exec" | "attach" | "portforward")), Some(token), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(refusal(StatusCode::NOT_FOUND, "404 page not found"));
    };
    if *method != Method::GET && *method != Method::POST {
        return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST"));
    }
    Ok((place, token))
}

/// The refusal of a token that is wrong, used, late, or of another place.
pub(super) fn unknown_token() -> Refusal {
    refusal(StatusCode::NOT_FOUND, "404 page not found")
}

/// Agrees on what the connection will speak, and the answer that says so.
///
/// # Errors
/// The answer to a request that cannot be upgraded.
pub(super) fn agree(session: &Session, headers: &HeaderMap) -> Result<(Speaks, Response<String>), Refusal> {
    if upgrades_to(headers, "websocket") {
        return over_websocket(session, headers);
    }
    let (speaks, protocol) = match session {
        Session::PortForward(_) => {
            over_spdy(headers, &PORTS_OVER_SPDY).map(|(name, ())| (Speaks::PortsOverSpdy, name))?
        }
        Session::Exec(_) | Session::Attach(_) => {
            over_spdy(headers, &COMMAND_OVER_SPDY).map(|(name, version)| (Speaks::CommandOverSpdy(version), name))?
        }
    };
    if !upgrades_to(headers, "spdy/3.1") {
        return Err(refusal(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request"));
    }
    let mut answer = switching("SPDY/3.1");
    answer.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    Ok((speaks, answer))
}

/// The first subprotocol of the client that is in `known`.
fn over_spdy<T: Copy>(headers: &HeaderMap, known: &'static [(&'static str, T)]) -> Result<(&'static str, T), Refusal> {
    let asked: Vec<&str> = listed(headers, &PROTOCOL_VERSION).filter(|name| !name.is_empty()).collect();
    if asked.is_empty() {
        let text = format!("unable to upgrade: header {PROTOCOL_VERSION} names no protocol");
        return Err(refusal(StatusCode::BAD_REQUEST, &text));
    }
    common(&asked, known).ok_or_else(|| {
        let mut answer = refusal(StatusCode::FORBIDDEN, "unable to upgrade: no subprotocol in common");
        for (name, _) in known {
            answer.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
        }
        answer
    })
}

fn over_websocket(session: &Session, headers: &HeaderMap) -> Result<(Speaks, Response<String>), Refusal> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut answer = refusal(StatusCode::BAD_REQUEST, "only version 13 of WebSocket is spoken");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer);
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
        return Err(refusal(StatusCode::BAD_REQUEST, "header Sec-WebSocket-Key is missing or malformed"));
    };
    let mut asked: Vec<&str> = listed(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    if asked.is_empty() {
        asked.push("");
    }
    let agreed = match session {
        Session::Exec(_) | Session::Attach(_) => common(&asked, &COMMAND_OVER_WEBSOCKET)
            .map(|(name, subprotocol)| (name, Speaks::CommandOverWebSocket(subprotocol))),
        Session::PortForward(_) => {
            common(&asked, &PORTS_OVER_WEBSOCKET).map(|(name, ports)| (name, Speaks::PortsOverWebSocket(ports)))
        }
    };
    let Some((protocol, speaks)) = agreed else {
        return Err(refusal(StatusCode::FORBIDDEN, "unable to upgrade: no subprotocol in common"));
    };
    if let (Session::PortForward(ports), Speaks::PortsOverWebSocket(Ports::Channels(_))) = (session, speaks)
        && !(1..=MOST).contains(&ports.ports.len())
    {
        let text = format!("the request names {} ports, channels carry 1 to {MOST}", ports.ports.len());
        return Err(refusal(StatusCode::BAD_REQUEST, &text));
    }
    let mut answer = switching("websocket");
    // The derived key is base64, which every header can hold.
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !protocol.is_empty() {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((speaks, answer))
}

fn common<T: Copy>(asked: &[&str], known: &'static [(&'static str, T)]) -> Option<(&'static str, T)> {
    asked.iter().find_map(|name| known.iter().find(|(key, _)| key == name).copied())
}

/// The values of a header, whose lines may each be a list.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
}

fn upgrades_to(headers: &HeaderMap, protocol: &str) -> bool {
    listed(headers, &UPGRADE).any(|name| name.eq_ignore_ascii_case(protocol))
        && listed(headers, &CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

fn switching(protocol: &'static str) -> Response<String> {
    let mut answer = Response::new(String::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    answer
}

fn refusal(status: StatusCode, text: &str) -> Refusal {
    let mut answer = Box::new(Response::new(format!("{text}\n")));
    *answer.status_mut() = status;
    // A connection is good for one request; an upgraded one says something else here.
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::super::{AttachSession, PortForwardSession};
    use super::*;

    fn attach() -> Session {
        let container = "c".parse().unwrap();
        Session::Attach(AttachSession { container, tty: false, stdin: true, stdout: true, stderr: true })
    }

    fn ports(ports: &[u16]) -> Session {
        Session::PortForward(PortForwardSession { pod: "p".parse().unwrap(), ports: ports.to_vec() })
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn spoken(session: &Session, pairs: &[&[(&'static str, &'static str)]]) -> Result<Speaks, u16> {
        agree(session, &headers(&pairs.concat())).map(|(speaks, _)| speaks).map_err(|answer| answer.status().as_u16())
    }

    #[test]
    fn only_three_places_with_a_token_are_served() {
        assert_eq!(route(&Method::POST, "/exec/abc").unwrap(), ("exec", "abc"));
        assert_eq!(route(&Method::GET, "/portforward/abc").unwrap(), ("portforward", "abc"));
        for path in ["/", "/exec", "/exec/a/b", "/run/abc", "exec/abc", "//exec/abc"] {
            assert_eq!(route(&Method::GET, path).unwrap_err().status(), 404, "{path}");
        }
        assert_eq!(route(&Method::PUT, "/exec/abc").unwrap_err().status(), 405);
        assert!(belongs("attach", &attach()) && !belongs("exec", &attach()));
    }

    #[test]
    fn spdy_takes_the_first_version_that_the_client_prefers() {
        let many = [
            ("x-stream-protocol-version", "v9.channel.k8s.io, v3.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ];
        assert_eq!(spoken(&attach(), &[&SPDY, &many]), Ok(Speaks::CommandOverSpdy(Version::V3)));
        let (_, answer) = agree(&attach(), &headers(&[&SPDY[..], &many].concat())).unwrap();
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["x-stream-protocol-version"], "v3.channel.k8s.io");
        let port_forward = [("x-stream-protocol-version", "portforward.k8s.io")];
        assert_eq!(spoken(&ports(&[]), &[&SPDY, &port_forward]), Ok(Speaks::PortsOverSpdy));
    }

    #[test]
    fn spdy_without_a_version_or_with_a_foreign_one_is_refused() {
        assert_eq!(spoken(&attach(), &[&SPDY]), Err(400));
        assert_eq!(spoken(&attach(), &[&SPDY, &[("x-stream-protocol-version", " ,")]]), Err(400));
        assert_eq!(spoken(&attach(), &[&[("x-stream-protocol-version", "v4.channel.k8s.io")]]), Err(400), "no upgrade");
        let foreign = headers(&[&SPDY[..], &[("x-stream-protocol-version", "portforward.k8s.io")]].concat());
        let answer = agree(&attach(), &foreign).unwrap_err();
        assert_eq!(answer.status(), 403);
        let accepted: Vec<_> = answer.headers().get_all("x-accepted-stream-protocol-versions").iter().collect();
        assert_eq!(accepted, ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]);
    }

    #[test]
    fn websocket_answers_with_the_key_and_the_subprotocol() {
        let five = [("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io")];
        let (speaks, answer) = agree(&attach(), &headers(&[&WEBSOCKET[..], &five].concat())).unwrap();
        assert!(matches!(speaks, Speaks::CommandOverWebSocket(Subprotocol { closing: true, .. })));
        // The example of RFC 6455.
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let (_, answer) = agree(&attach(), &headers(&WEBSOCKET)).unwrap();
        assert!(answer.headers().get("sec-websocket-protocol").is_none());
    }

    #[test]
    fn websocket_that_is_not_whole_is_refused() {
        assert_eq!(spoken(&attach(), &[&WEBSOCKET[..3]]), Err(400), "no key");
        assert_eq!(spoken(&attach(), &[&WEBSOCKET[..2], &WEBSOCKET[3..]]), Err(400), "no version");
        let other = [("sec-websocket-protocol", "chat")];
        assert_eq!(spoken(&attach(), &[&WEBSOCKET, &other]), Err(403));
    }

    #[test]
    fn ports_over_websocket_are_tunnelled_or_named() {
        let tunnel = [("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")];
        let channels = [("sec-websocket-protocol", "v4.channel.k8s.io")];
        assert_eq!(spoken(&ports(&[]), &[&WEBSOCKET, &tunnel]), Ok(Speaks::PortsOverWebSocket(Ports::Tunnel)));
        assert_eq!(
            spoken(&ports(&[80]), &[&WEBSOCKET, &channels]),
            Ok(Speaks::PortsOverWebSocket(Ports::Channels(Codec::Binary)))
        );
        assert_eq!(spoken(&ports(&[]), &[&WEBSOCKET, &channels]), Err(400));
        assert_eq!(spoken(&ports(&[1; 128]), &[&WEBSOCKET, &channels]), Err(400));
    }
}
