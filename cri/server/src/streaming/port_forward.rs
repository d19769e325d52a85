//! PortForward: connections of a client to ports inside a pod's network.
//!
//! A socket belongs to the network namespace in which it was made, wherever it is used. So a thread that ends at once goes
//! into the pod's namespace and only makes sockets there; they are connected and carried here like any other. `127.0.0.1`
//! is tried first and `::1` where nobody listens there. No program runs in the pod for it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use windlass_cri_api::v1;
use windlass_model::{Error, Id, Kind, Result};
use windlass_sys::netns;

use super::{Input, Output, PortForwardSession, Session};
use crate::Server;
use crate::pod::blocking;

/// How long a connection inside the pod may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sockets for both versions of the protocol, made in one namespace.
struct Sockets {
    v4: io::Result<TcpSocket>,
    v6: io::Result<TcpSocket>,
}

impl Server {
    /// Answers the URL on which connections will be taken.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] naming the field; [`Kind::FailedPrecondition`] where the pod is not ready.
    pub(crate) async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<v1::PortForwardResponse> {
        let port = |port: &i32| {
            let fits = u16::try_from(*port).ok().filter(|port| *port > 0);
            fits.ok_or_else(|| Error::invalid(format!("port: {port} is none, they are from 1 to 65535")))
        };
        let ports = request.port.iter().map(port).collect::<Result<Vec<u16>>>()?;
        let pod = self.ready_pod(&request.pod_sandbox_id).await?.id.clone();
        let session = PortForwardSession { pod, ports };
        Ok(v1::PortForwardResponse { url: self.streaming.url(Session::PortForward(session))? })
    }

    /// Carries one connection to its end, each direction for itself: one that has ended leaves the other open.
    ///
    /// # Errors
    /// Where nothing listens on the port, with words for the client.
    pub(crate) async fn serve_port(
        &self,
        session: &PortForwardSession,
        port: u16,
        mut input: Input,
        mut output: Output,
    ) -> Result<()> {
        let pod = self.ready_pod(session.pod.as_str()).await?;
        let namespace = pod.attachment.as_ref().map(|attachment| attachment.netns.clone());
        let stream = dial(&pod.id, namespace, port).await?;
        // What is typed is sent at once.
        stream.set_nodelay(true).ok();
        let (mut from, mut to) = stream.into_split();
        let there = async {
            let carried = tokio::io::copy(&mut input, &mut to).await;
            // Closed in either case; the other side sees the end.
            to.shutdown().await.ok();
            carried.map(drop)
        };
        let back = async {
            let carried = tokio::io::copy(&mut from, &mut output).await;
            output.shutdown().await.and(carried.map(drop))
        };
        let broken = |error| Error::with_source(Kind::Aborted, format!("the connection to port {port} broke"), error);
        tokio::try_join!(there, back).map(drop).map_err(broken)
    }
}

/// Connects to a port in the namespace at `namespace`; `None` is the host's.
async fn dial(pod: &Id, namespace: Option<PathBuf>, port: u16) -> Result<TcpStream> {
    let make = || Sockets { v4: TcpSocket::new_v4(), v6: TcpSocket::new_v6() };
    let sockets = match namespace {
        Some(path) => blocking(move || netns::enter(&path, make)).await?,
        None => make(),
    };
    let first = match connect(sockets.v4, (Ipv4Addr::LOCALHOST, port).into()).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let second = match connect(sockets.v6, (Ipv6Addr::LOCALHOST, port).into()).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let why = format!("port {port} of pod {pod} cannot be reached: 127.0.0.1: {first}; [::1]: {second}");
    Err(Error::unavailable(why))
}

async fn connect(socket: io::Result<TcpSocket>, address: SocketAddr) -> io::Result<TcpStream> {
    match tokio::time::timeout(PATIENCE, socket?.connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn both_versions_of_the_protocol_are_tried_and_silence_is_told() {
        let pod: Id = "p1".parse().unwrap();
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await;
        let mut listeners = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()];
        // Not every machine has it.
        listeners.extend(v6.ok());
        for listener in &listeners {
            let address = listener.local_addr().unwrap();
            let stream = dial(&pod, None, address.port()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), address);
        }
        let port = listeners.remove(0).local_addr().unwrap().port();
        drop(listeners);
        let error = dial(&pod, None, port).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("port {port} of pod p1 cannot be reached")), "{error}");
    }

    #[tokio::test]
    async fn a_socket_of_another_namespace_works_here() {
        let pin = std::env::temp_dir().join(format!("w-forward-{}", std::process::id()));
        netns::create(&pin).unwrap();
        let listen = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let inside = netns::enter(&pin, listen).unwrap();
        let port = inside.local_addr().unwrap().port();
        let stream = dial(&"p1".parse().unwrap(), Some(pin.clone()), port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        inside.accept().unwrap();
        drop(inside);
        assert!(dial(&"p1".parse().unwrap(), Some(pin.clone()), port).await.is_err());
        netns::remove(&pin).unwrap();
    }
}
