//! `shunt tail`: what reaches the hub, or what travels on the bus, as it comes.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use shunt_bus::{Delivery, Received};
use shunt_wire::{Kind, Stamps, TopicFilter};

use crate::{
    bus::BusArgs,
    chain::Chain,
    control::{Control, HubRecord},
    output, up,
};

/// Show the messages that reach the hub (or, with --bus, the events on the bus) as they come.
#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// Show events on the bus instead.
    #[arg(long)]
    bus: bool,
    /// Only events of this kind: emotion, frame, ...
    #[arg(long)]
    kind: Option<Kind>,
    /// Begin with the messages that are there already.
    #[arg(long, conflicts_with = "bus")]
    all: bool,
    /// Print each as a line of JSON.
    #[arg(long)]
    json: bool,
    /// End after so many.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// End after this time.
    #[arg(long, value_name = "TIME", value_parser = up::parse_time)]
    r#for: Option<Duration>,
    /// The stand-in's control address, where no chain of `shunt up` runs.
    #[arg(long, value_name = "URL", conflicts_with = "bus")]
    control: Option<String>,
    #[command(flatten)]
    connection: BusArgs,
}

// === impl Tail ===

impl Tail {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let stop = up::stop_on_signals()?;
        let limit = self.r#for;
        let follow = async { if self.bus { self.follow_bus().await } else { self.follow_hub().await } };
        let time_is_up = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = follow => done,
            () = stop.cancelled() => Ok(()),
            () = time_is_up => Ok(()),
        }
    }

    fn chain(&self) -> anyhow::Result<Chain> {
        Chain::read(&self.connection.folder())
    }

    async fn follow_hub(&self) -> anyhow::Result<()> {
        let control = match &self.control {
            Some(control) => Control::new(control)?,
            None => Control::new(&self.chain()?.control)?,
        };
        let mut next = if self.all { 0 } else { control.status().await?.messages + 1 };
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let (messages, after) = control.messages(next, Duration::from_secs(20)).await?;
            next = after;
            for message in &messages {
                let kind = message.property("kind");
                if self.kind.as_ref().is_some_and(|wanted| kind != Some(wanted.as_str())) {
                    continue;
                }
                output::line(if self.json { as_json(message)? } else { in_words(message) })?;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn follow_bus(&self) -> anyhow::Result<()> {
        let client = self.connection.open().await?;
        let filter = self.kind.as_ref().map_or_else(TopicFilter::everything, TopicFilter::kind);
        let mut events = client.bus.subscribe(&filter, Delivery::Fast).await?;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let event = events.next().await.context("the bus was closed")?;
            output::line(event_line(&event, self.json)?)?;
            left -= 1;
        }
        Ok(())
    }
}

fn as_json(message: &HubRecord) -> anyhow::Result<String> {
    Ok(serde_json::to_string(&serde_json::json!({
        "sequence": message.sequence,
        "enqueued": message.enqueued,
        "module": message.module,
        "properties": message.properties,
        "system": message.system,
        "body": message.body,
    }))?)
}

fn in_words(message: &HubRecord) -> String {
    let stamps = message
        .property("shuntcapture")
        .and_then(|capture| Stamps::parse(capture, message.property("shunthops").unwrap_or_default()).ok());
    let late = stamps.map(|stamps| {
        let received = shunt_wire::Mono::from_nanos(message.received_mono_ns);
        format!("{:.1} ms", received.since(stamps.capture()).as_secs_f64() * 1_000.0)
    });
    format!(
        "{:>6}  {}  {}  {}  {}",
        message.sequence,
        message.property("kind").unwrap_or("message"),
        message.property("source").or(message.module.as_deref()).unwrap_or("-"),
        late.unwrap_or_default(),
        shorten(&message.body.to_string(), 160),
    )
}

fn event_line(event: &Received, json: bool) -> anyhow::Result<String> {
    let envelope = match &event.envelope {
        Ok(envelope) => envelope,
        Err(error) if json => {
            return Ok(serde_json::json!({"topic": event.topic, "error": error.to_string()}).to_string());
        }
        Err(error) => return Ok(format!("{}  no event: {error}", event.topic)),
    };
    if json {
        return Ok(String::from_utf8(envelope.to_structured()?)?);
    }
    let body = match &envelope.body {
        Some(body) if body.content_type.contains("json") => {
            shorten(&String::from_utf8_lossy(&body.bytes), 160)
        }
        Some(body) => format!("{} bytes of {}", body.bytes.len(), body.content_type),
        None => String::new(),
    };
    Ok(format!("{}  {}  {body}", event.topic, envelope.id))
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_message_is_one_line() {
        let record = serde_json::json!({"sequence": 7, "module": "relay", "received_mono_ns": 4_500_000,
            "properties": {"kind": "emotion", "source": "shunt/front-door", "shuntcapture": "1000000", "shunthops": ""},
            "body": {"emotion": "happiness"}});
        let line = in_words(&serde_json::from_value(record).unwrap());
        assert_eq!(line, r#"     7  emotion  shunt/front-door  3.5 ms  {"emotion":"happiness"}"#);
    }

    #[test]
    fn long_bodies_are_shortened_between_characters() {
        assert_eq!(shorten("äöü", 2), "äö...");
        assert_eq!(shorten("äöü", 3), "äöü");
    }
}
