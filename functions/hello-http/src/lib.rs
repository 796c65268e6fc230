//! `hello-http`: a function that speaks HTTP itself, in the standard form `wasi:http/proxy`; nothing in it knows of
//! Shunt, and it runs unchanged in other hosts. It greets who asks, and says what was asked.
#![allow(missing_docs, reason = "the export macro makes what has no comments")]

use std::io::Write;

use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let (status, text) = match request.method() {
            Method::Get | Method::Head | Method::Post => (200, greeting(&request)),
            _ => (405, "GET, HEAD and POST are allowed.\n".to_owned()),
        };
        let headers = Fields::new();
        // Only a header that no one may set is refused; this one anyone may.
        headers.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]).ok();
        let response = OutgoingResponse::new(headers);
        response.set_status_code(status).ok();
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(out, Ok(response));
        if let Ok(mut stream) = body.write() {
            // Who asked may have gone.
            drop(stream.write_all(text.as_bytes()).and_then(|()| Write::flush(&mut stream)));
        }
        drop(OutgoingBody::finish(body, None));
    }
}

/// What is answered, in one line.
fn greeting(request: &IncomingRequest) -> String {
    let path = request.path_with_query().unwrap_or_default();
    let agent = request.headers().get("user-agent").into_iter().next();
    let agent = agent.map_or_else(|| "you".to_owned(), |agent| String::from_utf8_lossy(&agent).into_owned());
    format!("Hello, {agent}, at {path}!\n")
}
