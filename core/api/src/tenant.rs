//! Whose request it is: the header `containerd-namespace` made a tenant; and for whom it holds what it makes: the header
//! `containerd-lease`.

use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use windlass_engine::{Core, Tenant};
use windlass_model::{Error, LeaseId, Namespace};

use crate::access::Access;
use crate::codes::status;

/// The header of the namespace.
pub(crate) const NAMESPACE: &str = "containerd-namespace";

/// The header of the lease.
const LEASE: &str = "containerd-lease";

/// The tenant that a request names.
pub(crate) fn of<T>(core: &Core, request: &Request<T>) -> Result<Tenant, Status> {
    let namespace = namespace(request.metadata()).map_err(status)?;
    let tenant = core.tenant(namespace);
    Ok(if Access::of(request).isolates() { tenant.isolated() } else { tenant })
}

/// The lease that a request names; it need not exist. Without one, what the request makes is held by nobody.
pub(crate) fn lease<T>(request: &Request<T>) -> Result<Option<LeaseId>, Status> {
    let value = header(request.metadata(), LEASE).map_err(status)?;
    value.map(str::parse).transpose().map_err(status)
}

fn namespace(headers: &MetadataMap) -> windlass_model::Result<Namespace> {
    header(headers, NAMESPACE)?.ok_or_else(|| Error::precondition("namespace is required"))?.parse()
}

/// A header's value; an empty one is none.
fn header<'a>(headers: &'a MetadataMap, name: &str) -> windlass_model::Result<Option<&'a str>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Error::invalid(format!("{name} is not ASCII")))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use windlass_model::Kind;

    use super::*;

    #[test]
    fn a_request_without_a_good_namespace_is_refused() {
        let with = |value: &'static str| {
            let mut headers = MetadataMap::new();
            headers.insert(NAMESPACE, value.parse().expect("ascii"));
            namespace(&headers)
        };
        assert_eq!(namespace(&MetadataMap::new()).expect_err("none").kind(), Kind::FailedPrecondition);
        assert_eq!(with("").expect_err("empty").kind(), Kind::FailedPrecondition);
        assert_eq!(with("../up").expect_err("bad").kind(), Kind::InvalidArgument);
        assert_eq!(with("k8s.io").expect("good").as_str(), "k8s.io");
    }

    #[test]
    fn a_lease_may_be_named() {
        let with = |value: &'static str| {
            let mut request = Request::new(());
            request.metadata_mut().insert(LEASE, value.parse().expect("ascii"));
            lease(&request)
        };
        assert_eq!(lease(&Request::new(())).expect("none"), None);
        assert_eq!(with("").expect("empty"), None);
        assert_eq!(with("a b").expect_err("bad").code(), tonic::Code::InvalidArgument);
        assert_eq!(with("519466803-3X_-").expect("good").expect("a lease").as_str(), "519466803-3X_-");
    }
}
