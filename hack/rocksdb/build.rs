//! Copies the RocksDB that the dependency has built to the folder named by WINDLASS_ROCKSDB_DIR.

use std::env;
use std::path::Path;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-env-changed=WINDLASS_ROCKSDB_DIR");
    let (Some(to), Some(from)) = (env::var_os("WINDLASS_ROCKSDB_DIR"), env::var_os("DEP_ROCKSDB_OUT_DIR")) else {
        return Ok(());
    };
    let library = Path::new(&to).join("librocksdb.a");
    let fresh = library.with_extension("new");
    std::fs::create_dir_all(&to)?;
    std::fs::copy(Path::new(&from).join("librocksdb.a"), &fresh)?;
    std::fs::rename(fresh, library)
}
