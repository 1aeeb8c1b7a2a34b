//! Compiles the protos with protox, so that no `protoc` is needed on the build host.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "gridfaas/credit/v1/access_service.proto",
        "gridfaas/credit/v1/account_service.proto",
        "gridfaas/credit/v1/ledger_service.proto",
        "gridfaas/credit/v1/session_service.proto",
        "gridfaas/container/v1/container_service.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let descriptor_path = PathBuf::from(std::env::var("OUT_DIR")?).join("gridfaas.descriptors.bin");
    std::fs::write(&descriptor_path, prost_bytes(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}

fn prost_bytes(descriptors: &protox::prost_reflect::prost_types::FileDescriptorSet) -> Vec<u8> {
    use protox::prost_reflect::prost::Message as _;
    descriptors.encode_to_vec()
}
