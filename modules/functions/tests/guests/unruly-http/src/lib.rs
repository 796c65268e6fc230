//! A `wasi:http/proxy` component that does what the path says.

use std::{hint::black_box, io::Write};

use wasip2::http::types::{ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Unruly;

wasip2::http::proxy::export!(Unruly);

impl wasip2::exports::http::incoming_handler::Guest for Unruly {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        match path.as_str() {
            "/loop" => spin(),
            "/silent" => {}
            "/trap" => core::arch::wasm32::unreachable(),
            "/error" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("as told".to_owned())))),
            "/half" => drop(begun(out, 200).0.write_all(b"half")),
            "/half-then-trap" => {
                let (mut stream, _body) = begun(out, 200);
                stream.write_all(b"half").unwrap();
                core::arch::wasm32::unreachable()
            }
            "/much" => {
                let (mut stream, body) = begun(out, 200);
                while stream.write_all(&[b'x'; 4096]).is_ok() {}
                drop(stream);
                drop(OutgoingBody::finish(body, None));
            }
            _ => {
                let text = format!(
                    "{:?} {:?} {} {} bytes",
                    request.method(),
                    request.authority(),
                    path,
                    bytes_of(&request)
                );
                let (mut stream, body) = begun(out, 418);
                stream.write_all(text.as_bytes()).unwrap();
                stream.flush().unwrap();
                drop(stream);
                OutgoingBody::finish(body, None).unwrap();
            }
        }
    }
}

fn begun(out: ResponseOutparam, status: u16) -> (wasip2::io::streams::OutputStream, OutgoingBody) {
    let headers = Fields::new();
    headers.set("content-type", &[b"text/plain".to_vec()]).unwrap();
    headers.append("x-one", b"1").unwrap();
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    (body.write().unwrap(), body)
}

fn bytes_of(request: &IncomingRequest) -> usize {
    let body = request.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut all = 0;
    while let Ok(bytes) = stream.blocking_read(1 << 16) {
        all += bytes.len();
    }
    all
}

fn spin() {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}
