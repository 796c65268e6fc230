//! All rules, one function each.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    EnvironmentOrigin, Expansion, Finding, ManifestError, Options, Report, Severity,
    content::{self, Entry, PIECE_LENGTH, PIECES_MADE, PIECES_READ, below, object},
    duplicates::duplicates,
    environment::{RESERVED, next_placeholder},
    expand,
    routes::{Route, Sink},
    schema,
};

/// How many modules of a user a device may have.
const MAX_MODULES: usize = 50;
/// The longest module id in characters.
const MAX_NAME: usize = 128;
/// The longest text in a twin, in bytes.
const MAX_TWIN_TEXT: usize = 4096;
/// The largest section of a twin, in bytes of JSON.
const MAX_TWIN_SIZE: usize = 32 * 1024;
/// The deepest nesting in a twin.
const MAX_TWIN_DEPTH: usize = 10;
/// The largest whole number in a twin.
const MAX_TWIN_INTEGER: i64 = 1 << 52;
/// The longest name in a twin, in bytes.
const MAX_TWIN_NAME: usize = 1024;

/// Checks a template or a manifest in a file.
///
/// # Errors
///
/// When there is nothing to check: the file cannot be read, is no JSON, or holds no modules.
pub fn check(file: &Path, options: &Options) -> Result<Report, ManifestError> {
    let text = expand::read(file)?;
    check_named(&text, file, file.parent().unwrap_or(Path::new(".")), options)
}

/// Checks the text of a template or manifest that stands in the given folder.
///
/// # Errors
///
/// When there is nothing to check: the text is no JSON, or holds no modules.
pub fn check_text(text: &str, folder: &Path, options: &Options) -> Result<Report, ManifestError> {
    check_named(text, Path::new("the manifest"), folder, options)
}

fn check_named(text: &str, file: &Path, folder: &Path, options: &Options) -> Result<Report, ManifestError> {
    let mut findings = Vec::new();
    let (expansion, too_long) = expand::expand_named(text, file, folder, options)?;
    for (entry, length) in too_long {
        let place = below(&below(&entry.path, "settings"), "createOptions");
        let message = format!("createOptions of {} have {length} characters", entry.name);
        let allowed = format!("allowed are {PIECES_MADE} pieces of {PIECE_LENGTH}");
        findings.push(Finding::error("create-options", place, message, &allowed));
    }
    for place in duplicates(&options.environment.fill_in(text)) {
        let message = "the name stands twice in its object, and only the last is read".to_owned();
        findings.push(Finding::error("duplicate", place, message, "names must differ"));
    }
    // The file as it was written; where it is JSON only once variables are in, it cannot be looked at in this way.
    if let Ok(written) = serde_json::from_str::<Value>(text) {
        variables(&written, "", options, &mut findings);
        literal_passwords(&written, &mut findings);
        if expansion.is_template {
            findings.extend(schema::check_template(&written));
        }
    }
    if options.environment.origin() == EnvironmentOrigin::Template && placeholders_used(text, options) {
        findings.push(Finding::warning(
            "environment",
            "",
            "there is no .env, so the values of .env.template were taken".to_owned(),
            "copy .env.template to .env and fill it in before you deploy",
        ));
    }

    let manifest = &expansion.manifest;
    let entries = content::entries(manifest);
    schemas(manifest, &mut findings);
    names(&entries, &mut findings);
    for entry in &entries {
        image(manifest, entry, &expansion, &mut findings);
        options_of_container(manifest, entry, &mut findings);
        environment_of_module(manifest, entry, &mut findings);
    }
    routes(manifest, &entries, &mut findings);
    twins(manifest, &entries, &mut findings);
    hub_storage(manifest, &entries, &mut findings);
    leftovers(manifest, "", &mut findings);

    // One mistake is often seen by several schemas and rules: the first word on it stands.
    let mut seen = BTreeSet::new();
    findings.retain(|finding| seen.insert((finding.path.clone(), finding.message.clone())));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity == Severity::Error));
    Ok(Report { findings, manifest: expansion.manifest })
}

/// Reserved words that the environment has a value for: the tools would rewrite the manifest.
fn variables(value: &Value, path: &str, options: &Options, findings: &mut Vec<Finding>) {
    let mut told = |text: &str, place: &str, what: &str| {
        for name in options.environment.rewrites(text) {
            let message = format!(
                "the environment has a variable {name}, and the tools write its value over ${name} in the {what} {text:?}"
            );
            let allowed = format!("unset it, or give it another name than {}", RESERVED.join(", "));
            findings.push(Finding::error("environment", place, message, &allowed));
        }
    };
    match value {
        Value::String(text) => told(text, path, "text"),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                variables(item, &format!("{path}/{index}"), options, findings);
            }
        }
        Value::Object(members) => {
            for name in members.keys() {
                told(name, &below(path, name), "name");
            }
            for (name, member) in members {
                variables(member, &below(path, name), options, findings);
            }
        }
        _ => {}
    }
}

fn placeholders_used(text: &str, options: &Options) -> bool {
    let mut rest = text;
    while let Some((_, _, name, after)) = next_placeholder(rest) {
        if name.starts_with("MODULES.")
            || (options.environment.get(name).is_some() && !RESERVED.contains(&name))
        {
            return true;
        }
        rest = after;
    }
    false
}

/// Registry passwords written into the file itself.
fn literal_passwords(written: &Value, findings: &mut Vec<Finding>) {
    let Some(content) = content::content_path(written) else { return };
    let path = format!("{content}/$edgeAgent/properties.desired/runtime/settings/registryCredentials");
    for (name, credentials) in object(written, &path).into_iter().flatten() {
        let password = credentials.get("password").and_then(Value::as_str).unwrap_or_default();
        let is_template = written.get("$schema-template").is_some();
        if is_template && !password.is_empty() && next_placeholder(password).is_none() {
            findings.push(Finding::error(
                "secret",
                below(&below(&path, name), "password"),
                "the template holds a registry's password".to_owned(),
                "write \"$CONTAINER_REGISTRY_PASSWORD_<name>\" and put the password into .env",
            ));
        }
    }
}

/// The schemas of the tools. A layered manifest, which no tool checks, is laid over an empty base and checked with it.
fn schemas(manifest: &Value, findings: &mut Vec<Finding>) {
    let Some(content) = content::content_path(manifest) else { return };
    if content::is_layered(manifest) {
        layered_schemas(manifest, content, findings);
        return;
    }
    findings.extend(schema::check_sections(manifest, content));
    // The sections' schemas say the same in better words where both speak of one place.
    let told: BTreeSet<String> = findings.iter().map(|finding| finding.path.clone()).collect();
    findings.extend(
        schema::check_deployment(manifest).into_iter().filter(|finding| !told.contains(&finding.path)),
    );
}

fn layered_schemas(manifest: &Value, content: &str, findings: &mut Vec<Finding>) {
    let system =
        json!({"type": "docker", "status": "running", "restartPolicy": "always", "settings": {"image": "i"}});
    let agent = json!({"type": "docker", "settings": {"image": "i"}});
    let mut base = json!({
        "$edgeAgent": {"properties.desired": {
            "schemaVersion": "1.1", "runtime": {"type": "docker", "settings": {}},
            "systemModules": {"edgeAgent": agent, "edgeHub": system}, "modules": {},
        }},
        "$edgeHub": {"properties.desired": {"schemaVersion": "1.2", "routes": {}}},
    });
    let mut places: Vec<(String, String)> = Vec::new();
    let mut lay = |kind: &str, members: Vec<(String, String)>| {
        for (name, path) in members {
            let Some(value) = manifest.pointer(&path) else { continue };
            if let Some(target) = base.pointer_mut(kind).and_then(Value::as_object_mut) {
                target.insert(name.clone(), value.clone());
                places.push((below(kind, &name), path));
            }
        }
    };
    let modules = content::entries(manifest).into_iter().filter(|entry| !entry.is_system);
    lay("/$edgeAgent/properties.desired/modules", modules.map(|entry| (entry.name, entry.path)).collect());
    lay("/$edgeHub/properties.desired/routes", content::routes(manifest));
    for mut finding in schema::check_sections(&base, "") {
        let place =
            places.iter().find_map(|(laid, path)| Some((path, finding.path.strip_prefix(laid.as_str())?)));
        if let Some((path, rest)) = place {
            finding.path = format!("{path}{rest}");
        }
        findings.push(finding);
    }
    for (module, parts) in [("$edgeAgent", ["runtime", "systemModules"].as_slice()), ("$edgeHub", &[])] {
        let place = below(&below(content, module), "properties.desired");
        let Some(section) = object(manifest, &place) else { continue };
        findings.push(Finding::warning(
            "layer",
            place.clone(),
            format!("the layer sets all of properties.desired of {module}, so it overwrites the base"),
            "add to the base with a path: \"properties.desired.modules.<module>\", \"properties.desired.routes.<route>\"",
        ));
        for part in parts.iter().filter(|part| section.contains_key(**part)) {
            let message = format!("a layered deployment has no {part}");
            findings.push(Finding::error(
                "layer",
                below(&place, part),
                message,
                "it belongs into the base deployment",
            ));
        }
    }
}

fn names(entries: &[Entry], findings: &mut Vec<Finding>) {
    let users: Vec<&Entry> = entries.iter().filter(|entry| !entry.is_system).collect();
    if users.len() > MAX_MODULES {
        let message = format!("the manifest has {} modules", users.len());
        findings.push(Finding::error(
            "modules",
            "",
            message,
            &format!("allowed are {MAX_MODULES} on a device"),
        ));
    }
    let mut known: Vec<&str> = Vec::new();
    for entry in users {
        let name = entry.name.as_str();
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if name.is_empty() || !plain || name.len() > MAX_NAME {
            let allowed = format!("allowed are 1 to {MAX_NAME} letters, digits, _ and -");
            findings.push(Finding::error("name", &entry.path, format!("{name:?} is no module id"), &allowed));
        }
        if let Some(other) = known.iter().find(|other| other.eq_ignore_ascii_case(name)) {
            let message = format!("{name:?} and {other:?} are one name on the modules' network");
            findings.push(Finding::error(
                "name",
                &entry.path,
                message,
                "names must differ in more than case",
            ));
        }
        known.push(name);
    }
}

fn image(manifest: &Value, entry: &Entry, expansion: &Expansion, findings: &mut Vec<Finding>) {
    let path = below(&below(&entry.path, "settings"), "image");
    // The schemas tell of a missing one.
    let Some(image) = manifest.pointer(&path).and_then(Value::as_str) else { return };
    if image.contains("${MODULES.") || image.contains("${MODULEDIR<") {
        let mut known: Vec<&str> = expansion.images.keys().map(String::as_str).collect();
        known.truncate(40);
        let allowed = if known.is_empty() {
            "no module.json was found beside the file".to_owned()
        } else {
            format!("allowed: {}", known.join(", "))
        };
        findings.push(Finding::error("image", path, format!("no module.json stands for {image}"), &allowed));
        return;
    }
    if let Some((_, placeholder, name, _)) = next_placeholder(image) {
        let message = format!("nothing was put in for {placeholder} in {image}");
        findings.push(Finding::error(
            "image",
            path,
            message,
            &format!("set {} in .env", name.to_uppercase()),
        ));
        return;
    }
    let plain =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '/' | ':');
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let last = name.rsplit('/').next().unwrap_or(name);
    let (repository, tag) = match last.split_once(':') {
        Some((_, tag)) => (name.get(..name.len() - tag.len() - 1).unwrap_or(name), Some(tag)),
        None => (name, None),
    };
    let host_and_path = repository.split_once('/').map_or(repository, |(_, path)| path);
    if image.trim().is_empty() || image.contains(char::is_whitespace) || !host_and_path.chars().all(plain) {
        let allowed = "allowed is [host[:port]/]name[:tag], the name in lower case";
        findings.push(Finding::error("image", path, format!("{image:?} is no name of an image"), allowed));
    } else if digest.is_empty() && matches!(tag, None | Some("latest")) {
        let message = format!("{image} has no fixed version, so two devices may run two");
        findings.push(Finding::warning("image", path, message, "name a tag or a digest"));
    }
}

/// createOptions: pieces, JSON, and the settings that are regretted later.
fn options_of_container(manifest: &Value, entry: &Entry, findings: &mut Vec<Finding>) {
    let path = below(&entry.path, "settings");
    let Some(settings) = object(manifest, &path) else { return };
    let place = below(&path, "createOptions");
    let pieces: Vec<(&String, &Value)> =
        settings.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("createoptions")).collect();
    for (name, piece) in &pieces {
        let index = (0..PIECES_READ).find(|index| content::piece_name(*index) == **name);
        let missing =
            index.filter(|index| *index > 0 && !settings.contains_key(&content::piece_name(*index - 1)));
        if index.is_none() {
            let allowed = "allowed: createOptions, createOptions01, ... createOptions99";
            let message = format!("edgeAgent does not read {name}");
            findings.push(Finding::error("create-options", below(&path, name), message, allowed));
        } else if let Some(index) = missing {
            let message =
                format!("{name} is not read, because {} is missing", content::piece_name(index - 1));
            findings.push(Finding::error(
                "create-options",
                below(&path, name),
                message,
                "the pieces count up without a gap",
            ));
        }
        let length = piece.as_str().map_or(0, |piece| piece.chars().count());
        if length > PIECE_LENGTH {
            let message = format!("{name} has {length} characters");
            let allowed =
                format!("allowed are {PIECE_LENGTH}; cut it into createOptions, createOptions01, ...");
            findings.push(Finding::error("create-options", below(&path, name), message, &allowed));
        }
    }
    let options = match content::create_options(&Value::Object(settings.clone())) {
        None => Ok(Value::Object(Map::new())),
        Some(Ok(options @ Value::Object(_))) => Ok(options),
        Some(Ok(other)) => Err(format!("createOptions of {} are no object but {other}", entry.name)),
        Some(Err(error)) => Err(format!("createOptions of {} cannot be read: {error}", entry.name)),
    };
    match options {
        Ok(options) => container(&options, &place, entry, findings),
        Err(message) => {
            let allowed = "allowed is Docker's container-create JSON";
            findings.push(Finding::error("create-options", place, message, allowed));
        }
    }
}

fn container(options: &Value, place: &str, entry: &Entry, findings: &mut Vec<Finding>) {
    let mut note = |severity, message: String, allowed: &str| {
        let finding = Finding::error("container", place, message, allowed);
        findings.push(Finding { severity, ..finding });
    };
    let host = options.get("HostConfig");
    for (name, value) in options.as_object().into_iter().chain(host.and_then(Value::as_object)).flatten() {
        if name.starts_with(|c: char| c.is_ascii_lowercase()) {
            let message = format!("Docker does not know the option {name} of {}", entry.name);
            note(Severity::Error, message, "Docker's names begin with a capital");
        }
        if value.is_null() {
            note(Severity::Warning, format!("the option {name} of {} is null", entry.name), "leave it out");
        }
    }
    let Some(host) = host else { return log_limits(None, entry, &mut note) };
    if host.get("Privileged") == Some(&Value::Bool(true)) {
        let message = format!("{} is privileged: it can do on the host whatever root can", entry.name);
        note(Severity::Warning, message, "name the one device or capability that it needs");
    }
    for bind in host.get("Binds").and_then(Value::as_array).into_iter().flatten() {
        let is_bind =
            bind.as_str().is_some_and(|bind| bind.split(':').nth(1).is_some_and(|to| to.starts_with('/')));
        if !is_bind {
            let message = format!("{bind} in Binds of {} is no bind", entry.name);
            note(
                Severity::Error,
                message,
                "allowed is \"<host folder or volume>:/<folder in the container>[:ro]\"",
            );
        }
    }
    for (port, bindings) in host.get("PortBindings").and_then(Value::as_object).into_iter().flatten() {
        let number = port.split_once('/').map_or(port.as_str(), |(number, _)| number);
        let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
        if number.parse::<u16>().is_err() || !matches!(protocol, "tcp" | "udp" | "sctp") {
            let message = format!("{port:?} in PortBindings of {} is no port", entry.name);
            note(Severity::Error, message, "allowed is \"<number>/tcp\" or \"<number>/udp\"");
        }
        for binding in bindings.as_array().into_iter().flatten() {
            if binding.get("HostPort").is_some_and(|port| !port.is_string()) {
                let message = format!("HostPort of {port} of {} is no text", entry.name);
                note(Severity::Error, message, "allowed is a number in quotes");
            }
        }
    }
    log_limits(Some(host), entry, &mut note);
}

fn log_limits(host: Option<&Value>, entry: &Entry, note: &mut impl FnMut(Severity, String, &str)) {
    let config = host.and_then(|host| host.pointer("/LogConfig"));
    let kind = config.and_then(|config| config.get("Type")).and_then(Value::as_str);
    let limited = config.is_some_and(|config| config.pointer("/Config/max-size").is_some());
    if !limited && matches!(kind, None | Some("json-file")) {
        let message = format!(
            "the log of {} has no limit, unless the device sets one: it grows until the disk is full",
            entry.name
        );
        note(Severity::Warning, message, "set HostConfig.LogConfig with max-size and max-file");
    }
}

/// Variables that edgeAgent sets itself, and secrets.
fn environment_of_module(manifest: &Value, entry: &Entry, findings: &mut Vec<Finding>) {
    let path = below(&entry.path, "env");
    for (name, setting) in object(manifest, &path).into_iter().flatten() {
        let place = below(&path, name);
        if name.starts_with("IOTEDGE_") {
            let message = format!("{name} is set by edgeAgent");
            findings.push(Finding::error("env", &place, message, "leave it out"));
        }
        let Some(setting) = setting.as_object() else {
            let message = format!("the variable {name} is {setting}");
            let allowed = "allowed is {\"value\": ...} with a text, a number, true or false";
            findings.push(Finding::error("env", &place, message, allowed));
            continue;
        };
        let value = setting.get("value").and_then(Value::as_str).unwrap_or_default();
        let by_value = ["SharedAccessKey=", "SharedAccessSignature ", "AccountKey=", "PRIVATE KEY-----"];
        let lower = name.to_lowercase();
        let by_name = [
            "password",
            "secret",
            "accesskey",
            "access_key",
            "apikey",
            "api_key",
            "connectionstring",
            "connection_string",
        ];
        let allowed = "who may read the twin reads it; bind a file of the host instead";
        if by_value.iter().any(|part| value.contains(part)) {
            let message = format!("the variable {name} of {} holds a secret", entry.name);
            findings.push(Finding::error("secret", &place, message, allowed));
        } else if !value.is_empty() && by_name.iter().any(|part| lower.contains(part)) {
            let message = format!("the variable {name} of {} seems to hold a secret", entry.name);
            findings.push(Finding::warning("secret", &place, message, allowed));
        }
    }
}

fn routes(manifest: &Value, entries: &[Entry], findings: &mut Vec<Finding>) {
    let layered = content::is_layered(manifest);
    let known: Vec<&str> =
        entries.iter().filter(|entry| !entry.is_system).map(|entry| entry.name.as_str()).collect();
    for (name, path) in content::routes(manifest) {
        if name.is_empty() || name.contains(['.', '$', '#', ' ']) {
            let message = format!("{name:?} is no name of a route");
            findings.push(Finding::error("route", &path, message, "names have no dot, $, # or blank"));
        }
        let text = match manifest.pointer(&path) {
            Some(Value::String(text)) => text,
            Some(route) => match route.get("route").and_then(Value::as_str) {
                Some(text) => text,
                // The schemas tell of it.
                None => continue,
            },
            None => continue,
        };
        let route = match Route::parse(text) {
            Ok(route) => route,
            Err(error) => {
                let message =
                    format!("edgeHub would refuse the route {text:?}, and with it all routes: {error}");
                findings.push(Finding::error("route", &path, message, ""));
                continue;
            }
        };
        if !route.source().can_match() {
            let allowed = "allowed: /*, /messages/*, /messages/modules/*, /messages/modules/<module>/*, \
                           /messages/modules/<module>/outputs/*, .../outputs/<output>, /twinChangeNotifications";
            let message = format!("no message ever comes from {}", route.source().as_str());
            findings.push(Finding::error("route", &path, message, allowed));
        }
        let sink = route.sink();
        let from = route.source().module();
        let into = match &sink {
            Sink::Module { module, .. } => Some(module.as_str()),
            Sink::Upstream => None,
        };
        for (what, module) in [("takes messages of", from), ("delivers to", into)] {
            let Some(module) = module else { continue };
            if known.contains(&module) {
                continue;
            }
            let allowed = format!("the modules are: {}", known.join(", "));
            let message = format!("the route {what} {module:?}, which is no module of this manifest");
            let finding = if layered {
                Finding::warning("route", &path, message, "the base deployment must have it")
            } else {
                Finding::error("route", &path, message, &allowed)
            };
            findings.push(finding);
        }
        if let (Some(from), Some(into)) = (from, into)
            && from == into
        {
            let message = format!("the route delivers what {from} sends to {from} itself");
            findings.push(Finding::warning(
                "route",
                &path,
                message,
                "name the one output that shall come back",
            ));
        }
    }
}

/// Twin sections: of modules that are there, with values that a twin can hold.
fn twins(manifest: &Value, entries: &[Entry], findings: &mut Vec<Finding>) {
    let Some(content) = content::content_path(manifest) else { return };
    let layered = content::is_layered(manifest);
    for (name, section) in object(manifest, content).into_iter().flatten() {
        let path = below(content, name);
        if name == "$edgeAgent" || name == "$edgeHub" {
            continue;
        }
        if !entries.iter().any(|entry| !entry.is_system && entry.name == *name) {
            let message =
                format!("there are desired properties for {name:?}, which is no module of this manifest");
            findings.push(if layered {
                Finding::warning("twin", &path, message, "the base deployment must have it")
            } else {
                Finding::error("twin", &path, message, "name a module of $edgeAgent's modules")
            });
        }
        let Some(section) = section.as_object() else {
            let message = format!("the section of {name} is {section}");
            findings.push(Finding::error(
                "twin",
                &path,
                message,
                "allowed is {\"properties.desired\": {...}}",
            ));
            continue;
        };
        for (key, value) in section {
            let place = below(&path, key);
            let whole = key == "properties.desired";
            if !whole && !key.starts_with("properties.desired.") {
                let message = format!("{key:?} is no part of a module's twin that can be set");
                findings.push(Finding::error("twin", &place, message, "allowed is \"properties.desired\""));
                continue;
            }
            if whole && !value.is_object() {
                let message = format!("the desired properties of {name} are no object");
                findings.push(Finding::error("twin", &place, message, "allowed is {...}"));
                continue;
            }
            let size = value.to_string().len();
            if size > MAX_TWIN_SIZE {
                let message = format!("the desired properties of {name} have {size} bytes");
                findings.push(Finding::error(
                    "twin",
                    &place,
                    message,
                    &format!("allowed are {MAX_TWIN_SIZE}"),
                ));
            }
            twin_value(value, &place, 0, findings);
        }
    }
}

fn twin_value(value: &Value, path: &str, depth: usize, findings: &mut Vec<Finding>) {
    let mut error =
        |message: String, allowed: &str| findings.push(Finding::error("twin", path, message, allowed));
    if depth > MAX_TWIN_DEPTH {
        error("the value is nested too deeply".to_owned(), &format!("allowed are {MAX_TWIN_DEPTH} levels"));
        return;
    }
    match value {
        Value::String(text) if text.len() > MAX_TWIN_TEXT => {
            error(format!("the text has {} bytes", text.len()), &format!("allowed are {MAX_TWIN_TEXT}"));
        }
        Value::Number(number) => {
            let whole = number.as_i64().or_else(|| number.as_u64().map(|_| i64::MAX));
            if whole.is_some_and(|whole| !(-MAX_TWIN_INTEGER..MAX_TWIN_INTEGER).contains(&whole)) {
                error(format!("the number {number} is too large"), "allowed are whole numbers within 2^52");
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                twin_value(item, &format!("{path}/{index}"), depth + 1, findings);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let place = below(path, name);
                let bad = |c: char| matches!(c, '.' | '$' | '#' | ' ') || c.is_control();
                if name.is_empty() || name.len() > MAX_TWIN_NAME || name.contains(bad) {
                    let allowed = "names have no dot, $, #, blank or control character";
                    findings.push(Finding::error(
                        "twin",
                        &place,
                        format!("{name:?} is no name in a twin"),
                        allowed,
                    ));
                }
                twin_value(member, &place, depth + 1, findings);
            }
        }
        _ => {}
    }
}

/// edgeHub's store dies with its container unless a folder of the host or a volume holds it.
fn hub_storage(manifest: &Value, entries: &[Entry], findings: &mut Vec<Finding>) {
    let Some(hub) = entries.iter().find(|entry| entry.is_system && entry.name == "edgeHub") else { return };
    let folder = object(manifest, &below(&hub.path, "env"))
        .into_iter()
        .flatten()
        .find(|(name, _)| name.eq_ignore_ascii_case("storageFolder"))
        .and_then(|(_, setting)| setting.get("value")?.as_str())
        .map(|folder| folder.trim_end_matches('/'));
    let settings = manifest.pointer(&below(&hub.path, "settings")).cloned().unwrap_or_default();
    let options = content::create_options(&settings).and_then(Result::ok).unwrap_or_default();
    let bound = |folder: &str| {
        let binds = options.pointer("/HostConfig/Binds").and_then(Value::as_array);
        let mounts = options.pointer("/HostConfig/Mounts").and_then(Value::as_array);
        let binds = binds.into_iter().flatten().filter_map(|bind| bind.as_str()?.split(':').nth(1));
        let mounts = mounts.into_iter().flatten().filter_map(|mount| mount.get("Target")?.as_str());
        binds.chain(mounts).any(|target| {
            let target = target.trim_end_matches('/');
            folder == target || folder.starts_with(&format!("{target}/"))
        })
    };
    if !folder.is_some_and(bound) {
        findings.push(Finding::warning(
            "edge-hub",
            &hub.path,
            "messages that edgeHub has stored are lost when its container is made anew".to_owned(),
            "set its variable storageFolder to a folder that Binds holds",
        ));
    }
}

/// `${NAME}` that nobody filled in, anywhere but in images, of which another rule speaks.
fn leftovers(value: &Value, path: &str, findings: &mut Vec<Finding>) {
    match value {
        Value::String(text) if !path.ends_with("/settings/image") => {
            let mut rest = text.as_str();
            while let Some((_, placeholder, name, after)) = next_placeholder(rest) {
                if placeholder.starts_with("${") {
                    let message = format!("nothing was put in for {placeholder}");
                    findings.push(Finding::error(
                        "placeholder",
                        path,
                        message,
                        &format!("set {name} in .env"),
                    ));
                }
                rest = after;
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                leftovers(item, &format!("{path}/{index}"), findings);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                leftovers(member, &below(path, name), findings);
            }
        }
        _ => {}
    }
}
