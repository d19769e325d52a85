//! OCI hooks of a container that `ctr` makes from a specification: which run when and where, what they are told, and what
//! it means that one fails or does not end; with the built-in runtime and with runc by path.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_test_e2e::tasks::Bench;
use windlass_test_e2e::{Context, Result, ensure, kernel};

/// All moments, in the order of a container's life.
const MOMENTS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
/// Says what a hook was told and where it was.
const RECORD: &str =
    "cat > $O/$N.state; echo $N >> $O/order; for n in pid mnt; do readlink /proc/self/ns/$n; done > $O/$N.ns";
/// The flags of the runtimes that are judged.
const RUNTIMES: [(&str, &[&str]); 2] = [("built-in", &[]), ("runc", &["--runc-binary", "/usr/sbin/runc"])];

/// A bench with a folder for what hooks have to say, which the container has as `/out`.
struct Stage {
    bench: Bench,
    out: PathBuf,
}

impl Stage {
    async fn set() -> Result<Option<Self>> {
        let Some(bench) = Bench::start().await? else { return Ok(None) };
        let out = bench.node.dir().join("out");
        Ok(Some(Self { bench, out }))
    }

    /// A hook that runs `script`.
    fn hook(&self, moment: &str, script: &str) -> Value {
        let out = if moment == "startContainer" { "/out".into() } else { self.out.display().to_string() };
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": [format!("O={out}"), format!("N={moment}")]})
    }

    /// `ctr run -d` of a container with these hooks; an error is what `ctr` says.
    fn run(&self, flags: &[&str], hooks: &Value, program: &str, namespaces: &[Value]) -> Result<Result<(), String>> {
        fs::remove_dir_all(&self.out).ok();
        fs::create_dir_all(&self.out)?;
        fs::write(self.out.join("order"), "")?;
        for (path, mode) in [(self.out.clone(), 0o777), (self.out.join("order"), 0o666)] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        let mut all = ["pid", "mount", "uts", "ipc", "network"].map(|kind| json!({"type": kind})).to_vec();
        all.extend(namespaces.iter().cloned());
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        let spec = json!({
            "ociVersion": "1.0.2", "annotations": {"color": "blue"}, "hooks": hooks,
            "process": {"args": ["/bin/sh", "-c", program], "cwd": "/", "env": ["PATH=/bin", "MINE=1"],
                "user": {"uid": 0, "gid": 0}},
            "root": {"path": self.bench.rootfs},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/out", "type": "bind", "source": self.out, "options": ["rbind", "rw"]}],
            "linux": {"cgroupsPath": format!("/{}/c", self.bench.namespace), "namespaces": all,
                "uidMappings": if namespaces.is_empty() { json!([]) } else { ids.clone() },
                "gidMappings": if namespaces.is_empty() { json!([]) } else { ids }}
        });
        let file = self.bench.node.dir().join("config.json");
        fs::write(&file, spec.to_string())?;
        let config = file.to_string_lossy().into_owned();
        let mut words = vec!["run", "-d"];
        words.extend(flags);
        words.extend(["--config", &config, "c"]);
        let output = self.bench.output(&words)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Ok(()) } else { Err(told) })
    }

    fn order(&self) -> Vec<String> {
        let text = fs::read_to_string(self.out.join("order")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn state(&self, moment: &str) -> Result<Value> {
        let bytes =
            fs::read(self.out.join(format!("{moment}.state"))).with_context(|| format!("no state: {moment}"))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// The namespaces that a hook was in: of processes and of mounts.
    fn namespaces(&self, moment: &str) -> Result<Vec<String>> {
        Ok(fs::read_to_string(self.out.join(format!("{moment}.ns")))?.lines().map(str::to_owned).collect())
    }
}

/// The namespaces of whoever asks.
fn here() -> Result<Vec<String>> {
    let name = |kind: &str| Ok(fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned());
    ["pid", "mnt"].into_iter().map(name).collect()
}

async fn all_hooks(stage: &Stage, runtime: &str, flags: &[&str], namespaces: &[Value]) -> Result<()> {
    let hooks: BTreeMap<_, _> = MOMENTS.map(|moment| (moment, json!([stage.hook(moment, RECORD)]))).into();
    let program = "echo program >> /out/order; exec sleep 1000";
    let begun = stage.run(flags, &json!(hooks), program, namespaces)?;
    ensure!(begun.is_ok(), "{runtime}: {begun:?}");
    let pid: u32 = stage.bench.until("c", "RUNNING").await?.parse()?;
    stage.bench.end("c").await?;
    let order = stage.order();
    let place = |word: &str| order.iter().position(|known| known == word).with_context(|| format!("{runtime}: {word}"));
    ensure!(order.len() == 7 && place("program")? > place("startContainer")?, "{runtime}: {order:?}");
    // runc 1.1 runs the hooks of "poststart" before the start.
    let passed = |moment: &&&str| runtime == "built-in" || **moment != "poststart";
    let told: Vec<_> = MOMENTS.iter().filter(passed).map(|moment| place(moment)).collect::<Result<_>>()?;
    ensure!(told.is_sorted(), "{runtime}: {order:?}");
    for moment in MOMENTS {
        let state = stage.state(moment)?;
        let what = format!("{runtime}, {moment}: {state}");
        ensure!(state["id"] == "c" && state["annotations"]["color"] == "blue", "{what}");
        ensure!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{what}");
        let bundle = PathBuf::from(state["bundle"].as_str().unwrap_or_default());
        ensure!(bundle.ends_with("c"), "{what}");
        let (status, seen) = match moment {
            "startContainer" => ("created", Some(1)),
            "poststart" => ("running", Some(pid)),
            "poststop" => ("stopped", None),
            "createContainer" => ("creating", None),
            _ => ("creating", Some(pid)),
        };
        ensure!(state["status"] == status || (moment == "poststart" && runtime == "runc"), "{what}");
        ensure!(seen.is_none_or(|pid| state["pid"] == pid), "{what}, not {seen:?}");
        let inside = matches!(moment, "createContainer" | "startContainer");
        let apart = stage.namespaces(moment)?.iter().zip(here()?).map(|(own, ours)| *own != ours).collect::<Vec<_>>();
        ensure!(apart == [inside, inside], "{what}: in {:?}", stage.namespaces(moment)?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hook_runs_in_its_place_and_is_told_the_state() -> Result<()> {
    let Some(stage) = Stage::set().await? else { return Ok(()) };
    for (runtime, flags) in RUNTIMES {
        all_hooks(&stage, runtime, flags, &[]).await?;
    }
    stage.bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_a_container_with_users_of_its_own_are_told_its_folder() -> Result<()> {
    let Some(stage) = Stage::set().await? else { return Ok(()) };
    // The user in the container must get to its files, and make a folder there.
    let everybody = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    for folder in [stage.bench.node.dir(), &stage.bench.node.dir().join("state")] {
        fs::set_permissions(folder, everybody(0o711))?;
    }
    fs::set_permissions(&stage.bench.rootfs, everybody(0o777))?;
    all_hooks(&stage, "built-in", &[], &[json!({"type": "user"})]).await?;
    stage.bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_fails_the_step_and_the_last_hooks_run_all_the_same() -> Result<()> {
    let Some(stage) = Stage::set().await? else { return Ok(()) };
    for (runtime, flags) in RUNTIMES {
        for moment in &MOMENTS[..5] {
            // runc starts a container whatever comes of this one; the program does not run.
            let silent = runtime == "runc" && *moment == "startContainer";
            let hooks = json!({*moment: [stage.hook(moment, "echo $N >> $O/order; exit 9"), stage.hook(moment, "echo not >> $O/order")],
                "poststop": [stage.hook("poststop", "exit 3"), stage.hook("poststop", RECORD)]});
            let begun = stage.run(flags, &hooks, "echo program >> /out/order; exec sleep 1000", &[])?;
            let told = begun.err().unwrap_or_default();
            ensure!(silent || told.contains('9') && told.contains("hook"), "{runtime}, {moment}: {told:?}");
            let made = stage.bench.state("c")?.is_some();
            ensure!(
                made == (silent || (runtime == "built-in" && ["startContainer", "poststart"].contains(moment))),
                "{runtime}, {moment}"
            );
            if made {
                stage.bench.until("c", "STOPPED").await?;
            }
            stage.bench.remove("c")?;
            let mut order = stage.order();
            // With "poststart" the program runs already.
            order.retain(|word| word != "program" || *moment != "poststart");
            ensure!(order[0] == *moment && !order.contains(&"not".into()), "{runtime}, {moment}: {order:?}");
            // runc 1.1 stops at the first of the last hooks that fails.
            let last: &[&str] = if runtime == "runc" { &[] } else { &["poststop"] };
            ensure!(order[1..] == *last, "{runtime}, {moment}: {order:?}");
            stage.bench.node.assert_clean().await?;
        }
    }
    stage.bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_does_not_end_is_ended_with_all_that_it_began() -> Result<()> {
    let Some(stage) = Stage::set().await? else { return Ok(()) };
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        let long = format!("{}.{number}", std::process::id());
        let mut hook = stage.hook(moment, &format!("echo $N >> $O/order; sleep 9{long} & sleep 8{long}"));
        hook["timeout"] = json!(1);
        let begin = Instant::now();
        let begun = stage.run(&[], &json!({moment: [hook]}), "exec sleep 1000", &[])?;
        if moment == "poststop" {
            ensure!(begun.is_ok(), "{begun:?}");
            stage.bench.end("c").await?;
        } else {
            ensure!(begun.is_err(), "{moment}");
            if stage.bench.state("c")?.is_some() {
                stage.bench.until("c", "STOPPED").await?;
            }
            stage.bench.remove("c")?;
        }
        ensure!(
            begin.elapsed() < windlass_test_e2e::patient(Duration::from_secs(20)),
            "{moment}: {:?}",
            begin.elapsed()
        );
        ensure!(stage.order() == [moment]);
        let left = kernel::processes_of(&long);
        ensure!(left.is_empty(), "{moment}: {left:?}");
        stage.bench.node.assert_clean().await?;
    }
    stage.bench.node.finish().await
}
