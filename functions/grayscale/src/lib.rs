//! `grayscale`: makes a picture grey. JPEG and PNG become PNG; GIF stays GIF, with all its pictures.
//!
//! [`grey`] is all there is to it. As a component of Shunt's contract it is `grayscale.wasm`; as a program from
//! standard input to standard output (`main.rs`) it is `grayscale-stdio.wasm`, or a native one to measure with.

mod gif;

use picture::{Colour, Format, Picture};

/// The grey picture as a file, and its content type; or a sentence that says what is wrong.
pub fn grey(file: &[u8]) -> Result<(Vec<u8>, &'static str), String> {
    let picture = match Format::of(file) {
        Some(Format::Jpeg) => picture::jpeg(file, true)?,
        Some(Format::Png) => picture::png(file)?,
        Some(Format::Gif) => return Ok((gif::grey(file)?, "image/gif")),
        None => return Err("this is neither a JPEG nor a PNG nor a GIF file".to_owned()),
    };
    Ok((written(&picture.into_grey())?, "image/png"))
}

/// The picture as a PNG file.
fn written(picture: &Picture) -> Result<Vec<u8>, String> {
    let broken = |error: png::EncodingError| format!("the picture cannot be written: {error}");
    let mut file = Vec::with_capacity(picture.pixels.len() / 2 + 1024);
    let mut encoder = png::Encoder::new(&mut file, picture.width, picture.height);
    let colour = if picture.colour == Colour::GreyAlpha { png::ColorType::GrayscaleAlpha } else { png::ColorType::Grayscale };
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    // A tenth larger than the smallest that could be had, in a tenth of its time.
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Up);
    let mut writer = encoder.write_header().map_err(broken)?;
    writer.write_image_data(&picture.pixels).map_err(broken)?;
    writer.finish().map_err(broken)?;
    Ok(file)
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
#[allow(missing_docs, clippy::pedantic, reason = "what the bindings generator makes")]
mod component {
    wit_bindgen::generate!({
        path: "../../modules/functions/wit",
        world: "shunt:functions/function",
        generate_all,
    });

    use exports::shunt::functions::handler::{Guest, Request, Response};

    struct Grayscale;

    impl Guest for Grayscale {
        fn handle(request: Request) -> Result<Response, String> {
            let (body, content_type) = super::grey(&request.body)?;
            Ok(Response { content_type: content_type.to_owned(), body })
        }
    }

    export!(Grayscale);
}
