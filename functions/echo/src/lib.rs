//! `echo`: answers what it is sent, as it was sent. The smallest function of Shunt's own contract.
#![allow(missing_docs, reason = "what the bindings generator makes has no comments")]

wit_bindgen::generate!({
    path: "../../modules/functions/wit",
    world: "shunt:functions/function",
    generate_all,
});

use exports::shunt::functions::handler::{Guest, Request, Response};

struct Echo;

impl Guest for Echo {
    fn handle(request: Request) -> Result<Response, String> {
        Ok(Response { content_type: request.content_type, body: request.body })
    }
}

export!(Echo);
