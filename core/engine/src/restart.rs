//! The restart monitor: keeps tasks in the state that labels of their containers ask for, as containerd's plugin does.
//!
//! `containerd.io/restart.status` is `running` or `stopped`; `restart.policy` is `always` (also where it is missing), `no`,
//! `on-failure[:TIMES]` or `unless-stopped`, which heeds `restart.explicitly-stopped`; `restart.loguri` is where output
//! goes; `restart.count` is how often this monitor has started the task. It looks at intervals, and one task that hangs
//! keeps no other waiting.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use windlass_model::process::State;
use windlass_model::snapshotter::Labels;
use windlass_model::{Error, Id, Namespace, Result, Timestamp};

use crate::tasks::{CreateTask, TaskRuntime, TaskState};
use crate::{ContainerRecord, Core, Durability, Tenant};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a killed task may take to end.
const END: Duration = Duration::from_secs(30);
/// SIGKILL.
const KILL: u32 = 9;

const STATUS: &str = "containerd.io/restart.status";
const POLICY: &str = "containerd.io/restart.policy";
const COUNT: &str = "containerd.io/restart.count";
const LOG_URI: &str = "containerd.io/restart.loguri";
const EXPLICITLY_STOPPED: &str = "containerd.io/restart.explicitly-stopped";

/// What is to be done about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Start { count: u32 },
    Stop,
}

/// When a task that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    No,
    Always,
    /// At most so often; 0: without end.
    OnFailure(u32),
    UnlessStopped,
}

/// Reads the runtime of a record's task out of it: the words are those of whichever API made the record.
pub type RuntimeOf = fn(&ContainerRecord) -> Result<TaskRuntime>;

type Key = (Namespace, Id);

/// Watches all namespaces but `except`, whose containers the kubelet looks after. Runs until it is dropped.
pub async fn keep(core: Core, except: Namespace, runtime: RuntimeOf) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut work, mut busy) = (JoinSet::new(), HashSet::new());
    let mut waiting = HashSet::new();
    loop {
        tokio::select! {
            Some(done) = work.join_next(), if !work.is_empty() => if let Ok(key) = done {
                busy.remove(&key);
            },
            _ = ticks.tick() => match find(&core, &except, &mut waiting).await {
                Err(error) => tracing::warn!(%error, "the restart monitor cannot look"),
                Ok(found) => for (tenant, record, change) in found {
                    let key = (tenant.namespace().clone(), record.id.clone());
                    if busy.insert(key.clone()) {
                        work.spawn(async move {
                            let container = record.id.clone();
                            tracing::info!(namespace = %key.0, %container, ?change, "the restart monitor acts");
                            if let Err(error) = apply(&tenant, record, change, runtime).await {
                                tracing::warn!(namespace = %key.0, %container, %error, "the restart monitor failed");
                            }
                            key
                        });
                    }
                },
            },
        }
    }
}

/// What is to be done now. `waiting` remembers those whose client may still be about to start them.
async fn find(
    core: &Core,
    except: &Namespace,
    waiting: &mut HashSet<Key>,
) -> Result<Vec<(Tenant, ContainerRecord, Change)>> {
    let (mut found, mut now_waiting) = (Vec::new(), HashSet::new());
    for namespace in core.namespaces().list().await?.into_keys().filter(|name| name != except) {
        let tenant = core.tenant(namespace);
        for record in tenant.containers().list().await? {
            if !record.labels.contains_key(STATUS) {
                continue;
            }
            let state = match tenant.tasks().state(&record.id).await {
                Ok(state) => Some(state),
                Err(error) if error.is_not_found() => None,
                // It lives and does not answer, so nothing is known that could be wrong.
                Err(_) => continue,
            };
            let key = (tenant.namespace().clone(), record.id.clone());
            let unstarted = state.is_none_or(|state| state.state == State::Created);
            if unstarted && is_young(&record) || state.is_some() && unstarted && !waiting.contains(&key) {
                now_waiting.insert(key);
                continue;
            }
            found.extend(decide(&record.labels, state).map(|change| (tenant.clone(), record, change)));
        }
    }
    *waiting = now_waiting;
    Ok(found)
}

/// True where the client that made the record may be about to make its task.
fn is_young(record: &ContainerRecord) -> bool {
    Timestamp::now().0.saturating_sub(record.created_at.0) < INTERVAL.as_nanos() as i64
}

/// What labels and state together ask for.
fn decide(labels: &Labels, state: Option<TaskState>) -> Option<Change> {
    let now = state.map_or(State::Unknown, |state| state.state);
    match labels.get(STATUS)?.as_str() {
        "stopped" => (state.is_some() && now != State::Stopped).then_some(Change::Stop),
        "running" if matches!(now, State::Running | State::Paused | State::Pausing) => None,
        "running" => {
            let policy = labels.get(POLICY).map_or(Some(Policy::Always), |text| Policy::parse(text));
            let count: u32 = labels.get(COUNT).and_then(|count| count.parse().ok()).unwrap_or(0);
            let failed = state.and_then(|state| state.exit).is_some_and(|exit| exit.status != 0);
            let stopped = labels.get(EXPLICITLY_STOPPED).is_some_and(|value| is_true(value));
            let wanted = match policy? {
                Policy::No => false,
                Policy::Always => true,
                Policy::OnFailure(most) => failed && (most == 0 || count < most),
                Policy::UnlessStopped => !stopped,
            };
            wanted.then_some(Change::Start { count: count.saturating_add(1) })
        }
        _ => None,
    }
}

/// What Go's clients write for true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

impl Policy {
    /// Nothing for what is no policy: then nothing is restarted.
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("on-failure", most)) => most.parse().ok().map(Self::OnFailure),
            None => match text {
                "" | "always" => Some(Self::Always),
                "no" => Some(Self::No),
                "on-failure" => Some(Self::OnFailure(0)),
                "unless-stopped" => Some(Self::UnlessStopped),
                _ => None,
            },
            Some(_) => None,
        }
    }
}

async fn apply(tenant: &Tenant, record: ContainerRecord, change: Change, runtime: RuntimeOf) -> Result<()> {
    let Change::Start { count } = change else { return end(tenant, &record.id).await };
    let note = move |now: &mut ContainerRecord| {
        now.labels.insert(COUNT.to_owned(), count.to_string());
        Ok(())
    };
    tenant.containers().update(&record.id, Durability::Power, note).await?;
    end(tenant, &record.id).await?;
    let id = record.id.clone();
    let create = plan(tenant, record, runtime).await?;
    let tasks = tenant.tasks();
    tasks.create(create).await?;
    if let Err(error) = tasks.start(&id).await {
        end(tenant, &id).await?;
        return Err(error);
    }
    Ok(())
}

/// Kills and forgets a task; none there is success.
async fn end(tenant: &Tenant, id: &Id) -> Result<()> {
    let tasks = tenant.tasks();
    match tasks.kill(id, KILL, true).await {
        Ok(()) => drop(timeout(END, tasks.wait(id)).await),
        // One that has ended already.
        Err(error) => tracing::debug!(container = %id, %error, "kill for the restart monitor"),
    }
    match tasks.delete(id).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// The task that a client would make of the record.
async fn plan(tenant: &Tenant, record: ContainerRecord, runtime: RuntimeOf) -> Result<CreateTask> {
    let runtime = runtime(&record)?;
    let spec = record.spec.ok_or_else(|| Error::precondition("the container has no specification"))?.value;
    let rootfs = match record.snapshot_key.as_str() {
        "" => Vec::new(),
        key => tenant.snapshots(&record.snapshotter)?.mounts(key).await?,
    };
    let terminal = serde_json::from_slice::<serde_json::Value>(&spec)
        .is_ok_and(|spec| spec.pointer("/process/terminal") == Some(&serde_json::Value::Bool(true)));
    let log = record.labels.get(LOG_URI).cloned().unwrap_or_default();
    Ok(CreateTask {
        id: record.id,
        sandbox: record.sandbox,
        spec,
        rootfs,
        terminal,
        stdin: String::new(),
        stdout: log.clone(),
        stderr: if terminal { String::new() } else { log },
        runtime,
    })
}

#[cfg(test)]
mod tests {
    use windlass_model::process::Exit;

    use super::*;

    fn labels(status: &str, policy: &str, more: &[(&str, &str)]) -> Labels {
        let all = [(STATUS, status), (POLICY, policy)];
        all.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn task(state: State, status: u32) -> Option<TaskState> {
        let exit = (state == State::Stopped).then_some(Exit { status, at: Timestamp(1) });
        Some(TaskState { state, pid: 1, exit })
    }

    #[test]
    fn a_policy_says_when_an_ended_task_is_started_again() {
        let ended = |status, policy, more: &[(&str, &str)]| {
            decide(&labels("running", policy, more), task(State::Stopped, status))
        };
        let start = |count| Some(Change::Start { count });
        assert_eq!(ended(0, "always", &[]), start(1));
        assert_eq!(ended(0, "", &[(COUNT, "4")]), start(5));
        assert_eq!(ended(1, "no", &[]), None);
        assert_eq!(ended(0, "on-failure", &[]), None);
        assert_eq!(ended(1, "on-failure", &[(COUNT, "100")]), start(101));
        assert_eq!(ended(1, "on-failure:2", &[(COUNT, "1")]), start(2));
        assert_eq!(ended(1, "on-failure:2", &[(COUNT, "2")]), None);
        assert_eq!(ended(1, "unless-stopped", &[]), start(1));
        assert_eq!(ended(1, "unless-stopped", &[(EXPLICITLY_STOPPED, "true")]), None);
        for wrong in ["sometimes", "always:1", "on-failure:x", "on-failure:-1"] {
            assert_eq!(ended(1, wrong, &[]), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let running = labels("running", "always", &[]);
        for state in [State::Running, State::Paused, State::Pausing] {
            assert_eq!(decide(&running, task(state, 0)), None);
        }
        assert_eq!(decide(&running, None), Some(Change::Start { count: 1 }));
        let stopped = labels("stopped", "always", &[]);
        assert_eq!(decide(&stopped, task(State::Running, 0)), Some(Change::Stop));
        assert_eq!(decide(&stopped, task(State::Stopped, 0)), None);
        assert_eq!(decide(&stopped, None), None);
        assert_eq!(decide(&Labels::new(), None), None);
        assert_eq!(decide(&labels("paused", "", &[]), None), None);
    }
}
