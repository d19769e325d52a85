//! A plugin that the daemon starts itself: it writes each question's method on a line of the file that its configuration
//! names, and gives each container a variable.

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Context, Result};
use prost::Message;
use windlass_test_e2e::nri::{self, Adjustment, Configure, Created, Descriptor, Variable};

fn main() -> Result<()> {
    let of = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let socket: i32 = of("NRI_PLUGIN_SOCKET")?.parse()?;
    let (index, name) = (of("NRI_PLUGIN_IDX")?, of("NRI_PLUGIN_NAME")?);
    let mut file = None;
    let variable = format!("PLUGIN_{index}");
    let decide = move |method: &str, payload: &[u8]| {
        if method == "Configure" {
            let configure = Configure::decode(payload).unwrap_or_default();
            file = OpenOptions::new().create(true).append(true).open(configure.config.trim()).ok();
        }
        if let Some(file) = &mut file {
            writeln!(file, "{method}").ok();
        }
        if method == "CreateContainer" {
            let env = vec![Variable { key: variable.clone(), value: "was here".to_owned() }];
            return nri::yes(&Created { adjust: Some(Adjustment { env, ..Default::default() }), update: vec![] });
        }
        Some(Ok(Vec::new()))
    };
    nri::run(Descriptor(socket), &index, &name, 0, Box::new(decide))
}
