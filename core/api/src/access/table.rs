//! Each method of the containerd API: whose namespace it is about, what it does there, and how long it may take.

/// One method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) about: About,
    pub(super) does: Does,
    pub(super) takes: Takes,
}

/// Whose namespace a method is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The one in the request's header.
    Named,
    /// None, or what the service itself looks up in the message.
    All,
}

/// What a method does to records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// It looks.
    Read,
    /// It changes something.
    Write,
}

/// How long a method may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// It answers as soon as it can.
    Short,
    /// It waits for something, or carries a stream.
    Long,
    /// It listens to events: each of them is work for each listener.
    Listens,
}

use About::{All, Named};
use Does::{Read, Write};
use Takes::{Listens, Long, Short};

type Service = (&'static str, About, &'static [(&'static str, Does, Takes)]);

const SERVICES: &[Service] = &[
    ("grpc.health.v1.Health", All, &[("Check", Read, Short), ("List", Read, Short), ("Watch", Read, Long)]),
    ("containerd.services.version.v1.Version", All, &[("Version", Read, Short)]),
    (
        "containerd.services.introspection.v1.Introspection",
        All,
        &[("Plugins", Read, Short), ("Server", Read, Short), ("PluginInfo", Read, Short)],
    ),
    (
        "containerd.services.namespaces.v1.Namespaces",
        All,
        &[
            ("Get", Read, Short),
            ("List", Read, Short),
            ("Create", Write, Short),
            ("Update", Write, Short),
            ("Delete", Write, Short),
        ],
    ),
    (
        "containerd.services.leases.v1.Leases",
        Named,
        &[
            ("Create", Write, Short),
            ("Delete", Write, Short),
            ("List", Read, Short),
            ("AddResource", Write, Short),
            ("DeleteResource", Write, Short),
            ("ListResources", Read, Short),
        ],
    ),
    (
        "containerd.services.content.v1.Content",
        Named,
        &[
            ("Info", Read, Short),
            ("Update", Write, Short),
            ("List", Read, Long),
            ("Delete", Write, Short),
            ("Read", Read, Long),
            ("Status", Read, Short),
            ("ListStatuses", Read, Short),
            ("Write", Write, Long),
            ("Abort", Write, Short),
        ],
    ),
    (
        "containerd.services.images.v1.Images",
        Named,
        &[
            ("Get", Read, Short),
            ("List", Read, Short),
            ("Create", Write, Short),
            ("Update", Write, Short),
            ("Delete", Write, Short),
        ],
    ),
    (
        "containerd.services.snapshots.v1.Snapshots",
        Named,
        &[
            ("Prepare", Write, Short),
            ("View", Write, Short),
            ("Mounts", Read, Short),
            ("Commit", Write, Short),
            ("Remove", Write, Short),
            ("Stat", Read, Short),
            ("Update", Write, Short),
            ("List", Read, Long),
            ("Usage", Read, Short),
            ("Cleanup", Write, Short),
        ],
    ),
    ("containerd.services.diff.v1.Diff", Named, &[("Apply", Write, Long), ("Diff", Write, Long)]),
    (
        "containerd.services.containers.v1.Containers",
        Named,
        &[
            ("Get", Read, Short),
            ("List", Read, Short),
            ("ListStream", Read, Long),
            ("Create", Write, Short),
            ("Update", Write, Short),
            ("Delete", Write, Short),
        ],
    ),
    (
        "containerd.services.tasks.v1.Tasks",
        Named,
        &[
            ("Create", Write, Long),
            ("Start", Write, Long),
            ("Delete", Write, Long),
            ("DeleteProcess", Write, Long),
            ("Get", Read, Short),
            ("List", Read, Short),
            ("Kill", Write, Short),
            ("Exec", Write, Short),
            ("ResizePty", Write, Short),
            ("CloseIO", Write, Short),
            ("Pause", Write, Short),
            ("Resume", Write, Short),
            ("ListPids", Read, Short),
            ("Checkpoint", Write, Long),
            ("Update", Write, Short),
            ("Metrics", Read, Short),
            ("Wait", Read, Long),
        ],
    ),
    ("containerd.services.events.v1.Events", Named, &[("Publish", Write, Short)]),
    ("containerd.services.events.v1.Events", All, &[("Forward", Write, Short), ("Subscribe", Read, Listens)]),
    ("containerd.services.streaming.v1.Streaming", Named, &[("Stream", Write, Long)]),
    ("containerd.services.transfer.v1.Transfer", Named, &[("Transfer", Write, Long)]),
    (
        "containerd.services.sandbox.v1.Store",
        Named,
        &[
            ("Create", Write, Short),
            ("Update", Write, Short),
            ("Delete", Write, Short),
            ("List", Read, Short),
            ("Get", Read, Short),
        ],
    ),
    (
        "containerd.services.sandbox.v1.Controller",
        Named,
        &[
            ("Create", Write, Long),
            ("Start", Write, Long),
            ("Platform", Read, Short),
            ("Stop", Write, Long),
            ("Wait", Read, Long),
            ("Status", Read, Short),
            ("Shutdown", Write, Long),
            ("Metrics", Read, Short),
            ("Update", Write, Short),
        ],
    ),
    (
        "containerd.services.mounts.v1.Mounts",
        Named,
        &[
            ("Activate", Write, Short),
            ("Deactivate", Write, Short),
            ("Info", Read, Short),
            ("Update", Write, Short),
            ("List", Read, Long),
        ],
    ),
];

/// The rule of a method by its path, `/package.Service/Method`.
pub(super) fn rule(path: &str) -> Option<Rule> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    SERVICES.iter().filter(|(name, ..)| *name == service).find_map(|(_, about, methods)| {
        let (_, does, takes) = methods.iter().find(|(name, ..)| *name == method)?;
        Some(Rule { about: *about, does: *does, takes: *takes })
    })
}

/// The paths of all known methods, and whether each is about the namespace in its request's header and changes something.
pub fn methods() -> impl Iterator<Item = (String, bool, bool)> {
    SERVICES.iter().flat_map(|(service, about, methods)| {
        let row = move |(method, does, _): &(&str, Does, Takes)| {
            (format!("/{service}/{method}"), *about == Named, *does == Write)
        };
        methods.iter().map(row)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_there_once() {
        let mut paths: Vec<String> = methods().map(|(path, ..)| path).collect();
        paths.sort();
        let all = paths.len();
        paths.dedup();
        assert_eq!(paths.len(), all);
        for path in paths {
            assert!(rule(&path).is_some(), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_has_no_rule() {
        for path in
            ["", "/", "/x", "containerd.services.tasks.v1.Tasks/Get", "/containerd.services.tasks.v1.Tasks/Gett"]
        {
            assert!(rule(path).is_none(), "{path}");
        }
        assert!(rule("/containerd.services.tasks.v1.Tasks/Get/").is_none());
    }
}
