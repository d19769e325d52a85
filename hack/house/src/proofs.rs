//! Every test that the documents name as a proof exists.

use std::path::Path;

use anyhow::{Context, Result};

/// Where the black-box tests are.
const TESTS: &str = "test-e2e/tests";
/// Where those of the containerd API are that need no daemon; their names begin with `services::`.
const SERVICES: &str = "core/api/tests/services";

/// One line for each name `` `file::function` `` or `` `services::file::function` `` in `docs` that is no test.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let docs = root.join("docs");
    if !docs.exists() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(&docs).with_context(|| format!("list {}", docs.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for (folder, file, function) in named(&text) {
            let tests = std::fs::read_to_string(root.join(folder).join(format!("{file}.rs"))).unwrap_or_default();
            if !tests.contains(&format!("fn {function}(")) {
                let shown = path.strip_prefix(root).unwrap_or(&path).display();
                found.push(format!("{shown}: there is no test {file}::{function} in {folder}"));
            }
        }
    }
    Ok(found)
}

/// The names in backticks that look like a test's, two words of small letters with `::` between them, with its folder.
fn named(text: &str) -> impl Iterator<Item = (&'static str, &str, &str)> {
    let word = |part: &str| {
        !part.is_empty()
            && part.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
    };
    text.split('`').skip(1).step_by(2).filter_map(move |name| {
        let (folder, name) = name.strip_prefix("services::").map_or((TESTS, name), |rest| (SERVICES, rest));
        let (file, function) = name.split_once("::")?;
        (word(file) && word(function)).then_some((folder, file, function))
    })
}
