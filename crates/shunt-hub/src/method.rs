//! Direct methods.

use std::{fmt, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

/// What edgeHub and IoT Hub take of an answer.
const MAX_ANSWER: usize = 128 * 1024;
/// To hand an answer to the connection.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

/// A direct method called by the cloud or by another module.
#[derive(Debug)]
pub struct MethodCall {
    /// The method, in the case that the caller wrote.
    pub name: String,
    /// Its argument; `null` if none was given.
    pub payload: Value,
    /// Who answers. Dropped without an answer it answers 500.
    pub reply: MethodReply,
}

/// The way back to the caller of a direct method. An answer counts only on the connection that the call came on.
pub struct MethodReply {
    rid: String,
    answers: Option<mpsc::Sender<Answer>>,
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) rid: String,
    pub(crate) status: u16,
    pub(crate) payload: Vec<u8>,
}

// === impl MethodReply ===

impl MethodReply {
    pub(crate) fn new(rid: String, answers: mpsc::Sender<Answer>) -> Self {
        Self { rid, answers: Some(answers) }
    }

    /// Someone else answers.
    pub(crate) fn forget(mut self) {
        self.answers = None;
    }

    /// Answers with a status as of HTTP (200, 400, 404, 500) and a payload of up to 128 KiB.
    pub async fn answer(mut self, status: u16, payload: Value) {
        let Some(answers) = self.answers.take() else { return };
        let answer = Answer::new(std::mem::take(&mut self.rid), status, &payload);
        match timeout(HAND_OVER_LIMIT, answers.send(answer)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                tracing::debug!("The connection that a method call came on is gone, and its answer with it.");
            }
            Err(_) => tracing::warn!("The answer to a method call could not be sent in time."),
        }
    }
}

impl Drop for MethodReply {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            let message = json!({"message": "the module gave no answer"});
            // If there is no room, the caller waits for its own time limit.
            drop(answers.try_send(Answer::new(std::mem::take(&mut self.rid), 500, &message)));
        }
    }
}

impl fmt::Debug for MethodReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodReply").field("rid", &self.rid).finish_non_exhaustive()
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn new(rid: String, status: u16, payload: &Value) -> Self {
        let text = payload.to_string();
        if text.len() <= MAX_ANSWER {
            return Self { rid, status, payload: text.into_bytes() };
        }
        tracing::error!(
            bytes = text.len(),
            "The answer to a method call is larger than the hub takes; it was lost."
        );
        let message =
            json!({"message": format!("the answer has {} bytes, {MAX_ANSWER} are allowed", text.len())});
        Self { rid, status: 500, payload: message.to_string().into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_is_dropped_is_answered_500() {
        let (answers, mut received) = mpsc::channel(4);
        drop(MethodReply::new("r1".into(), answers.clone()));
        let answer = received.recv().await.unwrap();
        assert_eq!((answer.rid.as_str(), answer.status), ("r1", 500));

        MethodReply::new("r2".into(), answers.clone()).answer(200, json!({"a": 1})).await;
        let answer = received.recv().await.unwrap();
        assert_eq!(
            (answer.rid.as_str(), answer.status, &answer.payload[..]),
            ("r2", 200, &br#"{"a":1}"#[..])
        );

        MethodReply::new("r3".into(), answers).answer(200, json!("x".repeat(MAX_ANSWER))).await;
        assert_eq!(received.recv().await.unwrap().status, 500);
        assert!(received.recv().await.is_none(), "one answer each");
    }
}
