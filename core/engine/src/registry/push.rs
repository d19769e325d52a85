//! Into a registry (OCI distribution spec 1.1, "Push"): blobs in pieces that can be gone on with, and manifests.
//!
//! A blob is not sent where the registry has it, be it in the repository or in another one from which it can be mounted.
//! A small one is sent whole; a larger one in pieces, and when a piece fails the registry is asked how far it came. What
//! the registry says of itself (where an upload goes on, how far it is) is not believed beyond its own blob.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;
use url::Url;
use windlass_model::{Context, Descriptor, Error, Kind, Result};

use super::client::{Ask, Endpoint, Place, Session, shown};
use super::resolve::{ACCEPT, told_digest};

/// How much is sent at once.
const PIECE: u64 = 8 << 20;
/// How often in a row an upload may fail without having got further.
const MAX_BARREN: u32 = 4;
/// How often an upload may fail at all.
const MAX_BREAKS: u32 = 64;

/// What became of something that was to be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It was there.
    Existing,
    /// It was in another repository of the registry.
    Mounted,
    /// It was sent.
    Sent,
}

/// A blob that is to be pushed.
pub(crate) struct Upload {
    pub(crate) descriptor: Descriptor,
    /// Its bytes.
    pub(crate) file: Arc<File>,
    /// Repositories of the same registry that may have it.
    pub(crate) sources: Vec<String>,
    /// Hears how many bytes were sent.
    pub(crate) told: Box<dyn Fn(u64) + Send + Sync>,
}

/// An upload that the registry knows of.
struct Open {
    at: Url,
    /// Bytes there.
    offset: u64,
}

impl Session {
    /// Finds the host that takes pushes, and whether it has the reference already.
    ///
    /// # Errors
    /// `FailedPrecondition` where no host takes pushes, and as [`Session::ask`].
    pub(crate) async fn push_home(&self) -> Result<Url> {
        let ask = |endpoint| -> futures::future::BoxFuture<'_, Result<Url>> { Box::pin(self.push_home_at(endpoint)) };
        self.first(|host| host.push, ask).await.context(|| format!("reach a registry for {}", self.reference))
    }

    async fn push_home_at(&self, endpoint: &Endpoint) -> Result<Url> {
        let tag = self.reference.tag().unwrap_or("latest");
        // Docker's registry would give an old form of a manifest to who does not name its type, or fail to make it.
        let ask = Ask::new(Method::HEAD, format!("manifests/{tag}"), ACCEPT);
        match self.ask(endpoint, &ask).await {
            Ok(_) => Ok(endpoint.host.base.clone()),
            // The repository is yet to be made; some registries call it forbidden until then.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unimplemented | Kind::PermissionDenied) => {
                Ok(endpoint.host.base.clone())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the repository has a blob.
    pub(crate) async fn push_blob(&self, home: &Url, upload: &Upload) -> Result<Pushed> {
        let endpoint = self.endpoint(home)?;
        self.push_blob_to(endpoint, upload).await.context(|| format!("push blob {}", upload.descriptor.digest))
    }

    async fn push_blob_to(&self, endpoint: &Endpoint, upload: &Upload) -> Result<Pushed> {
        if self.has_blob(endpoint, &upload.descriptor).await? {
            return Ok(Pushed::Existing);
        }
        let (mut barren, mut breaks, mut furthest) = (0, 0, 0);
        let mut open = None;
        let mut sources = upload.sources.iter();
        loop {
            if open.is_none() {
                match self.begin(endpoint, upload, sources.next()).await? {
                    None => return Ok(Pushed::Mounted),
                    Some(at) => open = Some(Open { at, offset: 0 }),
                }
            }
            let Some(under_way) = &mut open else { continue };
            let error = match self.go_on(endpoint, upload, under_way).await {
                Ok(()) => return Ok(Pushed::Sent),
                Err(error) => error,
            };
            // A piece that is not where the registry is, and an upload that it forgot, are no lasting refusals.
            let lasting = !matches!(
                error.kind(),
                Kind::Unavailable
                    | Kind::DeadlineExceeded
                    | Kind::OutOfRange
                    | Kind::NotFound
                    | Kind::ResourceExhausted
            );
            barren = if under_way.offset > furthest { 0 } else { barren + 1 };
            furthest = furthest.max(under_way.offset);
            breaks += 1;
            if lasting || barren >= MAX_BARREN || breaks >= MAX_BREAKS {
                self.give_up(endpoint, under_way).await;
                return Err(error);
            }
            tracing::debug!(%error, offset = under_way.offset, "an upload broke");
            tokio::time::sleep(self.patience.back_off * barren.max(1)).await;
            // The answer may have been lost after the last piece arrived.
            if self.has_blob(endpoint, &upload.descriptor).await? {
                return Ok(Pushed::Sent);
            }
            match self.offset(endpoint, under_way).await {
                Ok(offset) if offset <= upload.descriptor.size => under_way.offset = offset,
                // Nothing can be built on it; what is left of it goes before another is opened.
                _ => {
                    self.give_up(endpoint, under_way).await;
                    open = None;
                }
            }
        }
    }

    async fn has_blob(&self, endpoint: &Endpoint, descriptor: &Descriptor) -> Result<bool> {
        let ask = Ask::new(Method::HEAD, format!("blobs/{}", descriptor.digest), "*/*");
        match self.ask(endpoint, &ask).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unimplemented) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens an upload; `None` where the registry took the blob from `source` instead.
    async fn begin(&self, endpoint: &Endpoint, upload: &Upload, source: Option<&String>) -> Result<Option<Url>> {
        let mount = source.map(|source| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("mount", &upload.descriptor.digest.to_string()).append_pair("from", source);
            format!("blobs/uploads/?{}", query.finish())
        });
        let asked = Ask { body: Some(Bytes::new()), ..Ask::new(Method::POST, mount.unwrap_or_else(plain), "") };
        let response = match self.ask(endpoint, &asked).await {
            // Where the other repository may not be read, some refuse instead of opening an upload.
            Err(_) if source.is_some() => self.ask(endpoint, &Ask { at: Place::Path(plain()), ..asked }).await?,
            response => response?,
        };
        if response.status() == StatusCode::CREATED && source.is_some() {
            return Ok(None);
        }
        self.next_place(endpoint, &response, None).map(Some)
    }

    /// Sends what is missing, and ends the upload.
    async fn go_on(&self, endpoint: &Endpoint, upload: &Upload, open: &mut Open) -> Result<()> {
        let size = upload.descriptor.size;
        // The last piece goes with the end of the upload only where it is the whole blob: not all registries take both.
        while size > PIECE && open.offset < size {
            let piece = piece(upload, open.offset, PIECE.min(size - open.offset)).await?;
            let end = open.offset + piece.len() as u64;
            let mut headers = octets();
            headers.insert(CONTENT_RANGE, header(format!("{}-{}", open.offset, end - 1))?);
            let ask = self.sent(Method::PATCH, open.at.clone(), headers, piece);
            let response = self.ask(endpoint, &ask).await?;
            open.at = self.next_place(endpoint, &response, Some(&open.at))?;
            // A registry may take less than it was given.
            open.offset = there(&response).filter(|there| *there <= end).unwrap_or(end);
            (upload.told)(open.offset);
        }
        let rest = piece(upload, open.offset, size - open.offset).await?;
        let mut at = open.at.clone();
        at.query_pairs_mut().append_pair("digest", &upload.descriptor.digest.to_string());
        let response = self.ask(endpoint, &self.sent(Method::PUT, at, octets(), rest)).await?;
        if let Some(told) = told_digest(response.headers())?
            && told != upload.descriptor.digest
        {
            return Err(Error::data_loss(format!("the registry took it for {told}")));
        }
        (upload.told)(size);
        Ok(())
    }

    /// How far an upload is, as the registry sees it.
    async fn offset(&self, endpoint: &Endpoint, open: &mut Open) -> Result<u64> {
        let ask = Ask { at: Place::Url(open.at.clone()), ..Ask::new(Method::GET, String::new(), "") };
        let response = self.ask(endpoint, &ask).await?;
        open.at = self.next_place(endpoint, &response, Some(&open.at))?;
        there(&response).ok_or_else(|| Error::unavailable("the registry does not say how far an upload is"))
    }

    /// Tells the registry to forget an upload; it would in time.
    async fn give_up(&self, endpoint: &Endpoint, open: &Open) {
        let ask = Ask { at: Place::Url(open.at.clone()), once: true, ..Ask::new(Method::DELETE, String::new(), "") };
        if let Err(error) = self.ask(endpoint, &ask).await {
            tracing::debug!(%error, "an upload stays until the registry forgets it");
        }
    }

    fn sent(&self, method: Method, at: Url, headers: HeaderMap, body: Bytes) -> Ask {
        let at = Place::Url(at);
        Ask { at, headers, body: Some(body), once: true, ..Ask::new(method, String::new(), "") }
    }

    /// Where an upload goes on.
    fn next_place(&self, endpoint: &Endpoint, response: &Response, now: Option<&Url>) -> Result<Url> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let place = match (location, now) {
            (Some(location), _) => response.url().join(location).ok(),
            (None, now) => now.cloned(),
        };
        let place = place.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
        // A secret channel is not left for a clear one.
        let place = place.filter(|url| url.scheme() == "https" || endpoint.host.base.scheme() == "http");
        place.ok_or_else(|| Error::data_loss(format!("{} says no place for an upload", shown(response.url()))))
    }

    /// Makes sure that the repository has a manifest or an index, under its digest or under `tag`. What it points at must
    /// be there.
    pub(crate) async fn push_manifest(
        &self,
        home: &Url,
        tag: Option<&str>,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
    ) -> Result<Pushed> {
        let endpoint = self.endpoint(home)?;
        let pushed = self.push_manifest_to(endpoint, tag, descriptor, bytes.into()).await;
        pushed.context(|| format!("push manifest {}", descriptor.digest))
    }

    async fn push_manifest_to(
        &self,
        endpoint: &Endpoint,
        tag: Option<&str>,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Result<Pushed> {
        let path = tag.map_or_else(|| format!("manifests/{}", descriptor.digest), |tag| format!("manifests/{tag}"));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, header(descriptor.media_type.clone())?);
        let mut ask = Ask::new(Method::HEAD, path, "*/*");
        ask.headers.insert(http::header::ACCEPT, header(format!("{}, */*", descriptor.media_type))?);
        ask.accept = "";
        if let Ok(response) = self.ask(endpoint, &ask).await
            && told_digest(response.headers())? == Some(descriptor.digest)
        {
            return Ok(Pushed::Existing);
        }
        let put = Ask { method: Method::PUT, headers, body: Some(bytes), ..ask };
        let response = self.ask(endpoint, &put).await?;
        match told_digest(response.headers())? {
            Some(told) if told != descriptor.digest => {
                Err(Error::data_loss(format!("the registry took it for {told}")))
            }
            _ => Ok(Pushed::Sent),
        }
    }
}

fn plain() -> String {
    "blobs/uploads/".to_owned()
}

fn octets() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))])
}

fn header(text: String) -> Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(|_| Error::invalid("a media type does not fit a header"))
}

/// How many bytes of an upload are there: `Range: 0-<last>`.
fn there(response: &Response) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?;
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    let last: u64 = (first == "0").then(|| last.parse().ok())??;
    // Nothing at all is told as `0-0`, and so is one byte; sending that byte again does no harm.
    Some(if last == 0 { 0 } else { last.saturating_add(1) })
}

/// Some bytes of a blob's file.
async fn piece(upload: &Upload, offset: u64, length: u64) -> Result<Bytes> {
    let (file, digest) = (upload.file.clone(), upload.descriptor.digest);
    let length = usize::try_from(length).map_err(|_| Error::internal("a piece of a blob is too large"))?;
    crate::blocking(move || {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).context(|| format!("read blob {digest}"))?;
        Ok(bytes.into())
    })
    .await
}
