//! A client of the containerd API, in the words of the crate `containerd-client`: one tenant over one socket.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cri::Answer;
use crate::newer::{Bytes, Messages, Newer};

/// A tenant's client; a clone shares the connection.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The connection.
    pub channel: Channel,
    /// Calls by name.
    pub calls: Newer,
}

impl Tenant {
    /// Connects to a socket as `namespace`; `None`: without naming one.
    pub async fn connect(socket: &Path, namespace: Option<&'static str>) -> Result<Self> {
        let path: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::try_from("http://localhost")?.connect_with_connector(connector).await?;
        Ok(Self { calls: Newer::of(channel.clone(), namespace), channel })
    }

    /// The same connection for another namespace.
    pub fn named(&self, namespace: Option<&'static str>) -> Self {
        Self { channel: self.channel.clone(), calls: Newer::of(self.channel.clone(), namespace) }
    }

    /// One call of a method whose service is in the package `containerd.services.<service>`, as `images.v1.Images`.
    pub async fn ask<T: Message + Default>(&self, service: &str, method: &str, request: &impl Message) -> Answer<T> {
        self.calls.call(&format!("containerd.services.{service}"), method, Bytes::of(request)).await?.read()
    }

    /// A call that is answered by a stream.
    pub async fn open(&self, service: &str, method: &str, request: &impl Message) -> Answer<Messages> {
        self.calls.open(&format!("containerd.services.{service}"), method, Bytes::of(request)).await
    }
}
