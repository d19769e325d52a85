//! Snapshots drawn below their parents.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use containerd_client::services::v1::snapshots::Info;
use serde::Serialize;

use crate::output::Output;

/// A snapshot and those above it.
#[derive(Debug, Serialize)]
struct Branch {
    key: String,
    children: Vec<Branch>,
}

/// Shows all snapshots, lines for a person and nested records for a program.
pub(super) fn show(found: &[Info], output: &Output) -> Result<()> {
    let mut roots = grow(found);
    if output.is_json() {
        return output.json(&roots);
    }
    let mut lines = Vec::new();
    roots.drain(..).for_each(|root| draw(root, 0, &mut lines));
    output.lines(&lines)
}

/// Joins children to their parents; one whose parent is not among them stands alone.
fn grow(found: &[Info]) -> Vec<Branch> {
    let known: BTreeSet<&str> = found.iter().map(|info| info.name.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for info in found {
        let parent = Some(info.parent.as_str()).filter(|parent| known.contains(parent)).unwrap_or_default();
        children.entry(parent).or_default().push(&info.name);
    }
    // From the roots, so that each is met once, whatever parents are claimed; and without recursion, since chains are long.
    let mut order = children.remove("").unwrap_or_default();
    let roots: BTreeSet<&str> = order.iter().copied().collect();
    let mut parents: BTreeMap<&str, &str> = BTreeMap::new();
    let mut at = 0;
    while let Some(key) = order.get(at).copied() {
        at += 1;
        for child in children.remove(key).unwrap_or_default() {
            parents.insert(child, key);
            order.push(child);
        }
    }
    let mut made: BTreeMap<&str, Vec<Branch>> = BTreeMap::new();
    let mut grown = Vec::new();
    for key in order.into_iter().rev() {
        let mut children = made.remove(key).unwrap_or_default();
        children.sort_by(|one, other| one.key.cmp(&other.key));
        let branch = Branch { key: key.to_owned(), children };
        match parents.get(key) {
            Some(parent) => made.entry(parent).or_default().push(branch),
            None if roots.contains(key) => grown.push(branch),
            None => {}
        }
    }
    grown.sort_by(|one, other| one.key.cmp(&other.key));
    grown
}

fn draw(root: Branch, depth: usize, lines: &mut Vec<String>) {
    let mut open = vec![(root, depth)];
    while let Some((branch, depth)) = open.pop() {
        lines.push(format!("{}{}", "  ".repeat(depth), branch.key));
        open.extend(branch.children.into_iter().rev().map(|child| (child, depth + 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, parent: &str) -> Info {
        Info { name: name.into(), parent: parent.into(), ..Default::default() }
    }

    #[test]
    fn children_stand_below_their_parents() {
        let found = [info("c", "b"), info("b", "a"), info("a", ""), info("x", "gone"), info("b2", "a")];
        let mut lines = Vec::new();
        grow(&found).into_iter().for_each(|root| draw(root, 0, &mut lines));
        assert_eq!(lines, ["a", "  b", "    c", "  b2", "x"]);
    }

    #[test]
    fn parents_in_a_circle_end() {
        assert!(grow(&[info("a", "b"), info("b", "a")]).is_empty());
    }
}
