//! Direct methods: those that every module has, and those that a module registers.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use parking_lot::RwLock;
use serde_json::{Value, json};
use shunt_hub::{Hub, MethodCall};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a handler may take. The module is not told how long its caller waits; this is below the 10 s of
/// `shunt method` and the 30 s that IoT Hub takes where nothing else is said, so that the caller hears of a handler
/// that hangs and not of a module that is silent.
const HANDLER_LIMIT: Duration = Duration::from_secs(9);

/// Most calls in work. One more is answered 429.
const CALLS: usize = 8;

/// The longest name of a method, in characters: IoT Hub's limit.
const NAME_LIMIT: usize = 100;

type Answer = (u16, Value);
type Handler = Arc<dyn Fn(Value) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// The direct methods of a module: `context.methods`. Clones share them.
///
/// Every module has `ping`, `getSettings`, `setLogLevel` and `diagnostics`. A handler gets the payload (`null` if the
/// caller gave none) and answers with a status as of HTTP and a payload of up to 128 KiB. It runs as a task of its
/// own, takes 9 s at most (504 else), and may panic (500).
///
/// ```
/// use serde_json::{Value, json};
/// use shunt_module::Methods;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let methods = Methods::default();
/// methods.on("double", |payload: Value| async move {
///     match payload.as_i64() {
///         Some(number) => (200, json!(number * 2)),
///         None => (400, json!({"message": "the payload must be a whole number"})),
///     }
/// })?;
/// assert_eq!(methods.call("double", json!(4)).await, (200, json!(8)));
/// assert_eq!(methods.call("halve", json!(4)).await.0, 404);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Methods(Arc<RwLock<BTreeMap<String, Handler>>>);

/// Calls of a direct method that the module's own loop answers: [`Methods::queue`].
#[derive(Debug)]
pub struct MethodQueue(mpsc::Receiver<QueuedCall>);

/// A call that waits for the module's loop. Dropped without an answer it answers 503.
#[derive(Debug)]
pub struct QueuedCall {
    /// Its argument; `null` if the caller gave none.
    pub payload: Value,
    reply: oneshot::Sender<Answer>,
}

/// Why a method was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// There is one of this name.
    #[error("there is a direct method {0:?} already")]
    Duplicate(String),
    /// IoT Hub would not take the name.
    #[error("the method's name {0:?} must have 1 to {NAME_LIMIT} letters or digits")]
    Name(String),
}

// === impl Methods ===

impl Methods {
    /// From now on calls of this method go to this handler.
    ///
    /// # Errors
    ///
    /// There is a method of this name already, or the name is none.
    pub fn on<H, F>(&self, name: &str, handler: H) -> Result<(), MethodError>
    where
        H: Fn(Value) -> F + Send + Sync + 'static,
        F: Future<Output = (u16, Value)> + Send + 'static,
    {
        let sound =
            (1..=NAME_LIMIT).contains(&name.len()) && name.bytes().all(|sign| sign.is_ascii_alphanumeric());
        if !sound {
            return Err(MethodError::Name(name.to_owned()));
        }
        let mut handlers = self.0.write();
        if handlers.contains_key(name) {
            return Err(MethodError::Duplicate(name.to_owned()));
        }
        handlers.insert(name.to_owned(), Arc::new(move |payload| Box::pin(handler(payload))));
        Ok(())
    }

    /// From now on calls of this method come one by one to the module's own loop, which alone may touch what they are
    /// about. While it works on one and another waits, further ones are answered 429.
    ///
    /// # Errors
    ///
    /// As [`Methods::on`].
    pub fn queue(&self, name: &str) -> Result<MethodQueue, MethodError> {
        // Room for one: what the loop has not taken.
        let (calls, queue) = mpsc::channel(1);
        self.on(name, move |payload| {
            let calls = calls.clone();
            async move {
                let (reply, answer) = oneshot::channel();
                match calls.try_send(QueuedCall { payload, reply }) {
                    Ok(()) => {
                        let gone = json!({"message": "the module gave no answer; it may be ending"});
                        answer.await.unwrap_or((503, gone))
                    }
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        (429, json!({"message": "a call of this method is waiting already"}))
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        (503, json!({"message": "the module is ending"}))
                    }
                }
            }
        })?;
        Ok(MethodQueue(queue))
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        self.0.read().keys().cloned().collect()
    }

    /// Calls a method as the hub does: for tests, and for a module that calls its own.
    pub async fn call(&self, name: &str, payload: Value) -> (u16, Value) {
        self.call_within(HANDLER_LIMIT, name, payload).await
    }

    async fn call_within(&self, limit: Duration, name: &str, payload: Value) -> Answer {
        let handler = self.0.read().get(name).cloned();
        let Some(handler) = handler else {
            return (
                404,
                json!({"message": format!("there is no method {name:?}"), "methods": self.names()}),
            );
        };
        // A task of its own: a panic ends the task and not the module.
        let mut task = tokio::spawn(async move { handler(payload).await });
        match timeout(limit, &mut task).await {
            Ok(Ok((status, answer))) => (status, answer),
            Ok(Err(_)) => {
                tracing::error!(method = name, "The handler of a direct method has panicked.");
                (500, json!({"message": "the method failed; the module's log has more"}))
            }
            Err(_) => {
                task.abort();
                let message =
                    format!("the method took longer than {} s and was given up", limit.as_secs_f64());
                (504, json!({ "message": message }))
            }
        }
    }

    /// Answers the hub's calls until shutdown.
    pub(crate) async fn serve(self, hub: Hub, shutdown: CancellationToken) {
        let (places, tasks) = (Arc::new(Semaphore::new(CALLS)), TaskTracker::new());
        let answering = async {
            let mut calls = hub.methods();
            while let Some(call) = calls.recv().await {
                // The bound of what is in work; see `CALLS`.
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    tasks.spawn(self.clone().answer(call, place));
                } else {
                    let message = format!("{CALLS} calls are in work already");
                    call.reply.answer(429, json!({ "message": message })).await;
                }
            }
        };
        shutdown.run_until_cancelled(answering).await;
        // Each ends by its own limit, and the drain's.
        tasks.close();
        tasks.wait().await;
    }

    async fn answer(self, MethodCall { name, payload, reply }: MethodCall, _place: OwnedSemaphorePermit) {
        let (status, answer) = self.call(&name, payload).await;
        tracing::info!(method = name, status, "A direct method was called.");
        reply.answer(status, answer).await;
    }
}

// === impl MethodQueue ===

impl MethodQueue {
    /// The next call. Cancel-safe. Never resolves if there can be none any more.
    pub async fn next(&mut self) -> QueuedCall {
        match self.0.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }
}

// === impl QueuedCall ===

impl QueuedCall {
    /// Answers with a status as of HTTP and a payload.
    pub fn answer(self, status: u16, payload: Value) {
        // Whoever called may have gone: its time was up.
        self.reply.send((status, payload)).ok();
    }
}

impl std::fmt::Debug for Methods {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Methods").field(&self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_given_once_and_in_a_form_that_the_hub_takes() {
        let methods = Methods::default();
        let answer = |_| async { (200, Value::Null) };
        methods.on("snapshot", answer).unwrap();
        assert_eq!(methods.on("snapshot", answer), Err(MethodError::Duplicate("snapshot".to_owned())));
        for name in ["", "snap shot", "snap/shot", "schnappschüsse", &"x".repeat(101)] {
            assert_eq!(methods.on(name, answer), Err(MethodError::Name(name.to_owned())));
        }
        assert_eq!(methods.names(), ["snapshot"]);
    }

    #[tokio::test]
    async fn a_handler_that_panics_or_hangs_is_answered_for() {
        let methods = Methods::default();
        methods
            .on("fall", |payload: Value| async move { (200, payload["no"]["such"].as_str().unwrap().into()) })
            .unwrap();
        methods.on("sleep", |_| std::future::pending()).unwrap();
        assert_eq!(methods.call("fall", Value::Null).await.0, 500);
        let (status, answer) = methods.call_within(Duration::from_millis(20), "sleep", Value::Null).await;
        assert_eq!(
            (status, &answer["message"]),
            (504, &json!("the method took longer than 0.02 s and was given up"))
        );
        assert_eq!(methods.call("fall", json!({"no": {"such": "x"}})).await, (200, json!("x")));
    }

    #[tokio::test]
    async fn the_module_s_loop_answers_queued_calls_one_by_one() {
        let methods = Methods::default();
        let mut queue = methods.queue("reload").unwrap();
        let (first, second) = tokio::join!(methods.call("reload", json!(1)), async {
            let call = queue.next().await;
            assert_eq!(call.payload, json!(1));
            let waiting = tokio::spawn({
                let methods = methods.clone();
                async move { methods.call("reload", json!(2)).await }
            });
            tokio::task::yield_now().await;
            while methods.call_within(Duration::from_millis(1), "reload", json!(3)).await.0 != 429 {}
            call.answer(200, json!("done"));
            drop(queue.next().await);
            waiting.await.unwrap()
        });
        assert_eq!((first, second.0), ((200, json!("done")), 503));
        drop(queue);
        assert_eq!(methods.call("reload", Value::Null).await.0, 503);
    }

    #[tokio::test]
    async fn an_unknown_method_is_told_those_that_there_are() {
        let methods = Methods::default();
        methods.on("reload", |_| async { (200, Value::Null) }).unwrap();
        let expected = json!({"message": "there is no method \"reboot\"", "methods": ["reload"]});
        assert_eq!(methods.call("reboot", Value::Null).await, (404, expected));
    }
}
