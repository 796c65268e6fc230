//! Subscriptions: what an app wants to be told of, and where.

mod discovery;
mod rules;

use std::{cell::LazyCell, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shunt_bus::Delivery;
use shunt_wire::{Kind, Name};

pub(crate) use self::discovery::{Discovery, Told};
use self::rules::{Facts, Rule};
use crate::pubsub::{DaprTopic, Event};

/// Most subscriptions of one app.
pub(crate) const MOST: usize = 64;
/// The longest path of a route, in characters.
const LONGEST_PATH: usize = 1024;
/// The fields that an app may declare; others are of features that are not here, or of a later Dapr.
const FIELDS: [&str; 6] = ["pubsubname", "topic", "route", "routes", "deadLetterTopic", "metadata"];

/// A subscription, in the words of Dapr.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SubscriptionSettings {
    /// The app that is told.
    pub app: String,
    /// The name of the pubsub.
    pub pubsubname: String,
    /// `<kind>` or `<kind>/<source>`.
    pub topic: String,
    /// The path of the app that events are posted to.
    pub route: String,
    /// Paths by condition, instead of `route`.
    pub routes: RouteSettings,
    /// The topic for events that the app did not take. Empty: they are told of on `shunt/dead-letter/gateway`.
    pub dead_letter_topic: String,
    /// `rawPayload` (`true`: the bare data) and `delivery` (`assured`, or `fast` for live values: no queue on disk, no
    /// second attempt, the newest wins; `frame` and `face` are fast where nothing is said).
    pub metadata: BTreeMap<String, String>,
}

/// Where events are posted to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// The first rule whose condition holds decides.
    pub rules: Vec<RuleSettings>,
    /// The path where no rule holds. Empty: the event is dropped and counted.
    pub default: String,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RuleSettings {
    /// A condition in CEL on `event`, the `CloudEvent`: `event.type == "order"`.
    pub r#match: String,
    /// The path.
    pub path: String,
}

/// A subscription that was found right.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// As it was declared.
    pub(crate) declared: SubscriptionSettings,
    pub(crate) app: Name,
    pub(crate) topic: DaprTopic,
    pub(crate) dead_letter: Option<DaprTopic>,
    pub(crate) raw: bool,
    pub(crate) delivery: Delivery,
    /// Declared by the settings, not by the app.
    pub(crate) by_settings: bool,
    rules: Vec<Rule>,
}

// === impl SubscriptionSettings ===

impl SubscriptionSettings {
    /// Reads what an app answers at `/dapr/subscribe`; says what is wrong with each that cannot be used.
    pub(crate) fn of_app(app: &Name, answer: &[u8]) -> Result<(Vec<Self>, Vec<String>), serde_json::Error> {
        let list: Vec<Map<String, Value>> = match serde_json::from_slice(answer)? {
            Value::Null => Vec::new(),
            list => serde_json::from_value(list)?,
        };
        let mut problems = Vec::new();
        if list.len() > MOST {
            problems.push(format!("{} subscriptions are more than the {MOST} allowed", list.len()));
        }
        let mut found = Vec::new();
        for fields in list.into_iter().take(MOST) {
            let told = fields.get("topic").map(Value::to_string).unwrap_or_default();
            match Self::of_fields(app, fields) {
                Ok(declared) => found.push(declared),
                Err(problem) => problems.push(format!("{told}: {problem}")),
            }
        }
        Ok((found, problems))
    }

    fn of_fields(app: &Name, mut fields: Map<String, Value>) -> Result<Self, String> {
        let bulk = fields.get("bulkSubscribe").and_then(|bulk| bulk.get("enabled"));
        if bulk == Some(&Value::Bool(true)) {
            return Err("bulkSubscribe is not supported; events come one by one".to_owned());
        }
        fields.retain(|name, value| FIELDS.contains(&name.as_str()) && !value.is_null());
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            for value in metadata.values_mut().filter(|value| !value.is_string()) {
                *value = Value::String(value.to_string());
            }
        }
        let declared: Self =
            serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
        Ok(Self { app: app.to_string(), ..declared })
    }
}

// === impl Subscription ===

impl Subscription {
    /// Checks what was declared.
    pub(crate) fn new(
        declared: SubscriptionSettings,
        by_settings: bool,
        is_pubsub: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let app: Name = declared.app.parse().map_err(|error| format!("app: {error}"))?;
        if !is_pubsub(&declared.pubsubname) {
            return Err(format!("pubsub {} not found", declared.pubsubname));
        }
        let topic: DaprTopic = declared.topic.parse().map_err(|error| format!("topic: {error}"))?;
        let dead_letter = if declared.dead_letter_topic.is_empty() {
            None
        } else {
            let letters: DaprTopic =
                declared.dead_letter_topic.parse().map_err(|error| format!("deadLetterTopic: {error}"))?;
            if let Some(owner) = letters.owner() {
                return Err(format!("deadLetterTopic: only {owner} may publish {}", letters.kind()));
            }
            Some(letters)
        };
        let live = [Kind::FRAME, Kind::FACE].contains(topic.kind());
        let delivery = match declared.metadata.get("delivery").map(String::as_str) {
            None if live => Delivery::Fast,
            None | Some("assured") => Delivery::Assured,
            Some("fast") => Delivery::Fast,
            Some(other) => return Err(format!("delivery is {other:?}, but must be assured or fast")),
        };
        let raw = match declared.metadata.get("rawPayload").map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(format!("rawPayload is {other:?}, but must be true or false")),
        };
        let rules = Self::rules(&declared)?;
        Ok(Self { declared, app, topic, dead_letter, raw, delivery, by_settings, rules })
    }

    fn rules(declared: &SubscriptionSettings) -> Result<Vec<Rule>, String> {
        let SubscriptionSettings { route, routes, .. } = declared;
        let mut rules = Vec::new();
        for RuleSettings { r#match, path } in &routes.rules {
            rules.push(Rule::new(r#match, path_of(path)?)?);
        }
        let last = if routes.default.is_empty() { route } else { &routes.default };
        if !last.is_empty() {
            rules.push(Rule::always(path_of(last)?));
        }
        if rules.is_empty() {
            return Err("it has no route".to_owned());
        }
        Ok(rules)
    }

    /// The app's path for this event; none where no rule holds.
    pub(crate) fn path(&self, event: &Event) -> Option<&str> {
        // Made once, and only where a condition looks at the event.
        let facts =
            LazyCell::new(|| Facts::of(&event.fields(&self.declared.pubsubname, &self.declared.topic)));
        self.rules.iter().find(|rule| rule.holds(|| &facts)).map(Rule::path)
    }

    /// The body to post.
    pub(crate) fn body(&self, event: &Event) -> String {
        let SubscriptionSettings { pubsubname, topic, .. } = &self.declared;
        if self.raw { event.written_raw(pubsubname, topic) } else { event.written(pubsubname, topic) }
    }

    /// Its line in the queue.
    pub(crate) fn line(&self) -> String {
        format!("{}|{}|{}", self.app, self.declared.pubsubname, self.topic)
    }

    /// As `/v1.0/metadata` tells it.
    pub(crate) fn metadata(&self) -> Value {
        let rules: Vec<_> = self.rules.iter().map(Rule::metadata).collect();
        json!({
            "pubsubname": self.declared.pubsubname,
            "topic": self.declared.topic,
            "rules": rules,
            "deadLetterTopic": self.declared.dead_letter_topic,
            "metadata": self.declared.metadata,
            "type": if self.by_settings { "DECLARATIVE" } else { "PROGRAMMATIC" },
        })
    }
}

/// The path of a route: it may only name a path of the app.
fn path_of(route: &str) -> Result<String, String> {
    let path = if route.starts_with('/') { route.to_owned() } else { format!("/{route}") };
    let sound = path.len() <= LONGEST_PATH
        && !path.starts_with("//")
        && path.parse::<axum::http::Uri>().is_ok_and(|uri| uri.authority().is_none());
    if sound { Ok(path) } else { Err(format!("the route {route:?} is not a path")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &Value) -> Vec<Result<Subscription, String>> {
        let app = Name::from_static("shop");
        let (found, problems) = SubscriptionSettings::of_app(&app, answer.to_string().as_bytes()).unwrap();
        let found =
            found.into_iter().map(|declared| Subscription::new(declared, false, |name| name == "pubsub"));
        found.chain(problems.into_iter().map(Err)).collect()
    }

    #[test]
    fn what_the_sdks_declare_is_understood() {
        let answer = json!([
            {"pubsubname": "pubsub", "topic": "orders", "route": "orders", "metadata": {"rawPayload": true}},
            {"pubsubname": "pubsub", "topic": "orders/north", "deadLetterTopic": "poison", "bulkSubscribe": {"enabled": false},
             "routes": {"default": "/pubsub--orders--default", "rules": null}, "futureField": 7},
        ]);
        let fixed = answer.to_string().replace(",\"rules\":null", "");
        let found = read(&serde_json::from_str(&fixed).unwrap());
        let [Ok(plain), Ok(other)] = found.as_slice() else { panic!("{found:?}") };
        let event = Event::around(None, bytes::Bytes::new(), "shop");
        assert_eq!((plain.path(&event), plain.raw), (Some("/orders"), true));
        assert_eq!(other.path(&event), Some("/pubsub--orders--default"));
        assert_eq!(other.line(), "shop|pubsub|orders/north");
        assert_eq!(other.dead_letter.as_ref().unwrap().to_string(), "poison");
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let check = |declared: Value, expected: &str| {
            let found = read(&json!([declared]));
            let [Err(problem)] = found.as_slice() else { panic!("{found:?}") };
            assert!(problem.contains(expected), "{problem:?} lacks {expected:?}");
        };
        let with = |more: Value| {
            let mut declared = json!({"pubsubname": "pubsub", "topic": "orders", "route": "/orders"});
            declared.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            declared
        };
        check(with(json!({"topic": "orders/#"})), "wildcard");
        check(with(json!({"topic": "a/b/c"})), "two levels");
        check(with(json!({"pubsubname": "other"})), "pubsub other not found");
        check(with(json!({"route": ""})), "no route");
        check(with(json!({"route": "//evil.example/x"})), "not a path");
        check(with(json!({"route": "http://evil.example/x y"})), "not a path");
        check(with(json!({"bulkSubscribe": {"enabled": true}})), "bulkSubscribe");
        check(with(json!({"deadLetterTopic": "emotion"})), "only emotion");
        check(with(json!({"metadata": {"delivery": "slow"}})), "delivery");
        check(with(json!({"routes": {"rules": [{"match": "event.type ==", "path": "/x"}]}})), "match");
        for endless in [
            "event.data.all(a, event.data.all(b, event.data.all(c, a != b)))",
            "size([1, 2].map(a, a)) > 1",
            "has(event.data) && {'a': event.data.exists(a, a == 1)}.a",
        ] {
            check(with(json!({"routes": {"rules": [{"match": endless, "path": "/x"}]}})), "go through");
        }
    }

    #[test]
    fn the_first_rule_that_holds_names_the_path() {
        let answer = json!([{"pubsubname": "pubsub", "topic": "orders", "routes": {
            "rules": [
                {"match": "event.type == 'com.shop.big' && event.data.total > 100", "path": "/big"},
                {"match": "has(event.data.express)", "path": "/express"},
            ],
            "default": "/rest"}}]);
        let found = read(&answer);
        let [Ok(subscription)] = found.as_slice() else { panic!("{found:?}") };
        let path = |event: Value| {
            let event = Event::read(event.to_string().as_bytes(), "shop").unwrap();
            subscription.path(&event).map(ToOwned::to_owned)
        };
        assert_eq!(path(json!({"type": "com.shop.big", "data": {"total": 101}})).unwrap(), "/big");
        assert_eq!(path(json!({"type": "com.shop.big", "data": {"total": 1}})).unwrap(), "/rest");
        assert_eq!(path(json!({"data": {"express": true}})).unwrap(), "/express");
        assert_eq!(path(json!({"data": "text"})).unwrap(), "/rest");
        // Data that is very large is not looked at.
        let large = "x".repeat(100_000);
        assert_eq!(path(json!({"data": {"express": true, "large": large}})).unwrap(), "/rest");
    }
}
