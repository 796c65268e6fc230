//! Who may publish what: the broker's access file.
//!
//! A client is known by the common name of its certificate, which for a module is its id. What nobody grants is denied.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use shunt_wire::Kind;

use crate::{BusSettings, Grant};

/// The user that reads what the broker tells of itself. No module id has a slash.
pub(crate) const MONITOR: &str = "bus/monitor";
/// The user that copies from and to Redis.
pub(crate) const BRIDGE: &str = "bus/bridge";

/// The modules of Shunt and the kinds that they publish.
const OWNERS: [(&str, &[Kind]); 8] = [
    ("camera", &[Kind::FRAME]),
    ("emotion", &[Kind::FACE, Kind::EMOTION]),
    ("inference", &[Kind::LABEL]),
    ("sentiment", &[Kind::SENTIMENT]),
    ("rules", &[Kind::WINDOW, Kind::ALERT]),
    ("relay", &[]),
    ("bus", &[]),
    ("console", &[]),
];
/// Those that publish for the user's own programs: one kind from any source, and under their own name any kind that no
/// module owns. Applications publish through the gateway, and texts; functions publish results.
const FREE: [(&str, [&str; 2]); 2] =
    [("gateway", ["text", "shunt/+/gateway"]), ("functions", ["result", "shunt/+/functions"])];

/// Is this a module of Shunt?
pub(crate) fn is_ours(module: &str) -> bool {
    FREE.iter().any(|(known, _)| *known == module) || OWNERS.iter().any(|(known, _)| *known == module)
}

/// What each module may do: what this version of Shunt grants, and in its place what the settings say.
pub(crate) fn grants(settings: &BusSettings) -> BTreeMap<String, Grant> {
    let grant = |publish: Vec<String>| Grant { publish, subscribe: Vec::new() };
    let mut grants: BTreeMap<_, _> = OWNERS
        .iter()
        .map(|(module, kinds)| ((*module).to_owned(), grant(kinds.iter().map(Kind::to_string).collect())))
        .collect();
    grants.extend(
        FREE.iter()
            .map(|(module, entries)| ((*module).to_owned(), grant(entries.map(ToOwned::to_owned).to_vec()))),
    );
    grants.extend(settings.modules.iter().map(|(module, grant)| (module.clone(), grant.clone())));
    grants
}

/// The access file for clients with certificates. `bridge` is what the bridge publishes to and subscribes to.
pub(crate) fn file(settings: &BusSettings, bridge: &Grant) -> String {
    let grants = grants(settings);
    // Writing to a String cannot fail.
    let mut text =
        format!("# Written by the module bus at every start.\n\nuser {MONITOR}\ntopic read $SYS/#\n\n");
    writeln!(text, "user {BRIDGE}").ok();
    lines(&mut text, "topic", bridge);
    for (module, grant) in &grants {
        writeln!(text, "\nuser {module}").ok();
        for topic in denied(module, &grants) {
            writeln!(text, "topic deny {topic}").ok();
        }
        writeln!(text, "topic read shunt/#").ok();
        for kind in [Kind::PRESENCE, Kind::DEAD_LETTER] {
            writeln!(text, "topic write shunt/{kind}/{module}").ok();
        }
        lines(&mut text, "topic", grant);
    }
    text.push_str("\n# Every other module.\npattern read shunt/#\n");
    for kind in [Kind::PRESENCE, Kind::DEAD_LETTER] {
        writeln!(text, "pattern write shunt/{kind}/%u").ok();
    }
    text
}

/// The access file for clients without certificates. `bridge` as in [`file`].
///
/// They hold for who sends a user name too, which proves nothing here: lines that begin with `topic` would not.
pub(crate) fn plain_file(settings: &BusSettings, bridge: &Grant) -> String {
    let mut text = "# Written by the module bus at every start.\n".to_owned();
    if settings.tls_port == 0 {
        // The module itself and its bridge have no other door, and nobody can tell them from others.
        text.push_str("pattern read $SYS/#\n");
        lines(&mut text, "pattern", bridge);
    }
    lines(&mut text, "pattern", &settings.plain);
    text
}

fn lines(text: &mut String, word: &str, grant: &Grant) {
    for topic in grant.topics() {
        writeln!(text, "{word} write {topic}").ok();
    }
    for filter in &grant.subscribe {
        writeln!(text, "{word} read {filter}").ok();
    }
}

/// Where a module may publish any kind under one name (`shunt/+/name`): the topics of the kinds that others own.
///
/// The broker's denials hold for reading too. So they name whole topics, which nobody else publishes on.
fn denied(module: &str, grants: &BTreeMap<String, Grant>) -> Vec<String> {
    let names: Vec<_> = grants.get(module).into_iter().flat_map(Grant::topics).collect();
    let names = names.iter().filter_map(|topic| {
        topic.strip_prefix("shunt/+/").filter(|name| !name.contains(['+', '#', '/'])).map(ToOwned::to_owned)
    });
    let own: BTreeSet<_> = grants.get(module).into_iter().flat_map(kinds).collect();
    let others = grants.iter().filter(|(other, _)| *other != module).flat_map(|(_, grant)| kinds(grant));
    let others: BTreeSet<_> = others.filter(|kind| !own.contains(kind)).collect();
    names
        .flat_map(|name| others.iter().map(move |kind| format!("shunt/{kind}/{name}")).collect::<Vec<_>>())
        .collect()
}

/// The kinds that a grant names.
fn kinds(grant: &Grant) -> impl Iterator<Item = Kind> {
    grant.publish.iter().filter_map(|entry| {
        let kind = entry.strip_prefix("shunt/").and_then(|rest| rest.split('/').next()).unwrap_or(entry);
        kind.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section<'a>(file: &'a str, user: &str) -> Vec<&'a str> {
        let begin = format!("user {user}");
        file.lines().skip_while(|line| *line != begin).skip(1).take_while(|line| !line.is_empty()).collect()
    }

    #[test]
    fn each_module_writes_its_own_kinds_and_reads_all() {
        let file = file(&BusSettings::default(), &Grant::default());
        assert_eq!(
            section(&file, "emotion"),
            [
                "topic read shunt/#",
                "topic write shunt/presence/emotion",
                "topic write shunt/dead-letter/emotion",
                "topic write shunt/face/+",
                "topic write shunt/emotion/+",
            ]
        );
        assert_eq!(section(&file, MONITOR), ["topic read $SYS/#"]);
    }

    #[test]
    fn functions_write_results_and_under_their_name_any_kind_that_nobody_owns() {
        let file = file(&BusSettings::default(), &Grant::default());
        let functions = section(&file, "functions");
        for line in [
            "topic write shunt/result/+",
            "topic write shunt/+/functions",
            "topic deny shunt/emotion/functions",
            "topic deny shunt/text/functions",
        ] {
            assert!(functions.contains(&line), "{line}: {functions:?}");
        }
        assert!(section(&file, "gateway").contains(&"topic deny shunt/result/gateway"), "{file}");
        // A user's grant stands in its place.
        let wider = Grant { publish: vec!["mood".to_owned()], ..Grant::default() };
        let modules = BTreeMap::from([("functions".to_owned(), wider)]);
        let file = super::file(&BusSettings { modules, ..BusSettings::default() }, &Grant::default());
        let functions = section(&file, "functions");
        assert!(functions.contains(&"topic write shunt/mood/+"), "{functions:?}");
        assert!(!functions.contains(&"topic write shunt/result/+"), "{functions:?}");
    }

    #[test]
    fn the_gateway_writes_any_kind_that_nobody_owns_under_its_name() {
        let settings = BusSettings {
            modules: BTreeMap::from([(
                "airq".to_owned(),
                Grant {
                    publish: vec!["air".to_owned(), "airq/#".to_owned()],
                    subscribe: vec!["airq/#".to_owned()],
                },
            )]),
            ..BusSettings::default()
        };
        let file = file(&settings, &Grant::default());
        let gateway = section(&file, "gateway");
        for line in [
            "topic deny shunt/emotion/gateway",
            "topic deny shunt/air/gateway",
            "topic write shunt/+/gateway",
            "topic write shunt/text/+",
            "topic write shunt/presence/gateway",
        ] {
            assert!(gateway.contains(&line), "{line}: {gateway:?}");
        }
        assert!(!gateway.contains(&"topic deny shunt/text/gateway"), "{gateway:?}");
        let airq = section(&file, "airq");
        assert!(airq.contains(&"topic write airq/#") && airq.contains(&"topic read airq/#"), "{airq:?}");
    }

    #[test]
    fn settings_stand_in_place_of_what_is_granted() {
        let modules = BTreeMap::from([("camera".to_owned(), Grant::default())]);
        let file = file(&BusSettings { modules, ..BusSettings::default() }, &Grant::default());
        assert!(!file.contains("shunt/frame/+"), "{file}");
    }
}
