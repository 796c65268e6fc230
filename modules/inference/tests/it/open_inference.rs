//! The Open Inference Protocol, asked by NVIDIA's own client and by hand.

use std::{collections::BTreeMap, process::Stdio};

use inference::InferenceSettings;
use reqwest::{Response, header::HeaderMap};
use serde_json::{Value, json};
use shunt_infer::{Backends, Element, Model, ModelStore, Tensor, Values};
use shunt_testkit::repo_root;
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream, process::Command, time::timeout};

use crate::yard::{LIMIT, MODELS, Yard, client, with_model};

/// The one input of the model `colours`, with the values that the Python client makes.
fn pixels() -> Vec<f32> {
    (0..3 * 16 * 16).map(|place| (place * 7 % 251) as f32).collect()
}

fn hex(values: &[f32]) -> String {
    values.iter().flat_map(|value| value.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

/// What a model answers without any protocol.
fn outputs(model: &str, inputs: Vec<Tensor>) -> Vec<Tensor> {
    let store = ModelStore::open(MODELS.as_ref()).unwrap();
    Model::load(&store, model, &Backends::installed()).unwrap().run(inputs).unwrap()
}

fn scores() -> Vec<f32> {
    let input = Tensor { shape: vec![1, 3, 16, 16], values: Values::F32(pixels()) };
    outputs("colours", vec![input]).remove(0).into_f32()
}

fn with_types() -> InferenceSettings {
    InferenceSettings { models: vec!["types".to_owned()], ..with_model("colours") }
}

/// Is the client installed? Where it is not, the test is passed over, but never in CI.
fn has_client() -> bool {
    let versions = std::fs::read_dir(repo_root().join(".shunt/venv/lib")).into_iter().flatten().flatten();
    let there =
        versions.map(|version| version.path().join("site-packages/tritonclient")).any(|path| path.is_dir());
    if !there {
        assert!(
            std::env::var_os("CI").is_none(),
            "tritonclient of PyPI is not installed: run scripts/setup test"
        );
        println!("tritonclient of PyPI is not installed: passed over. Run scripts/setup test.");
    }
    there
}

/// What the client told, by step.
async fn steps(yard: &Yard) -> BTreeMap<String, Value> {
    let mut command = Command::new(repo_root().join(".shunt/venv/bin/python"));
    command
        .arg(repo_root().join("tests/clients/python/open_inference_client.py"))
        .arg(yard.address.to_string());
    command.args(["colours", "picture", "scores", "1", "3", "16", "16"]);
    let output = command.stderr(Stdio::inherit()).kill_on_drop(true).output();
    let output = timeout(LIMIT * 2, output).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let steps = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    steps.map(|step| (step["step"].as_str().unwrap().to_owned(), step)).collect()
}

impl Yard {
    async fn ask(&self, path: &str, headers: HeaderMap, body: Vec<u8>) -> Response {
        let request = client().post(format!("http://{}{path}", self.address));
        request.headers(headers).body(body).send().await.unwrap()
    }

    /// Status and message of a request that is refused in the protocol's form.
    async fn refused(&self, path: &str, headers: &[(&'static str, &str)], body: &[u8]) -> (u16, String) {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let answer = self.ask(path, headers.collect(), body.to_vec()).await;
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
        (status, body["error"].as_str().unwrap_or_else(|| panic!("no error: {text}")).to_owned())
    }
}

fn colours(data: &Value) -> Value {
    json!({"inputs": [{"name": "picture", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": data}]})
}

#[tokio::test]
async fn nvidias_client_gets_the_same_bits_in_every_form_and_every_error_in_its_own() {
    if !has_client() {
        return;
    }
    let yard = Yard::start(with_types()).await;
    let steps = steps(&yard).await;
    let value = |step: &str| &steps.get(step).unwrap_or_else(|| panic!("no step {step}"))["value"];
    let expected = hex(&scores());
    for step in [
        "http binary",
        "http json",
        "http json to binary",
        "http binary to json",
        "http version",
        "http gzip",
        "http gzip json",
        "http deflate",
        "http deflate json",
        "grpc raw",
        "grpc output",
        "grpc typed",
    ] {
        let found = json!({"bytes": expected, "type": "float32", "shape": [1, 3]});
        assert_eq!(value(step), &found, "{step}: {}", steps[step]);
    }
    for (step, count) in [("http async values", 8), ("grpc async values", 8), ("grpc stream", 2)] {
        assert_eq!(value(step), &json!(vec![&expected; count]), "{step}");
    }
    let ids: Vec<_> = (0..8).map(|number| number.to_string()).collect();
    assert_eq!((value("http async"), value("grpc async")), (&json!(ids), &json!(ids)));
    for api in ["http", "grpc"] {
        let value = |step: &str| value(&format!("{api} {step}"));
        for step in ["live", "ready", "model ready"] {
            assert_eq!(value(step), true, "{api} {step}");
        }
        assert_eq!(value("server")["name"], "shunt-inference");
        assert!(value("server")["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
        let model = value("model");
        assert_eq!((&model["name"], &model["versions"]), (&json!("colours"), &json!(["1"])));
        assert_eq!(model["inputs"][0]["name"], "picture");
        assert_eq!(model["inputs"][0]["datatype"], "FP32");
        let classes = value("classes");
        assert_eq!(classes["shape"], json!([3]));
        for text in classes["texts"].as_array().unwrap() {
            let parts: Vec<_> = text.as_str().unwrap().split(':').collect();
            let index: usize = parts[1].parse().unwrap();
            assert_eq!(parts[2], ["red", "green", "blue"][index]);
            assert_eq!(parts[0], format!("{:.6}", scores()[index]));
        }
    }
    assert_eq!(value("http classes"), value("http classes json"));
    assert_eq!(value("http other version ready"), false);
    assert_eq!(value("http model")["inputs"][0]["shape"], json!([1, 3, 16, 16]));
    assert_eq!(value("grpc model")["inputs"][0]["shape"], json!(["1", "3", "16", "16"]));
    assert_eq!(value("http config")["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(value("grpc config")["config"]["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(value("http config")["max_batch_size"], 0);
    let index = json!({"name": "colours", "version": "1", "state": "READY", "reason": ""});
    assert_eq!(value("http index")[0], index);
    assert_eq!(value("grpc index")["models"][0]["state"], "READY");
    assert_eq!((&value("http answer")["id"], value("grpc answer")), (&json!("seven"), &json!("seven")));
    assert_eq!(value("http answer")["outputs"][0]["parameters"], json!({"binary_data_size": 12}));
    assert_eq!(value("grpc stream final"), true);
    assert!(value("http statistics")["model_stats"][0]["inference_count"].as_u64().unwrap() >= 16);
    assert!(value("http all statistics").as_array().unwrap().contains(&json!("types")));
    let counted = &value("grpc statistics")["model_stats"][0]["inference_stats"]["success"]["count"];
    assert!(counted.as_str().unwrap().parse::<u64>().unwrap() >= 27, "{counted}");

    for (step, status, part) in [
        (
            "unknown model",
            ["404", "StatusCode.NOT_FOUND"],
            "\"no-such-model\" is not served; served are colours",
        ),
        ("unknown version", ["404", "StatusCode.NOT_FOUND"], "has no version \"7\", only \"1\""),
        (
            "unknown input",
            ["400", "StatusCode.INVALID_ARGUMENT"],
            "no input \"x\"; it takes \"picture\" FP32",
        ),
        (
            "unknown output",
            ["400", "StatusCode.INVALID_ARGUMENT"],
            "no output \"x\"; it gives \"scores\" FP32",
        ),
        ("wrong shape", ["400", "StatusCode.INVALID_ARGUMENT"], "takes FP32 [1, 3, 16, 16], not FP32 [768]"),
        ("wrong type", ["400", "StatusCode.INVALID_ARGUMENT"], "not INT32 [1, 3, 16, 16]"),
        ("texts", ["400", "StatusCode.INVALID_ARGUMENT"], "texts (BYTES) are not taken"),
        ("load", ["501", "StatusCode.UNIMPLEMENTED"], "module's twin"),
        ("unload", ["501", "StatusCode.UNIMPLEMENTED"], "module's twin"),
        ("shared memory", ["501", "StatusCode.UNIMPLEMENTED"], "shared memory is not taken"),
        ("cuda", ["501", "StatusCode.UNIMPLEMENTED"], "shared memory is not taken"),
        ("trace", ["501", "StatusCode.UNIMPLEMENTED"], "not traced"),
        ("log", ["501", "StatusCode.UNIMPLEMENTED"], "setLogLevel"),
    ] {
        for (api, status) in ["http", "grpc"].into_iter().zip(status) {
            let step = &steps[&format!("{api} {step}")];
            assert_eq!(step["status"], status, "{step}");
            assert!(step["error"].as_str().unwrap().contains(part), "{step}");
        }
    }
    for (step, status, part) in [
        ("http unknown metadata", "404", "\"no such model\" is not served"),
        ("http nan", "400", "the value NaN at index 5 "),
        ("http sequence", "400", "keep no state"),
        ("http register", "501", "shared memory is not taken"),
        ("grpc large", "StatusCode.OUT_OF_RANGE", "16777216"),
    ] {
        assert_eq!(steps[step]["status"], status, "{}", steps[step]);
        assert!(steps[step]["error"].as_str().unwrap().contains(part), "{}", steps[step]);
    }
    let error = value("grpc stream errors")[0].as_str().unwrap();
    assert!(error.contains("\"no-such-model\" is not served"), "{error}");
    yard.end().await;
}

#[tokio::test]
async fn tensors_of_every_type_and_any_batch_go_through_in_json_and_binary() {
    let yard = Yard::start(with_types()).await;
    let (_, metadata) = yard.get("/v2/models/types").await.unwrap();
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let inputs = metadata["inputs"].as_array().unwrap();
    assert_eq!(inputs.len(), Element::ALL.len());
    assert!(inputs.iter().all(|input| input["shape"] == json!([-1, 2])), "{inputs:?}");
    let values = |datatype: &str| match datatype {
        "BOOL" => json!([true, false, false, true, true, true]),
        "UINT64" => json!([0, 1, 2, 3, 4, u64::MAX]),
        "INT64" => json!([i64::MIN, i64::MAX, -1, 0, 1, 2]),
        name if name.starts_with("UINT") => json!([0, 1, 127, 128, 254, 255]),
        name if name.starts_with("INT") => json!([-128, 127, 0, -1, 1, 2]),
        _ => json!([0.5, -0.25, 1024, -2048.0, 0, 0.125]),
    };
    let request = |datatype: &Value| values(datatype.as_str().unwrap());
    let request_inputs: Vec<Value> = inputs
        .iter()
        .map(|input| {
            let datatype = &input["datatype"];
            json!({"name": input["name"], "datatype": datatype, "shape": [3, 2], "data": request(datatype)})
        })
        .collect();
    let json_body = json!({"inputs": request_inputs}).to_string();
    let answer = yard.ask("/v2/models/types/infer", HeaderMap::new(), json_body.clone().into_bytes()).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    for output in answer["outputs"].as_array().unwrap() {
        assert_eq!(output["shape"], json!([3, 2]));
        let expected = request(&output["datatype"]);
        let pairs = output["data"].as_array().unwrap().iter().zip(expected.as_array().unwrap());
        let same = pairs
            .into_iter()
            .all(|(one, other)| one == other || one.as_f64().is_some() && one.as_f64() == other.as_f64());
        assert!(same, "{output} is not {expected:?}");
    }
    // All in the binary form: the bytes that come back are those that go in again.
    let wished: Value = serde_json::from_str(&json_body).unwrap();
    let wished = json!({"inputs": wished["inputs"], "parameters": {"binary_data_output": true}}).to_string();
    let answer = yard.ask("/v2/models/types/infer", HeaderMap::new(), wished.into_bytes()).await;
    let (head, bytes) = split(answer).await;
    let total: usize = Element::ALL.iter().map(|element| element.size() * 6).sum();
    assert_eq!(bytes.len(), total);
    let inputs: Vec<Value> = head["outputs"].as_array().unwrap().iter().map(|output| {
        let name = output["name"].as_str().unwrap().replace("_out", "_in");
        json!({"name": name, "datatype": output["datatype"], "shape": [3, 2], "parameters": output["parameters"]})
    }).collect();
    let again = json!({"inputs": inputs, "parameters": {"binary_data_output": true}}).to_string();
    let mut headers = HeaderMap::new();
    headers.insert("inference-header-content-length", again.len().into());
    let answer = yard.ask("/v2/models/types/infer", headers, [again.as_bytes(), &bytes].concat()).await;
    assert_eq!(split(answer).await.1, bytes);
    yard.end().await;
}

/// An answer's JSON and the bytes behind it.
async fn split(answer: Response) -> (Value, Vec<u8>) {
    assert_eq!(answer.status(), 200);
    let length: usize =
        answer.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let body = answer.bytes().await.unwrap();
    (serde_json::from_slice(&body[..length]).unwrap(), body[length..].to_vec())
}

#[tokio::test]
async fn bare_bytes_are_the_one_input_of_a_model() {
    let yard = Yard::start(with_model("colours")).await;
    let mut headers = HeaderMap::new();
    headers.insert("inference-header-content-length", 0.into());
    let bytes: Vec<u8> = pixels().iter().flat_map(|value| value.to_le_bytes()).collect();
    let (_, answer) = split(yard.ask("/v2/models/colours/infer", headers, bytes).await).await;
    let expected: Vec<u8> = scores().iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(answer, expected);
    yard.end().await;
}

#[tokio::test]
async fn every_bad_request_is_refused_in_the_protocols_form_and_the_next_is_answered() {
    let yard = Yard::start(InferenceSettings { max_body_mb: 1, ..with_model("colours") }).await;
    let infer = "/v2/models/colours/infer";
    let good = colours(&json!(pixels())).to_string();
    let good = good.as_bytes();
    let zeros = vec![0; 2 * 1024 * 1024];
    for (path, headers, body, status, part) in [
        (infer, &[][..], &b"{"[..], 400, "the request is no such JSON: EOF"),
        (infer, &[], &b""[..], 400, "the request is no such JSON: EOF"),
        (infer, &[], &zeros[..], 413, "max_body_mb allows 1048576 bytes"),
        (infer, &[("inference-header-content-length", "x")], good, 400, "must be a number of bytes"),
        (
            infer,
            &[("inference-header-content-length", "999999999999999999999")],
            good,
            400,
            "must be a number",
        ),
        (
            infer,
            &[("inference-header-content-length", "99999999")],
            good,
            400,
            "the header tells of 99999999 bytes",
        ),
        (infer, &[("inference-header-content-length", "10")], good, 400, "the request is no such JSON"),
        (infer, &[("content-encoding", "br")], good, 415, "\"br\" is not known; gzip and deflate are"),
        (infer, &[("content-encoding", "gzip")], good, 400, "cannot be unpacked"),
        ("/v2/models/x/infer", &[], good, 404, "\"x\" is not served"),
        ("/v2/models/colours/versions/2/infer", &[], good, 404, "no version \"2\""),
        ("/v2/models/%FF/infer", &[], good, 404, "the path names no model"),
        ("/v2/models/colours/generate", &[], good, 404, "nothing here"),
        ("/v2/nothing/at/all", &[], good, 404, "nothing here"),
        ("/v2/models/colours", &[], good, 405, "POST is not for this path"),
        ("/v2/models/colours/trace/setting", &[], good, 501, "not traced"),
    ] {
        let (found, error) = yard.refused(path, headers, body).await;
        assert!(found == status && error.contains(part), "{path} {headers:?}: {found} {error}");
    }
    let answer = yard.ask(infer, HeaderMap::new(), good.to_vec()).await;
    assert_eq!(answer.status(), 200);
    assert!(yard.count("shunt_inference_bad_requests_total{route=\"open_inference\"}").await >= 11);
    yard.end().await;
}

/// It is refused by what its head says: nothing of the body is waited for.
#[tokio::test]
async fn a_hundred_megabytes_are_refused_before_they_are_read() {
    let yard = Yard::start(with_model("colours")).await;
    let mut stream = TcpStream::connect(yard.address).await.unwrap();
    let head = "POST /v2/models/colours/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    yard.end().await;
}

#[tokio::test]
async fn before_a_model_is_loaded_the_server_is_live_and_not_ready() {
    let nothing = Some("no-such-model".to_owned());
    let settings = InferenceSettings { model: nothing.clone(), expression_model: nothing, ..with_model("") };
    let yard = Yard::start_with(settings, tempfile::tempdir().unwrap(), |_| ()).await;
    shunt_testkit::eventually(LIMIT, || async { yard.get("/v2/health/live").await.is_ok() }).await;
    assert_eq!(yard.get("/v2/health/live").await.unwrap().0, 200);
    assert_eq!(yard.get("/v2/health/ready").await.unwrap().0, 503);
    let (status, error) = yard.refused("/v2/models/colours/infer", &[], b"{}").await;
    assert_eq!((status, error.as_str()), (503, "no model is loaded; /readyz says why"));
    yard.end().await;
}

/// Each path of the document is there, for the method that it says.
#[tokio::test]
async fn the_document_tells_of_paths_that_there_are() {
    let yard = Yard::start(with_model("colours")).await;
    let (status, document) = yard.get("/openapi.json").await.unwrap();
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 15);
    for (path, methods) in paths {
        for (method, route) in methods.as_object().unwrap() {
            let real = path.replace("{model}", "colours").replace("{version}", "1");
            let request = client()
                .request(method.to_uppercase().parse().unwrap(), format!("http://{}{real}", yard.address));
            let status = request.send().await.unwrap().status().as_u16();
            let told = route["responses"].as_object().unwrap();
            assert!(told.contains_key(&status.to_string()), "{method} {path}: {status}");
            assert!(!matches!(status, 404 | 405), "{method} {path}: {status}");
            assert!(route["summary"].as_str().unwrap().ends_with(['.', '?']), "{method} {path}");
        }
    }
    let (status, page) = yard.get("/swagger").await.unwrap();
    assert!(status == 200 && page.contains("/openapi.json"));
    yard.end().await;
}
