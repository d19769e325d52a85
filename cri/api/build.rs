//! Turns `protos/` into Rust, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["cri.proto", "nri.proto", "ttrpc.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=protos/{file}");
    }
    let schema = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure()
        .build_transport(true)
        .build_client(true)
        .build_server(true)
        // Holds credentials: its Debug is written by hand.
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(schema)?;
    Ok(())
}
