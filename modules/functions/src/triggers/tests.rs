//! Triggers on an in-process bus; the functions are closures, so that each can fail as a test wants it.

use std::path::Path;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex as Plain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_bus::{BusOptions, Received};
use shunt_module::{Common, Problems, SettingsHandle};
use shunt_testkit::eventually;
use shunt_wire::{Kind, events::DeadLetter};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
struct NoSettings {}

impl Settings for NoSettings {
    const MODULE: &'static str = "functions";

    fn check(&self, _problems: &mut Problems) {}
}

/// What one call is answered.
type Answered = Result<Answer, Unanswered>;

/// Triggers, who sends events, and who hears answers and letters.
struct Stage {
    triggers: Triggers,
    tally: Tally,
    health: Health,
    stop: CancellationToken,
    calls: Arc<Plain<Vec<Request>>>,
    sender: Bus,
    answers: Subscription,
    letters: Subscription,
}

impl Stage {
    /// On a bus of this name; the functions answer what the closure says to the request and its number, from 0.
    async fn new(bus: &str, answer: impl Fn(Request, usize) -> Answered + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::slow(bus, move |request, number| {
            let answer = Arc::clone(&answer);
            Box::pin(async move { answer(request, number) })
        })
        .await
    }

    async fn slow(
        bus: &str,
        answer: impl Fn(Request, usize) -> Pin<Box<dyn Future<Output = Answered> + Send>> + Send + Sync + 'static,
    ) -> Self {
        let url = format!("memory:{bus}");
        let open = |name| Bus::open(BusOptions::new(url.clone(), Name::from_static(name))).unwrap();
        let sender = open("tester");
        let answers = sender.subscribe(&filter("shunt/mood/+"), Delivery::Assured).await.unwrap();
        let letters =
            sender.subscribe(&TopicFilter::kind(&Kind::DEAD_LETTER), Delivery::Assured).await.unwrap();
        let (settings, _) = SettingsHandle::channel(NoSettings {});
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let common = Common::in_folder(Path::new("/nowhere"));
        let (context, stop) = Context::for_test(settings, open("functions"), None, common, listener);
        let calls = Arc::new(Plain::new(Vec::new()));
        let noted = Arc::clone(&calls);
        let call: Calling = Arc::new(move |name, request: Request| {
            assert_eq!(request.name, name.to_string());
            let mut noted = noted.lock();
            noted.push(request.clone());
            answer(request, noted.len() - 1)
        });
        let granted: Granted =
            Arc::new(|_| Some(Grants { publish: vec!["shunt/mood/+".to_owned()], ..Grants::default() }));
        let tally = Tally::new().unwrap();
        let triggers = Triggers::new(&context, tally.clone(), call, granted);
        Self { triggers, tally, health: context.health.clone(), stop, calls, sender, answers, letters }
    }

    /// These triggers of the function `mood`, subscribed.
    async fn set(&mut self, on: &[&str], publish: Option<&str>) {
        let on = on.iter().map(|text| filter(text)).collect();
        let publish = publish.map(|topic| topic.parse().unwrap());
        self.triggers.set(&BTreeMap::from([(name("mood"), Trigger { on, every: None, publish })]));
        eventually(LIMIT, || async { self.health.failing().is_empty() }).await;
    }

    async fn send(&self, kind: Kind, text: &str) {
        let event = Envelope::new(text, kind, Name::from_static("gate"), "2026-11-21T09:00:00Z");
        let event = event.with_subject("track 7 \"%").with_body("text/plain", text.to_owned());
        timeout(LIMIT, self.sender.publish(event, Delivery::Assured)).await.unwrap().unwrap();
    }

    async fn called(&self, times: usize) {
        eventually(LIMIT, || async { self.calls.lock().len() >= times }).await;
    }

    /// The bodies of the calls so far.
    fn bodies(&self) -> Vec<String> {
        self.calls.lock().iter().map(|call| String::from_utf8_lossy(&call.body).into_owned()).collect()
    }

    async fn answer(&mut self) -> Received {
        let received = timeout(LIMIT, self.answers.next()).await.expect("an answer in time").unwrap();
        assert!(received.envelope.is_ok());
        received
    }

    async fn letter(&mut self) -> DeadLetter {
        let received = timeout(LIMIT, self.letters.next()).await.expect("a letter in time").unwrap();
        received.ack.ack();
        received.envelope.unwrap().json().unwrap()
    }

    fn failures(&self, source: Source, reason: Reason) -> u64 {
        self.tally.failures_of(source, reason)
    }

    /// Stops the triggers.
    fn end(self) -> JoinHandle<Vec<Subscription>> {
        self.stop.cancel();
        tokio::spawn(self.triggers.end())
    }
}

fn filter(text: &str) -> TopicFilter {
    text.parse().unwrap()
}

fn name(text: &str) -> FunctionName {
    text.parse().unwrap()
}

fn text(body: impl Into<Bytes>) -> Answer {
    Answer {
        status: StatusCode::OK,
        headers: http::HeaderMap::new(),
        content_type: "text/plain".to_owned(),
        body: body.into(),
        took: Duration::from_micros(50),
    }
}

fn failed(error: CallError) -> Answered {
    Err(error.into())
}

#[tokio::test]
async fn an_event_calls_its_function_and_the_answer_becomes_an_event() {
    let mut stage = Stage::new("triggers-answer", |_, _| Ok(text("cheerful"))).await;
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/+")).await;
    stage.send(Kind::EMOTION, "happy").await;
    let answer = stage.answer().await;
    assert_eq!(answer.topic, "shunt/mood/gate");
    let event = answer.envelope.unwrap();
    let body = event.body.unwrap();
    assert_eq!((body.content_type.as_str(), &body.bytes[..]), ("text/plain", &b"cheerful"[..]));
    assert_eq!(event.stamps.unwrap().hops().last().unwrap().module, Name::from_static("functions"));

    let call = stage.calls.lock()[0].clone();
    assert_eq!((call.source.as_str(), call.method.as_str()), ("shunt/emotion/gate", "POST"));
    assert_eq!((call.content_type.as_str(), &call.body[..]), ("text/plain", &b"happy"[..]));
    assert_eq!((call.path.as_str(), call.query.as_str()), ("", ""));
    let header = |name: &str| call.headers.get(name).unwrap().to_str().unwrap();
    assert_eq!((header("ce-id"), header("ce-type")), ("happy", "shunt.emotion.v1"));
    assert_eq!(header("ce-subject"), "track%207%20%22%25");
    assert_eq!(header("content-type"), "text/plain");
}

#[tokio::test]
async fn an_answer_nobody_named_the_type_of_is_looked_at_and_an_empty_one_is_no_event() {
    let bodies = ["", r#"{"a": 1}"#, "plain", "\u{e4}"];
    let answer = move |_, number: usize| {
        let mut answer =
            text(if number == 3 { Bytes::from_static(b"\xff\x00") } else { bodies[number].into() });
        answer.content_type.clear();
        Ok(answer)
    };
    let mut stage = Stage::new("triggers-types", answer).await;
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/x")).await;
    for number in 0..4 {
        stage.send(Kind::EMOTION, &number.to_string()).await;
    }
    for expected in ["application/json", "text/plain; charset=utf-8", "application/octet-stream"] {
        let answer = stage.answer().await;
        assert_eq!(answer.envelope.unwrap().body.unwrap().content_type, expected);
        answer.ack.ack();
    }
    assert_eq!(stage.tally.published.get(), 3);
}

#[tokio::test]
async fn a_function_that_fails_is_tried_again_and_then_told_of() {
    let answer = |request: Request, _| match &request.body[..] {
        b"bad" => failed(CallError::Failed("wasm trap: unreachable".to_owned())),
        _ => Ok(text("good")),
    };
    let mut stage = Stage::new("triggers-failed", answer).await;
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/x")).await;
    stage.send(Kind::EMOTION, "bad").await;
    stage.send(Kind::EMOTION, "good").await;
    let letter = stage.letter().await;
    assert_eq!(letter.topic, "shunt/emotion/gate");
    assert_eq!(letter.reason, "function mood: it failed: wasm trap: unreachable (3 tries)");
    assert_eq!(letter.excerpt, "bad");
    // The next one was not held up.
    stage.answer().await.ack.ack();
    assert_eq!(stage.bodies(), ["bad", "bad", "bad", "good"]);
    assert_eq!(stage.failures(Source::Event, Reason::Failed), 1);
}

#[tokio::test]
async fn what_would_go_the_same_way_again_is_not_tried_again() {
    let answer = |_, number| match number {
        0 => failed(CallError::Refused("no face in it".to_owned())),
        1 => failed(CallError::Time(5_000)),
        2 => failed(CallError::Memory(1 << 20)),
        3 => failed(CallError::Output(1 << 10)),
        4 => Ok(Answer { status: StatusCode::NOT_FOUND, ..text("") }),
        _ => Err(Unanswered::NotInstalled),
    };
    let mut stage = Stage::new("triggers-once", answer).await;
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/x")).await;
    for number in 0..6 {
        stage.send(Kind::EMOTION, &number.to_string()).await;
    }
    for expected in [
        "function mood: no face in it",
        "function mood: it ran longer than its 5000 ms",
        "function mood: it wanted more memory than its 1 MiB",
        "function mood: its answer is longer than its 1 KiB",
        "function mood: it answered 404 Not Found",
        "function mood: it is not installed",
    ] {
        assert_eq!(stage.letter().await.reason, expected);
    }
    assert_eq!(stage.bodies(), ["0", "1", "2", "3", "4", "5"]);
    for reason in [Reason::Time, Reason::Memory, Reason::Output, Reason::NotInstalled] {
        assert_eq!(stage.failures(Source::Event, reason), 1, "{reason:?}");
    }
    assert_eq!(stage.failures(Source::Event, Reason::Refused), 2);
}

#[tokio::test]
async fn a_busy_host_makes_events_wait_and_loses_none() {
    let answer = |_, number| if number < 5 { failed(CallError::Busy) } else { Ok(text("done")) };
    let mut stage = Stage::new("triggers-busy", answer).await;
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/x")).await;
    for number in 0..3 {
        stage.send(Kind::EMOTION, &number.to_string()).await;
    }
    for _ in 0..3 {
        stage.answer().await.ack.ack();
    }
    assert_eq!(stage.bodies(), ["0", "0", "0", "0", "0", "0", "1", "2"]);
    assert_eq!(stage.tally.postponed.get(), 5);
}

#[tokio::test]
async fn an_answer_on_a_topic_that_is_not_granted_is_told_and_not_published() {
    let mut stage = Stage::new("triggers-denied", |_, _| Ok(text("x"))).await;
    stage.set(&["shunt/emotion/#"], Some("shunt/alert/x")).await;
    stage.send(Kind::EMOTION, "1").await;
    let letter = stage.letter().await;
    assert!(letter.reason.contains("grants do not have the topic shunt/alert/x"), "{}", letter.reason);
    assert_eq!(stage.failures(Source::Event, Reason::Denied), 1);
}

#[tokio::test]
async fn a_function_that_publishes_what_calls_it_goes_round_a_few_times_only() {
    let bus: Arc<Plain<Option<Bus>>> = Arc::default();
    let publisher = Arc::clone(&bus);
    // A guest's own `publish`, which no settings can see.
    let mut stage = Stage::slow("triggers-circle", move |request, _| {
        let bus = publisher.lock().clone().unwrap();
        Box::pin(async move {
            let mut event =
                Envelope::new("again", Kind::EMOTION, Name::from_static("gate"), "2026-11-21T09:00:00Z");
            request.cause.unwrap().lead_to(&mut event);
            bus.publish(event, Delivery::Assured).await.unwrap();
            Ok(text(""))
        })
    })
    .await;
    *bus.lock() = Some(stage.triggers.desk.bus.clone());
    stage.set(&["shunt/emotion/#"], None).await;
    stage.send(Kind::EMOTION, "1").await;
    let letter = stage.letter().await;
    assert!(
        letter.reason.contains("come through functions 8 times: it goes in a circle"),
        "{}",
        letter.reason
    );
    assert_eq!(stage.calls.lock().len(), 8);
    assert_eq!(stage.failures(Source::Event, Reason::Loop), 1);
    *bus.lock() = None;
}

#[tokio::test]
async fn a_message_that_is_no_event_is_told_of() {
    let mut stage = Stage::new("triggers-unusable", |_, _| Ok(text("x"))).await;
    stage.set(&["shunt/emotion/#"], None).await;
    // A binary message whose content type says JSON in structured mode, and whose payload is none.
    let broken = Envelope::new("1", Kind::EMOTION, Name::from_static("gate"), "2026-11-21T09:00:00Z")
        .with_body("application/cloudevents+json", "{");
    stage.sender.publish(broken, Delivery::Assured).await.unwrap();
    let letter = stage.letter().await;
    assert!(letter.reason.starts_with("function mood: the event is not readable JSON"), "{}", letter.reason);
    assert!(stage.calls.lock().is_empty());
}

#[tokio::test]
async fn changes_take_effect_while_it_runs_and_what_is_gone_calls_no_more() {
    let mut stage = Stage::new("triggers-change", |_, _| Ok(text("x"))).await;
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/a")).await;
    stage.send(Kind::EMOTION, "1").await;
    let first = stage.answer().await;
    first.ack.ack();
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/b")).await;
    stage.send(Kind::EMOTION, "2").await;
    let second = stage.answer().await;
    second.ack.ack();
    assert_eq!((first.topic.as_str(), second.topic.as_str()), ("shunt/mood/a", "shunt/mood/b"));
    stage.set(&["shunt/label/#"], Some("shunt/mood/b")).await;
    stage.send(Kind::EMOTION, "3").await;
    stage.send(Kind::LABEL, "4").await;
    stage.answer().await.ack.ack();
    assert_eq!(stage.bodies(), ["1", "2", "4"]);
}

#[tokio::test]
async fn an_interval_calls_again_and_again_and_skips_what_would_pile_up() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inside = Arc::clone(&gate);
    let mut stage = Stage::slow("triggers-interval", move |_, _| {
        let inside = Arc::clone(&inside);
        Box::pin(async move {
            inside.acquire().await.unwrap().forget();
            Ok(text("tick"))
        })
    })
    .await;
    let publish = Some("shunt/mood/+".parse().unwrap());
    let trigger = Trigger { on: Vec::new(), every: Some(Duration::from_millis(100)), publish };
    let triggers = BTreeMap::from([(name("mood"), trigger)]);
    stage.triggers.set(&triggers);
    let skipped = |stage: &Stage| stage.tally.skipped.get();
    // The same settings again and again: no interval begins anew, else it would never come.
    let limit = tokio::time::Instant::now() + LIMIT;
    while skipped(&stage) < 3 {
        assert!(tokio::time::Instant::now() < limit, "the interval never comes");
        stage.triggers.set(&triggers);
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.calls.lock().len(), 1, "the first run goes on");
    gate.add_permits(1);
    let answer = stage.answer().await;
    assert_eq!(answer.topic, "shunt/mood/mood");
    assert_eq!(answer.envelope.unwrap().stamps.unwrap().hops().len(), 1);
    stage.called(2).await;
    let call = stage.calls.lock()[0].clone();
    assert_eq!((call.source.as_str(), call.body.len()), ("interval", 0));
}

#[tokio::test]
async fn an_interval_waits_before_its_first_call_and_calls_no_more_when_it_is_taken_away() {
    let mut stage = Stage::new("triggers-first", |_, _| Ok(text(""))).await;
    let every = |millis| Trigger { every: Some(Duration::from_millis(millis)), ..Trigger::default() };
    let count =
        |stage: &Stage, name: &str| stage.calls.lock().iter().filter(|call| call.name == name).count();
    let often = |stage: &Stage, more: usize| {
        let goal = count(stage, "often") + more;
        let calls = Arc::clone(&stage.calls);
        eventually(LIMIT, move || {
            let calls = Arc::clone(&calls);
            async move { calls.lock().iter().filter(|call| call.name == "often").count() >= goal }
        })
    };
    let mut triggers = BTreeMap::from([(name("often"), every(100)), (name("hourly"), every(3_600_000))]);
    triggers.insert(name("leaving"), every(100));
    stage.triggers.set(&triggers);
    often(&stage, 3).await;
    assert_eq!(count(&stage, "hourly"), 0);
    triggers.remove(&name("leaving"));
    stage.triggers.set(&triggers);
    // What had begun ends.
    often(&stage, 1).await;
    let left = count(&stage, "leaving");
    assert!(left > 0);
    often(&stage, 3).await;
    assert_eq!(count(&stage, "leaving"), left);
}

#[tokio::test]
async fn at_the_end_what_goes_on_is_finished_and_nothing_more_is_taken() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inside = Arc::clone(&gate);
    let mut stage = Stage::slow("triggers-end", move |_, _| {
        let inside = Arc::clone(&inside);
        Box::pin(async move {
            inside.acquire().await.unwrap().forget();
            Ok(text("done"))
        })
    })
    .await;
    stage.set(&["shunt/emotion/#"], Some("shunt/mood/x")).await;
    stage.send(Kind::EMOTION, "1").await;
    stage.send(Kind::EMOTION, "2").await;
    stage.called(1).await;
    let calls = Arc::clone(&stage.calls);
    let mut answers = std::mem::replace(
        &mut stage.answers,
        stage.sender.subscribe(&filter("shunt/mood/+"), Delivery::Assured).await.unwrap(),
    );
    let ending = stage.end();
    gate.add_permits(10);
    let kept = timeout(LIMIT, ending).await.unwrap().unwrap();
    assert_eq!(kept.len(), 1, "the broker goes on keeping events for the function");
    let answer = timeout(LIMIT, answers.next()).await.unwrap().unwrap();
    assert_eq!(answer.topic, "shunt/mood/x");
    assert_eq!(calls.lock().len(), 1);
}
