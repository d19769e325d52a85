//! A label in its parts, and the rules for what may be asked for.

use std::fmt::{self, Display, Formatter};

use windlass_cri_api::v1;
use windlass_model::Result;

use crate::container::require;

/// The longest part of a label, in bytes; the kernel takes a page for the whole.
const LONGEST: usize = 255;
/// How many digits a sensitivity or a category has at most.
const DIGITS: usize = 4;

/// A label: `user:role:type[:level]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Context {
    /// SELinux's user.
    pub(super) user: String,
    /// The role.
    pub(super) role: String,
    /// The type, which the policy's rules are about.
    pub(super) kind: String,
    /// Sensitivity and categories; empty where the policy has none.
    pub(super) level: String,
}

impl Context {
    /// The parts of a label; `None` where it is none.
    pub(super) fn parse(label: &str) -> Option<Self> {
        let mut parts = label.splitn(4, ':').map(str::to_owned);
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = ![&user, &role, &kind].iter().any(|part| part.is_empty());
        whole.then(|| Self { user, role, kind, level: parts.next().unwrap_or_default() })
    }

    /// With the parts that are asked for.
    pub(super) fn with(mut self, asked: Option<&v1::SeLinuxOption>) -> Self {
        let Some(asked) = asked else { return self };
        let parts = [
            (&mut self.user, &asked.user),
            (&mut self.role, &asked.role),
            (&mut self.kind, &asked.r#type),
            (&mut self.level, &asked.level),
        ];
        for (part, asked) in parts.into_iter().filter(|(_, asked)| !asked.is_empty()) {
            part.clone_from(asked);
        }
        self
    }
}

impl Display for Context {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { user, role, kind, level } = self;
        match level.as_str() {
            "" => write!(f, "{user}:{role}:{kind}"),
            level => write!(f, "{user}:{role}:{kind}:{level}"),
        }
    }
}

/// Refuses options that cannot be part of a label, on every machine; `prefix` is where the field is.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the field.
pub(crate) fn check(asked: Option<&v1::SeLinuxOption>, prefix: &str) -> Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    for (field, text) in [("user", &asked.user), ("role", &asked.role), ("type", &asked.r#type)] {
        let field = format!("{prefix}linux.security_context.selinux_options.{field}");
        require(text.len() <= LONGEST && name(text), &field, "is no part of an SELinux label")?;
    }
    let level = asked.level.is_empty() || (asked.level.len() <= LONGEST && is_range(&asked.level));
    let field = format!("{prefix}linux.security_context.selinux_options.level");
    require(level, &field, "is no SELinux level, such as s0:c1,c2")
}

/// True for a level or two with a dash between them.
fn is_range(text: &str) -> bool {
    let mut levels = text.splitn(2, '-');
    levels.all(is_level)
}

fn is_level(text: &str) -> bool {
    let (sensitivity, categories) = match text.split_once(':') {
        None => (text, None),
        Some((sensitivity, categories)) => (sensitivity, Some(categories)),
    };
    let listed = |list: &str| list.split(',').all(|one| one.splitn(2, '.').all(|end| is_number(end, 'c')));
    is_number(sensitivity, 's') && categories.is_none_or(listed)
}

fn is_number(text: &str, letter: char) -> bool {
    let digits = text.strip_prefix(letter).unwrap_or_default();
    (1..=DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_three_parts_or_four() {
        for text in ["u:r:t", "u:r:t:s0", "u:r:t:s0-s15:c0.c1023"] {
            assert_eq!(Context::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Context::parse("u:r:t:s0:c1,c2").unwrap().level, "s0:c1,c2");
        for text in ["", "u", "u:r", "u::t", "kernel"] {
            assert_eq!(Context::parse(text), None, "{text}");
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let option = |change: fn(&mut v1::SeLinuxOption)| {
            let mut option = v1::SeLinuxOption::default();
            change(&mut option);
            option
        };
        for (field, wrong) in [
            (".user", option(|o| o.user = "a:b".into())),
            (".role", option(|o| o.role = "a b".into())),
            (".type", option(|o| o.r#type = "a\n".into())),
            (".level", option(|o| o.level = "0".into())),
            (".level", option(|o| o.level = "s0:c1,".into())),
            (".level", option(|o| o.level = "s0:c1.c2.c3".into())),
            (".level", option(|o| o.level = "s0:c12345".into())),
            (".level", option(|o| o.level = "s0:".into())),
            (".level", option(|o| o.level = "s0-s1-s2".into())),
        ] {
            let error = check(Some(&wrong), "config.").unwrap_err();
            let named = format!("config.linux.security_context.selinux_options{field}");
            assert!(error.to_string().contains(&named), "{error}");
        }
        for level in ["", "s0", "s0:c1", "s0:c1,c2", "s0-s1:c0.c1023", "s0-s0:c1,c3.c9,c20"] {
            let mut right = option(|o| o.r#type = "svirt_lxc_net_t".into());
            right.level = level.into();
            check(Some(&right), "").unwrap();
        }
    }
}
