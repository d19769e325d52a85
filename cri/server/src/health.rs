//! The server's look at itself, from outside: over its own socket, as the kubelet comes.

use std::path::Path;
use std::time::Duration;

use tonic::transport::Endpoint;
use windlass_cri_api::v1;
use windlass_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use windlass_model::{Error, Result};

/// Asks the CRI server on the socket at `address` for its version and its containers.
///
/// # Errors
/// [`windlass_model::Kind::Unavailable`] where there is no whole answer in time.
pub async fn look_at_yourself(address: &Path, patience: Duration) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::unavailable(format!("the CRI on {} does not answer: {error}", address.display()))
    };
    let asked = async {
        let endpoint = Endpoint::try_from(format!("unix://{}", address.display())).map_err(|error| failed(&error))?;
        let mut client = RuntimeServiceClient::new(endpoint.connect().await.map_err(|error| failed(&error))?);
        client.version(v1::VersionRequest::default()).await.map_err(|error| failed(&error))?;
        let nobody = v1::ContainerFilter { id: "nobody".into(), ..Default::default() };
        let containers = v1::ListContainersRequest { filter: Some(nobody) };
        client.list_containers(containers).await.map(drop).map_err(|error| failed(&error))
    };
    tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err(failed(&"it takes too long")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_answer_is_not_well() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = look_at_yourself(&folder.path().join("none"), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(nobody.kind(), windlass_model::Kind::Unavailable);
        let path = folder.path().join("mute");
        let _mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mute = look_at_yourself(&path, Duration::from_millis(50)).await.unwrap_err();
        assert!(mute.to_string().contains("too long"), "{mute}");
    }
}
