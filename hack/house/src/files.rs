//! How a file of the house looks: one sentence at its top, and no name that says nothing.

use std::path::Path;

/// Names that gather what belongs elsewhere.
const GRAB_BAGS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager", "managers"];

/// Checks one file.
pub(crate) fn check(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let sentence = text.lines().next().and_then(|line| line.strip_prefix("//!")).unwrap_or_default();
    if sentence.trim().is_empty() {
        found.push(format!("{file} does not open with a sentence (`//!`) on what it is responsible for"));
    }
    for part in Path::new(file).components() {
        let name = part.as_os_str().to_str().unwrap_or_default();
        if GRAB_BAGS.contains(&name.strip_suffix(".rs").unwrap_or(name)) {
            found.push(format!("{file}: {name} is a name for anything; what is it for?"));
        }
    }
    found.extend(
        inline_modules(text)
            .filter(|name| GRAB_BAGS.contains(name))
            .map(|name| format!("{file}: module {name} is a name for anything; what is it for?")),
    );
    found
}

/// The names of modules declared or written out in a file.
fn inline_modules(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
        let name = line.strip_prefix("mod ")?;
        Some(name.split(|character: char| !character.is_alphanumeric() && character != '_').next().unwrap_or_default())
    })
}
