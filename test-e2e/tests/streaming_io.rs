//! What streaming sessions do with a container: exec and attach, whole and cut off, and what they leave behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tonic::Code;
use windlass_test_e2e::channels::{self, STDERR, STDIN, STDOUT, Session};
use windlass_test_e2e::node::Pod;
use windlass_test_e2e::words::{ContainerConfig, ContainerState};
use windlass_test_e2e::{Node, Plan, code, cri, eventually, kernel};

const WHILE: Duration = Duration::from_secs(20);

/// Descriptors and threads of the daemon and of the node's one shim.
fn held(node: &Node) -> Vec<(usize, usize)> {
    let shims = kernel::processes_of(&node.tag()).into_iter().map(|(pid, _)| pid).filter(|pid| kernel::is_shim(*pid));
    let threads = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    shims.map(|pid| (kernel::descriptors(pid).len(), threads(pid))).collect()
}

async fn until_held(node: &Node, before: &[(usize, usize)]) -> Result<()> {
    let same = eventually("the shim holds what it held", WHILE, async || (held(node) == before).then_some(())).await;
    same.with_context(|| format!("{:?}, before {before:?}", held(node)))
}

/// True while a process whose command line ends in `words` runs in the container.
async fn runs(node: &Node, container: &str, words: &str) -> Result<bool> {
    Ok(node.cri.output(container, &["ps"]).await?.lines().any(|line| line.ends_with(words)))
}

async fn until_gone(node: &Node, container: &str, words: &str) -> Result<()> {
    eventually("the program is gone", WHILE, async || (!runs(node, container, words).await.ok()?).then_some(())).await
}

async fn with_input(
    node: &Node,
    name: &str,
    image: &str,
    script: &str,
    change: fn(&mut ContainerConfig),
) -> Result<Pod> {
    let config = node.pod(name);
    let id = node.cri.run_pod(&config).await?;
    let mut what = cri::container("main", image, &["sh", "-c", script]);
    what.stdin = true;
    change(&mut what);
    let container = node.add(&id, &config, what).await?;
    Ok(Pod { id, container, config })
}

async fn programs_run_with_their_streams(plan: Plan) -> Result<()> {
    let mut node = Node::start_with(plan).await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("exec"), &image, &["sleep", "1000"]).await?;
    let id = &pod.container;
    let before = held(&node);

    let ended =
        channels::exec(&node.cri, id, &["sh", "-c", "echo out; echo err >&2; exit 42"], "oe").await?.finish().await?;
    ensure!(ended.stdout == b"out\n" && ended.stderr == b"err\n" && ended.code() == Some(42), "{ended:?}");
    let ended = channels::exec(&node.cri, id, &["sh", "-c", "echo out; echo err >&2"], "e").await?.finish().await?;
    ensure!(ended.stdout.is_empty() && ended.stderr == b"err\n" && ended.code() == Some(0), "{ended:?}");
    let ended = channels::exec(&node.cri, id, &["no-such-program"], "oe").await?.finish().await?;
    ensure!(ended.code() != Some(0), "{ended:?}");

    let mut terminal = channels::exec(&node.cri, id, &["sh"], "ito").await?;
    terminal.resize(97, 31).await?;
    terminal
        .send(
            STDIN,
            b"while [ \"$(stty size)\" != '31 97' ]; do sleep 0.05; done; echo size $(stty size) $TERM; exit 3\n",
        )
        .await?;
    terminal.until(STDOUT, "size 31 97 xterm").await?;
    let ended = terminal.finish().await?;
    ensure!(ended.code() == Some(3), "{ended:?}");

    let mut through = channels::exec(&node.cri, id, &["sh", "-c", "md5sum; echo heard"], "io").await?;
    if through.protocol == "v5.channel.k8s.io" {
        let piece = [b'x'; 64 * 1024];
        for _ in 0..64 {
            through.send(STDIN, &piece).await?;
        }
        through.close(STDIN).await?;
        let ended = through.finish().await?;
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        ensure!(said.ends_with("  -\nheard\n"), "{said}");
        let expected = node.cri.output(id, &["sh", "-c", "yes x | tr -d '\\n' | head -c 4194304 | md5sum"]).await?;
        ensure!(said.starts_with(expected.split(' ').next().unwrap_or("?")), "{said} and not {expected}");
    } else {
        ensure!(node.is_reference(), "version 5 was offered and {} chosen", through.protocol);
    }
    if !node.is_reference() {
        until_held(&node, &before).await?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_with_its_streams() -> Result<()> {
    programs_run_with_their_streams(Plan::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_with_its_streams_under_runc() -> Result<()> {
    let handlers = vec![("runc".to_owned(), "/usr/sbin/runc".to_owned())];
    programs_run_with_their_streams(Plan { handlers, default_handler: "runc".into(), ..Plan::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("slow"), &image, &["sleep", "1000"]).await?;
    let mut session = channels::exec(&node.cri, &pod.container, &["seq", "1", "1000000"], "o").await?;
    let mut all = Vec::new();
    // It is slow at first, long enough for every buffer between here and the program to fill.
    for _ in 0..10 {
        if let Some((STDOUT, bytes)) = session.next().await? {
            all.extend_from_slice(&bytes);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = session.finish().await?;
    all.extend_from_slice(&ended.stdout);
    ensure!(ended.code() == Some(0), "{:?}", ended.status);
    let text = String::from_utf8(all)?;
    ensure!(text.lines().map(str::parse).eq((1..=1_000_000).map(Ok::<u32, _>)), "{} bytes came", text.len());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_takes_the_program_along() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("its programs run on when their client is gone") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let pod = node.run(node.pod("leave"), &image, &["sleep", "1000"]).await?;
    let id = &pod.container;
    let before = held(&node);
    let silent = channels::exec(&node.cri, id, &["sleep", "2001"], "o").await?;
    let mut busy = channels::exec(&node.cri, id, &["yes", "busy"], "o").await?;
    let mut typing = channels::exec(&node.cri, id, &["sh", "-c", "echo here; exec sleep 2002"], "io").await?;
    let mut terminal = channels::exec(&node.cri, id, &["sh", "-c", "echo here; sleep 2003"], "ito").await?;
    let mut stubborn = channels::exec(&node.cri, id, &["sh", "-c", "trap '' HUP; echo here; sleep 2004"], "o").await?;
    for session in [&mut typing, &mut terminal, &mut stubborn] {
        session.until(STDOUT, "here").await?;
    }
    busy.next().await?;
    eventually("sleep runs", WHILE, async || runs(&node, id, "sleep 2001").await.ok()?.then_some(())).await?;
    drop((silent, busy, typing, terminal, stubborn));
    for words in ["sleep 2001", "yes busy", "sleep 2002", "sleep 2003", "sleep 2004"] {
        until_gone(&node, id, words).await.context(words)?;
    }
    until_held(&node, &before).await?;
    ensure!(
        kernel::entries_at(&node.setup.state, 5).iter().all(|path| !path.to_string_lossy().contains("windlass-exec"))
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_leaves_no_program_behind() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("its programs run on when the daemon is gone") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let pod = with_input(&node, "restart", &image, "cat", |_| ()).await?;
    let id = &pod.container;
    let before = held(&node);
    let mut program = channels::exec(&node.cri, id, &["sh", "-c", "echo here; exec sleep 2001"], "io").await?;
    program.until(STDOUT, "here").await?;
    let mut attached = channels::attach(&node.cri, id, "io").await?;
    attached.send(STDIN, b"before\n").await?;
    attached.until(STDOUT, "before").await?;
    node.restart().await?;
    until_gone(&node, id, "sleep 2001").await?;
    until_held(&node, &before).await?;
    // The container's own streams are the shim's, and live on.
    let mut attached = channels::attach(&node.cri, id, "io").await?;
    attached.send(STDIN, b"after\n").await?;
    attached.until(STDOUT, "after").await?;
    drop(attached);
    until_held(&node, &before).await?;
    let log: Vec<_> = node.raw_log("restart", "main.log");
    ensure!(log.len() == 2 && log[1].ends_with(" stdout F after"), "{log:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn attached_clients_share_a_container() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let script = "echo early >&2; while read line; do echo out $line; echo err $line >&2; done; exit 6";
    let pod = with_input(&node, "attach", &image, script, |what| what.stdin_once = true).await?;
    let mut looking = channels::attach(&node.cri, &pod.container, "oe").await?;
    let mut typing = channels::attach(&node.cri, &pod.container, "ioe").await?;
    typing.send(STDIN, b"hello\n").await?;
    typing.until(STDOUT, "out hello").await?;
    looking.until(STDERR, "err hello").await?;
    eventually("the log has it too", WHILE, async || {
        node.raw_log("attach", "main.log").iter().any(|line| line.ends_with(" stderr F err hello")).then_some(())
    })
    .await?;
    if typing.protocol == "v5.channel.k8s.io" {
        typing.close(STDIN).await?;
    } else {
        drop(typing);
    }
    // stdin_once: the end of the first client's input is the end of the container's.
    ensure!(node.exited(&pod.container).await?.exit_code == 6);
    let ended = looking.finish().await?;
    ensure!(ended.status.get("status").is_some_and(|status| status == "Success"), "{ended:?}");
    ensure!(code(&channels::attach_url(&node.cri, &pod.container, "o").await) != Code::Ok, "it has ended");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_attached_with_its_size() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let script = "while [ \"$(stty size)\" != '12 34' ]; do sleep 0.05; done; echo small; exec sh";
    let pod = with_input(&node, "terminal", &image, script, |what| what.tty = true).await?;
    let mut session = channels::attach(&node.cri, &pod.container, "ito").await?;
    session.resize(34, 12).await?;
    session.until(STDOUT, "small").await?;
    session.send(STDIN, b"echo $((40 + 2)); exit 5\n").await?;
    session.until(STDOUT, "42").await?;
    ensure!(node.exited(&pod.container).await?.exit_code == 5);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nothing() -> Result<()> {
    let mut node = Node::start().await?;
    if node.excused("a client that does not read holds the container up") {
        return Ok(());
    }
    let image = node.busybox().await?;
    let script = "read go; seq 1 3000000; echo finished; read go; echo over";
    let pod = with_input(&node, "stalled", &image, script, |_| ()).await?;
    let mut stalled = channels::attach(&node.cri, &pod.container, "io").await?;
    stalled.send(STDIN, b"go\n").await?;
    let written = eventually("the log is whole", Duration::from_secs(60), async || {
        let log = node.raw_log("stalled", "main.log");
        log.last().is_some_and(|line| line.ends_with(" F finished")).then_some(log)
    })
    .await?;
    ensure!(written.len() == 3_000_001, "{} lines", written.len());
    // It comes back to itself and is told what it missed.
    stalled.send(STDIN, b"go\n").await?;
    let seen = stalled.finish().await?.stdout;
    let seen = String::from_utf8_lossy(&seen);
    ensure!(seen.starts_with("1\n2\n") && seen.contains("bytes are missing here"), "{} bytes", seen.len());
    ensure!(node.exited(&pod.container).await?.exit_code == 0);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_streamed_is_refused_before_anything_is_made() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    let pod = node.run(node.pod("refused"), &image, &["sleep", "1000"]).await?;
    let id = &pod.container;
    let exec = async |id: &str, command: &[&str], streams: &str| {
        code(&channels::exec_url(&node.cri, id, command, streams).await)
    };
    let attach = async |id: &str, streams: &str| code(&channels::attach_url(&node.cri, id, streams).await);
    ensure!(exec("unknown", &["true"], "o").await == Code::NotFound);
    if !node.is_reference() {
        // The reference refuses them without these codes.
        for (command, streams) in [(&["true"][..], ""), (&["true"], "ote"), (&[], "o"), (&[""], "o")] {
            ensure!(exec(id, command, streams).await == Code::InvalidArgument, "{command:?} {streams}");
        }
        for streams in ["", "ote", "oi", "ot"] {
            ensure!(attach(id, streams).await == Code::InvalidArgument, "{streams}");
        }
    }
    ensure!(attach("unknown", "o").await == Code::NotFound);
    let url = channels::exec_url(&node.cri, id, &["true"], "o").await?;
    node.cri.stop(id, 0).await?;
    ensure!(exec(id, &["true"], "o").await != Code::Ok && attach(id, "o").await != Code::Ok);
    ensure!(node.state(id).await == Some(ContainerState::ContainerExited));
    // What ended between the answer and the use of its URL is told in the session.
    let ended = Session::open(&url).await?.finish().await?;
    ensure!(ended.code() != Some(0) && !ended.status.is_null(), "{ended:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_has_ended_keeps_its_status_when_its_container_ends() -> Result<()> {
    let mut node = Node::start().await?;
    let image = node.busybox().await?;
    // It looks for the exec's end as well, so its own cannot come first; its own words must not look like the exec's.
    let script = "until [ -e /stop ]; do usleep 1000; done; \
                  while grep -q 'touc[h] /stop' /proc/[0-9]*/cmdline 2>/dev/null; do usleep 1000; done";
    for round in 0..10 {
        let pod = node.run(node.pod(&format!("ender-{round}")), &image, &["sh", "-c", script]).await?;
        let begin = Instant::now();
        let answer = node.cri.exec(&pod.container, &["sh", "-c", "touch /stop; exit 9"], 20).await?;
        ensure!(answer.exit_code == 9, "round {round}: {} after {:?}", answer.exit_code, begin.elapsed());
        node.cri.stop_pod(&pod.id).await?;
        node.cri.remove_pod(&pod.id).await?;
    }
    node.finish().await
}
