//! The layer in front of all services of a socket: it judges a request, names its tenant, and finds it a place.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use windlass_model::Namespace;

use super::table::{About, Does, Rule, Takes, rule};
use super::{Access, Limits, Scope, closed};
use crate::codes::status;
use crate::tenant::NAMESPACE;

/// The paths of the CRI's services, which are not of this API: they know their one namespace.
const CRI: &str = "/runtime.v1.";

/// The layer.
#[derive(Clone, Debug)]
pub struct Gate {
    access: Access,
    limits: Limits,
}

/// A service behind it.
#[derive(Clone, Debug)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl Gate {
    /// A layer for a socket that is open for `access`.
    pub fn new(access: Access, limits: Limits) -> Self {
        Self { access, limits }
    }

    /// Judges a request and names its namespace in it. The method's rule and the namespace, as far as there are any.
    fn judge<B>(&self, request: &mut Request<B>) -> Result<(Option<Rule>, Option<Namespace>), Status> {
        let rule = rule(request.uri().path());
        let named = named(request)?;
        let namespace = match (&named, self.access.own()) {
            (Some(namespace), Some(_)) if !self.access.sees(namespace) => return Err(closed(namespace)),
            (Some(namespace), _) => Some(namespace.clone()),
            (None, own) => own.cloned(),
        };
        let guarded = match &*self.access.0 {
            Scope::Full => false,
            Scope::Guarded { namespace: guarded, .. } => namespace.as_ref() == Some(guarded),
            Scope::Locked { .. } => true,
        };
        match (rule, &namespace) {
            (None, _) if guarded => return Err(Status::permission_denied("this method is not open on this socket")),
            (Some(Rule { about: About::Named, does, .. }), Some(namespace)) => match does {
                Does::Write => self.access.change(namespace)?,
                Does::Read if !self.access.sees(namespace) => return Err(closed(namespace)),
                Does::Read => {}
            },
            _ => {}
        }
        if let Some(namespace) = &namespace {
            let value = HeaderValue::from_str(namespace.as_str());
            let value = value.map_err(|_| Status::internal("a namespace is not ASCII"))?;
            // Whatever else was there is gone: services see what was judged.
            request.headers_mut().insert(NAMESPACE, value);
        }
        request.extensions_mut().insert(self.access.clone());
        request.extensions_mut().insert(self.limits.clone());
        Ok((rule, namespace))
    }
}

/// The namespace that a request names, if any. Of several it is the first, as for containerd: its client library puts
/// the latest choice before those that it replaces, and nerdctl chooses again for each namespace that it looks into.
fn named<B>(request: &Request<B>) -> Result<Option<Namespace>, Status> {
    let Some(value) = request.headers().get(NAMESPACE) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Status::invalid_argument(format!("{NAMESPACE} is not ASCII")))?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(status) }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The clone is the one that was not asked whether it is ready.
        let inner = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, inner);
        if request.uri().path().starts_with(CRI) && self.gate.access.own().is_none() {
            return Box::pin(inner.call(request));
        }
        let judged = self.gate.judge(&mut request);
        let limits = self.gate.limits.clone();
        Box::pin(async move {
            let (rule, namespace) = match judged {
                Ok(judged) => judged,
                Err(refusal) => return Ok(refusal.into_http()),
            };
            let takes = rule.map_or(Takes::Short, |rule| rule.takes);
            let name = namespace.as_ref().map_or("", Namespace::as_str);
            let place = match limits.enter(name, takes).await {
                Ok(place) => place,
                Err(refusal) => return Ok(refusal.into_http()),
            };
            let response = inner.call(request).await?;
            Ok(match takes {
                Takes::Short => response,
                // The place goes with the end of the stream.
                Takes::Long | Takes::Listens => response.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let _held = &place;
                        frame
                    }))
                }),
            })
        })
    }
}

#[cfg(test)]
mod tests;
