//! Doors to the parsers of what plugins answer and operators write; built only with `--cfg fuzzing` and for tests.

use serde_json::Value;

use super::conf::NetworkList;
use super::template::{Template, Values};
use super::{pod, result};

/// Reads what a plugin answers to ADD; addresses are taken from it whether or not it makes sense.
pub fn result(bytes: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Value>(bytes) else { return };
    let addresses = pod::addresses(&answer);
    if result::check(&answer).is_ok() {
        let told = answer.get("ips").and_then(Value::as_array).map_or(0, Vec::len);
        assert!(addresses.len() <= told, "an address that nobody gave");
    }
}

/// Reads a network's configuration, and the same bytes as a template of one.
pub fn configuration(bytes: &[u8]) {
    for list in [true, false] {
        if let Ok(list) = NetworkList::parse(bytes, list) {
            assert!(!list.plugins.is_empty() && list.plugins.iter().all(|plugin| !plugin.kind().contains('/')));
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let values =
        Values { pod_cidr: "10.0.0.0/24".into(), ranges: vec!["10.0.0.0/24".into(); 2], routes: vec!["::/0".into()] };
    if let Ok(template) = Template::parse(text) {
        let _ = template.render(&values);
    }
}
