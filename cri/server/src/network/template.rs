//! The template of a network configuration, in the part of Go's template language that containerd documents for it.
//!
//! | written | means |
//! |---|---|
//! | `{{.PodCIDR}}` | the first address range of the node's pods |
//! | `{{range $i, $range := .PodCIDRRanges}} … {{end}}` | once for each range; also with one variable, or none |
//! | `{{range $i, $route := .Routes}} … {{end}}` | once for each default route: `0.0.0.0/0`, `::/0` |
//! | `{{$i}}`, `{{$range}}`, `{{.}}` | a variable; the present element |
//! | `{{if $i}} … {{else}} … {{end}}` | unless zero or empty |
//! | `{{/* … */}}` | a comment |
//!
//! `{{-` and `-}}` take away the white space beside them. Everything else is refused with its line.

use std::collections::HashMap;

use windlass_model::{Error, Result};

/// How deep actions may be nested.
const DEEPEST: usize = 16;

/// What a template may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// `.PodCIDR`.
    pub pod_cidr: String,
    /// `.PodCIDRRanges`.
    pub ranges: Vec<String>,
    /// `.Routes`.
    pub routes: Vec<String>,
}

/// A template that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    Print(Operand),
    If { condition: Operand, then: Vec<Node>, otherwise: Vec<Node> },
    Range { over: Operand, index: Option<String>, element: Option<String>, body: Vec<Node>, otherwise: Vec<Node> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Dot,
    Variable(String),
    PodCidr,
    Ranges,
    Routes,
}

/// What an operand stands for while a template is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    All,
    Text(String),
    List(Vec<String>),
    Number(usize),
}

/// A piece of a template: text, or an action with its line.
#[derive(Debug)]
enum Token<'a> {
    Text(&'a str),
    Action(&'a str, usize),
}

/// Where a list of nodes ended.
enum Close {
    File,
    End,
    Else,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] with the line of what is wrong or not known.
    pub fn parse(text: &str) -> Result<Self> {
        let mut tokens = tokens(text)?.into_iter();
        let mut variables = Vec::new();
        match nodes(&mut tokens, &mut variables, 0)? {
            (nodes, Close::File) => Ok(Self(nodes)),
            (_, Close::End) => Err(Error::invalid("an {{end}} that ends nothing")),
            (_, Close::Else) => Err(Error::invalid("an {{else}} without an {{if}} or {{range}}")),
        }
    }

    /// Fills the template in.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a use of a value that makes no sense, such as a range over a text.
    pub fn render(&self, values: &Values) -> Result<String> {
        let mut out = String::new();
        let mut scope = Scope { values, dot: Value::All, variables: HashMap::new() };
        scope.write(&self.0, &mut out)?;
        Ok(out)
    }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>> {
    let mut found = Vec::new();
    let (mut rest, mut trim) = (text, false);
    while let Some((before, after)) = rest.split_once("{{") {
        let line = line_of(text, after);
        let end = if after.trim_start_matches('-').trim_start().starts_with("/*") { after.find("*/") } else { Some(0) };
        let close = end.and_then(|end| after.get(end..)?.find("}}").map(|at| end + at));
        let close = close.ok_or_else(|| Error::invalid(format!("line {line}: an action without end")))?;
        let (inside, next) = after.split_at(close);
        let (trims_before, inside) = match inside.strip_prefix('-') {
            Some(inner) if inner.starts_with(char::is_whitespace) => (true, inner),
            _ => (false, inside),
        };
        let (trims_after, inside) = match inside.strip_suffix('-') {
            Some(inner) if inner.ends_with(char::is_whitespace) => (true, inner),
            _ => (false, inside),
        };
        let before = if trim { before.trim_start() } else { before };
        found.push(Token::Text(if trims_before { before.trim_end() } else { before }));
        let inside = inside.trim();
        if !(inside.starts_with("/*") && inside.ends_with("*/")) {
            found.push(Token::Action(inside, line));
        }
        (rest, trim) = (next.get(2..).unwrap_or_default(), trims_after);
    }
    found.push(Token::Text(if trim { rest.trim_start() } else { rest }));
    Ok(found)
}

/// The line of `text` on which `rest`, which is its end, begins.
fn line_of(text: &str, rest: &str) -> usize {
    let at = text.len() - rest.len();
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

/// Reads nodes until their end; `variables` are those that are known here.
fn nodes<'a>(
    tokens: &mut impl Iterator<Item = Token<'a>>,
    variables: &mut Vec<String>,
    depth: usize,
) -> Result<(Vec<Node>, Close)> {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        let (action, line) = match token {
            Token::Text("") => continue,
            Token::Text(text) => {
                nodes.push(Node::Text(text.into()));
                continue;
            }
            Token::Action(action, line) => (action, line),
        };
        let wrong = |why: &str| Error::invalid(format!("line {line}: {{{{{action}}}}} {why}"));
        if depth > DEEPEST {
            return Err(wrong("is nested too deep"));
        }
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
        match word {
            "end" if rest.is_empty() => return Ok((nodes, Close::End)),
            "else" if rest.is_empty() => return Ok((nodes, Close::Else)),
            "if" => {
                let condition = operand(rest.trim(), variables).ok_or_else(|| wrong("is not understood"))?;
                let (then, otherwise) = bodies(tokens, variables, depth, &wrong)?;
                nodes.push(Node::If { condition, then, otherwise });
            }
            "range" => {
                let (names, over) = rest.split_once(":=").map_or(("", rest), |(names, over)| (names, over));
                let over = operand(over.trim(), variables).ok_or_else(|| wrong("is not understood"))?;
                let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
                let name = |text: &str| variable(text).ok_or_else(|| wrong("names no variable"));
                let (index, element) = match names[..] {
                    [] => (None, None),
                    [element] => (None, Some(name(element)?)),
                    [index, element] => (Some(name(index)?), Some(name(element)?)),
                    _ => return Err(wrong("has too many variables")),
                };
                let known = variables.len();
                variables.extend([&index, &element].into_iter().flatten().cloned());
                let (body, otherwise) = bodies(tokens, variables, depth, &wrong)?;
                variables.truncate(known);
                nodes.push(Node::Range { over, index, element, body, otherwise });
            }
            _ => {
                nodes.push(Node::Print(operand(action, variables).ok_or_else(|| wrong("is not understood"))?));
            }
        }
    }
    Ok((nodes, Close::File))
}

/// The nodes up to `{{end}}`, with those after an `{{else}}` apart.
fn bodies<'a>(
    tokens: &mut impl Iterator<Item = Token<'a>>,
    variables: &mut Vec<String>,
    depth: usize,
    wrong: &dyn Fn(&str) -> Error,
) -> Result<(Vec<Node>, Vec<Node>)> {
    // The iterator by reference has one type at every depth.
    let tokens: &mut dyn Iterator<Item = Token<'a>> = tokens;
    let mut tokens = tokens;
    match nodes(&mut tokens, variables, depth + 1)? {
        (first, Close::End) => Ok((first, Vec::new())),
        (_, Close::File) => Err(wrong("has no {{end}}")),
        (first, Close::Else) => match nodes(&mut tokens, variables, depth + 1)? {
            (second, Close::End) => Ok((first, second)),
            _ => Err(wrong("has no {{end}}")),
        },
    }
}

fn operand(text: &str, variables: &[String]) -> Option<Operand> {
    match text {
        "." => Some(Operand::Dot),
        ".PodCIDR" => Some(Operand::PodCidr),
        ".PodCIDRRanges" => Some(Operand::Ranges),
        ".Routes" => Some(Operand::Routes),
        _ => variable(text).filter(|name| variables.contains(name)).map(Operand::Variable),
    }
}

/// The name of a variable.
fn variable(text: &str) -> Option<String> {
    let name = text.strip_prefix('$')?;
    let plain = name.chars().all(|sign| sign.is_ascii_alphanumeric() || sign == '_');
    (plain && !name.is_empty()).then(|| name.to_owned())
}

/// What names mean at one place of a template.
struct Scope<'a> {
    values: &'a Values,
    dot: Value,
    variables: HashMap<String, Value>,
}

impl Scope<'_> {
    fn write(&mut self, nodes: &[Node], out: &mut String) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(operand) => match self.value(operand)? {
                    Value::Text(text) => out.push_str(&text),
                    Value::Number(number) => out.push_str(&number.to_string()),
                    Value::List(_) | Value::All => return Err(Error::invalid("a list cannot be printed: use range")),
                },
                Node::If { condition, then, otherwise } => {
                    let yes = match self.value(condition)? {
                        Value::Text(text) => !text.is_empty(),
                        Value::List(list) => !list.is_empty(),
                        Value::Number(number) => number != 0,
                        Value::All => true,
                    };
                    self.write(if yes { then } else { otherwise }, out)?;
                }
                Node::Range { over, index, element, body, otherwise } => {
                    let Value::List(list) = self.value(over)? else {
                        return Err(Error::invalid("a range over something that is no list"));
                    };
                    if list.is_empty() {
                        self.write(otherwise, out)?;
                    }
                    for (at, text) in list.into_iter().enumerate() {
                        let mut inner = Scope {
                            values: self.values,
                            dot: Value::Text(text.clone()),
                            variables: self.variables.clone(),
                        };
                        inner.variables.extend(index.clone().map(|name| (name, Value::Number(at))));
                        inner.variables.extend(element.clone().map(|name| (name, Value::Text(text))));
                        inner.write(body, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn value(&self, operand: &Operand) -> Result<Value> {
        let field = |value: Value| match self.dot {
            Value::All => Ok(value),
            // As in Go: inside a range the dot is the element, and an element has no fields.
            _ => Err(Error::invalid("a field is used inside a range, where the dot is an element")),
        };
        match operand {
            Operand::Dot => Ok(self.dot.clone()),
            Operand::Variable(name) => {
                self.variables.get(name).cloned().ok_or_else(|| Error::invalid(format!("${name} is not set")))
            }
            Operand::PodCidr => field(Value::Text(self.values.pod_cidr.clone())),
            Operand::Ranges => field(Value::List(self.values.ranges.clone())),
            Operand::Routes => field(Value::List(self.values.routes.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values {
            pod_cidr: "10.0.0.0/24".into(),
            ranges: vec!["10.0.0.0/24".into(), "fd00::/64".into()],
            routes: vec!["0.0.0.0/0".into(), "::/0".into()],
        }
    }

    fn rendered(text: &str) -> String {
        Template::parse(text).unwrap().render(&values()).unwrap()
    }

    #[test]
    fn the_documented_template_becomes_a_configuration() {
        let text = r#"{"ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
"routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}], "one": "{{.PodCIDR}}"}"#;
        let made: serde_json::Value = serde_json::from_str(&rendered(text)).unwrap();
        let expected = serde_json::json!({
            "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            "one": "10.0.0.0/24",
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn white_space_else_and_comments() {
        assert_eq!(rendered("a {{- .PodCIDR -}} b"), "a10.0.0.0/24b");
        assert_eq!(rendered("{{/* {{no}} */}}x{{- /* y */ -}} z"), "xz");
        assert_eq!(rendered("{{range .Routes}}<{{.}}>{{end}}"), "<0.0.0.0/0><::/0>");
        assert_eq!(rendered("{{range $r := .Routes}}{{$r}};{{end}}"), "0.0.0.0/0;::/0;");
        let none = Values::default();
        let text = "{{if .PodCIDR}}yes{{else}}no{{end}} {{range .Routes}}x{{else}}none{{end}}";
        assert_eq!(Template::parse(text).unwrap().render(&none).unwrap(), "no none");
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        for (text, part) in [
            ("\n\n{{.PodCIDRs}}", "line 3"),
            ("{{printf \"%s\" .PodCIDR}}", "printf"),
            ("{{.PodCIDR", "without end"),
            ("{{/* {{end}}", "without end"),
            ("{{end}}", "ends nothing"),
            ("{{else}}", "without an"),
            ("{{if .PodCIDR}}x", "no {{end}}"),
            ("{{range $i, $j, $k := .Routes}}{{end}}", "too many"),
            ("{{range $i, x := .Routes}}{{end}}", "no variable"),
            ("{{range .Routes}}{{end}}{{$i}}", "$i"),
            ("{{range $i := .Routes}}{{end}}{{$i}}", "$i"),
            ("{{template \"x\"}}", "template"),
            ("{{}}", "not understood"),
        ] {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Template::parse(&"{{if .Routes}}".repeat(1000)).is_err());
        for text in ["{{.Routes}}", "{{.}}", "{{range .PodCIDR}}{{end}}", "{{range .Routes}}{{.PodCIDR}}{{end}}"] {
            assert!(Template::parse(text).unwrap().render(&values()).is_err(), "{text}");
        }
    }
}
