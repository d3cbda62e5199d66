//! Compiles the contract of the push API to a client, and nothing else: the bench is a caller like any
//! other and shares no code with the server.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let contract = "../crates/comet-control/proto";
    println!("cargo::rerun-if-changed={contract}");
    let descriptors = protox::compile(["goim/comet.proto"], [contract])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".goim.protocol.Proto.body")
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
