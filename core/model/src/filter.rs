//! containerd's filter language: which things of a list, or which events of a stream, a client wants.
//!
//! ```text
//! filter   = selector *( "," selector )            all of them hold
//! selector = path [ ("==" | "!=" | "~=") value ]   without an operator: the field is there
//! path     = field *( "." field )                  field = quoted, or letters, digits and "_"
//! value    = quoted, or all up to a comma or a space
//! quoted   = "…" with Go's escapes; after "~=", which takes a regular expression, also /…/ and |…|
//! ```
//!
//! Of several filters one has to match; no filter, and an empty one, match everything.
//! Source: containerd, package `pkg/filters`. Unlike there, a regular expression that cannot be compiled is refused.

mod parse;

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use crate::snapshotter::Labels;
use crate::{Error, Kind, Result};

/// The most bytes that one filter may have.
pub const LONGEST: usize = 64 * 1024;

/// The most memory that one compiled regular expression may take, in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// What a client wants to see.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// One of these has to match; with none everything does.
    any: Vec<Vec<Selector>>,
}

/// One condition on one field.
#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// The filter of which one of `texts` has to match.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`], with the place in the text, where a text is not a filter.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        let mut any = Vec::with_capacity(texts.len());
        for text in texts.iter().map(AsRef::as_ref) {
            if text.is_empty() {
                return Ok(Self::default());
            }
            any.push(parse::selectors(text)?);
        }
        Ok(Self { any })
    }

    /// Whether a thing matches; `field` answers the value of a path of field names, or `None` where it has no such field
    /// or the field is empty.
    pub fn matches<'a>(&self, field: impl Fn(&[String]) -> Option<Cow<'a, str>>) -> bool {
        let holds = |selector: &Selector| {
            let value = field(&selector.path);
            match &selector.test {
                Test::Present => value.is_some(),
                Test::Equal(wanted) => value.is_some_and(|value| value == wanted.as_str()),
                // A field that is not there is compared as an empty one.
                Test::NotEqual(unwanted) => value.unwrap_or_default() != unwanted.as_str(),
                Test::Matches(pattern) => pattern.is_match(&value.unwrap_or_default()),
            }
        };
        self.any.is_empty() || self.any.iter().any(|all| all.iter().all(holds))
    }
}

/// The value of the label that the rest of a path names: label keys hold dots, so the rest is joined by dots.
pub fn label<'a>(labels: &'a Labels, rest: &[String]) -> Option<Cow<'a, str>> {
    labels.get(&rest.join(".")).map(Into::into)
}

fn pattern(text: &str) -> Result<Regex> {
    RegexBuilder::new(text).size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE).build().map_err(|error| {
        Error::with_source(Kind::InvalidArgument, format!("filter: regular expression {text:?}"), error)
    })
}

#[cfg(test)]
mod tests;
