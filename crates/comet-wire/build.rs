//! Compiles the `.proto` files without a protoc: messages, services, and the descriptors that gRPC
//! reflection serves.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const FILES: [&str; 5] = [
    "goim/comet.proto",
    "goim/logic.proto",
    "comet/v1/push.proto",
    "comet/v1/inspect.proto",
    "comet/v1/node.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // With it every client has a `connect` of its own; the one of goim.logic is a call.
        .build_transport(false)
        .bytes(".goim.protocol.Proto.body")
        .btree_map(".goim.comet.Ledger")
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
