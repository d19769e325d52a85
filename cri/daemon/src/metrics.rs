//! `/metrics` in Prometheus' text format over plain HTTP/1.1, for whoever set an address: one short answer, then the end.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use windlass_cri::Server;
use windlass_engine::tasks::Roster;

/// How long a request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// `/proc` counts processor time in hundredths of a second (`USER_HZ`).
const TICKS: f64 = 100.0;
/// The longest request head, in bytes.
const MAX_HEAD: usize = 8192;
/// How many requests are answered at the same time.
const MAX_CLIENTS: usize = 16;

/// Binds the address of the configuration.
///
/// # Errors
/// Where that cannot be done.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("metrics.address {address}"))
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, roster: Roster, server: Arc<Server>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((stream, _)) => {
                    let (roster, server) = (roster.clone(), server.clone());
                    clients.spawn(timeout(PATIENCE, async move { answer(stream, &roster, &server).await }));
                }
                Err(error) => {
                    tracing::warn!(%error, "metrics: accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, roster: &Roster, server: &Server) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let asked = head.starts_with(b"GET /metrics ") || head.starts_with(b"GET /metrics?");
    let (status, body) = if asked {
        ("200 OK", text(roster) + &server.own_metrics())
    } else {
        ("404 Not Found", "see /metrics\n".into())
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn text(roster: &Roster) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    metric("windlass_shims", "gauge", "Shims that the daemon knows.", roster.len() as f64);
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    metric("process_open_fds", "gauge", "Open files.", files as f64);
    if let Some(bytes) = resident_bytes() {
        metric("process_resident_memory_bytes", "gauge", "Resident memory.", bytes as f64);
    }
    if let Some(seconds) = cpu_seconds() {
        metric("process_cpu_seconds_total", "counter", "User and system time.", seconds);
    }
    let _ = writeln!(text, "# HELP windlass_build_info The version that runs.\n# TYPE windlass_build_info gauge");
    let _ = writeln!(text, "windlass_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    text
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th words behind it.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS)
}
