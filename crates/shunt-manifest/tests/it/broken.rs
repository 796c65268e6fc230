//! Mistakes, one a row: what the check says of each.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::{Value, json};
use shunt_manifest::{Environment, Finding, Options, Report, Severity, check, check_text};
use shunt_testkit::repo_root;

use crate::places;

const AGENT: &str = "/modulesContent/$edgeAgent/properties.desired";
const HUB: &str = "/modulesContent/$edgeHub/properties.desired";

/// Sets the value at a pointer, the last part of which may be new.
fn set(manifest: &mut Value, pointer: &str, value: Value) -> anyhow::Result<()> {
    let (parent, name) = pointer.rsplit_once('/').context("no pointer")?;
    let parent = manifest.pointer_mut(parent).with_context(|| format!("nothing at {parent}"))?;
    parent[name] = value;
    Ok(())
}

fn check_manifest(manifest: &Value) -> anyhow::Result<Report> {
    Ok(check_text(&manifest.to_string(), &repo_root(), &places::options())?)
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_mistake_is_found_at_its_place_and_told_with_what_is_allowed() -> anyhow::Result<()> {
    let good = places::manifest()?;
    assert_eq!(check_manifest(&good)?.findings, []);
    let camera = format!("{AGENT}/modules/camera");
    let error = Severity::Error;
    let warning = Severity::Warning;
    let rows: Vec<(&str, Value, Severity, &str, &str, &str)> = vec![
        // Pointer to change, new value, severity, rule, place (from the pointer, "" the same), part of the line.
        (
            "A/schemaVersion",
            json!("1.4"),
            error,
            "schema-version",
            "",
            "unknown schema version \"1.4\", so tools skip its check; allowed: 1.0, 1.1",
        ),
        ("A/schemaVersion", json!(1.1), error, "schema-version", "", "is no text"),
        ("H/schemaVersion", json!("2.0"), error, "schema-version", "", "allowed: 1.0, 1.1, 1.2"),
        ("H/schemaVersion", json!("1.3"), warning, "schema-version", "", "is checked by no tool"),
        (
            "A/modules/camera/restartPolicy",
            json!("sometimes"),
            error,
            "schema",
            "",
            "\"sometimes\" is not allowed; allowed: \"never\", \"on-failure\", \"on-unhealthy\", \"always\"",
        ),
        (
            "A/modules/camera/status",
            json!("paused"),
            error,
            "schema",
            "",
            "allowed: \"running\", \"stopped\"",
        ),
        ("A/modules/camera/type", json!("wasm"), error, "schema", "", "allowed: \"docker\""),
        (
            "A/modules/camera/imagePullPolicy",
            json!("always"),
            error,
            "schema",
            "",
            "allowed: \"never\", \"on-create\"",
        ),
        ("A/modules/camera/startupOrder", json!(-1), error, "schema", "", "-1"),
        (
            "A/modules/camera/startupOrder",
            json!("first"),
            error,
            "schema",
            "",
            "\"first\" has the wrong type; allowed: integer",
        ),
        ("A/modules/camera/digest", json!("x"), error, "schema", "^", "unknown name digest"),
        ("A/systemModules/edgeHub/version", json!("1.5"), error, "schema", "^", "unknown name version"),
        (
            "A/systemModules/edgeAgent/restartPolicy",
            json!("always"),
            error,
            "schema",
            "^",
            "unknown name restartPolicy",
        ),
        (
            "H/storeAndForwardConfiguration/storeLimits",
            json!({"maxSizeBytes": 1}),
            error,
            "schema",
            "^",
            "unknown name storeLimits",
        ),
        (
            "A/modules/camera/settings/image",
            json!("${MODULES.kamera}"),
            error,
            "image",
            "",
            "no module.json stands for ${MODULES.kamera}; allowed: ${MODULES.bus.amd64.debug}",
        ),
        (
            "A/modules/camera/settings/image",
            json!("${MODULES.camera.riscv}"),
            error,
            "image",
            "",
            "${MODULES.camera.riscv}",
        ),
        (
            "A/modules/camera/settings/image",
            json!("$registry_address/camera:1"),
            error,
            "image",
            "",
            "nothing was put in for $registry_address in $registry_address/camera:1; set REGISTRY_ADDRESS in .env",
        ),
        (
            "A/modules/camera/settings/image",
            json!("host/Camera:1"),
            error,
            "image",
            "",
            "\"host/Camera:1\" is no name of an image",
        ),
        ("A/modules/camera/settings/image", json!("a camera"), error, "image", "", "is no name of an image"),
        (
            "A/modules/camera/settings/image",
            json!("host:5000/camera"),
            warning,
            "image",
            "",
            "has no fixed version",
        ),
        (
            "A/modules/camera/settings/image",
            json!("camera:latest"),
            warning,
            "image",
            "",
            "has no fixed version",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{\"Hostname\": "),
            error,
            "create-options",
            "",
            "createOptions of camera cannot be read",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("[]"),
            error,
            "create-options",
            "",
            "are no object but []",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{".repeat(513)),
            error,
            "create-options",
            "",
            "createOptions has 513 characters; allowed are 512",
        ),
        (
            "A/modules/camera/settings/createOptions02",
            json!(" "),
            error,
            "create-options",
            "",
            "createOptions02 is not read, because createOptions01 is missing",
        ),
        (
            "A/modules/camera/settings/createOptions00",
            json!(" "),
            error,
            "create-options",
            "",
            "edgeAgent does not read createOptions00",
        ),
        (
            "A/modules/camera/settings/createoptions",
            json!(" "),
            error,
            "create-options",
            "",
            "edgeAgent does not read createoptions",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{\"hostConfig\": {}}"),
            error,
            "container",
            "",
            "Docker does not know the option hostConfig of camera; Docker's names begin with a capital",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{\"HostConfig\": {\"Privileged\": true}}"),
            warning,
            "container",
            "",
            "camera is privileged",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{\"HostConfig\": {\"Binds\": [\"/a\"]}}"),
            error,
            "container",
            "",
            "\"/a\" in Binds of camera is no bind",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{\"HostConfig\": {\"PortBindings\": {\"http\": []}}}"),
            error,
            "container",
            "",
            "\"http\" in PortBindings of camera is no port",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{\"HostConfig\": {\"PortBindings\": {\"80/tcp\": [{\"HostPort\": 80}]}}}"),
            error,
            "container",
            "",
            "HostPort of 80/tcp of camera is no text",
        ),
        (
            "A/modules/camera/settings/createOptions",
            json!("{}"),
            warning,
            "container",
            "",
            "the log of camera has no limit",
        ),
        ("A/modules/camera/env/SHUNT_LOG", json!("info"), error, "env", "", "allowed is {\"value\": ...}"),
        (
            "A/modules/camera/env/SHUNT_LOG",
            json!({"value": ["a"]}),
            error,
            "schema",
            "/value",
            "[\"a\"] has the wrong type; allowed: boolean, number, string",
        ),
        (
            "A/modules/camera/env/IOTEDGE_DEVICEID",
            json!({"value": "d"}),
            error,
            "env",
            "",
            "IOTEDGE_DEVICEID is set by edgeAgent",
        ),
        (
            "A/modules/camera/env/two words",
            json!({"value": "d"}),
            error,
            "schema",
            "^",
            "unknown name two words",
        ),
        (
            "A/modules/camera/env/HUB",
            json!({"value": "HostName=h;SharedAccessKey=abc"}),
            error,
            "secret",
            "",
            "the variable HUB of camera holds a secret; who may read the twin reads it",
        ),
        (
            "A/modules/camera/env/RTSP_PASSWORD",
            json!({"value": "abc"}),
            warning,
            "secret",
            "",
            "seems to hold a secret",
        ),
        (
            "A/modules/camera/env/URL",
            json!({"value": "http://${NOBODY}/"}),
            error,
            "placeholder",
            "/value",
            "nothing was put in for ${NOBODY}; set NOBODY in .env",
        ),
        (
            "A/modules/my.module",
            json!({"type": "docker", "status": "running", "restartPolicy": "always", "settings": {"image": "i:1"}}),
            error,
            "name",
            "",
            "\"my.module\" is no module id",
        ),
        (
            "A/modules/Camera",
            json!({"type": "docker", "status": "running", "restartPolicy": "always", "settings": {"image": "i:1"}}),
            error,
            "name",
            "",
            "\"Camera\" and \"camera\" are one name on the modules' network",
        ),
        (
            "A/systemModules/edgeHub/env",
            json!({}),
            warning,
            "edge-hub",
            "^",
            "messages that edgeHub has stored are lost",
        ),
        (
            "H/routes/more",
            json!("FROM /messages/* INTO upstream"),
            error,
            "route",
            "",
            "edgeHub would refuse the route",
        ),
        (
            "H/routes/more",
            json!("FROM /messages/* WHERE score > 5 INTO $upstream"),
            error,
            "route",
            "",
            "as_number(name) makes a number of one",
        ),
        (
            "H/routes/more",
            json!({"route": "FROM /* INTO $cloud", "priority": 0}),
            error,
            "route",
            "",
            "cannot deliver into $cloud",
        ),
        (
            "H/routes/more",
            json!({"route": "FROM /* INTO $upstream", "priority": 10}),
            error,
            "schema",
            "/priority",
            "10",
        ),
        (
            "H/routes/more",
            json!({"route": "FROM /* INTO $upstream", "ttl": 10}),
            error,
            "schema",
            "",
            "unknown name ttl",
        ),
        (
            "H/routes/more",
            json!("FROM /messages/modules/kamera/* INTO $upstream"),
            error,
            "route",
            "",
            "takes messages of \"kamera\", which is no module of this manifest; the modules are: bus, relay, gateway, sentiment, rules, functions, emotion, inference, camera",
        ),
        (
            "H/routes/more",
            json!("FROM /messages/modules/Camera/* INTO $upstream"),
            error,
            "route",
            "",
            "takes messages of \"Camera\"",
        ),
        (
            "H/routes/more",
            json!("FROM /messages/* INTO BrokeredEndpoint(\"/modules/sink/inputs/in\")"),
            error,
            "route",
            "",
            "delivers to \"sink\", which is no module",
        ),
        (
            "H/routes/more",
            json!("FROM /messages/modules/*/outputs/a INTO $upstream"),
            error,
            "route",
            "",
            "no message ever comes from /messages/modules/*/outputs/a",
        ),
        (
            "H/routes/more",
            json!("FROM /messages/modules/relay/* INTO BrokeredEndpoint(\"/modules/relay/inputs/in\")"),
            warning,
            "route",
            "",
            "delivers what relay sends to relay itself",
        ),
        ("H/routes/two words", json!("FROM /* INTO $upstream"), error, "route", "", "is no name of a route"),
        (
            "M/ghost",
            json!({"properties.desired": {}}),
            error,
            "twin",
            "",
            "desired properties for \"ghost\", which is no module",
        ),
        (
            "M/camera",
            json!({"properties.reported": {}}),
            error,
            "twin",
            "/properties.reported",
            "is no part of a module's twin that can be set",
        ),
        ("M/camera", json!({"properties.desired": 5}), error, "twin", "/properties.desired", "are no object"),
        (
            "M/camera",
            json!({"properties.desired": {"a.b": 1}}),
            error,
            "twin",
            "/properties.desired/a.b",
            "\"a.b\" is no name in a twin",
        ),
        (
            "M/camera",
            json!({"properties.desired": {"n": 9_007_199_254_740_993_i64}}),
            error,
            "twin",
            "/properties.desired/n",
            "is too large",
        ),
        (
            "M/camera",
            json!({"properties.desired": {"t": "x".repeat(4097)}}),
            error,
            "twin",
            "/properties.desired/t",
            "has 4097 bytes; allowed are 4096",
        ),
        (
            "M/camera",
            json!({"properties.desired": {"t": vec!["x".repeat(4000); 9]}}),
            error,
            "twin",
            "/properties.desired",
            "allowed are 32768",
        ),
    ];
    for (pointer, value, severity, rule, place, part) in rows {
        let (section, rest) = pointer.split_at(1);
        let section = match section {
            "A" => AGENT,
            "H" => HUB,
            _ => "/modulesContent",
        };
        let pointer = format!("{section}{rest}");
        let place = match place {
            "^" => pointer.rsplit_once('/').expect("a pointer").0.to_owned(),
            more => format!("{pointer}{more}"),
        };
        let mut manifest = good.clone();
        set(&mut manifest, &pointer, value.clone())?;
        let findings = check_manifest(&manifest)?.findings;
        let found = findings.iter().any(|finding| {
            (finding.severity, finding.rule, finding.path.as_str()) == (severity, rule, place.as_str())
                && finding.to_string().contains(part)
        });
        assert!(
            found,
            "{pointer} = {value}\nno {severity} of {rule} at {place} with {part:?} in\n{}",
            lines(&findings)
        );
    }
    for missing in ["type", "status", "restartPolicy", "settings"] {
        let mut manifest = good.clone();
        let entry = manifest.pointer_mut(&camera).and_then(Value::as_object_mut).expect("the camera");
        entry.remove(missing);
        let findings = check_manifest(&manifest)?.findings;
        let part = format!("\"{missing}\" is missing");
        assert!(
            findings.iter().any(|f| f.path == camera && f.message == part),
            "{part}\n{}",
            lines(&findings)
        );
    }
    Ok(())
}

#[test]
fn more_modules_than_a_device_takes_are_told_of() -> anyhow::Result<()> {
    let mut manifest = places::manifest()?;
    let camera = manifest.pointer(&format!("{AGENT}/modules/camera")).cloned().unwrap_or_default();
    for number in places::MODULES.len()..51 {
        set(&mut manifest, &format!("{AGENT}/modules/more{number}"), camera.clone())?;
    }
    let findings = check_manifest(&manifest)?.findings;
    assert!(
        findings.iter().any(|f| f.to_string().contains("has 51 modules; allowed are 50")),
        "{}",
        lines(&findings)
    );
    Ok(())
}

#[test]
fn a_variable_named_like_a_word_of_the_manifest_is_told_of_and_not_put_in() -> anyhow::Result<()> {
    let [release, _] = places::templates();
    for (name, place) in [
        ("upstream", format!("{HUB}/routes/relayToCloud/route")),
        ("edgeHub", "/modulesContent/$edgeHub".to_owned()),
        ("edgeAgent", "/modulesContent/$edgeAgent".to_owned()),
        ("schema", "/$schema-template".to_owned()),
    ] {
        let variables = [("CONTAINER_REGISTRY_ADDRESS", places::REGISTRY), (name, "X")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = Options { environment: Environment::new(variables), ..Options::default() };
        let report = check(&release, &options)?;
        let found = report.findings.iter().any(|finding| {
            finding.rule == "environment"
                && finding.path == place
                && finding.message.contains(&format!("variable {name}"))
        });
        assert!(found && report.has_errors(), "{name}\n{}", lines(&report.findings));
        assert_eq!(report.findings.len(), 1, "{name} alone is told of\n{}", lines(&report.findings));
        assert_eq!(report.manifest, places::manifest()?, "{name} was put in");
    }
    Ok(())
}

#[test]
fn a_template_is_held_against_the_templates_schema_that_no_tool_applies() -> anyhow::Result<()> {
    let text = fs::read_to_string(&places::templates()[0])?;
    let mut template: Value = serde_json::from_str(&text)?;
    set(&mut template, &format!("{AGENT}/modules/camera/settings/createOptions"), json!(5))?;
    let report = check_text(&template.to_string(), &repo_root(), &places::options())?;
    assert!(report.findings.iter().any(|f| f.rule == "template-schema"), "{}", lines(&report.findings));

    let credentials = json!({"main": {"username": "u", "password": "p", "address": "a"}});
    let mut template: Value = serde_json::from_str(&text)?;
    set(&mut template, &format!("{AGENT}/runtime/settings/registryCredentials"), credentials)?;
    let report = check_text(&template.to_string(), &repo_root(), &places::options())?;
    assert!(report.findings.iter().any(|f| f.rule == "secret"), "{}", lines(&report.findings));
    Ok(())
}

#[test]
fn a_module_that_stands_twice_is_told_of() -> anyhow::Result<()> {
    let text = places::manifest()?.to_string().replacen("\"camera\":", "\"relay\":", 1);
    let report = check_text(&text, &repo_root(), &places::options())?;
    let place = format!("{AGENT}/modules/relay");
    let found = report.findings.iter().any(|finding| finding.rule == "duplicate" && finding.path == place);
    assert!(found, "{}", lines(&report.findings));
    Ok(())
}

#[test]
fn create_options_beyond_eight_pieces_are_told_of_with_all_else() -> anyhow::Result<()> {
    let mut template: Value = serde_json::from_str(&fs::read_to_string(&places::templates()[0])?)?;
    set(
        &mut template,
        &format!("{AGENT}/modules/camera/settings/createOptions"),
        json!({"Env": ["x".repeat(5000)]}),
    )?;
    set(&mut template, &format!("{AGENT}/modules/camera/restartPolicy"), json!("sometimes"))?;
    let report = check_text(&template.to_string(), &repo_root(), &places::options())?;
    for part in [
        "createOptions of camera have 5012 characters; allowed are 8 pieces of 512",
        "\"sometimes\" is not allowed",
    ] {
        assert!(
            report.findings.iter().any(|f| f.to_string().contains(part)),
            "{part}\n{}",
            lines(&report.findings)
        );
    }
    Ok(())
}

#[test]
fn a_fresh_clone_is_checked_with_the_example_environment_and_told_so() -> anyhow::Result<()> {
    let environment = Environment::load(&repo_root(), [])?;
    if environment.origin() != shunt_manifest::EnvironmentOrigin::Template {
        println!("skipped: there is a .env");
        return Ok(());
    }
    let report = check(&places::templates()[0], &Options { environment, ..Options::default() })?;
    let rules: Vec<(Severity, &str)> = report.findings.iter().map(|f| (f.severity, f.rule)).collect();
    assert_eq!(rules, [(Severity::Warning, "environment")], "{}", lines(&report.findings));
    Ok(())
}

/// Whole files, with what is said of each beside them: `tests/manifests/<name>.json`, `<name>.findings.txt`.
#[test]
fn whole_manifests_yield_the_findings_beside_them() -> anyhow::Result<()> {
    let folder = repo_root().join("tests/manifests");
    let mut checked = 0;
    for file in fs::read_dir(&folder)? {
        let file = file?.path();
        if file.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let report = check(&file, &Options { environment: Environment::default(), ..Options::default() })?;
        let found = lines(&report.findings) + "\n";
        let expected = expected(&file.with_extension("findings.txt"), &found)?;
        assert_eq!(found, expected, "{}", file.display());
        checked += 1;
    }
    assert!(checked > 3);
    Ok(())
}

/// The expected findings. With `UPDATE_EXPECT=1` in the environment they are written anew.
fn expected(file: &Path, found: &str) -> anyhow::Result<String> {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(file, found)?;
    }
    Ok(fs::read_to_string(file)?)
}
