//! `containerd-shim-windlass-v1`: looks after one pod, or one container of another tenant (containerd's shim v2).
//!
//! `start` leaves a `serve` process behind, `delete` cleans up after one. `oci` and `init` are what the serving process
//! runs of itself: the built-in OCI runtime, and process 1 of a shared pid namespace.

mod bundle;
mod delete;
mod exits;
mod flags;
mod home;
mod init;
mod log;
mod oci;
mod oom;
mod outbox;
mod pod;
mod process;
mod serve;
mod sources;
mod start;
mod stdio;

use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;
use windlass_model::{Context, Error, Kind, Result};
use windlass_wire::ttrpc::r#async::Server;
use windlass_wire::ttrpc::r#async::transport::Listener;

use flags::Flags;
use pod::Pod;

/// How long events and answers may take to leave at the end; what does not is on disk.
const FAREWELL: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let first = arguments.peek().and_then(|first| first.to_str()).unwrap_or_default();
    let outcome = match first {
        oci::SUBCOMMAND => oci::runtime::run(std::env::args_os().skip(2)),
        "init" => init::run(std::env::args_os().nth(2)),
        "-v" | "--version" => {
            println!("{} {}", windlass_wire::words::SHIM_NAME, env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => Flags::parse(arguments.map(|word| word.to_string_lossy().into_owned())).and_then(|flags| run(&flags)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    match flags.verb.as_str() {
        "start" => start::run(flags),
        "delete" => delete::run(flags),
        "serve" => serve(flags),
        other => Err(Error::invalid(format!("unknown verb {other:?}"))),
    }
}

/// The serving process: everything on one thread.
fn serve(flags: &Flags) -> Result<()> {
    windlass_sys::process::start_session()?;
    windlass_sys::process::set_subreaper()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start the async runtime".into())?;
    runtime.block_on(serve_pod(flags))
}

async fn serve_pod(flags: &Flags) -> Result<()> {
    let listener = UnixListener::from(windlass_sys::process::inherited(flags.listen)?);
    let listener = Listener::try_from(listener).context(|| "listen".into())?;
    let (outbox, delivery) = outbox::open(flags.bundle.clone(), flags.namespace.clone(), outbox::daemon_socket());
    let mut delivering = tokio::spawn(delivery.run());
    let mut pod = Pod::new(flags.id.clone(), flags.namespace.clone(), flags.bundle.clone(), outbox)?;
    let (letters, mailbox) = mpsc::unbounded_channel();
    let mut server = Server::new().add_listener(listener).register_service(serve::Door::services(letters));
    let failed = |error| Error::with_source(Kind::Internal, "serve", error);
    server.start().await.map_err(failed)?;
    pod.run(mailbox).await?;
    pod.leave();
    drop(pod);
    tokio::time::timeout(FAREWELL, &mut delivering).await.ok();
    delivering.abort();
    // Answers that are on their way are written before the connections are closed.
    tokio::time::timeout(FAREWELL, server.shutdown()).await.ok();
    Ok(())
}
