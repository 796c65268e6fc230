//! `shunt twin`: module twins, as the cloud sees and sets them.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::{
    chain::{self, Chain},
    control::Control,
    output,
};

/// Read and set module twins, playing the cloud's part.
#[derive(Debug, Args)]
pub(crate) struct Twin {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    hub: HubArgs,
}

/// Which hub.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// The folder of the chain.
    #[arg(long, value_name = "DIR", global = true)]
    folder: Option<PathBuf>,
    /// The stand-in's control address, where no chain of `shunt up` runs.
    #[arg(long, value_name = "URL", global = true)]
    control: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a module's twin.
    Get {
        /// The module.
        module: String,
    },
    /// Set desired properties and wait for the module's answer, field by field.
    Set {
        /// The module.
        module: String,
        /// `name=value` (JSON, else text; `null` takes it away), or one JSON object.
        #[arg(required = true)]
        properties: Vec<String>,
        /// Do not wait for the answer.
        #[arg(long)]
        no_wait: bool,
    },
}

/// What a module has to answer in.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

// === impl HubArgs ===

impl HubArgs {
    /// The hub, and the device's id there.
    pub(crate) async fn connect(&self) -> anyhow::Result<(Control, String)> {
        let address = match &self.control {
            Some(control) => control.clone(),
            None => Chain::read(&self.folder.clone().unwrap_or_else(chain::default_folder))?.control,
        };
        let control = Control::new(&address)?;
        let device = control.status().await?.device;
        Ok((control, device))
    }
}

// === impl Twin ===

impl Twin {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (control, device) = self.hub.connect().await?;
        match self.action {
            Action::Get { module } => {
                let twin = control.twin(&device, &module).await?;
                output::line(serde_json::to_string_pretty(&twin)?)
            }
            Action::Set { module, properties, no_wait } => {
                let patch = parse_patch(&properties)?;
                let twin = control.patch_desired(&device, &module, &Value::Object(patch.clone())).await?;
                if no_wait {
                    return output::line(serde_json::to_string_pretty(&twin)?);
                }
                let version = twin.pointer("/properties/desired/$version").and_then(Value::as_u64);
                wait_for_answers(&control, &device, &module, &patch, version.unwrap_or_default()).await
            }
        }
    }
}

/// Prints the module's word on each field; fails where it refused one or said nothing.
async fn wait_for_answers(
    control: &Control,
    device: &str,
    module: &str,
    patch: &Map<String, Value>,
    version: u64,
) -> anyhow::Result<()> {
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let twin = control.twin(device, module).await?;
            let reported = twin.pointer("/properties/reported").cloned().unwrap_or_default();
            let answered = |field: &str| {
                let answer = reported.get(field)?;
                (answer.get("av")?.as_u64()? >= version && answer.get("ac")?.as_i64()? != 202)
                    .then_some(answer)
            };
            // What was taken away is answered with the default that took its place, or not at all.
            let fields = patch.iter().filter(|(_, value)| !value.is_null());
            let answers: Option<Vec<(String, Value)>> =
                fields.map(|(field, _)| Some((field.clone(), answered(field)?.clone()))).collect();
            if let Some(answers) = answers {
                return anyhow::Ok(answers);
            }
        }
    };
    let answers = tokio::time::timeout(ANSWER_LIMIT, wait).await.with_context(|| {
        format!(
            "{module} has not answered within {} s; the twin keeps the change for it",
            ANSWER_LIMIT.as_secs()
        )
    })??;
    let mut refused = 0;
    for (field, answer) in &answers {
        let code = answer.get("ac").and_then(Value::as_i64).unwrap_or_default();
        let told = answer.get("ad").and_then(Value::as_str).unwrap_or_default();
        let value = answer.get("value").unwrap_or(&Value::Null);
        let word = if code < 300 { "in force" } else { "refused, in force stays" };
        output::line(format!(
            "{field}: {word} {value} ({code}{}{told})",
            if told.is_empty() { "" } else { ": " }
        ))?;
        refused += usize::from(code >= 300);
    }
    anyhow::ensure!(refused == 0, "{module} refused {refused} of {} fields", answers.len());
    Ok(())
}

/// `name=value` pairs, or one JSON object.
fn parse_patch(properties: &[String]) -> anyhow::Result<Map<String, Value>> {
    if let [only] = properties
        && only.trim_start().starts_with('{')
    {
        return serde_json::from_str(only).context("the patch is not a JSON object");
    }
    properties
        .iter()
        .map(|property| {
            let (name, value) = property
                .split_once('=')
                .with_context(|| format!("{property:?} is not of the form name=value"))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Ok((name.to_owned(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patch(properties: &[&str]) -> anyhow::Result<Value> {
        let properties: Vec<String> = properties.iter().map(|&property| property.to_owned()).collect();
        parse_patch(&properties).map(Value::Object)
    }

    #[test]
    fn values_are_json_or_else_text() {
        assert_eq!(
            patch(&["fps=5", "source=/dev/video0", "loop=true"]).unwrap(),
            json!({"fps": 5, "source": "/dev/video0", "loop": true})
        );
        assert_eq!(patch(&["hold_s=null"]).unwrap(), json!({"hold_s": null}));
        assert_eq!(patch(&[r#"{"fps": 5}"#]).unwrap(), json!({"fps": 5}));
        assert!(patch(&["fps"]).is_err());
        assert!(patch(&["{fps"]).is_err());
    }
}
