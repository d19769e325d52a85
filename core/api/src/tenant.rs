//! Whose request it is: the header `containerd-namespace` made a tenant.

use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use windlass_engine::{Core, Tenant};
use windlass_model::{Error, Namespace};

use crate::codes::status;

/// The header.
const NAMESPACE: &str = "containerd-namespace";

/// The tenant that a request names.
pub(crate) fn of<T>(core: &Core, request: &Request<T>) -> Result<Tenant, Status> {
    let namespace = namespace(request.metadata()).map_err(status)?;
    Ok(core.tenant(namespace))
}

fn namespace(headers: &MetadataMap) -> windlass_model::Result<Namespace> {
    let value = headers.get(NAMESPACE).ok_or_else(|| Error::precondition("namespace is required"))?;
    let text = value.to_str().map_err(|_| Error::invalid(format!("{NAMESPACE} is not ASCII")))?;
    if text.is_empty() {
        return Err(Error::precondition("namespace is required"));
    }
    text.parse()
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
}
