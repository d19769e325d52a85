//! The composition root: the one place that knows every concrete part, wires them, and ends them in order.
//!
//! Sockets are bound first and served last; shims are reconnected to in the background. A stop signal starts one drain:
//! no new calls, those in flight get ten seconds, pods stay as they are.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Layer as _;
use windlass_api::{Access, Gate, Limits};
use windlass_cri::{CgroupDriver, Runtime, Server, ServerConfig};
use windlass_engine::{Core, Options, events, registry, tasks};
use windlass_model::snapshotter::Snapshotter;
use windlass_snapshotters::{Native, Overlay};

use crate::config::{Config, Raw, Tenant};
use crate::serve::Homes;
use crate::systemd::{self, Notice, Notifier};
use crate::tenants::Door;
use crate::tend::{self, Source};
use crate::{metrics, process, serve, socket, tenants};

/// Work that goes on until the daemon stops.
type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long calls in flight may take once the daemon is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs until a signal says stop; `raw` is what `config` was checked from, and `source` where it was read. Runs on the
/// CRI's of `homes`.
///
/// # Errors
/// Where a part cannot be brought up: a socket or a root that another daemon has, a broken database.
pub async fn run(config: Config, source: Source, raw: Raw, homes: Homes) -> Result<()> {
    let started = Instant::now();
    let systemd = Arc::new(Notifier::from_env());
    // From here on a signal is a wish to stop in order.
    let (stopped, hangups) = (stop_signal()?, tend::hangups()?);
    let (grpc, _grpc_file) = socket::bind(&config.address)?;
    let (events, _events_file) = socket::bind(&config.events_address)?;
    let doors = config.tenants.iter().map(Bound::new).collect::<Result<Vec<_>>>()?;
    let metrics = match config.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };

    let core = Core::open(options(&config)?).await?;
    core.favour(config.cri.namespace.clone());
    let mut services = JoinSet::new();
    let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
    services.spawn(tasks::serve_events(core.roster().clone(), events, stop.clone()));

    let tenant = core.tenant(config.cri.namespace.clone());
    let server = Server::new(server_config(&config)?, tenant)?;
    let until_stop = |work: BoxFuture| {
        let over = stop.clone();
        async move {
            let _: () = over.run_until_cancelled_owned(work).await.unwrap_or_default();
            Ok(())
        }
    };
    if let Some(listener) = metrics {
        services.spawn(until_stop(Box::pin(metrics::serve(listener, core.roster().clone(), server.clone()))));
    }
    let streaming = server.bind_streaming().await?;
    server.recover().await.context("recover the pods")?;
    services.spawn({
        let serving = server.clone().serve_streaming(streaming, drain.clone());
        async move {
            serving.await;
            Ok(())
        }
    });

    let restarts = windlass_engine::restart::keep(core.clone(), config.cri.namespace.clone(), windlass_api::runtime_of);
    services.spawn_on(until_stop(Box::pin(restarts)), &homes.tenants);
    services.spawn(until_stop(Box::pin(tend::reload(hangups, source, raw, server.clone()))));
    let limits = Limits::default();
    let gate = Gate::new(tenants::main_access(&config), limits.clone());
    let mut grpc_services = JoinSet::new();
    grpc_services.spawn(serve_grpc(server.clone(), &core, gate, grpc, &homes, drain.clone()));
    let mut door_files = Vec::new();
    for bound in doors {
        let gate = Gate::new(bound.access, limits.clone());
        // With its threads the tenant's socket is another's from the first byte on.
        let only = Homes { cri: homes.tenants.clone(), tenants: homes.tenants.clone() };
        let serving = serve_tenant(&core, gate, bound.listener, bound.door, only, drain.clone());
        grpc_services.spawn_on(serving, &homes.tenants);
        door_files.push(bound.file);
    }
    systemd.send(Notice::Ready);
    if let Some(every) = systemd::watchdog() {
        services.spawn(until_stop(Box::pin(tend::watch(every, config.address.clone(), systemd.clone()))));
    }
    tracing::info!(
        address = %config.address.display(),
        root = %config.root.display(),
        shims = core.roster().len(),
        took_ms = started.elapsed().as_millis() as u64,
        "windlassd is ready"
    );
    services.spawn(until_stop(Box::pin(tend::settle())));

    let name = stopped.await;
    tracing::info!(signal = name, "windlassd stops; pods stay");
    systemd.send(Notice::Stopping);
    drain.cancel();
    server.end_streams();
    core.events().close();
    let ending = async {
        while let Some(ended) = grpc_services.join_next().await {
            ended.context("serve gRPC")?;
        }
        Ok::<_, anyhow::Error>(())
    };
    match tokio::time::timeout(DRAIN, ending).await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!("calls were still in flight after {} s and are cut off", DRAIN.as_secs()),
    }
    server.stop_nri().await;
    stop.cancel();
    while let Some(ended) = services.join_next().await {
        if let Err(error) = ended.context("a service ended badly").and_then(|ended| Ok(ended?)) {
            tracing::warn!(error = format!("{error:#}"), "while stopping");
        }
    }
    core.close().await;
    Ok(())
}

fn options(config: &Config) -> Result<Options> {
    let snapshots = config.root.join("snapshots");
    let drivers: Vec<Arc<dyn Snapshotter>> =
        vec![Arc::new(Overlay::open(snapshots.join("overlay"))?), Arc::new(Native::open(snapshots.join("native"))?)];
    Ok(Options {
        root: config.root.clone(),
        state: config.state.clone(),
        drivers,
        registry: registry::Config { config_path: config.registry_config.clone() },
        shim: tasks::ShimConfig {
            shim: process::find_shim()?,
            events_address: config.events_address.clone(),
            api_address: config.address.clone(),
        },
        // The CRI looks at its records after a gap.
        events: events::Config { hints: BTreeSet::from([config.cri.namespace.clone()]) },
        verifier: config.verifier.clone(),
    })
}

fn server_config(config: &Config) -> Result<ServerConfig> {
    let cri = &config.cri;
    let runtime = |(name, runtime): (&String, &crate::config::Runtime)| {
        (name.clone(), Runtime { binary: runtime.binary.clone(), shim: runtime.shim.clone() })
    };
    Ok(ServerConfig {
        root: config.root.clone(),
        state: config.state.clone(),
        snapshotter: cri.snapshotter.clone(),
        cgroup_driver: if cri.systemd_cgroup { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs },
        default_runtime: cri.default_runtime.clone(),
        runtimes: cri.runtimes.iter().map(runtime).collect(),
        pinned_images: cri.pinned_images.clone(),
        share_images: cri.share_images.clone(),
        nri: cri.nri.clone(),
        cni_conf_dir: cri.cni_conf_dir.clone(),
        cni_bin_dirs: cri.cni_bin_dirs.clone(),
        cni_conf_template: cri.cni_conf_template.clone(),
        max_log_line: cri.max_log_line,
        selinux: cri.selinux,
        shim: process::find_shim()?,
        streaming: cri.streaming.clone(),
    })
}

/// Serves the CRI and the containerd API on one socket until the drain begins and the calls under way are answered.
fn serve_grpc(
    server: Arc<Server>,
    core: &Core,
    gate: Gate,
    listener: UnixListener,
    homes: &Homes,
    drain: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let (runtime, image) = server.services();
    let services = windlass_api::services(core).add_service(runtime).add_service(image).prepare();
    serve::serve(gate.layer(services), tenants::guests(listener, Door::default()), homes.clone(), drain)
}

/// Serves the containerd API on a tenant's socket until the drain begins and the calls under way are answered.
fn serve_tenant(
    core: &Core,
    gate: Gate,
    listener: UnixListener,
    door: Door,
    homes: Homes,
    drain: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let services = windlass_api::services(core).prepare();
    serve::serve(gate.layer(services), tenants::guests(listener, door), homes, drain)
}

/// A tenant's socket that is bound and not yet served.
struct Bound {
    listener: UnixListener,
    file: socket::SocketFile,
    access: Access,
    door: Door,
}

impl Bound {
    fn new(tenant: &Tenant) -> Result<Self> {
        let for_root = tenant.uids == [0] && tenant.gids.is_empty();
        let (listener, file) = socket::bind(&tenant.socket)?;
        if !for_root {
            // Who is let in is decided by the door, which knows users and groups.
            socket::open_to_all(&tenant.socket)?;
        }
        Ok(Self { listener, file, access: tenants::access(tenant), door: Door::of(tenant) })
    }
}

/// Ends with the name of the signal that came first.
fn stop_signal() -> Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
