//! What it means that a registry refuses or is not reached, and whether to ask again.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use reqwest::Response;
use serde::Deserialize;
use windlass_model::{Error, Kind};

use super::shown;
use super::transport::{Http, read_small};

/// How much of a refusal is read for its message.
const MAX_REFUSAL: usize = 16 << 10;

/// Why a request failed, and whether to try again.
pub(super) struct Refusal {
    pub(super) error: Error,
    pub(super) again: Again,
}

pub(super) enum Again {
    No,
    /// After a back-off.
    Soon,
    /// Once, as the wait was long already.
    Once,
    /// When the registry said.
    After(Duration),
}

#[derive(Deserialize)]
struct RefusalBody {
    #[serde(default)]
    errors: Vec<RefusalEntry>,
    /// A token server's form.
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
struct RefusalEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Refusal {
    pub(super) fn of_transport(error: Error) -> Self {
        let again = match error.kind() {
            Kind::Unavailable => Again::Soon,
            Kind::DeadlineExceeded => Again::Once,
            _ => Again::No,
        };
        // Whatever the connection died of, to the client the registry is not available.
        let error = if matches!(again, Again::No) { error } else { Error::unavailable(error.to_string()) };
        Self { error, again }
    }

    pub(super) async fn of_status(http: &Http, response: Response) -> Self {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let transient = match response.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => true,
            status => status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED,
        };
        let again = match (transient, retry_after) {
            (false, _) => Again::No,
            (true, Some(wait)) => Again::After(wait),
            (true, None) => Again::Soon,
        };
        Self { error: status_error(http, response).await, again }
    }
}

/// An error of the connection. Its own text is kept, its URL is not.
pub(crate) fn transport_error(error: reqwest::Error, asked: &str) -> Error {
    let kind = match () {
        () if error.is_builder() => Kind::InvalidArgument,
        // It will be no better at the next try.
        () if is_refused_certificate(&error) => Kind::FailedPrecondition,
        () => Kind::Unavailable,
    };
    Error::with_source(kind, format!("ask {asked}"), error.without_url())
}

/// True where one side does not believe the other's certificate.
fn is_refused_certificate(error: &reqwest::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let alerts = [
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        Alert::AccessDenied,
        Alert::CertificateRequired,
    ];
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        // What an I/O error wraps is not its source but itself, and it may wrap another one.
        let mut told: &(dyn std::error::Error + 'static) = inner;
        while let Some(wrapped) = told.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            told = wrapped;
        }
        match told.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => return true,
            Some(rustls::Error::AlertReceived(alert)) => return alerts.contains(alert),
            _ => cause = inner.source(),
        }
    }
    false
}

/// `Retry-After` in either form.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    (at.to_utc() - chrono::Utc::now()).to_std().ok().or(Some(Duration::ZERO))
}

/// What a refusing answer means. Only the messages of the registry's own error form are quoted.
pub(crate) async fn status_error(http: &Http, response: Response) -> Error {
    let status = response.status();
    let asked = shown(response.url());
    let kind = match status {
        StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
        StatusCode::FORBIDDEN => Kind::PermissionDenied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Kind::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Kind::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT => Kind::Unavailable,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Kind::Unimplemented,
        StatusCode::RANGE_NOT_SATISFIABLE => Kind::OutOfRange,
        StatusCode::BAD_REQUEST => Kind::InvalidArgument,
        status if status.is_server_error() => Kind::Unavailable,
        _ => Kind::Unknown,
    };
    let told = match read_small(http, response, MAX_REFUSAL).await {
        Ok(body) => refusal_message(&body),
        Err(_) => String::new(),
    };
    Error::new(kind, format!("{asked} answered {status}{told}"))
}

fn refusal_message(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<RefusalBody>(body) else { return String::new() };
    let told =
        body.errors.iter().map(|error| format!("{} {}", error.code, error.message)).next().unwrap_or(body.details);
    let told: String = told.chars().filter(|c| !c.is_control()).take(300).collect();
    if told.trim().is_empty() { String::new() } else { format!(" ({})", told.trim()) }
}
