//! Labels on the command line: `KEY=VALUE` sets one, `KEY=` takes it away.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use prost_types::FieldMask;

/// Labels that a command changes.
#[derive(Debug, Args)]
pub(crate) struct Changes {
    /// Labels, as KEY=VALUE; KEY= takes one away
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
}

impl Changes {
    /// The labels as a message has them, and the mask by which all others stay as they are.
    pub fn masked(self) -> (HashMap<String, String>, Option<FieldMask>) {
        let paths = self.labels.iter().map(|(key, _)| format!("labels.{key}")).collect();
        (self.labels.into_iter().collect(), Some(FieldMask { paths }))
    }
}

/// Reads `KEY=VALUE`; the value may be empty and may hold further signs of equality.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

/// Labels in one cell of a table.
pub(crate) fn cell(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_split_at_the_first_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("a").is_err() && pair("=a").is_err() && pair("").is_err());
    }

    #[test]
    fn only_named_labels_change() {
        let changes = Changes { labels: vec![("a.b/c".into(), "1".into()), ("gone".into(), String::new())] };
        let (labels, mask) = changes.masked();
        assert_eq!(mask.expect("a mask").paths, ["labels.a.b/c", "labels.gone"]);
        assert_eq!((labels["a.b/c"].as_str(), labels["gone"].as_str()), ("1", ""));
    }
}
