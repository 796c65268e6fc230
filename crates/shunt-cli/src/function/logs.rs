//! `shunt function logs`: what a function said.

use std::borrow::Cow;

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::{Place, door::Lines};
use crate::output;

/// Print what a function wrote into its log.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The function.
    name: String,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// Print the lines as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

// === impl Logs ===

impl Logs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let door = self.place.door()?;
        let mut url = door.at(&["functions", &self.name, "logs"])?;
        if self.follow {
            url.set_query(Some("follow=true"));
        }
        let request = door.request(Method::GET, url);
        let answer = door.send(request).await?;
        let mut lines = if self.follow { Lines::without_end(answer) } else { Lines::of(answer) };
        let print = async {
            while let Some(line) = lines.next().await? {
                let line = String::from_utf8_lossy(&line);
                output::words(&if self.json { line } else { readable(line) })?;
            }
            Ok(())
        };
        tokio::select! {
            done = print => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

/// A line for people: the time, the level, the words; one line, however many the function made of it.
fn readable(line: Cow<'_, str>) -> Cow<'_, str> {
    let Ok(Value::Object(said)) = serde_json::from_str(&line) else { return line };
    let words =
        ["at", "level", "message"].map(|key| said.get(key).and_then(Value::as_str).unwrap_or_default());
    words.join(" ").replace(['\n', '\r'], " ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_log_is_one_line_for_people() {
        let line = r#"{"at":"2026-11-21T20:00:00Z","level":"warn","message":"one\ntwo"}"#;
        assert_eq!(readable(line.into()), "2026-11-21T20:00:00Z warn one two");
    }
}
