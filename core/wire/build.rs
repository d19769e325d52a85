//! Generates the extension service and its messages from `protos/windlass.proto`, without `protoc`.

use std::path::PathBuf;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=protos/windlass.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?);
    Codegen::new()
        .out_dir(&out)
        .input("protos/windlass.proto")
        .include("protos")
        .rust_protobuf()
        // Reflection would be dead weight in every shim.
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true))
        .customize(Customize { async_all: true, ..Customize::default() })
        .run()?;
    for name in ["windlass.rs", "windlass_ttrpc.rs"] {
        let path = out.join(name);
        // `include!` takes no inner attributes.
        let text = fs::read_to_string(&path)?;
        let kept: String = text.lines().filter(|line| !line.starts_with("#!") && !line.starts_with("//!")).fold(
            String::with_capacity(text.len()),
            |mut kept, line| {
                kept.push_str(line);
                kept.push('\n');
                kept
            },
        );
        fs::write(&path, kept)?;
    }
    Ok(())
}
