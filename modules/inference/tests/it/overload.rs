//! More requests than a model can answer, and requests that run together.

use inference::InferenceSettings;
use serde_json::{Value, json};
use shunt_testkit::eventually;
use shunt_vision::{Picture, encode_png};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::yard::{LIMIT, Yard, client, red, with_model};

const BYTES: &str = "application/octet-stream";
const JSON: &str = "application/json";

fn png(picture: &Picture) -> Vec<u8> {
    encode_png(picture).unwrap()
}

/// A request of the Open Inference Protocol with these rows.
fn waves(rows: &[Vec<f32>]) -> String {
    let shape = [rows.len(), rows[0].len()];
    json!({"inputs": [{"name": "y0", "datatype": "FP32", "shape": shape, "data": rows.concat()}]}).to_string()
}

fn row(seed: u32) -> Vec<f32> {
    (0..1_024_u32).map(|index| ((index * 37 + seed * 101) % 997) as f32 / 500.0 - 1.0).collect()
}

#[tokio::test]
async fn what_does_not_fit_into_the_queue_gets_503_and_when_to_come_again() {
    let settings = InferenceSettings { queue: 1, ..with_model("slow") };
    let yard = Yard::start(settings).await;
    let file = png(&red());
    // Until it was seen that some were answered and some turned away.
    let (mut answered, mut refused) = (0, 0);
    let asked = timeout(LIMIT, async {
        while answered == 0 || refused == 0 {
            let mut asking = JoinSet::new();
            for _ in 0..8 {
                let request = client().post(format!("http://{}/image", yard.address)).body(file.clone());
                asking.spawn(async move { request.send().await.unwrap() });
            }
            for answer in asking.join_all().await {
                match answer.status().as_u16() {
                    200 => answered += 1,
                    503 => {
                        refused += 1;
                        let after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                        assert!((1..60).contains(&after), "{after}");
                        let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
                        assert_eq!((&problem["title"], &problem["status"]), (&json!("busy"), &json!(503)));
                    }
                    other => panic!("{other}"),
                }
            }
        }
    });
    asked.await.unwrap();
    assert_eq!(
        yard.count("shunt_inference_refused_requests_total{model=\"slow\",reason=\"full\"}").await,
        refused
    );
    assert!(yard.count("shunt_inference_requests_total{model=\"slow\"}").await >= answered);
    // Later all is well.
    let (status, _, _) = yard.post("/image", BYTES, file).await;
    assert_eq!(status, 200);
    assert_eq!(yard.count("shunt_inference_waiting_requests{model=\"slow\"}").await, 0);
}

#[tokio::test]
async fn who_goes_away_while_waiting_gives_the_place_up() {
    let yard = Yard::start(with_model("slow")).await;
    let abandoned = async || yard.count("shunt_inference_abandoned_requests_total{model=\"slow\"}").await;
    let waiting = async || yard.count("shunt_inference_waiting_requests{model=\"slow\"}").await;
    let seen = timeout(LIMIT, async {
        // A run may end before anybody is seen waiting; then the next round is looked at.
        while abandoned().await == 0 {
            let mut asking = JoinSet::new();
            for _ in 0..6 {
                let request = client().post(format!("http://{}/image", yard.address)).body(png(&red()));
                asking.spawn(async move { request.send().await.map(|_| ()) });
            }
            eventually(LIMIT, || async { waiting().await >= 2 || asking.is_empty() }).await;
            asking.shutdown().await;
            eventually(LIMIT, || async { waiting().await == 0 }).await;
        }
    });
    seen.await.unwrap();
    let (status, _, _) = yard.post("/image", BYTES, png(&red())).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn requests_that_wait_together_run_together_and_get_what_they_would_get_alone() {
    let settings = InferenceSettings { models: vec!["waves".to_owned()], ..with_model("colours") };
    let yard = Yard::start(InferenceSettings { batch: 1, ..settings.clone() }).await;
    let ask = async |rows: Vec<Vec<f32>>| {
        let url = format!("http://{}/v2/models/waves/infer", yard.address);
        let answer = client().post(url).body(waves(&rows)).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["outputs"][0]["shape"], json!([rows.len(), 1_024]));
        serde_json::from_value::<Vec<f32>>(answer["outputs"][0]["data"].clone()).unwrap()
    };
    // Each alone: the right answers.
    let mut alone = Vec::new();
    for seed in 0..6 {
        alone.push(ask(vec![row(seed)]).await);
    }
    let runs = async || yard.count("shunt_inference_batch_requests_count{model=\"waves\"}").await;
    let requests = async || yard.count("shunt_inference_batch_requests_sum{model=\"waves\"}").await;
    assert_eq!(runs().await, requests().await);

    yard.settings.propose(InferenceSettings { batch: 8, ..settings }).await.unwrap();
    let together = timeout(LIMIT, async {
        while runs().await == requests().await {
            let mut asking = JoinSet::new();
            for seed in 0..6_u32 {
                // One of them has two rows.
                let rows = if seed == 3 { vec![row(3), row(0)] } else { vec![row(seed)] };
                let url = format!("http://{}/v2/models/waves/infer", yard.address);
                let request = client().post(url).body(waves(&rows));
                asking.spawn(async move { (seed, request.send().await.unwrap().text().await.unwrap()) });
            }
            while let Some(answered) = asking.join_next().await {
                let (seed, text) = answered.unwrap();
                let answer: Value = serde_json::from_str(&text).unwrap();
                let data: Vec<f32> = serde_json::from_value(answer["outputs"][0]["data"].clone()).unwrap();
                let mut expected = alone[seed as usize].clone();
                if seed == 3 {
                    expected.extend(&alone[0]);
                }
                assert_eq!(data.len(), expected.len());
                let far = data.iter().zip(&expected).filter(|(one, other)| (*one - *other).abs() > 1e-6);
                assert_eq!(far.count(), 0, "request {seed}");
            }
        }
    });
    together.await.unwrap();
}

#[tokio::test]
async fn a_request_has_no_more_rows_than_are_told_as_the_largest_batch() {
    let settings = InferenceSettings { models: vec!["waves".to_owned()], batch: 4, ..with_model("colours") };
    let yard = Yard::start(settings).await;
    let (_, config) = yard.get("/v2/models/waves/config").await.unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["max_batch_size"], 4);
    for (rows, expected) in [(4, 200), (5, 400)] {
        let rows: Vec<_> = (0..rows).map(row).collect();
        let (status, _, answer) = yard.post("/v2/models/waves/infer", JSON, waves(&rows)).await;
        assert_eq!(status, expected, "{answer}");
        if expected == 400 {
            assert_eq!(answer["error"], "the request has 5 rows; the setting batch allows 4");
        }
    }
}

#[tokio::test]
async fn who_promises_much_and_sends_little_takes_nobodys_place() {
    let yard = Yard::start(with_model("colours")).await;
    let mut idle = Vec::new();
    for number in 0..12 {
        let length = if number % 2 == 0 { "content-length: 16777216" } else { "transfer-encoding: chunked" };
        let path = if number % 3 == 0 { "/score" } else { "/image" };
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{length}\r\nexpect: 100-continue\r\n\r\n");
        let mut stream = TcpStream::connect(yard.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // It says so when it begins to read the body.
        let mut answer = vec![0; 12];
        timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"HTTP/1.1 100");
        idle.push(stream);
    }
    let (status, _, answer) = yard.post("/image", BYTES, png(&red())).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn many_clients_at_a_time_each_get_their_own_answer() {
    let settings = InferenceSettings { workers: 2, queue: 64, ..with_model("colours") };
    let yard = Yard::start(settings).await;
    let mut asking = JoinSet::new();
    for number in 0..48_usize {
        let colour = [[200, 10, 10], [10, 200, 10], [10, 10, 200]][number % 3];
        let file = png(&Picture::filled(20 + number as u32, 30, colour));
        let request = client().post(format!("http://{}/image", yard.address)).timeout(LIMIT).body(file);
        asking.spawn(async move { (number, request.send().await.unwrap().text().await.unwrap()) });
    }
    while let Some(answered) = asking.join_next().await {
        let (number, text) = answered.unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        let name = ["red", "green", "blue"][number % 3];
        assert_eq!(answer["predictions"][0]["tagName"], name, "{answer}");
        assert_eq!(answer["width"], json!(20 + number));
    }
}
