//! The words of CRI 1.36 that the crate `k8s-cri` does not know yet, written by hand, and calls by a method's name.
//!
//! A protobuf message may be sent in pieces: fields of both are merged. So a request of the older words takes newer
//! fields by [`joined`], and an answer may be read in older and newer words ([`Bytes::read`]).

use std::time::Duration;

use k8s_cri::v1;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::cri::Answer;

/// The runtime service's full name.
pub const RUNTIME: &str = "runtime.v1.RuntimeService";
/// The image service's full name.
pub const IMAGES: &str = "runtime.v1.ImageService";

/// A message as it stands on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// A caller of any method.
#[derive(Clone, Debug)]
pub struct Newer {
    channel: Channel,
    /// Named in every call's header.
    namespace: Option<MetadataValue<Ascii>>,
}

/// Carries bytes as they are.
#[derive(Clone, Copy, Debug)]
struct Plain;

/// The messages of a server's stream, in order.
#[derive(Debug)]
pub struct Messages(Streaming<Bytes>);

/// `Mount`, whole.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Where in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where on the host.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Not to be written.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// An image to mount.
    #[prost(message, optional, tag = "9")]
    pub image: Option<v1::ImageSpec>,
    /// A path in that image.
    #[prost(string, tag = "10")]
    pub image_sub_path: String,
}

/// `KeyValue`, whose value may be any bytes.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// The name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// What `ContainerConfig` has more; lists are added to those of the older words.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    /// Further environment.
    #[prost(message, repeated, tag = "6")]
    pub envs: Vec<KeyValue>,
    /// Further mounts.
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    /// The number of a word of the enum `Signal`, which is not the kernel's number.
    #[prost(int32, tag = "18")]
    pub stop_signal: i32,
}

/// What `CreateContainerRequest` has more.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerRequest {
    /// What its configuration has more.
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
}

/// What `ContainerStatus` has more.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatus {
    /// The mounts, whole.
    #[prost(message, repeated, tag = "14")]
    pub mounts: Vec<Mount>,
    /// The number of a word of the enum `Signal`.
    #[prost(int32, tag = "19")]
    pub stop_signal: i32,
}

/// What `ContainerStatusResponse` has more.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatusResponse {
    /// The status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
}

/// What `ImageSpec` has more.
#[derive(Clone, PartialEq, Message)]
pub struct ImageSpec {
    /// The image by name, digest or id.
    #[prost(string, tag = "1")]
    pub image: String,
    /// The image's id.
    #[prost(string, tag = "20")]
    pub image_ref: String,
}

/// What `Image` has more.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    /// The id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The specification.
    #[prost(message, optional, tag = "7")]
    pub spec: Option<ImageSpec>,
}

/// What `ListImagesResponse` has more.
#[derive(Clone, PartialEq, Message)]
pub struct ListImagesResponse {
    /// The images.
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

/// `RuntimeFeatures`, whole.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeFeatures {
    /// Knows policies for supplemental groups.
    #[prost(bool, tag = "1")]
    pub supplemental_groups_policy: bool,
    /// Can give a pod a user namespace on the host's network.
    #[prost(bool, tag = "2")]
    pub user_namespaces_host_network: bool,
}

/// What `StatusResponse` has more.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// What the runtime can do.
    #[prost(message, optional, tag = "4")]
    pub features: Option<RuntimeFeatures>,
}

/// `UpdatePodSandboxResourcesRequest`; its answer is empty.
#[derive(Clone, PartialEq, Message)]
pub struct UpdatePodSandboxResourcesRequest {
    /// The pod.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// What the pod takes beside its containers.
    #[prost(message, optional, tag = "2")]
    pub overhead: Option<v1::LinuxContainerResources>,
    /// The sum of its containers.
    #[prost(message, optional, tag = "3")]
    pub resources: Option<v1::LinuxContainerResources>,
}

/// One line of a pressure file.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PsiData {
    /// Stalled in all; the kernel's microseconds as nanoseconds.
    #[prost(uint64, tag = "1")]
    pub total: u64,
    /// Percent of the last ten seconds.
    #[prost(double, tag = "2")]
    pub avg10: f64,
    /// Percent of the last minute.
    #[prost(double, tag = "3")]
    pub avg60: f64,
    /// Percent of the last five minutes.
    #[prost(double, tag = "4")]
    pub avg300: f64,
}

/// A pressure file.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PsiStats {
    /// All tasks stalled.
    #[prost(message, optional, tag = "1")]
    pub full: Option<PsiData>,
    /// Some task stalled.
    #[prost(message, optional, tag = "2")]
    pub some: Option<PsiData>,
}

/// `IoUsage`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct IoUsage {
    /// When, in nanoseconds.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// The pressure.
    #[prost(message, optional, tag = "2")]
    pub psi: Option<PsiStats>,
}

/// `CpuUsage`, whole.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct CpuUsage {
    /// When, in nanoseconds.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// Time of all processors since the start.
    #[prost(message, optional, tag = "2")]
    pub usage_core_nano_seconds: Option<v1::UInt64Value>,
    /// Time of all processors in a second.
    #[prost(message, optional, tag = "3")]
    pub usage_nano_cores: Option<v1::UInt64Value>,
    /// The pressure.
    #[prost(message, optional, tag = "4")]
    pub psi: Option<PsiStats>,
}

/// `MemoryUsage`, whole; bytes.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct MemoryUsage {
    /// When, in nanoseconds.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// In use and not to be reclaimed at once.
    #[prost(message, optional, tag = "2")]
    pub working_set_bytes: Option<v1::UInt64Value>,
    /// Left below the limit.
    #[prost(message, optional, tag = "3")]
    pub available_bytes: Option<v1::UInt64Value>,
    /// In use.
    #[prost(message, optional, tag = "4")]
    pub usage_bytes: Option<v1::UInt64Value>,
    /// Anonymous.
    #[prost(message, optional, tag = "5")]
    pub rss_bytes: Option<v1::UInt64Value>,
    /// Faults.
    #[prost(message, optional, tag = "6")]
    pub page_faults: Option<v1::UInt64Value>,
    /// Faults that went to disk.
    #[prost(message, optional, tag = "7")]
    pub major_page_faults: Option<v1::UInt64Value>,
    /// The pressure.
    #[prost(message, optional, tag = "8")]
    pub psi: Option<PsiStats>,
}

/// `ContainerStats`, whole.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStats {
    /// Which container.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<v1::ContainerAttributes>,
    /// Processors.
    #[prost(message, optional, tag = "2")]
    pub cpu: Option<CpuUsage>,
    /// Memory.
    #[prost(message, optional, tag = "3")]
    pub memory: Option<MemoryUsage>,
    /// What it wrote to its root.
    #[prost(message, optional, tag = "4")]
    pub writable_layer: Option<v1::FilesystemUsage>,
    /// Swap.
    #[prost(message, optional, tag = "5")]
    pub swap: Option<v1::SwapUsage>,
    /// Input and output.
    #[prost(message, optional, tag = "6")]
    pub io: Option<IoUsage>,
}

/// `LinuxPodSandboxStats`, whole.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxPodSandboxStats {
    /// Processors.
    #[prost(message, optional, tag = "1")]
    pub cpu: Option<CpuUsage>,
    /// Memory.
    #[prost(message, optional, tag = "2")]
    pub memory: Option<MemoryUsage>,
    /// The network.
    #[prost(message, optional, tag = "3")]
    pub network: Option<v1::NetworkUsage>,
    /// Processes.
    #[prost(message, optional, tag = "4")]
    pub process: Option<v1::ProcessUsage>,
    /// The containers' own.
    #[prost(message, repeated, tag = "5")]
    pub containers: Vec<ContainerStats>,
    /// Input and output.
    #[prost(message, optional, tag = "6")]
    pub io: Option<IoUsage>,
}

/// `PodSandboxStats` of Linux.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxStats {
    /// Which pod.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<v1::PodSandboxAttributes>,
    /// Its numbers.
    #[prost(message, optional, tag = "2")]
    pub linux: Option<LinuxPodSandboxStats>,
}

/// An answer whose only field is one message: ContainerStats, PodSandboxStats.
#[derive(Clone, PartialEq, Message)]
pub struct One<T: Message + Default + std::fmt::Debug> {
    /// The message.
    #[prost(message, optional, tag = "1")]
    pub item: Option<T>,
}

/// An answer whose only field is a list: all lists but a few, and each message of a `Stream…` RPC.
#[derive(Clone, PartialEq, Message)]
pub struct Items<T: Message + Default + std::fmt::Debug> {
    /// The list.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<T>,
}

/// The request of a list or a stream, with a filter.
#[derive(Clone, PartialEq, Message)]
pub struct Filtered<T: Message + Default + std::fmt::Debug> {
    /// What is wanted; nothing: all.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<T>,
}

/// Both messages' fields in one.
pub fn joined(older: &impl Message, newer: &impl Message) -> Bytes {
    let mut bytes = older.encode_to_vec();
    bytes.extend(newer.encode_to_vec());
    Bytes(bytes)
}

impl Bytes {
    /// A message on the wire.
    pub fn of(message: &impl Message) -> Self {
        Self(message.encode_to_vec())
    }

    /// The bytes in the words of `T`; what those do not know is left out.
    pub fn read<T: Message + Default>(&self) -> Answer<T> {
        T::decode(self.0.as_slice()).map_err(|error| Status::data_loss(error.to_string()))
    }
}

impl Newer {
    /// Calls over a connection.
    pub fn new(channel: Channel) -> Self {
        Self { channel, namespace: None }
    }

    /// Calls of one tenant over a connection; `None`: the header is not there.
    pub fn of(channel: Channel, namespace: Option<&'static str>) -> Self {
        Self { channel, namespace: namespace.map(MetadataValue::from_static) }
    }

    /// One call of a unary method, in bytes.
    pub async fn call(&self, service: &str, method: &str, request: Bytes) -> Answer<Bytes> {
        let (mut grpc, request, path) = self.prepare(service, method, request)?;
        ready(&mut grpc).await?;
        grpc.unary(request, path, Plain).await.map(tonic::Response::into_inner)
    }

    /// One call of a unary method of the runtime service.
    pub async fn ask<T: Message + Default>(&self, method: &str, request: &impl Message) -> Answer<T> {
        self.call(RUNTIME, method, Bytes::of(request)).await?.read()
    }

    /// A call whose answer is a stream.
    pub async fn open(&self, service: &str, method: &str, request: Bytes) -> Answer<Messages> {
        let (mut grpc, request, path) = self.prepare(service, method, request)?;
        ready(&mut grpc).await?;
        grpc.server_streaming(request, path, Plain).await.map(|answer| Messages(answer.into_inner()))
    }

    /// All messages of a stream.
    pub async fn all<T: Message + Default + std::fmt::Debug>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Answer<Vec<Items<T>>> {
        let mut messages = self.open(service, method, Bytes::of(request)).await?;
        let mut all = Vec::new();
        while let Some(message) = messages.next().await? {
            all.push(message.read()?);
        }
        Ok(all)
    }

    fn prepare(
        &self,
        service: &str,
        method: &str,
        request: Bytes,
    ) -> Answer<(Grpc<Channel>, Request<Bytes>, PathAndQuery)> {
        let path = PathAndQuery::try_from(format!("/{service}/{method}"));
        let path = path.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut request = Request::new(request);
        request.set_timeout(Duration::from_secs(120));
        if let Some(namespace) = &self.namespace {
            request.metadata_mut().insert("containerd-namespace", namespace.clone());
        }
        Ok((Grpc::new(self.channel.clone()).max_decoding_message_size(16 << 20), request, path))
    }
}

impl Messages {
    /// The next message; nothing at the end.
    pub async fn next(&mut self) -> Answer<Option<Bytes>> {
        self.0.message().await
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Answer<()> {
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))
}

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Answer<()> {
        to.put_slice(&item.0);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Answer<Option<Bytes>> {
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        Ok(Some(Bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_and_newer_words_are_one_message() {
        let older = v1::CreateContainerRequest {
            pod_sandbox_id: "p".into(),
            config: Some(v1::ContainerConfig {
                working_dir: "/w".into(),
                envs: vec![v1::KeyValue { key: "A".into(), value: "1".into() }],
                ..Default::default()
            }),
            sandbox_config: None,
        };
        let env = KeyValue { key: "B".into(), value: b"2".to_vec() };
        let config = ContainerConfig { stop_signal: 10, envs: vec![env], ..Default::default() };
        let both = joined(&older, &CreateContainerRequest { config: Some(config) });
        let read: v1::CreateContainerRequest = both.read().unwrap();
        let config = read.config.unwrap();
        assert_eq!((read.pod_sandbox_id.as_str(), config.working_dir.as_str(), config.envs.len()), ("p", "/w", 2));
        assert_eq!(both.read::<CreateContainerRequest>().unwrap().config.unwrap().stop_signal, 10);
    }
}
