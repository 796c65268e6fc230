//! Texts over the bus.

use sentiment::{Backend, SentimentSettings};
use shunt_bus::{Bus, BusOptions, Delivery, Subscription, clock};
use shunt_testkit::Mosquitto;
use shunt_wire::{
    Envelope, Kind, Name, Stamps, TopicFilter,
    events::{DeadLetter, Sentiment, Text},
};
use tokio::time::timeout;

use crate::stage::{LIMIT, Stage};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Desk {
    bus: Bus,
    sentiments: Subscription,
    letters: Subscription,
    stage: Stage,
    _broker: Mosquitto,
}

// === impl Desk ===

impl Desk {
    async fn start(settings: SentimentSettings) -> Self {
        let broker = Mosquitto::start().await.unwrap();
        let bus = Bus::open(BusOptions::new(broker.url(), Name::from_static("writer"))).unwrap();
        let subscribe =
            async |kind: Kind| bus.subscribe(&TopicFilter::kind(&kind), Delivery::Assured).await.unwrap();
        let (sentiments, letters) = (subscribe(Kind::SENTIMENT).await, subscribe(Kind::DEAD_LETTER).await);
        let stage = Stage::start_on(&broker.url(), tempfile::tempdir().unwrap(), settings).await;
        let desk = Self { bus, sentiments, letters, stage, _broker: broker };
        // The module has its subscription when a first text is answered.
        let mut desk = desk;
        timeout(LIMIT, async {
            for number in 0.. {
                desk.send(text(&format!("hello-{number}")).with_body("text/plain", "hello")).await;
                if timeout(std::time::Duration::from_millis(300), desk.sentiment()).await.is_ok() {
                    return;
                }
            }
        })
        .await
        .unwrap();
        desk
    }

    async fn send(&self, event: Envelope) {
        timeout(LIMIT, self.bus.publish(event, Delivery::Assured)).await.unwrap().unwrap();
    }

    async fn sentiment(&mut self) -> (Envelope, Sentiment) {
        let received = timeout(LIMIT, self.sentiments.next()).await.unwrap().unwrap();
        received.ack.ack();
        let event = received.envelope.unwrap();
        let sentiment = event.json().unwrap();
        (event, sentiment)
    }

    /// The sentiment of the text with this id.
    async fn sentiment_of(&mut self, id: &str) -> (Envelope, Sentiment) {
        loop {
            let (event, sentiment) = self.sentiment().await;
            if sentiment.text == id {
                return (event, sentiment);
            }
        }
    }

    async fn letter(&mut self) -> DeadLetter {
        let received = timeout(LIMIT, self.letters.next()).await.unwrap().unwrap();
        received.ack.ack();
        received.envelope.unwrap().json().unwrap()
    }
}

fn text(id: &str) -> Envelope {
    let mut event = Envelope::new(id, Kind::TEXT, Name::from_static("survey"), "2026-11-21T09:00:00Z")
        .with_stamps(Stamps::captured(clock::now()));
    event.traceparent = Some(TRACEPARENT.to_owned());
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn each_text_on_the_bus_gets_its_sentiment() {
    let mut desk = Desk::start(SentimentSettings::default()).await;
    desk.send(text("1").with_body("text/plain; charset=utf-8", "I love this!")).await;
    let (event, sentiment) = desk.sentiment_of("1").await;
    assert_eq!(event.topic().to_string(), "shunt/sentiment/survey");
    assert_eq!(event.traceparent.as_deref(), Some(TRACEPARENT));
    assert!(event.stamps.is_some());
    assert!(sentiment.score > 0.9, "{sentiment:?}");
    assert_eq!((sentiment.language.as_str(), sentiment.characters), ("en", 12));
    assert_eq!((sentiment.model.as_str(), sentiment.fallback), ("shunt-sentiment", None));

    let dutch = Text { text: "Wat een waardeloze service.".to_owned(), language: Some("nl".to_owned()) };
    desk.send(text("2").with_json(&dutch).unwrap()).await;
    let (_, sentiment) = desk.sentiment_of("2").await;
    assert!(sentiment.score < 0.3 && sentiment.language == "nl", "{sentiment:?}");
    desk.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_cannot_be_judged_go_to_the_dead_letters_and_the_next_is_judged() {
    let mut desk = Desk::start(SentimentSettings::default()).await;
    let german = Text { text: "gut".to_owned(), language: Some("de".to_owned()) };
    for (event, expected) in [
        (text("b1").with_body("image/jpeg", "x"), "must be text/plain or JSON with a text"),
        (text("b2"), "must be text/plain or JSON with a text"),
        (text("b3").with_body("text/plain", &b"\xff\xfe"[..]), "its text is not UTF-8"),
        (text("b4").with_body("application/json", "{\"txt\": 1}"), "missing field `text`"),
        (text("b5").with_body("text/plain", ""), "Record cannot be null/empty"),
        (text("b6").with_body("text/plain", "x".repeat(5_121)), "was too large to be processed"),
        (text("b7").with_json(&german).unwrap(), "Supplied language not supported"),
    ] {
        desk.send(event).await;
        let letter = desk.letter().await;
        assert_eq!(letter.topic, "shunt/text/survey");
        assert!(letter.reason.contains(expected), "{expected:?} is not in {:?}", letter.reason);
    }
    desk.send(text("good").with_body("text/plain", "good")).await;
    desk.sentiment_of("good").await;
    assert_eq!(desk.stage.count("shunt_sentiment_unusable_events_total").await, 7);
    desk.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_texts_is_judged_to_the_last() {
    let mut desk = Desk::start(SentimentSettings::default()).await;
    for number in 0..500 {
        desk.send(text(&format!("t{number}")).with_body("text/plain", "good")).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 500 {
        let (_, sentiment) = desk.sentiment().await;
        if sentiment.text.starts_with('t') {
            seen.insert(sentiment.text);
        }
    }
    desk.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_that_the_local_model_stood_in_for_the_container() {
    let nobody = shunt_testkit::fresh_address().unwrap();
    let settings = SentimentSettings {
        backend: Backend::Cognitive,
        cognitive_url: Some(format!("http://{nobody}")),
        ..SentimentSettings::default()
    };
    let mut desk = Desk::start(settings).await;
    desk.send(text("1").with_body("text/plain", "good")).await;
    let (_, sentiment) = desk.sentiment_of("1").await;
    assert_eq!(sentiment.model, "shunt-sentiment");
    assert!(sentiment.fallback.unwrap().contains("the container cannot be asked"));
    desk.stage.stop().await;
}
