//! The variables that the tools put into templates, and how they do it.

use std::{collections::BTreeMap, fs, io, path::Path};

/// Words of manifests that look like variables to the tools. A variable of such a name would rewrite the manifest.
pub(crate) const RESERVED: [&str; 5] = ["upstream", "edgeAgent", "edgeHub", "body", "schema"];

/// Where the file part of an environment came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EnvironmentOrigin {
    /// No file was read.
    #[default]
    None,
    /// `.env`.
    File,
    /// `.env.template`, because there is no `.env`.
    Template,
}

/// Variables for templates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    origin: EnvironmentOrigin,
}

// === impl Environment ===

impl Environment {
    /// Exactly these variables.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { variables: variables.into_iter().collect(), origin: EnvironmentOrigin::None }
    }

    /// The variables of the process over those of `.env` in the folder, as the tools take them. Where there is no `.env`,
    /// those of `.env.template`, so that a fresh clone can be checked.
    pub fn load(folder: &Path, process: impl IntoIterator<Item = (String, String)>) -> io::Result<Self> {
        let (mut variables, mut origin) = (BTreeMap::new(), EnvironmentOrigin::None);
        for (name, is) in [(".env", EnvironmentOrigin::File), (".env.template", EnvironmentOrigin::Template)]
        {
            match fs::read_to_string(folder.join(name)) {
                Ok(text) => {
                    variables = parse(&text);
                    origin = is;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        variables.extend(process);
        Ok(Self { variables, origin })
    }

    /// Where the file part came from.
    pub fn origin(&self) -> EnvironmentOrigin {
        self.origin
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Puts values in place of `$NAME` and `${NAME}`. Unknown names stay, as with the tools; reserved words stay too, which
    /// the tools replace.
    pub(crate) fn fill_in(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, placeholder, name, after)) = next_placeholder(rest) {
            filled.push_str(before);
            match self.get(name) {
                Some(value) if !RESERVED.contains(&name) => filled.push_str(value),
                _ => filled.push_str(placeholder),
            }
            rest = after;
        }
        filled.push_str(rest);
        filled
    }

    /// The reserved words in a text for which this environment has a value.
    pub(crate) fn rewrites(&self, text: &str) -> Vec<&'static str> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((_, _, name, after)) = next_placeholder(rest) {
            if let Some(reserved) = RESERVED.iter().find(|reserved| **reserved == name)
                && self.get(name).is_some()
            {
                found.push(*reserved);
            }
            rest = after;
        }
        found
    }
}

/// The first `$NAME` or `${NAME}` of a text: what stands before, the placeholder, its name, what stands after.
pub(crate) fn next_placeholder(text: &str) -> Option<(&str, &str, &str, &str)> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find('$')?;
        let (before, rest) = text.split_at_checked(at)?;
        let after_sign = rest.get(1..)?;
        let (length, name) = if let Some(braced) = after_sign.strip_prefix('{') {
            match braced.find('}') {
                Some(end) => (end + 3, braced.get(..end)?),
                None => (0, ""),
            }
        } else {
            let end =
                after_sign.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after_sign.len());
            (if end == 0 { 0 } else { end + 1 }, after_sign.get(..end)?)
        };
        if length == 0 {
            from = at + 1;
            continue;
        }
        let (placeholder, after) = rest.split_at_checked(length)?;
        return Some((before, placeholder, name, after));
    }
}

/// `NAME=value` lines; `export` before and quotes around are taken away, `#` starts a comment.
fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=')?;
            let name = name.trim();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return None;
            }
            let value = value.trim();
            let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.split_once(*quote));
            let value = match quoted {
                Some((value, _)) => value,
                None => value.split(" #").next().unwrap_or(value).trim_end(),
            };
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn values_are_put_in_and_unknown_names_stay() {
        let environment = environment(&[("A", "1"), ("B_2", "x$A"), ("MODULES.camera", "image")]);
        for (text, expected) in [
            ("$A ${A} $A/$B_2-", "1 1 1/x$A-"),
            ("$C ${C} $ $$ ${A", "$C ${C} $ $$ ${A"),
            ("$A${MODULES.camera}", "1image"),
            ("é$A", "é1"),
        ] {
            assert_eq!(environment.fill_in(text), expected, "{text}");
        }
    }

    #[test]
    fn words_of_the_manifest_are_told_of_and_stay() {
        let environment = environment(&[("upstream", "X"), ("A", "1")]);
        let text = "FROM /* INTO $upstream $A $body";
        assert_eq!(environment.fill_in(text), "FROM /* INTO $upstream 1 $body");
        assert_eq!(environment.rewrites(text), ["upstream"]);
    }

    #[test]
    fn an_env_file_is_read_as_the_tools_read_it() {
        let text = "# note\nA=1\nexport B = 'two words' # why\nC=\"x # y\"\nD=z # why\nnot a line\nE=\n";
        let expected = [("A", "1"), ("B", "two words"), ("C", "x # y"), ("D", "z"), ("E", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(text), BTreeMap::from(expected));
    }

    #[test]
    fn the_process_goes_before_the_file_and_the_template_stands_in_for_it() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join(".env.template"), "A=template\nB=template\n")?;
        let process = || [("B".to_owned(), "process".to_owned())];
        let environment = Environment::load(folder.path(), process())?;
        assert_eq!((environment.get("A"), environment.get("B")), (Some("template"), Some("process")));
        assert_eq!(environment.origin(), EnvironmentOrigin::Template);
        fs::write(folder.path().join(".env"), "B=file\n")?;
        let environment = Environment::load(folder.path(), process())?;
        assert_eq!((environment.get("A"), environment.get("B")), (None, Some("process")));
        assert_eq!(environment.origin(), EnvironmentOrigin::File);
        Ok(())
    }
}
