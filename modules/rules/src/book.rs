//! The rules in force: those of the settings and those of the file.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use shunt_module::Problems;
use shunt_rules::{Format, MAX_FILE, RuleSet, check_file, read_rules};

use crate::settings::RulesSettings;

/// The rules as they are written, by name.
pub(crate) type Written = BTreeMap<String, Value>;

/// Reads the file, and puts its rules under those of the settings. Reads a file: not for the async threads.
///
/// # Errors
///
/// What is wrong, by field of the settings.
pub(crate) fn open(settings: &RulesSettings) -> Result<(Written, RuleSet), Problems> {
    let mut rules = Written::new();
    if let Some(file) = settings.rule_file() {
        rules = read(&file, settings).map_err(|problem| {
            let mut problems = Problems::default();
            problems.note("file", problem);
            problems
        })?;
    }
    rules.extend(settings.rules.iter().map(|(name, rule)| (name.clone(), rule.clone())));
    let set = RuleSet::compile(rules.iter().map(|(name, rule)| (name.as_str(), rule)), &settings.limits());
    let set = set.map_err(|found| {
        let mut problems = Problems::default();
        for (rule, problem) in found {
            problems.note(
                if rule.is_empty() { "rules".to_owned() } else { format!("rules.{rule}") }.as_str(),
                problem.to_string(),
            );
        }
        problems
    })?;
    Ok((rules, set))
}

fn read(file: &Path, settings: &RulesSettings) -> Result<Written, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let size = std::fs::metadata(file).map_err(cannot)?.len();
    if size > MAX_FILE as u64 {
        return Err(format!("{} has {size} bytes, {MAX_FILE} are allowed", file.display()));
    }
    let text = std::fs::read_to_string(file).map_err(cannot)?;
    let format = Format::of(&file.to_string_lossy());
    let told = |findings: Vec<shunt_rules::Finding>| {
        let lines: Vec<_> = findings.iter().map(|finding| format!("{}:{finding}", file.display())).collect();
        lines.join("; ")
    };
    check_file(&text, format, &settings.limits()).map_err(told)?;
    read_rules(&text, format).map_err(told)
}
