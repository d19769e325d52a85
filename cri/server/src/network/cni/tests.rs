//! Plugins that are shell scripts: what they are told, and how their failures are told.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A folder of plugins that are shell scripts, and a log that they write.
struct Ground {
    folder: tempfile::TempDir,
    plugins: Plugins,
}

/// Writes the call into the log, and what it read.
const LOG: &str =
    r#"echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME [$CNI_NETNS] $CNI_ARGS $(cat)" >> "${CNI_PATH%%:*}/log"; "#;

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plugins = Plugins {
            folders: vec![folder.path().to_owned(), "/nonexistent".into()],
            timeout: Duration::from_secs(20),
        };
        Self { folder, plugins }
    }

    fn plugin(self, name: &str, script: &str) -> Self {
        let path = self.folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    async fn add(&self, names: &[&str]) -> Result<Value> {
        let (list, capabilities) = (network(names, "1.0.0"), Map::new());
        self.plugins.add(&call(&list, &capabilities)).await
    }
}

fn network(names: &[&str], version: &str) -> NetworkList {
    let plugin = |name: &&str| serde_json::json!({"type": name, "capabilities": {"portMappings": *name == "two"}});
    let plugins: Vec<Value> = names.iter().map(plugin).collect();
    let conf = serde_json::json!({"cniVersion": version, "name": "net", "plugins": plugins});
    NetworkList::parse(conf.to_string().as_bytes(), true).unwrap()
}

fn call<'a>(list: &'a NetworkList, capabilities: &'a Map<String, Value>) -> Call<'a> {
    Call {
        list,
        id: "pod1",
        netns: Some(Path::new("/netns/pod1")),
        interface: "eth0",
        args: "A=1;B=2",
        capabilities,
        valid: None,
    }
}

#[tokio::test]
async fn a_chain_hands_results_on_and_del_goes_back() {
    let one = format!(r#"{LOG} [ $CNI_COMMAND = ADD ] && echo '{{"from":"one"}}'; exit 0"#);
    let two = format!(r#"{LOG} [ $CNI_COMMAND = ADD ] && echo '{{"from":"two"}}'; exit 0"#);
    let ground = Ground::new().plugin("one", &one).plugin("two", &two);
    let list = network(&["one", "two"], "1.0.0");
    let mut capabilities = Map::new();
    capabilities.insert("portMappings".into(), serde_json::json!([{"hostPort": 80}]));
    let call = call(&list, &capabilities);
    let result = ground.plugins.add(&call).await.unwrap();
    assert_eq!(result["from"], "two");
    ground.plugins.check(&call, &result).await.unwrap();
    let gone = Call { netns: None, ..call.clone() };
    ground.plugins.del(&gone, Some(&result)).await.unwrap();
    let log = ground.log();
    let parts: Vec<_> = log.iter().map(|line| line.splitn(6, ' ').collect::<Vec<_>>()).collect();
    assert_eq!(parts[0][..5], ["ADD", "pod1", "eth0", "[/netns/pod1]", "A=1;B=2"]);
    let read: Vec<Value> =
        log.iter().map(|line| serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap()).collect();
    assert_eq!(
        (&read[0]["name"], &read[0]["cniVersion"], &read[0]["type"]),
        (&"net".into(), &"1.0.0".into(), &"one".into())
    );
    assert!(read[0].get("prevResult").is_none() && read[0].get("runtimeConfig").is_none());
    assert_eq!(read[1]["prevResult"]["from"], "one");
    assert_eq!(read[1]["runtimeConfig"]["portMappings"][0]["hostPort"], 80);
    let verbs: Vec<_> = parts.iter().zip(&read).map(|(part, read)| (part[0], read["type"].as_str().unwrap())).collect();
    let expected = [("ADD", "one"), ("ADD", "two"), ("CHECK", "one"), ("CHECK", "two"), ("DEL", "two"), ("DEL", "one")];
    assert_eq!(verbs, expected);
    assert_eq!(parts[4][3], "[]");
    assert_eq!(read[4]["prevResult"]["from"], "two");
    assert_eq!(read[5]["prevResult"]["from"], "two");
}

#[tokio::test]
async fn an_old_network_has_no_check_and_no_previous_result_at_del() {
    let ground = Ground::new().plugin("one", LOG);
    let (list, capabilities) = (network(&["one"], "0.3.1"), Map::new());
    let result = serde_json::json!({"from": "one"});
    ground.plugins.check(&call(&list, &capabilities), &result).await.unwrap();
    ground.plugins.del(&call(&list, &capabilities), Some(&result)).await.unwrap();
    let log = ground.log();
    assert_eq!(log.len(), 1);
    assert!(log[0].starts_with("DEL") && !log[0].contains("prevResult"));
}

#[tokio::test]
async fn a_failure_names_network_plugin_and_cause() {
    let document = r#"cat >/dev/null; echo '{"code":7,"msg":"no such bridge","details":"br9"}'; exit 1"#;
    let busy = r#"echo '{"code":11,"msg":"later"}'; exit 1"#;
    let ground = Ground::new()
        .plugin("document", document)
        .plugin("busy", busy)
        .plugin("mute", "exit 3")
        .plugin("complains", "echo plain text; echo oh no >&2; exit 1")
        .plugin("silent", "cat >/dev/null")
        .plugin("rubbish", "echo '<html>'")
        .plugin("number", "echo 17")
        .plugin("killed", "kill -9 $$");
    let failures = [
        ("document", Kind::Internal, "no such bridge: br9 (code 7)"),
        ("busy", Kind::Unavailable, "later (code 11)"),
        ("mute", Kind::Internal, "exit status: 3"),
        ("complains", Kind::Internal, "oh no"),
        ("silent", Kind::Internal, "printed no result"),
        ("rubbish", Kind::Internal, "<html>"),
        ("number", Kind::Internal, "no JSON object"),
        ("killed", Kind::Internal, "signal: 9"),
        ("missing", Kind::FailedPrecondition, "is not in"),
    ];
    for (name, kind, cause) in failures {
        let error = ground.add(&[name]).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains("network \"net\"") && text.contains(name) && text.contains(cause), "{text}");
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    let mut ground = Ground::new().plugin("hang", r#"sleep 1000 & echo $! > "${CNI_PATH%%:*}/child"; wait"#);
    ground.plugins.timeout = Duration::from_millis(500);
    let begun = Instant::now();
    let error = ground.add(&["hang"]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let child = std::fs::read_to_string(ground.folder.path().join("child")).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    // Gone, or a zombie until its new parent looks.
    let dead = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "));
    for _ in 0..100 {
        if dead() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the plugin's child lives on");
}

#[tokio::test]
async fn endless_output_is_cut_off() {
    let ground = Ground::new()
        .plugin("endless", "exec cat /dev/zero")
        .plugin("loud", r#"head -c 5000000 /dev/zero >&2; echo '{"ok":true}'"#);
    let error = ground.add(&["endless"]).await.unwrap_err().to_string();
    assert!(error.contains("printed more than"), "{error}");
    assert_eq!(ground.add(&["loud"]).await.unwrap()["ok"], true);
}

#[tokio::test]
async fn a_failed_del_does_not_stop_the_others() {
    let ground = Ground::new().plugin("one", LOG).plugin("two", &format!("{LOG} exit 1"));
    let (list, capabilities) = (network(&["one", "two"], "1.0.0"), Map::new());
    let error = ground.plugins.del(&call(&list, &capabilities), None).await.unwrap_err();
    assert!(error.to_string().contains("\"two\""));
    assert_eq!(ground.log().len(), 2);
    assert!(ground.log().iter().all(|line| !line.contains("prevResult")));
}

#[tokio::test]
async fn a_large_request_reaches_a_plugin_that_answers_first() {
    let ground = Ground::new().plugin("one", r#"echo '{"ok":true}'; exec cat >/dev/null"#);
    let big = "x".repeat(900_000);
    let conf = serde_json::json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "one", "big": big}]});
    let (list, capabilities) = (NetworkList::parse(conf.to_string().as_bytes(), true).unwrap(), Map::new());
    assert_eq!(ground.plugins.add(&call(&list, &capabilities)).await.unwrap()["ok"], true);
}
