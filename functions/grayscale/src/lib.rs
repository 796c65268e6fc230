//! `grayscale`: makes a picture grey. JPEG and PNG become PNG; GIF stays GIF, with all its pictures.
//!
//! [`grey`] is all there is to it. As a component of Shunt's contract it is `grayscale.wasm`; as a program from
//! standard input to standard output (`main.rs`) it is `grayscale-stdio.wasm`, or a native one to measure with.

mod gif;

use picture::{Colour, Format, Picture};

/// The PNG filter of a row that stands as what it differs from the one above.
const UP: u8 = 2;
/// Bytes that are filtered at a time.
const ROWS_BYTES: usize = 16 << 10;

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

/// The picture as a PNG file: one chunk of pixels, each row as what it differs from the one above, so that they are
/// filtered in one go, and compressed to where they stay. A tenth larger than the smallest that could be had, in a tenth
/// of its time.
fn written(picture: &Picture) -> Result<Vec<u8>, String> {
    let broken = |error: std::io::Error| format!("the picture cannot be written: {error}");
    let (kind, channels) = if picture.colour == Colour::GreyAlpha { (4, 2) } else { (0, 1) };
    let row = (picture.width as usize * channels).max(1);
    let mut file = Vec::with_capacity(picture.pixels.len() + 1024);
    file.extend_from_slice(b"\x89PNG\r\n\x1a\n");
    let mut head = [0, 0, 0, 0, 0, 0, 0, 0, 8, kind, 0, 0, 0];
    head[..4].copy_from_slice(&picture.width.to_be_bytes());
    head[4..8].copy_from_slice(&picture.height.to_be_bytes());
    chunk(&mut file, *b"IHDR", |file| {
        file.extend_from_slice(&head);
        Ok(())
    })
    .map_err(broken)?;
    chunk(&mut file, *b"IDAT", |file| {
        let mut compressor = fdeflate::Compressor::new(file)?;
        let first = vec![0; row];
        let mut above = first.as_slice();
        // As many rows at a time as stay in the fastest memory.
        let rows = (ROWS_BYTES / (row + 1)).max(1);
        let mut filtered = Vec::with_capacity(rows * (row + 1));
        for some in picture.pixels.chunks(rows * row) {
            filtered.clear();
            for pixels in some.chunks_exact(row) {
                filtered.push(UP);
                filtered.extend(pixels.iter().zip(above).map(|(one, above)| one.wrapping_sub(*above)));
                above = pixels;
            }
            compressor.write_data(&filtered)?;
        }
        compressor.finish().map(|_| ())
    })
    .map_err(broken)?;
    chunk(&mut file, *b"IEND", |_| Ok(())).map_err(broken)?;
    Ok(file)
}

/// Appends a chunk: its length, its kind, what `content` appends, their checksum.
fn chunk(
    file: &mut Vec<u8>,
    kind: [u8; 4],
    content: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let begin = file.len();
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&kind);
    content(file)?;
    let length = u32::try_from(file.len() - begin - 8).map_err(std::io::Error::other)?;
    if let Some(place) = file.get_mut(begin..begin + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    let sum = crc32fast::hash(file.get(begin + 4..).unwrap_or_default());
    file.extend_from_slice(&sum.to_be_bytes());
    Ok(())
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
