//! Rust text without its comments and strings, and the crates that it names.

use std::collections::BTreeSet;

/// The code of a file: comments and string literals become spaces. A byte that only a full parser would understand
/// (a raw string with hashes inside a macro, say) can at worst hide or show a name; it cannot stop the check.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skip(rest, out.chars().next_back());
        if skipped == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.push(' ');
            rest = &rest[skipped..];
        }
    }
    out
}

/// How many bytes of a comment, string or character literal stand at the start of `text`.
fn skip(text: &str, before: Option<char>) -> usize {
    let until = |open: usize, close: &str| text[open..].find(close).map_or(text.len(), |at| open + at + close.len());
    let in_word = before.is_some_and(|character| character.is_alphanumeric() || character == '_');
    if text.starts_with("//") {
        until(0, "\n")
    } else if text.starts_with("/*") {
        until(2, "*/")
    } else if text.starts_with('"') {
        quoted(text)
    } else if text.starts_with('r') && !in_word {
        let hashes = text[1..].chars().take_while(|character| *character == '#').count();
        match text[1 + hashes..].starts_with('"') {
            true => until(2 + hashes, &format!("\"{}", "#".repeat(hashes))),
            false => 0,
        }
    } else if text.starts_with("'\"'") {
        3
    } else if text.starts_with("'\\\"'") {
        4
    } else {
        0
    }
}

/// The length of an ordinary string literal.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The crates of the house that stand at the start of a path.
pub(crate) fn crates_named(code: &str) -> BTreeSet<String> {
    let word = |character: char| character.is_alphanumeric() || character == '_';
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("windlass") {
        let starts = code[..at].chars().next_back().is_none_or(|character| !word(character));
        let name: String = code[at..].chars().take_while(|character| word(*character)).collect();
        let after = code[at + name.len()..].trim_start();
        let used = after.starts_with("::") || code[..at].trim_end().ends_with("use");
        if starts && used {
            found.insert(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_not_code() {
        let text =
            "use a; // windlass_x::y\n/* windlass_x::z */ let s = \"windlass_x::\\\" \"; r#\"windlass_x::\"#; '\"'; b";
        let code = code(text);
        assert!(!code.contains("windlass_x"), "{code}");
        assert!(code.contains("use a;") && code.trim_end().ends_with('b'), "{code}");
    }

    #[test]
    fn paths_name_crates_and_words_do_not() {
        let named = crates_named(
            "use windlass_model::Id; fn f() { windlass_sys::fs::x(); my_windlass_wire::y(); windlass_api }",
        );
        assert_eq!(named.into_iter().collect::<Vec<_>>(), ["windlass_model", "windlass_sys"]);
    }
}
