//! Which crate may use which: the table of the house, and the few crates from outside that have one owner.

use std::collections::BTreeSet;

use toml::Value;

use crate::source;
use crate::workspace::{Crate, Workspace};

/// What one crate may use.
#[derive(Debug)]
pub struct Arrow {
    /// The crate.
    pub from: &'static str,
    /// The crates of the house that it may be built from.
    pub to: &'static [&'static str],
    /// Those that its tests may use besides, as the real things behind a contract.
    pub tests: &'static [&'static str],
}

/// The table. An arrow that is not here is forbidden; a new one needs a reason in `docs/decisions`.
pub const ARROWS: &[Arrow] = &[
    Arrow { from: "windlass-model", to: &[], tests: &[] },
    Arrow { from: "windlass-sys", to: &["windlass-model"], tests: &[] },
    Arrow { from: "windlass-wire", to: &["windlass-model"], tests: &[] },
    Arrow {
        from: "windlass-engine",
        to: &["windlass-model", "windlass-sys", "windlass-wire"],
        tests: &["windlass-snapshotters"],
    },
    Arrow { from: "windlass-api", to: &["windlass-model", "windlass-engine"], tests: &["windlass-snapshotters"] },
    Arrow { from: "windlass", to: &["windlass-model"], tests: &[] },
    Arrow { from: "windlass-snapshotters", to: &["windlass-model", "windlass-sys"], tests: &[] },
    Arrow { from: "windlass-shim", to: &["windlass-model", "windlass-sys", "windlass-wire"], tests: &[] },
    Arrow { from: "windlass-cri-api", to: &[], tests: &[] },
    Arrow {
        from: "windlass-cri",
        to: &["windlass-model", "windlass-sys", "windlass-engine", "windlass-cri-api"],
        tests: &["windlass-snapshotters"],
    },
    Arrow {
        from: "windlassd",
        to: &[
            "windlass-model",
            "windlass-sys",
            "windlass-wire",
            "windlass-engine",
            "windlass-api",
            "windlass-snapshotters",
            "windlass-cri-api",
            "windlass-cri",
        ],
        tests: &[],
    },
    Arrow { from: "windlass-test-e2e", to: &[], tests: &[] },
    Arrow { from: "windlass-house", to: &[], tests: &[] },
];

/// Crates from outside that only their owners may use, so that what they do has one place.
const OWNED: &[(&str, &[&str])] = &[
    ("rocksdb", &["windlass-engine"]),
    ("reqwest", &["windlass-engine"]),
    ("libcontainer", &["windlass-shim"]),
    ("libc", &["windlass-sys", "windlass-test-e2e"]),
];

/// The crate in which `unsafe` may stand.
const UNSAFE: &str = "windlass-sys";

/// Checks the members' dependencies.
pub(crate) fn manifests(workspace: &Workspace) -> Vec<String> {
    let house: BTreeSet<&str> = workspace.crates.iter().map(|member| member.name.as_str()).collect();
    let mut found = Vec::new();
    for member in &workspace.crates {
        let name = &member.name;
        let Some(arrow) = ARROWS.iter().find(|arrow| arrow.from == name) else {
            found.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        for to in member.dependencies.iter().filter(|to| house.contains(to.as_str())) {
            if !arrow.to.contains(&to.as_str()) {
                found.push(format!("{name} may not depend on {to}"));
            }
        }
        for to in member.test_dependencies.iter().filter(|to| house.contains(to.as_str())) {
            if !arrow.to.contains(&to.as_str()) && !arrow.tests.contains(&to.as_str()) {
                found.push(format!("the tests of {name} may not depend on {to}"));
            }
        }
        for (package, owners) in OWNED {
            if member.dependencies.contains(*package) && !owners.contains(&name.as_str()) {
                found.push(format!("{name} may not depend on {package}, which belongs to {}", owners.join(" and ")));
            }
        }
    }
    found
}

/// Checks that every member takes the workspace's lints; the one crate that may hold `unsafe` repeats them.
pub(crate) fn lints(workspace: &Workspace) -> Vec<String> {
    let of = |manifest: &toml::Table, tool: &str| {
        manifest.get("lints").and_then(|lints| lints.get(tool)).and_then(Value::as_table).cloned().unwrap_or_default()
    };
    let rules = workspace.manifest.get("workspace").and_then(Value::as_table).cloned().unwrap_or_default();
    let mut found = Vec::new();
    if of(&rules, "rust").get("unsafe_code").and_then(Value::as_str) != Some("forbid") {
        found.push("the workspace does not forbid unsafe code".to_owned());
    }
    for member in &workspace.crates {
        let name = &member.name;
        let inherits = member.manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
        if inherits == Some(true) {
            continue;
        }
        if name != UNSAFE {
            found.push(format!("{name} does not take the workspace's lints"));
            continue;
        }
        for tool in ["rust", "clippy"] {
            let own = of(&member.manifest, tool);
            let missing = of(&rules, tool).into_iter().filter(|(lint, level)| own.get(lint) != Some(level));
            let missing = missing.filter(|(lint, _)| lint != "unsafe_code");
            found.extend(missing.map(|(lint, _)| format!("{name} has not the workspace's lint {tool}::{lint}")));
        }
    }
    found
}

/// Checks the paths that a file names: `windlass_x::` may stand only where the arrow to `x` does.
pub(crate) fn uses(workspace: &Workspace, member: &Crate, file: &str, text: &str) -> Vec<String> {
    let Some(arrow) = ARROWS.iter().find(|arrow| arrow.from == member.name) else {
        return Vec::new();
    };
    // Test code inside `src` may use what tests may use; Cargo itself keeps it out of the build.
    let named = source::crates_named(&source::code(text));
    let word = |name: &str| name.replace('-', "_");
    let house: BTreeSet<String> = workspace.libraries().map(|member| word(&member.name)).collect();
    named
        .into_iter()
        .filter(|name| *name != word(&member.name) && house.contains(name))
        .filter(|name| !arrow.to.iter().chain(arrow.tests).any(|to| word(to) == *name))
        .map(|name| format!("{file} uses {name}"))
        .collect()
}
