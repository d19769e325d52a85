//! Clients of the containerd API that write records at the same time.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{Container, CreateContainerRequest, CreateImageRequest, CreateRequest, Image};
use containerd_client::types::Descriptor;
use hyper_util::rt::TokioIo;
use prost_types::Any;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};

/// The namespace of all that is written.
const NAMESPACE: &str = "writers";

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A lease.
    Lease,
    /// An image name.
    Image,
    /// A container.
    Container,
}

impl Record {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lease, Self::Image, Self::Container];

    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lease => "Leases.Create",
            Self::Image => "Images.Create",
            Self::Container => "Containers.Create",
        }
    }

    async fn write(self, channel: &Channel, name: String) -> Result<()> {
        let labels = HashMap::from([("written.by".to_owned(), name.clone())]);
        match self {
            Self::Lease => {
                LeasesClient::new(channel.clone()).create(within(CreateRequest { id: name, labels })?).await?;
            }
            Self::Image => {
                let target = Descriptor {
                    media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                    digest: crate::image::digest(name.as_bytes()),
                    size: 1,
                    ..Descriptor::default()
                };
                let image = Some(Image { name, labels, target: Some(target), ..Image::default() });
                ImagesClient::new(channel.clone())
                    .create(within(CreateImageRequest { image, source_date_epoch: None })?)
                    .await?;
            }
            Self::Container => {
                let spec = Any {
                    type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
                    value: vec![b' '; 4096],
                };
                let runtime = Some(Runtime { name: "io.containerd.runc.v2".into(), options: None });
                let container = Some(Container { id: name, labels, runtime, spec: Some(spec), ..Container::default() });
                ContainersClient::new(channel.clone()).create(within(CreateContainerRequest { container })?).await?;
            }
        }
        Ok(())
    }
}

fn within<T>(message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse()?);
    Ok(request)
}

async fn connect(socket: &Path) -> Result<Channel> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    Ok(Endpoint::try_from("http://localhost")?.connect_with_connector(connector).await?)
}

/// `clients` connections write `each` records at the same time, whose names begin with `name`; gives how long each write took.
pub async fn write(socket: &Path, record: Record, name: &str, clients: usize, each: usize) -> Result<Vec<Duration>> {
    let mut working = JoinSet::new();
    for client in 0..clients {
        let name = name.to_owned();
        let channel = connect(socket).await.with_context(|| format!("connect client {client}"))?;
        working.spawn(async move {
            let mut took = Vec::with_capacity(each);
            for number in 0..each {
                let begun = Instant::now();
                record.write(&channel, format!("{name}-{client}-{number}")).await?;
                took.push(begun.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut all = Vec::with_capacity(clients * each);
    while let Some(done) = working.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}
