//! From a reference to a manifest: a tag's digest, and the documents themselves, verified.

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap};
use reqwest::Response;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, Result};

use super::client::{Ask, Endpoint, Session};
use super::hosts::Host;

/// The manifests and indexes that are understood, and a schema 1 manifest, so that it can be refused by name.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";
/// The largest manifest or index.
const MAX_MANIFEST: usize = 4 << 20;
/// The longest media type that is kept.
const MAX_MEDIA_TYPE: usize = 255;
/// Where a registry says what the digest of its answer is.
const DIGEST_HEADER: &str = "docker-content-digest";

/// What a reference stands for now.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) descriptor: Descriptor,
    /// The document, where it came along.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Session {
    /// Asks what the reference stands for. Also for a digest, as the answer tells whether this client may have it.
    ///
    /// # Errors
    /// `NotFound`, `Unauthenticated`, `PermissionDenied`, `ResourceExhausted`, `Unavailable`: as the registry said;
    /// `DataLoss` where it answers with something else than it was asked for.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        let by_digest = self.reference.digest().is_some();
        let can = |host: &Host| host.pull && (by_digest || host.resolve);
        self.first(can, |endpoint| Box::pin(self.resolve_at(endpoint)))
            .await
            .context(|| format!("resolve {}", self.reference))
    }

    /// The bytes of a manifest or index, verified.
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > MAX_MANIFEST as u64 {
            return Err(Error::invalid(format!("manifest {} is larger than 4 MiB", descriptor.digest)));
        }
        self.first(|host| host.pull, |endpoint| Box::pin(self.manifest_at(endpoint, descriptor)))
            .await
            .context(|| format!("get manifest {}", descriptor.digest))
    }

    async fn manifest_at(&self, endpoint: &Endpoint, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let response = self.ask(endpoint, &ask(Method::GET, format!("manifests/{}", descriptor.digest))).await?;
        let bytes = self.read_small(response, MAX_MANIFEST).await?;
        check(&bytes, &descriptor.digest)?;
        Ok(bytes)
    }

    async fn resolve_at(&self, endpoint: &Endpoint) -> Result<Resolved> {
        let path = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => format!("manifests/{digest}"),
            (None, tag) => format!("manifests/{}", tag.unwrap_or("latest")),
        };
        match self.ask(endpoint, &ask(Method::HEAD, path.clone())).await {
            Ok(response) => {
                if let Some(descriptor) = described(&response, self.reference.digest())? {
                    return Ok(Resolved { descriptor, bytes: None });
                }
            }
            // Some proxies know only GET.
            Err(error) if matches!(error.kind(), Kind::Unimplemented | Kind::InvalidArgument | Kind::Unknown) => {}
            Err(error) => return Err(error),
        }
        let response = self.ask(endpoint, &ask(Method::GET, path)).await?;
        let media_type = media_type(response.headers());
        let told = told_digest(response.headers())?;
        let bytes = self.read_small(response, MAX_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        for expected in [self.reference.digest().copied(), told].into_iter().flatten() {
            check(&bytes, &expected)?;
        }
        let descriptor = descriptor(media_type.unwrap_or_default(), digest, bytes.len() as u64);
        Ok(Resolved { descriptor, bytes: Some(bytes) })
    }
}

fn ask(method: Method, path: String) -> Ask {
    Ask::new(method, path, ACCEPT)
}

fn descriptor(media_type: String, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type, digest, size, platform: None, annotations: Default::default(), urls: Vec::new() }
}

fn check(bytes: &[u8], expected: &Digest) -> Result<()> {
    let digest = Digest::of(bytes);
    if digest == *expected {
        return Ok(());
    }
    Err(Error::data_loss(format!("the registry's document has digest {digest}, not {expected}")))
}

/// What the head of an answer says of the document; `None` where it does not say enough.
fn described(response: &Response, asked: Option<&Digest>) -> Result<Option<Descriptor>> {
    let told = told_digest(response.headers())?;
    if let (Some(told), Some(asked)) = (&told, asked)
        && told != asked
    {
        return Err(Error::data_loss(format!("the registry answers for digest {told}, not {asked}")));
    }
    let length = response.headers().get(http::header::CONTENT_LENGTH);
    let size = length.and_then(|length| length.to_str().ok()).and_then(|length| length.parse().ok());
    let (Some(digest), Some(size), Some(media_type)) = (told, size, media_type(response.headers())) else {
        return Ok(None);
    };
    if size > MAX_MANIFEST as u64 {
        return Err(Error::invalid(format!("the manifest is {size} bytes long; the limit is 4 MiB")));
    }
    Ok((size > 0).then(|| descriptor(media_type, digest, size)))
}

pub(super) fn told_digest(headers: &HeaderMap) -> Result<Option<Digest>> {
    let Some(value) = headers.get(DIGEST_HEADER) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Error::data_loss("the registry's digest header is not text"))?;
    // Another algorithm is not wrong, only no help: the document is then fetched and hashed.
    if !text.starts_with("sha256:") {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Error::data_loss("the registry's digest header is not a digest"))
}

/// The media type without parameters; `None` for types that say nothing.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = text.split(';').next().unwrap_or_default().trim();
    let vague = matches!(essence, "" | "application/json" | "application/octet-stream" | "text/plain");
    (!vague && essence.len() <= MAX_MEDIA_TYPE).then(|| essence.to_owned())
}
