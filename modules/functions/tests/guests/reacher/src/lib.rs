//! A function that reaches for all there is, as its caller tells it: one order a line, one answer a line. Tests have it
//! reach beyond its grants.

wit_bindgen::generate!({
    path: "../../../wit",
    world: "shunt:functions/function",
    generate_all,
});

mod older {
    wit_bindgen::generate!({
        path: "../../../wit/deps/keyvalue-draft",
        world: "wasi:keyvalue/imports",
        generate_all,
    });
}

use std::fmt::Debug;

use exports::shunt::functions::handler::{Guest, Request, Response};
use older::wasi::keyvalue as draft;
use shunt::functions::{events, log, state};
use wasi::{
    keyvalue0_2_0_draft2::{atomics, batch, store},
    nn::{errors, graph, tensor},
};
use wasip2::http::{outgoing_handler, types as http};

struct Reacher;

impl Guest for Reacher {
    fn handle(request: Request) -> Result<Response, String> {
        let orders = String::from_utf8(request.body).map_err(|error| error.to_string())?;
        let answers: Vec<String> = orders.lines().map(obey).collect();
        Ok(Response { content_type: "text/plain".to_owned(), body: answers.join("\n").into_bytes() })
    }
}

export!(Reacher);

fn obey(order: &str) -> String {
    let words: Vec<&str> = order.split(' ').collect();
    match reach(&words) {
        Ok(answer) => answer,
        Err(error) => format!("error: {error}"),
    }
}

/// The value that a word stands for: itself, or `*1000` for so many bytes.
fn value(word: &str) -> Vec<u8> {
    match word.strip_prefix('*') {
        Some(count) => vec![b'x'; count.parse().unwrap_or(0)],
        None => word.as_bytes().to_vec(),
    }
}

fn text(value: Option<Vec<u8>>) -> String {
    value.map_or("none".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}

fn say(error: impl Debug) -> String {
    format!("{error:?}")
}

fn reach(words: &[&str]) -> Result<String, String> {
    let number = |word: &str| word.parse::<i64>().map_err(say);
    match words {
        ["open", name] => store::open(name).map(|_| "opened".to_owned()).map_err(say),
        ["open"] => store::open("").map(|_| "opened".to_owned()).map_err(say),
        ["state-get", key] => state::get(key).map_err(say).map(|entry| {
            entry.map_or("none".to_owned(), |entry| format!("{} {}", text(Some(entry.value)), entry.etag))
        }),
        ["state-set", key, word] => state::set(key, &value(word), None).map_err(say),
        ["state-set", key, word, etag] => state::set(key, &value(word), Some(etag)).map_err(say),
        ["state-delete", key] => state::delete(key, None).map(|was| was.to_string()).map_err(say),
        ["state-delete", key, etag] => state::delete(key, Some(etag)).map(|was| was.to_string()).map_err(say),
        ["state-keys", prefix] => state::keys(prefix, None).map(|keys| keys.join(",")).map_err(say),
        ["publish", topic, kind, word] => {
            events::publish(topic, kind, &value(word)).map(|()| "published".to_owned()).map_err(say)
        }
        ["log", times, rest @ ..] => {
            let line = rest.join(" ");
            (0..number(times)?).for_each(|_| log::log(log::Level::Info, &line));
            Ok("logged".to_owned())
        }
        ["load-bytes"] => match graph::load(&[vec![0; 16]], graph::GraphEncoding::Onnx, graph::ExecutionTarget::Cpu) {
            Ok(_) => Ok("loaded".to_owned()),
            Err(error) => Err(nn(&error)),
        },
        ["load", model] => graph::load_by_name(model).map(|_| "loaded".to_owned()).map_err(|error| nn(&error)),
        ["compute", model, inputs @ ..] => compute(model, inputs),
        ["tensor", bytes] => {
            let bytes = number(bytes)? as usize;
            let made = tensor::Tensor::new(&[bytes as u32], tensor::TensorType::U8, &vec![0; bytes]);
            Ok(format!("{:?}", made.dimensions()))
        }
        ["http", method, url] => request(method, url),
        ["old", rest @ ..] => older_draft(rest),
        _ => newer_draft(words),
    }
}

fn newer_draft(words: &[&str]) -> Result<String, String> {
    let bucket = store::open("default").map_err(say)?;
    match words {
        ["get", key] => bucket.get(key).map(text).map_err(say),
        ["set", key, word] => bucket.set(key, &value(word)).map(|()| "set".to_owned()).map_err(say),
        ["delete", key] => bucket.delete(key).map(|()| "deleted".to_owned()).map_err(say),
        ["exists", key] => bucket.exists(key).map(|there| there.to_string()).map_err(say),
        ["list"] => {
            let (mut keys, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let page = bucket.list_keys(cursor.as_deref()).map_err(say)?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    return Ok(if keys.len() > 20 { keys.len().to_string() } else { keys.join(",") });
                }
            }
        }
        ["fill", count] => {
            let count: usize = count.parse().map_err(say)?;
            for begin in (0..count).step_by(500) {
                let some = (begin..count.min(begin + 500)).map(|number| (format!("key-{number:06}"), vec![b'x']));
                batch::set_many(&bucket, &some.collect::<Vec<_>>()).map_err(say)?;
            }
            Ok("filled".to_owned())
        }
        ["increment", key, delta] => {
            let delta = delta.parse().map_err(say)?;
            atomics::increment(&bucket, key, delta).map(|sum| sum.to_string()).map_err(say)
        }
        // Counts up by compare and swap, until it went well so many times.
        ["count", key, times] => {
            for _ in 0..times.parse::<u32>().map_err(say)? {
                let mut cas = atomics::Cas::new(&bucket, key).map_err(say)?;
                loop {
                    let before = cas.current().map_err(say)?.map_or(0, |value| {
                        String::from_utf8_lossy(&value).parse::<u64>().unwrap_or(0)
                    });
                    match atomics::swap(cas, (before + 1).to_string().as_bytes()) {
                        Ok(()) => break,
                        Err(atomics::CasError::CasFailed(again)) => cas = again,
                        Err(atomics::CasError::StoreError(error)) => return Err(say(error)),
                    }
                }
            }
            bucket.get(key).map(text).map_err(say)
        }
        // Somebody else sets the value between the look and the swap.
        ["lose", key] => {
            let cas = atomics::Cas::new(&bucket, key).map_err(say)?;
            bucket.set(key, b"theirs").map_err(say)?;
            match atomics::swap(cas, b"ours") {
                Ok(()) => Ok("swapped".to_owned()),
                Err(atomics::CasError::CasFailed(again)) => {
                    let seen = again.current().map_err(say)?;
                    atomics::swap(again, b"ours").map_err(say)?;
                    Ok(format!("lost to {}", text(seen)))
                }
                Err(atomics::CasError::StoreError(error)) => Err(say(error)),
            }
        }
        ["get-many", keys @ ..] => {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let found = batch::get_many(&bucket, &keys).map_err(say)?;
            Ok(found.into_iter().map(|one| text(one.map(|(_, value)| value))).collect::<Vec<_>>().join(","))
        }
        ["set-many", word, keys @ ..] => {
            let pairs: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), value(word))).collect();
            batch::set_many(&bucket, &pairs).map(|()| "set".to_owned()).map_err(say)
        }
        ["delete-many", keys @ ..] => {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            batch::delete_many(&bucket, &keys).map(|()| "deleted".to_owned()).map_err(say)
        }
        _ => Err(format!("no such order: {words:?}")),
    }
}

fn older_draft(words: &[&str]) -> Result<String, String> {
    let name = if let ["open", name] = words { name } else { "default" };
    let bucket = draft::store::open(name).map_err(say)?;
    match words {
        ["open", _] => Ok("opened".to_owned()),
        ["get", key] => bucket.get(key).map(text).map_err(say),
        ["set", key, word] => bucket.set(key, &value(word)).map(|()| "set".to_owned()).map_err(say),
        ["exists", key] => bucket.exists(key).map(|there| there.to_string()).map_err(say),
        ["delete", key] => bucket.delete(key).map(|()| "deleted".to_owned()).map_err(say),
        ["increment", key, delta] => {
            let delta = delta.parse().map_err(say)?;
            draft::atomics::increment(&bucket, key, delta).map(|sum| sum.to_string()).map_err(say)
        }
        ["list"] => {
            let (mut keys, mut cursor) = (Vec::new(), None);
            loop {
                let page = bucket.list_keys(cursor).map_err(say)?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    keys.dedup();
                    return Ok(if keys.len() > 20 { keys.len().to_string() } else { keys.join(",") });
                }
            }
        }
        ["cursor", cursor] => {
            bucket.list_keys(Some(cursor.parse().map_err(say)?)).map(|page| page.keys.join(",")).map_err(say)
        }
        ["get-many", keys @ ..] => {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let found = draft::batch::get_many(&bucket, &keys).map_err(say)?;
            Ok(found.into_iter().map(|one| text(one.map(|(_, value)| value))).collect::<Vec<_>>().join(","))
        }
        _ => Err(format!("no such order: {words:?}")),
    }
}

fn nn(error: &errors::Error) -> String {
    format!("{:?}: {}", error.code(), error.data())
}

/// Inputs as `name:u8:1x224x224x3`, with as many bytes as that says, or `name:u8:1x2:5` for so many.
fn compute(model: &str, inputs: &[&str]) -> Result<String, String> {
    let graph = graph::load_by_name(model).map_err(|error| nn(&error))?;
    let context = graph.init_execution_context().map_err(|error| nn(&error))?;
    let mut tensors = Vec::new();
    for input in inputs {
        let parts: Vec<&str> = input.split(':').collect();
        let [name, kind, shape, rest @ ..] = parts.as_slice() else { return Err(format!("no input: {input}")) };
        let (kind, size) = match *kind {
            "u8" => (tensor::TensorType::U8, 1),
            "f16" => (tensor::TensorType::Fp16, 2),
            "bf16" => (tensor::TensorType::Bf16, 2),
            "f64" => (tensor::TensorType::Fp64, 8),
            "i32" => (tensor::TensorType::I32, 4),
            "i64" => (tensor::TensorType::I64, 8),
            _ => (tensor::TensorType::Fp32, 4),
        };
        let shape: Result<Vec<u32>, _> = shape.split('x').map(str::parse).collect();
        let shape = shape.map_err(say)?;
        let whole = shape.iter().fold(size, |bytes: usize, length| bytes.wrapping_mul(*length as usize));
        let bytes = rest.first().map_or(Ok(whole), |bytes| bytes.parse()).map_err(say)?;
        tensors.push(((*name).to_owned(), tensor::Tensor::new(&shape, kind, &vec![0; bytes])));
    }
    let outputs = context.compute(tensors).map_err(|error| nn(&error))?;
    let told = outputs.iter().map(|(name, tensor)| {
        format!("{name} {:?} {:?} {}", tensor.ty(), tensor.dimensions(), tensor.data().len())
    });
    Ok(told.collect::<Vec<_>>().join("; "))
}

fn request(method: &str, url: &str) -> Result<String, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no url")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let request = http::OutgoingRequest::new(http::Fields::new());
    let method = match method {
        "GET" => http::Method::Get,
        "POST" => http::Method::Post,
        "CONNECT" => http::Method::Connect,
        other => http::Method::Other(other.to_owned()),
    };
    let scheme = match scheme {
        "http" => http::Scheme::Http,
        "https" => http::Scheme::Https,
        other => http::Scheme::Other(other.to_owned()),
    };
    request.set_method(&method).map_err(|()| "the method is refused")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "the scheme is refused")?;
    request.set_authority(Some(authority)).map_err(|()| "the authority is refused")?;
    request.set_path_with_query(Some(path)).map_err(|()| "the path is refused")?;
    if matches!(method, http::Method::Post) {
        let body = request.body().map_err(|()| "no body")?;
        let stream = body.write().map_err(|()| "no stream")?;
        stream.blocking_write_and_flush(b"posted").map_err(say)?;
        drop(stream);
        http::OutgoingBody::finish(body, None).map_err(say)?;
    }
    let future = outgoing_handler::handle(request, None).map_err(say)?;
    future.subscribe().block();
    let response = future.get().ok_or("no answer")?.map_err(|()| "no answer")?.map_err(say)?;
    let body = response.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no stream")?;
    let mut all = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(some) => all.extend(some),
            Err(wasip2::io::streams::StreamError::Closed) => break,
            Err(wasip2::io::streams::StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(format!("after {} bytes: {code:?}", all.len()));
            }
        }
    }
    let shown = if all.len() > 200 { format!("{} bytes", all.len()) } else { text(Some(all)) };
    Ok(format!("{} {shown}", response.status()))
}
