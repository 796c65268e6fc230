//! Models exchanged by twin: what a new one must show first, and what happens where it cannot.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, routing::get};
use inference::{InferenceSettings, Shadow};
use serde_json::{Value, json};
use shunt_module::Common;
use shunt_testkit::eventually;
use shunt_vision::encode_png;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::yard::{LIMIT, MODELS, Yard, client, put_models, red, with_model};

#[tokio::test]
async fn a_model_is_exchanged_by_twin_and_reported_with_digest_and_proof() {
    let mut yard = Yard::start(with_model("colours")).await;
    assert_eq!(yard.judged("door", &red()).await.label, "red");
    let serving = yard.serving();
    assert_eq!(serving["model"], "colours");
    yard.settings.propose(with_model("inverse")).await.unwrap();
    let label = yard.judged("door", &red()).await;
    assert_eq!((label.model.as_str(), label.label == "red"), ("inverse", false));
    let serving = yard.serving();
    assert_eq!(serving["model"], "inverse");
    assert_eq!(serving["digest"], label.digest);
    assert_eq!(serving["backend"], label.backend);
    assert_eq!(serving["proof"]["compared"], 3);
    assert!(serving["proof"]["difference"].as_f64().unwrap() <= 0.01, "{serving}");
    assert!(serving["load_ms"].as_f64().unwrap() > 0.0 && serving["because"].is_string(), "{serving}");
    // Of further ones, of which there may be many, little is told: all of them must fit into the twin.
    let settings = InferenceSettings { models: vec!["colours".to_owned()], ..with_model("inverse") };
    yard.settings.propose(settings).await.unwrap();
    let others = yard.facts.get()["serving"]["models"].clone();
    assert_eq!(others[0]["model"], "colours");
    assert!(others[0].to_string().len() < 160, "{others}");
}

/// The old model serves on, and the verdict stands at this field and says this.
async fn check_refused(yard: &mut Yard, settings: InferenceSettings, field: &str, said: &str) {
    let before = yard.serving();
    let problems = yard.settings.propose(settings).await.unwrap_err();
    let found: Vec<_> = problems.iter().collect();
    assert!(found.len() == 1 && found[0].0 == field && found[0].1.contains(said), "{said}: {problems}");
    assert_eq!(yard.serving(), before);
    assert_eq!(yard.judged("door", &red()).await.model, "colours");
    assert_eq!(yard.get("/readyz").await.unwrap().0, 200);
}

#[tokio::test]
async fn what_is_no_working_model_is_refused_with_the_reason_and_the_old_one_serves_on() {
    let garbage = b"this is no model, whatever the catalog says";
    let digest = shunt_infer::digest(garbage);
    let mut yard = Yard::start_with(with_model("colours"), tempfile::tempdir().unwrap(), |common| {
        let entry = |name: &str, file: &str, digest: &str| {
            format!(
                "\n[models.{name}]\ntitle = \"{name}\"\ntask = \"classify\"\nfile = \"{file}\"\nformat = \"onnx\"\nbytes = 43\nsha256 = \"{digest}\"\nlicence = \"none\"\nsource = {{ kind = \"repo\" }}\ninput = {{ name = \"picture\", shape = [1, 3, 16, 16], layout = \"nchw\", colour = \"rgb\", fit = \"stretch\" }}\noutput = {{ decode = \"classes\", values = \"scores\", activation = \"softmax\", classes = 3, labels = \"colours.txt\" }}\n"
            )
        };
        put_models(common, |catalog| {
            catalog
                + &entry("garbage", "garbage.onnx", &digest)
                + &entry("other", "garbage.onnx", &"0".repeat(64))
                + &entry("absent", "absent.onnx", &"0".repeat(64))
        });
        std::fs::write(common.models_dir.join("garbage.onnx"), garbage).unwrap();
    })
    .await;
    yard.until_ready().await;
    let model = |name: &str| with_model(name);
    check_refused(&mut yard, model("nothing"), "model", "there is no model \"nothing\" in the catalog").await;
    check_refused(&mut yard, model("absent"), "model", "shunt models fetch absent").await;
    check_refused(&mut yard, model("other"), "model", "wrong digest").await;
    check_refused(&mut yard, model("garbage"), "model", "cannot be loaded").await;
    check_refused(&mut yard, model("four"), "model", "answered with 4 values where 3 were expected").await;
    check_refused(&mut yard, model("swapped"), "model", "does not answer as the catalog says").await;
    let settings =
        InferenceSettings { models: vec!["inverse".to_owned(), "four".to_owned()], ..model("colours") };
    check_refused(&mut yard, settings, "models", "4 values").await;
    // What works, and is for something else.
    check_refused(&mut yard, model("waves"), "model", "is for Tensors, but one for pictures is wanted").await;
    for name in ["inverse", "waves", "blazeface-full-range"] {
        let settings = InferenceSettings { expression_model: Some(name.to_owned()), ..model("colours") };
        let said = "but one for expressions of faces is wanted";
        check_refused(&mut yard, settings, "expression_model", said).await;
    }
    let shadow = |name: &str| Some(Shadow { model: name.to_owned(), share: 1.0 });
    let settings = InferenceSettings { shadow: shadow("moods"), ..model("colours") };
    check_refused(&mut yard, settings, "shadow.model", "only one for classes runs beside another").await;
    let settings = InferenceSettings { shadow: shadow("nothing"), ..model("colours") };
    check_refused(&mut yard, settings, "shadow.model", "there is no model").await;
    let refused = "shunt_inference_swaps_total{result=\"refused\"}";
    assert_eq!(yard.count(refused).await, 13);
}

#[tokio::test]
async fn a_module_without_its_model_lives_says_why_and_starts_when_it_gets_one() {
    let settings = with_model("nothing");
    let mut yard = Yard::start_with(settings, tempfile::tempdir().unwrap(), |_| ()).await;
    eventually(LIMIT, || async {
        let answer = yard.get("/readyz").await;
        answer.is_ok_and(|(status, text)| status == 503 && text.contains("there is no model"))
    })
    .await;
    assert_eq!(yard.get("/healthz").await.unwrap().0, 200);
    eventually(LIMIT, || async {
        yard.show("door", &red()).await;
        yard.skipped("no_model").await > 0
    })
    .await;
    // The other model serves already.
    assert_eq!(yard.facts.get()["serving"]["expression_model"]["model"], "moods");
    yard.settings.propose(with_model("colours")).await.unwrap();
    assert_eq!(yard.get("/readyz").await.unwrap().0, 200);
    assert_eq!(yard.judged("door", &red()).await.label, "red");
}

#[tokio::test]
async fn a_client_that_sends_slowly_keeps_no_model_that_was_exchanged() {
    let yard = Yard::start(with_model("colours")).await;
    let mut slow = TcpStream::connect(yard.address).await.unwrap();
    let head = "POST /v2/models/colours/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    // It says so when it begins to read the body.
    let mut answer = vec![0; 12];
    timeout(LIMIT, slow.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 100");
    slow.write_all(b"{").await.unwrap();
    yard.settings.propose(with_model("inverse")).await.unwrap();
    // These are taken when the memory of the first was given back.
    yard.settings.propose(with_model("colours")).await.unwrap();
    yard.settings.propose(InferenceSettings { min_score: 0.5, ..with_model("colours") }).await.unwrap();
    yard.end().await;
}

#[tokio::test]
async fn what_is_here_serves_while_what_is_not_is_fetched() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let settings = InferenceSettings { models: vec!["remote".to_owned()], ..with_model("colours") };
    let mut yard =
        Yard::start_with(settings, tempfile::tempdir().unwrap(), |common| at(common, &address)).await;
    eventually(LIMIT, || async {
        yard.get("/readyz").await.is_ok_and(|(_, page)| page.contains("files of models are being fetched"))
    })
    .await;
    assert_eq!(yard.serving()["model"], "colours");
    let (status, _, answer) = yard.post("/image", "image/png", encode_png(&red()).unwrap()).await;
    assert_eq!(status, 200, "{answer}");
    // Nobody waits for it either: other settings are taken meanwhile.
    yard.settings.propose(with_model("inverse")).await.unwrap();
    assert_eq!(yard.get("/readyz").await.unwrap().0, 200);
    assert_eq!(yard.judged("door", &red()).await.model, "inverse");
    yard.end().await;
    drop(silent);
}

/// A server of model files, and how often it was asked.
pub(crate) struct Shop {
    pub(crate) address: String,
    asked: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Shop {
    pub(crate) async fn open(file: Vec<u8>) -> Self {
        let asked = Arc::<AtomicU64>::default();
        let counting = Arc::clone(&asked);
        let routes = Router::new().route(
            "/inverse.onnx",
            get(move || {
                counting.fetch_add(1, Ordering::Relaxed);
                let file = file.clone();
                async move { file }
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, asked, serving }
    }

    pub(crate) fn close(self) {
        self.serving.abort();
    }
}

fn at(common: &Common, address: &str) {
    put_models(common, |catalog| catalog.replace("ADDRESS", address));
}

fn fetched(folder: &TempDir) -> Vec<String> {
    let folder = folder.path().join("data/models/fetched");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_model_is_fetched_by_twin_and_serves_after_a_restart_without_the_network() {
    let shop = Shop::open(std::fs::read(Path::new(MODELS).join("inverse.onnx")).unwrap()).await;
    let address = shop.address.clone();
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::start_with(with_model("colours"), folder, |common| at(common, &address)).await;
    yard.until_ready().await;
    yard.settings.propose(with_model("remote")).await.unwrap();
    assert_eq!(yard.judged("door", &red()).await.model, "remote");
    // It is here now: nobody is asked again.
    yard.settings.propose(with_model("colours")).await.unwrap();
    yard.settings.propose(with_model("remote")).await.unwrap();
    assert_eq!(shop.asked.load(Ordering::Relaxed), 1);
    let folder = yard.end().await;
    assert_eq!(fetched(&folder), ["remote.onnx"]);

    shop.close();
    let mut yard = Yard::start_with(with_model("remote"), folder, |common| at(common, &address)).await;
    yard.until_ready().await;
    assert_eq!(yard.judged("door", &red()).await.model, "remote");
    yard.end().await;
}

#[tokio::test]
async fn what_an_address_sends_is_used_only_if_it_is_what_the_catalog_says() {
    let right = std::fs::read(Path::new(MODELS).join("inverse.onnx")).unwrap();
    let mut wrong = right.clone();
    wrong[20] ^= 1;
    let longer = [right.clone(), vec![0; 100_000]].concat();
    let nobody = shunt_testkit::fresh_address().unwrap().to_string();
    for (file, said) in [
        (Some(wrong), "the catalog says cbd140ea9a5befd4"),
        (Some(longer), "is larger than the 216 bytes that the catalog says"),
        (Some(right[..100].to_vec()), "the catalog says cbd140ea9a5befd4"),
        (None, "cannot be fetched"),
    ] {
        let shop = match file {
            Some(file) => Shop::open(file).await.address,
            None => nobody.clone(),
        };
        let folder = tempfile::tempdir().unwrap();
        let mut yard = Yard::start_with(with_model("colours"), folder, |common| at(common, &shop)).await;
        yard.until_ready().await;
        check_refused(&mut yard, with_model("remote"), "model", said).await;
        assert_eq!(fetched(&yard.folder), [] as [String; 0], "{said}");
    }
}

#[tokio::test]
async fn the_method_reload_reads_the_files_anew_and_keeps_what_works() {
    let mut yard = Yard::start(with_model("colours")).await;
    let (status, answer) = yard.methods.call("reload", Value::Null).await;
    assert_eq!((status, &answer["model"]["model"]), (200, &json!("colours")), "{answer}");
    std::fs::write(yard.folder.path().join("models/colours.onnx"), b"gone").unwrap();
    let (status, answer) = yard.methods.call("reload", Value::Null).await;
    let message = answer["message"].as_str().unwrap();
    assert!(status == 409 && message.contains("wrong digest"), "{answer}");
    assert_eq!(yard.judged("door", &red()).await.label, "red");
}

/// Asks `/image` until it is told to end; how many answers there were of each model.
async fn ask(address: std::net::SocketAddr, ended: Arc<tokio_util::sync::CancellationToken>) -> [u64; 2] {
    let jpeg = shunt_vision::encode_jpeg(&red(), 95).unwrap();
    let (client, mut answers) = (client(), [0, 0]);
    while !ended.is_cancelled() {
        let request = client.post(format!("http://{address}/image")).body(jpeg.clone());
        let answer = request.header("Content-Type", "application/octet-stream").send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let best = answer["predictions"][0]["tagName"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let model = answer["model"].as_str().unwrap_or_else(|| panic!("{answer}"));
        // The answer is that of the model which it names: none is torn by a swap.
        assert_eq!(best == "red", model == "colours", "{answer}");
        answers[usize::from(model == "inverse")] += 1;
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_swaps_under_load_lose_no_request() {
    let yard = Yard::start(with_model("colours")).await;
    let ended = Arc::<tokio_util::sync::CancellationToken>::default();
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(ask(yard.address, Arc::clone(&ended)))).collect();
    for swap in 0..30 {
        let model = if swap % 2 == 0 { "inverse" } else { "colours" };
        yard.settings.propose(with_model(model)).await.unwrap();
    }
    ended.cancel();
    let mut answers = [0, 0];
    for client in clients {
        let [colours, inverse] = client.await.unwrap();
        answers = [answers[0] + colours, answers[1] + inverse];
    }
    assert!(answers.iter().all(|&count| count > 0), "{answers:?}");
    // The first load at the start, and the thirty.
    assert_eq!(yard.count("shunt_inference_swaps_total{result=\"done\"}").await, 31);
}
