//! Makes the gRPC server of the Open Inference Protocol from its description; no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/open_inference.proto");
    let files = protox::compile(["proto/open_inference.proto"], ["proto"])?;
    // Tensors are taken as they lie in the message, not copied out of it.
    let bytes = ".inference.ModelInferRequest.raw_input_contents";
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::open_inference::codec::BoundedCodec")
        .bytes(bytes)
        .compile_fds(files)?;
    Ok(())
}
