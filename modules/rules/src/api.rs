//! The HTTP interface: the state of the rules, and trials.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use shunt_module::HttpProblem;
use shunt_rules::RuleState;

use crate::{board::Board, desk::Desk, trier::Trier};

const PAGE: &str = include_str!("page.html");
const OPENAPI: &str = include_str!("openapi.json");

/// What the routes share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) desk: Desk,
    pub(crate) board: Board,
    pub(crate) trier: Trier,
}

/// The routes.
pub(crate) fn routes(api: Api) -> Router {
    let document = || async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) };
    Router::new()
        .route("/rules", get(rules))
        .route("/rules/test", post(test))
        .route("/rules/{name}", get(rule))
        .route("/", get(|| async { Redirect::temporary("/swagger") }))
        .route("/swagger", get(|| async { Html(PAGE) }))
        .route("/openapi.json", get(document))
        .with_state(api)
}

async fn rules(State(api): State<Api>) -> Result<Response, HttpProblem> {
    let (rules, groups) = api.states().await?;
    let rules: Vec<_> = rules.iter().map(|rule| api.tell(rule)).collect();
    Ok(Json(json!({"rules": rules, "groups": groups})).into_response())
}

async fn rule(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, HttpProblem> {
    let (rules, _) = api.states().await?;
    let rule = rules.iter().find(|rule| rule.name == name).ok_or_else(|| {
        let known: Vec<_> = rules.iter().map(|rule| rule.name.as_str()).collect();
        let detail = format!("there is no rule {name:?}; there are {}", known.join(", "));
        HttpProblem::new(StatusCode::NOT_FOUND, "no such rule", detail)
    })?;
    Ok(Json(api.tell(rule)).into_response())
}

async fn test(State(api): State<Api>, body: Result<Bytes, BytesRejection>) -> Result<Response, HttpProblem> {
    let body = body.map_err(|rejection| {
        HttpProblem::new(rejection.status(), "the request cannot be read", rejection.body_text())
    })?;
    match api.trier.answer(move || serde_json::from_slice(&body).map_err(|error| error.to_string())).await {
        Ok(answer) => Ok(Json(answer).into_response()),
        Err(problem) => Err(HttpProblem::new(StatusCode::BAD_REQUEST, "the trial cannot be run", problem)),
    }
}

// === impl Api ===

impl Api {
    async fn states(&self) -> Result<(Vec<RuleState>, usize), HttpProblem> {
        self.desk.rules().await.map_err(|error| {
            HttpProblem::new(StatusCode::SERVICE_UNAVAILABLE, "the rules do not answer", error.to_string())
        })
    }

    /// A rule's state, as it is written, and its last failed action.
    fn tell(&self, rule: &RuleState) -> Value {
        let mut told = serde_json::to_value(rule).unwrap_or_default();
        if let Some(told) = told.as_object_mut() {
            told.insert("failed_action".to_owned(), json!(self.board.action(&rule.name)));
            told.insert("rule".to_owned(), json!(self.trier.rule(&rule.name)));
        }
        told
    }
}
