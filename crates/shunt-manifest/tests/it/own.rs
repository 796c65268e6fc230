//! The repository's own templates.

use std::collections::BTreeSet;

use serde_json::Value;
use shunt_manifest::{Options, check, create_options, expand, routes::Route};
use shunt_testkit::repo_root;

use crate::places::{MODULES, REGISTRY, options, templates};

const AGENT: &str = "/modulesContent/$edgeAgent/properties.desired";
const PLATFORMS: [&str; 3] = ["amd64", "arm64v8", "arm32v7"];

/// Every user module of both templates: template, name, entry.
fn modules() -> anyhow::Result<Vec<(String, String, Value)>> {
    let mut all = Vec::new();
    for template in templates() {
        let manifest = expand(&template, &options())?.manifest;
        let modules = manifest.pointer(&format!("{AGENT}/modules")).and_then(Value::as_object).cloned();
        for (name, module) in modules.unwrap_or_default() {
            all.push((template.display().to_string(), name, module));
        }
    }
    Ok(all)
}

#[test]
fn our_templates_have_no_finding_on_any_platform() -> anyhow::Result<()> {
    let [release, debug] = templates();
    for (template, platforms) in [(release, PLATFORMS.as_slice()), (debug, &["amd64"])] {
        for platform in platforms {
            let options = Options { platform: (*platform).to_owned(), ..options() };
            let report = check(&template, &options)?;
            let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            assert_eq!(findings, Vec::<String>::new(), "{} for {platform}", template.display());
        }
    }
    Ok(())
}

#[test]
fn our_templates_deploy_the_modules_there_are_from_our_own_images() -> anyhow::Result<()> {
    let names: BTreeSet<String> = modules()?.into_iter().map(|(_, name, _)| name).collect();
    assert_eq!(names, MODULES.map(str::to_owned).into());
    for (template, name, module) in modules()? {
        let debug = if template.contains("debug") { ".debug" } else { "" };
        let image = module.pointer("/settings/image").and_then(Value::as_str);
        assert_eq!(image, Some(format!("{REGISTRY}/{name}:0.1.0-amd64{debug}").as_str()), "{template}");
    }
    Ok(())
}

#[test]
fn our_containers_run_as_a_normal_user_read_only_and_without_capabilities() -> anyhow::Result<()> {
    for (template, name, module) in modules()? {
        let options = module.get("settings").and_then(create_options);
        let options = options.ok_or_else(|| anyhow::anyhow!("{name} has no createOptions"))??;
        let at = |pointer: &str| options.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/User"), "10001:10001", "{template} {name}");
        assert_eq!(at("/StopTimeout"), 30, "{template} {name}");
        assert_eq!(at("/HostConfig/ReadonlyRootfs"), true, "{template} {name}");
        assert_eq!(at("/HostConfig/CapDrop/0"), "ALL", "{template} {name}");
        assert_eq!(at("/HostConfig/SecurityOpt/0"), "no-new-privileges:true", "{template} {name}");
        for forbidden in ["CapAdd", "Privileged", "NetworkMode", "PidMode", "IpcMode"] {
            assert_eq!(at(&format!("/HostConfig/{forbidden}")), Value::Null, "{template} {name} {forbidden}");
        }
        // What must outlive the container lies in a volume, which takes its owner from the image.
        let binds = at("/HostConfig/Binds").to_string();
        assert!(binds.contains(&format!("\"shunt-{name}:/data\"")), "{template} {name}: {binds}");
    }
    Ok(())
}

#[test]
fn functions_of_strangers_cannot_take_all_the_memory_of_the_device() -> anyhow::Result<()> {
    let mut limited = 0;
    for (template, name, module) in modules()?.into_iter().filter(|(_, name, _)| name == "functions") {
        let options = module.get("settings").and_then(create_options);
        let options = options.ok_or_else(|| anyhow::anyhow!("{name} has no createOptions"))??;
        let memory = options.pointer("/HostConfig/Memory").and_then(Value::as_u64);
        assert_eq!(memory, Some(512 * 1024 * 1024), "{template}");
        limited += 1;
    }
    assert_eq!(limited, 2);
    Ok(())
}

#[test]
fn ports_are_published_by_the_debug_template_only_and_on_loopback_only() -> anyhow::Result<()> {
    for (template, name, module) in modules()? {
        let options = module.get("settings").and_then(create_options);
        let options = options.ok_or_else(|| anyhow::anyhow!("{name} has no createOptions"))??;
        let ports = options
            .pointer("/HostConfig/PortBindings")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        assert_eq!(!ports.is_empty(), template.contains("debug"), "{template} {name}");
        for binding in ports.values().filter_map(Value::as_array).flatten() {
            assert_eq!(binding["HostIp"], "127.0.0.1", "{template} {name}");
        }
    }
    Ok(())
}

#[test]
fn frames_are_shared_by_one_folder_in_memory() -> anyhow::Result<()> {
    for (template, name, module) in modules()? {
        let folder = module.pointer("/env/SHUNT_FRAMES_DIR/value").and_then(Value::as_str);
        let wanted = ["camera", "emotion", "inference"].contains(&name.as_str());
        assert_eq!(folder.is_some(), wanted, "{template} {name}");
        if let Some(folder) = folder {
            let options = module.get("settings").and_then(create_options);
            let options = options.ok_or_else(|| anyhow::anyhow!("{name} has no createOptions"))??;
            let binds = options.pointer("/HostConfig/Binds").cloned().unwrap_or_default().to_string();
            assert!(binds.contains(&format!("\"{folder}:{folder}\"")), "{template} {name}: {binds}");
        }
    }
    Ok(())
}

#[test]
fn telemetry_of_the_relay_goes_upstream() -> anyhow::Result<()> {
    for template in templates() {
        let manifest = expand(&template, &options())?.manifest;
        let routes =
            manifest.pointer("/modulesContent/$edgeHub/properties.desired/routes").and_then(Value::as_object);
        let routes: Vec<&str> =
            routes.into_iter().flatten().filter_map(|(_, route)| route["route"].as_str()).collect();
        assert_eq!(routes, ["FROM /messages/modules/relay/outputs/telemetry INTO $upstream"]);
        Route::parse(routes[0])?;
    }
    Ok(())
}

#[test]
fn every_dockerfile_of_module_json_is_there() -> anyhow::Result<()> {
    for module in MODULES {
        let folder = repo_root().join("modules").join(module);
        let json: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("module.json"))?)?;
        let platforms =
            json.pointer("/image/tag/platforms").and_then(Value::as_object).cloned().unwrap_or_default();
        for wanted in ["amd64", "amd64.debug", "arm64v8", "arm32v7"] {
            assert!(platforms.contains_key(wanted), "{module} has no {wanted}");
        }
        for (platform, file) in platforms {
            let text = std::fs::read_to_string(folder.join(file.as_str().unwrap_or_default()))?;
            assert!(text.contains("\nUSER 10001:10001\n"), "{module} {platform} runs as root");
            assert!(text.contains("\nENTRYPOINT [\""), "{module} {platform} starts through a shell");
        }
    }
    Ok(())
}
