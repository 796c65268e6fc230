//! A container beside the module: here a second instance of the module, which speaks the same.

use std::time::Duration;

use sentiment::{Backend, SentimentSettings};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::stage::Stage;

const MEETING: &str = "The meeting is at 3 pm on Tuesday.";

fn asking(address: impl std::fmt::Display) -> SentimentSettings {
    SentimentSettings {
        backend: Backend::Cognitive,
        cognitive_url: Some(format!("http://{address}")),
        ..SentimentSettings::default()
    }
}

#[tokio::test]
async fn a_container_is_asked_and_where_it_goes_the_local_model_judges_and_says_so() {
    // Its scores differ from ours: so one sees who judged.
    let ungated =
        SentimentSettings { model: "shunt-sentiment-ungated".to_owned(), ..SentimentSettings::default() };
    let container = Stage::start(ungated).await;
    let stage = Stage::start(asking(container.address)).await;
    let (score, answer) = stage.score(MEETING).await;
    assert!(score < 0.2, "{score}");
    assert_eq!((answer.model.as_str(), answer.fallback), ("cognitive", None));
    assert_eq!(stage.count("shunt_sentiment_texts_total{backend=\"cognitive\"}").await, 1);

    container.stop().await;
    let (score, answer) = stage.score(MEETING).await;
    assert!(score > 0.3, "{score}");
    assert_eq!(answer.model, "shunt-sentiment");
    assert!(
        answer.fallback.as_ref().unwrap().contains("the container cannot be asked"),
        "{:?}",
        answer.fallback
    );
    // It is left alone for a while.
    let (_, answer) = stage.score(MEETING).await;
    assert!(answer.fallback.unwrap().ends_with("it is asked again later"));
    assert_eq!(stage.count("shunt_sentiment_fallbacks_total").await, 2);
    let (status, page) = stage.get("/readyz").await;
    assert_eq!(status, 200);
    assert!(page.contains("the local model judges"), "{page}");
    stage.stop().await;
}

#[tokio::test]
async fn order_and_errors_are_kept_where_a_container_judges() {
    let container = Stage::start(SentimentSettings::default()).await;
    let stage = Stage::start(asking(container.address)).await;
    let request = json!({"documents": [
        {"id": "2", "text": "good"},
        {"id": "1", "text": ""},
        {"id": "4", "language": "de", "text": "gut"},
        {"id": "3", "language": "nl", "text": "slecht"},
    ]});
    let through = stage.post(request.to_string()).await;
    let straight = container.post(request.to_string()).await;
    assert_eq!((through.model.as_str(), through.status), ("cognitive", 200));
    assert_eq!(through.text, straight.text);
    stage.stop().await;
    container.stop().await;
}

/// A server that answers each connection with these bytes, or never where there are none.
async fn server(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // The head of the request is there when its first bytes are; the rest is of no interest.
                stream.readable().await.ok();
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    address
}

#[tokio::test]
async fn a_container_that_is_slow_or_answers_nonsense_does_not_hurt() {
    for (answer, expected) in [
        ("", "did not answer within 200 ms"),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "the container answered 503"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "is not that of Text Analytics v2.0"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 28\r\n\r\n{\"documents\":[],\"errors\":[]}",
            "the document \"1\" is not in it",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 51\r\n\r\n{\"documents\":[{\"id\":\"1\",\"score\":1.5}],\"errors\":[] }",
            "the score 1.5 is not from 0 to 1",
        ),
        ("nonsense", "the container cannot be asked"),
    ] {
        let settings = SentimentSettings { cognitive_timeout_ms: 200, ..asking(server(answer).await) };
        let stage = Stage::start(settings).await;
        let judging = tokio::time::timeout(Duration::from_secs(10), stage.score(MEETING));
        let (_, answered) = judging.await.unwrap();
        assert_eq!(answered.model, "shunt-sentiment");
        let reason = answered.fallback.unwrap();
        assert!(reason.contains(expected), "{expected:?} is not in {reason:?}");
        stage.stop().await;
    }
}
