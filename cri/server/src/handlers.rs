//! What each runtime handler can do beyond the plain: asked of its OCI runtime once, at the first Status.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;
use windlass_cri_api::v1;

use crate::{Runtime, Server};

/// How long an OCI runtime may take to name its features.
const PATIENCE: Duration = Duration::from_secs(5);

/// The handlers' features, once they were asked for.
#[derive(Default)]
pub(crate) struct Handlers(OnceCell<BTreeMap<String, v1::RuntimeHandlerFeatures>>);

impl Server {
    /// All handlers with what they can do; the empty name is the handler of pods that name none.
    pub(crate) async fn runtime_handlers(&self) -> Vec<v1::RuntimeHandler> {
        let ask = async || {
            let all = self.config.runtimes.iter();
            let all = all.map(async |(name, runtime)| (name.clone(), features(runtime).await));
            join_all(all).await.into_iter().collect::<BTreeMap<_, _>>()
        };
        let known = self.handlers.0.get_or_init(ask).await;
        let default = known.get(&self.config.default_runtime).map(|features| (String::new(), *features));
        let all = default.into_iter().chain(known.iter().map(|(name, features)| (name.clone(), *features)));
        all.map(|(name, features)| v1::RuntimeHandler { name, features: Some(features) }).collect()
    }
}

async fn features(runtime: &Runtime) -> v1::RuntimeHandlerFeatures {
    match runtime {
        // What another shim can do is not known, so nothing is promised.
        Runtime { shim: Some(_), .. } => v1::RuntimeHandlerFeatures::default(),
        Runtime { binary: None, .. } => {
            v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true }
        }
        Runtime { binary: Some(binary), .. } => of_binary(binary).await,
    }
}

/// What an OCI runtime says of itself; one that does not know the question can do none of it.
async fn of_binary(binary: &Path) -> v1::RuntimeHandlerFeatures {
    let mut command = Command::new(binary);
    command.arg("features").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(said)) if said.status.success() => parse(&said.stdout),
        _ => v1::RuntimeHandlerFeatures::default(),
    }
}

/// Reads the features document (OCI runtime specification, `features.md`).
fn parse(document: &[u8]) -> v1::RuntimeHandlerFeatures {
    let document: Value = serde_json::from_slice(document).unwrap_or_default();
    let has = |list: &str, word: &str| {
        let list = document.pointer(list).and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|one| one == word))
    };
    v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: has("/mountOptions", "rro"),
        // Mounts under other ids are the shim's work, so the runtime need not know them.
        user_namespaces: has("/linux/namespaces", "user"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_features_document_is_read() {
        let new = br#"{"mountOptions":["ro","rro"],"linux":{"namespaces":["user","pid"]}}"#;
        let can = parse(new);
        assert!(can.recursive_read_only_mounts && can.user_namespaces);
        let old = parse(br#"{"mountOptions":["ro"],"linux":{"namespaces":["pid"]}}"#);
        assert!(!old.recursive_read_only_mounts && !old.user_namespaces);
        assert_eq!(parse(b"usage: crun"), v1::RuntimeHandlerFeatures::default());
    }

    #[tokio::test]
    async fn what_is_not_known_is_not_promised() {
        let shim = Runtime { binary: None, shim: Some("io.containerd.kata.v2".into()) };
        assert_eq!(features(&shim).await, v1::RuntimeHandlerFeatures::default());
        let mute = Runtime { binary: Some("/bin/false".into()), shim: None };
        assert_eq!(features(&mute).await, v1::RuntimeHandlerFeatures::default());
        assert!(features(&Runtime::default()).await.recursive_read_only_mounts);
    }
}
