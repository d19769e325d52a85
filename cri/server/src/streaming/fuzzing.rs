//! Whole sessions fed with arbitrary bytes, for the fuzz targets; built only with `--cfg fuzzing` and for tests.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::status::Report;
use super::testing::{Echo, exec, ports, terms};
use super::websocket::Codec;
use super::websocket::remote_command::Subprotocol;
use super::{spdy, websocket};

/// A client that says `bytes` and hears nothing.
fn client(bytes: &[u8]) -> impl AsyncRead + AsyncWrite + Send {
    tokio::io::join(bytes, tokio::io::sink())
}

fn run(session: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads needs nothing").block_on(session);
}

/// A SPDY connection; the first byte chooses what is served, or only a header block.
pub(crate) fn spdy(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let stop = CancellationToken::new();
    match kind % 4 {
        0 => run(spdy::remote_command::serve(
            client(bytes),
            spdy::remote_command::Version::V4,
            exec("0", true),
            &Echo,
            terms(&stop),
        )),
        1 => run(spdy::remote_command::serve(
            client(bytes),
            spdy::remote_command::Version::V1,
            exec("7", false),
            &Echo,
            terms(&stop),
        )),
        2 => run(spdy::port_forward::serve(client(bytes), ports(&[]), &Echo, terms(&stop))),
        _ => spdy::fuzz_headers(bytes),
    }
}

/// A WebSocket connection; the first byte chooses the subprotocol.
pub(crate) fn websocket(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let stop = CancellationToken::new();
    let subprotocol = |codec| Subprotocol { codec, closing: codec == Codec::Binary, report: Report::Json };
    match kind % 4 {
        0 => run(websocket::remote_command::serve(
            client(bytes),
            subprotocol(Codec::Binary),
            exec("0", true),
            &Echo,
            terms(&stop),
        )),
        1 => run(websocket::remote_command::serve(
            client(bytes),
            subprotocol(Codec::Base64),
            exec("0", false),
            &Echo,
            terms(&stop),
        )),
        2 => run(websocket::port_forward::serve(client(bytes), Codec::Binary, ports(&[80, 1]), &Echo, terms(&stop))),
        _ => run(websocket::port_forward::serve_tunnel(client(bytes), ports(&[]), &Echo, terms(&stop))),
    }
}
