//! Mounts of a snapshot, as a table or as commands that perform them.

use anyhow::Result;
use containerd_client::types::Mount as Word;
use serde::Serialize;

use crate::output::{Output, Row};

#[derive(Debug, Serialize)]
struct Mount {
    kind: String,
    source: String,
    target: String,
    options: Vec<String>,
}

impl Row for Mount {
    const HEADS: &'static [&'static str] = &["TYPE", "SOURCE", "OPTIONS"];

    fn cells(&self) -> Vec<String> {
        vec![self.kind.clone(), self.source.clone(), self.options.join(",")]
    }
}

/// Tells `mounts`; as commands, where they are to be done at `target`.
pub(super) fn tell(mounts: Vec<Word>, target: Option<&str>, output: &Output) -> Result<()> {
    let one = |word: Word| Mount { kind: word.r#type, source: word.source, target: word.target, options: word.options };
    let mounts: Vec<Mount> = mounts.into_iter().map(one).collect();
    match target {
        Some(target) if !output.is_json() => {
            let commands: Vec<String> = mounts.iter().map(|mount| command(mount, target)).collect();
            output.raw((commands.join("\n") + "\n").as_bytes())
        }
        _ => output.rows(&mounts),
    }
}

fn command(mount: &Mount, target: &str) -> String {
    let target = match mount.target.as_str() {
        "" => quoted(target),
        inside => quoted(&format!("{}/{}", target.trim_end_matches('/'), inside.trim_start_matches('/'))),
    };
    let options =
        if mount.options.is_empty() { String::new() } else { format!(" -o {}", quoted(&mount.options.join(","))) };
    format!("mount -t {} {} {target}{options}", quoted(&mount.kind), quoted(&mount.source))
}

/// A word as a shell takes it whole.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=,:+@".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_a_shell() {
        let mount = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["lowerdir=/a:/b".into(), "ro".into()],
        };
        assert_eq!(command(&mount, "/mnt/x"), "mount -t overlay overlay /mnt/x -o lowerdir=/a:/b,ro");
        let odd = Mount { source: "/it's; rm".into(), kind: "bind".into(), target: "in".into(), options: Vec::new() };
        assert_eq!(command(&odd, "/mnt/"), r"mount -t bind '/it'\''s; rm' /mnt/in");
    }
}
