//! The rules of the house, checked by reading the workspace: who may use whom, and how a file looks.
//!
//! What a rule is about stands in its module. Each check takes the workspace and answers with one line per broken rule,
//! so that a person sees all of them at once; `tests/house.rs` wants none, and plants each fault to see it found.

mod arrows;
mod files;
mod proofs;
mod source;
mod workspace;

pub use arrows::{ARROWS, Arrow};
pub use workspace::{Crate, Workspace};

/// Everything that is wrong with the workspace, one line each.
pub fn violations(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut found = arrows::manifests(workspace);
    found.extend(arrows::lints(workspace));
    for member in &workspace.crates {
        for file in member.files()? {
            let text = std::fs::read_to_string(&file)?;
            let shown = file.strip_prefix(&workspace.root).unwrap_or(&file).display().to_string();
            found.extend(arrows::uses(workspace, member, &shown, &text));
            found.extend(files::check(&shown, &text));
        }
    }
    found.extend(proofs::check(&workspace.root)?);
    Ok(found)
}
