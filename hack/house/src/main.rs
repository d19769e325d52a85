//! Prints every broken rule of the house and fails if there is one.

use std::path::PathBuf;
use std::process::ExitCode;

use windlass_house::{Workspace, violations};

fn main() -> anyhow::Result<ExitCode> {
    let root = std::env::args_os().nth(1).map_or_else(Workspace::own_root, PathBuf::from);
    let found = violations(&Workspace::read(&root)?)?;
    for line in &found {
        println!("{line}");
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
