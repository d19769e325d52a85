//! Turns `protos/cri.proto` into Rust, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos/cri.proto");
    let schema = protox::compile(["cri.proto"], ["protos"])?;
    tonic_prost_build::configure()
        .build_transport(true)
        .build_client(true)
        .build_server(true)
        // Holds credentials: its Debug is written by hand.
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(schema)?;
    Ok(())
}
