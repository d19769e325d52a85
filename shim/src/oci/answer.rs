//! What the built-in runtime says when it has done, or could not do, what it was called for: one line.

use std::io::Write;

use windlass_model::{Context, Error, Kind, Result};

/// Writes `ok <pid>` or `error <code of the kind> <message>`.
///
/// # Errors
/// Where nobody listens.
pub fn write(to: &mut impl Write, outcome: &Result<u32>) -> Result<()> {
    let line = match outcome {
        Ok(pid) => format!("ok {pid}\n"),
        Err(error) => format!("error {} {}\n", error.kind().code(), error.to_string().replace('\n', " ")),
    };
    to.write_all(line.as_bytes()).context(|| "answer".into())
}

/// The answer in a line, where it is one.
pub fn parse(text: &str) -> Option<Result<u32>> {
    let (word, rest) = text.lines().next()?.split_once(' ')?;
    match word {
        "ok" => rest.parse().ok().map(Ok),
        "error" => {
            let (code, message) = rest.split_once(' ')?;
            Some(Err(Error::new(Kind::from_code(code.parse().ok()?), message)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_one_line() {
        let said = |outcome: Result<u32>| {
            let mut line = Vec::new();
            write(&mut line, &outcome).unwrap();
            parse(std::str::from_utf8(&line).unwrap()).unwrap()
        };
        assert_eq!(said(Ok(7)).unwrap(), 7);
        let error = said(Err(Error::not_found("no such\nthing"))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NotFound, "no such thing"));
        for rubbish in ["", "ok", "ok x", "what 1", "error x y", "\u{1}\u{2}"] {
            assert!(parse(rubbish).is_none(), "{rubbish:?}");
        }
    }
}
