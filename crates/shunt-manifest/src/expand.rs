//! From a template to a manifest, as iotedgedev 3.3.9 does it (`deploymentmanifest.py`, `modules.py`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    ManifestError,
    content::{self, Entry, PIECE_LENGTH, PIECES_MADE, below},
    environment::Environment,
};

/// The largest file that is read, in bytes. A twin holds 32 KB, so a manifest of 50 modules stays far below.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What a template is expanded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The platform that `${MODULES.camera}` stands for: a key of `platforms` in `module.json`, `amd64` by default.
    pub platform: String,
    /// The variables to put in.
    pub environment: Environment,
}

/// A template expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct Expansion {
    /// The manifest.
    pub manifest: Value,
    /// Was it a template (`$schema-template` at the top)? Else it is as it was, with its variables put in.
    pub is_template: bool,
    /// The placeholders that modules beside the template offer, and the images they stand for.
    pub images: BTreeMap<String, String>,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self { platform: "amd64".to_owned(), environment: Environment::default() }
    }
}

/// Expands a template, or reads a manifest. The modules are looked for in `modules/` (or `MODULES_PATH`) beside the file.
pub fn expand(file: &Path, options: &Options) -> Result<Expansion, ManifestError> {
    let text = read(file)?;
    expand_strictly(&text, file, file.parent().unwrap_or(Path::new(".")), options)
}

/// Expands the text of a template that stands in the given folder.
pub fn expand_text(text: &str, folder: &Path, options: &Options) -> Result<Expansion, ManifestError> {
    expand_strictly(text, Path::new("the manifest"), folder, options)
}

fn expand_strictly(
    text: &str,
    file: &Path,
    folder: &Path,
    options: &Options,
) -> Result<Expansion, ManifestError> {
    let (expansion, too_long) = expand_named(text, file, folder, options)?;
    match too_long.into_iter().next() {
        None => Ok(expansion),
        Some((entry, length)) => Err(ManifestError::CreateOptionsTooLong { module: entry.name, length }),
    }
}

/// Modules whose createOptions need more pieces than the tools make, and their length in characters.
pub(crate) type TooLong = Vec<(Entry, usize)>;

pub(crate) fn expand_named(
    text: &str,
    file: &Path,
    folder: &Path,
    options: &Options,
) -> Result<(Expansion, TooLong), ManifestError> {
    let filled = options.environment.fill_in(text);
    let mut manifest: Value = serde_json::from_str(&filled)
        .map_err(|source| ManifestError::Json { path: file.to_owned(), source })?;
    if content::content_path(&manifest).is_none() {
        return Err(ManifestError::NoModules);
    }
    let is_template = manifest.get("$schema-template").is_some();
    let images = images(&manifest, folder, options)?;
    let mut too_long = Vec::new();
    for entry in content::entries(&manifest) {
        let Some(settings) = manifest.pointer_mut(&below(&entry.path, "settings")) else { continue };
        if !entry.is_system
            && let Some(image) = settings.get("image").and_then(Value::as_str)
            && let Some(tag) = images.get(image)
        {
            settings["image"] = Value::String(tag.clone());
        }
        if is_template && let Some(length) = split_create_options(settings) {
            too_long.push((entry, length));
        }
    }
    if let Some(top) = manifest.as_object_mut() {
        top.shift_remove("$schema-template");
    }
    Ok((Expansion { manifest, is_template, images }, too_long))
}

pub(crate) fn read(file: &Path) -> Result<String, ManifestError> {
    let failed = |source| ManifestError::Read { path: file.to_owned(), source };
    let length = fs::metadata(file).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(ManifestError::TooLarge { path: file.to_owned(), length, limit: MAX_FILE });
    }
    fs::read_to_string(file).map_err(failed)
}

/// What each placeholder stands for.
fn images(
    manifest: &Value,
    folder: &Path,
    options: &Options,
) -> Result<BTreeMap<String, String>, ManifestError> {
    let mut images = BTreeMap::new();
    let modules = folder.join(options.environment.get("MODULES_PATH").unwrap_or("modules"));
    match fs::read_dir(&modules) {
        Ok(folders) => {
            for module in folders {
                let module =
                    module.map_err(|source| ManifestError::Read { path: modules.clone(), source })?;
                let name = module.file_name().to_string_lossy().into_owned();
                add_images(&format!("MODULES.{name}"), &module.path(), options, &mut images)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(ManifestError::Read { path: modules, source }),
    }
    for entry in content::entries(manifest).iter().filter(|entry| !entry.is_system) {
        let image =
            manifest.pointer(&below(&below(&entry.path, "settings"), "image")).and_then(Value::as_str);
        let Some((relative, _)) =
            image.and_then(|image| image.strip_prefix("${MODULEDIR<")).and_then(|rest| rest.rsplit_once('>'))
        else {
            continue;
        };
        add_images(&format!("MODULEDIR<{relative}>"), &folder.join(relative), options, &mut images)?;
    }
    Ok(images)
}

fn add_images(
    placeholder: &str,
    module: &Path,
    options: &Options,
    images: &mut BTreeMap<String, String>,
) -> Result<(), ManifestError> {
    let path: PathBuf = module.join("module.json");
    if !path.is_file() {
        return Ok(());
    }
    let text = options.environment.fill_in(&read(&path)?);
    let json: Value =
        serde_json::from_str(&text).map_err(|source| ManifestError::Json { path: path.clone(), source })?;
    let text_at = |pointer: &str, what| {
        json.pointer(pointer)
            .and_then(Value::as_str)
            .ok_or_else(|| ManifestError::ModuleJson { path: path.clone(), what })
    };
    let repository = text_at("/image/repository", "image.repository")?.to_lowercase();
    let version = json.pointer("/image/tag/version").and_then(Value::as_str).unwrap_or("0.0.0");
    let platforms = json
        .pointer("/image/tag/platforms")
        .and_then(Value::as_object)
        .ok_or_else(|| ManifestError::ModuleJson { path: path.clone(), what: "image.tag.platforms" })?;
    let extra = options.environment.get("CONTAINER_TAG").filter(|tag| !tag.is_empty());
    let extra = extra.map(|tag| format!("-{tag}")).unwrap_or_default();
    for platform in platforms.keys() {
        let tag = format!("{repository}:{version}{extra}-{platform}");
        images.insert(format!("${{{placeholder}.{platform}}}"), tag.clone());
        if *platform == options.platform {
            images.insert(format!("${{{placeholder}}}"), tag);
        } else if platform.strip_suffix(".debug") == Some(&options.platform) {
            images.insert(format!("${{{placeholder}.debug}}"), tag);
        }
    }
    Ok(())
}

/// Cuts createOptions into pieces. They may be cut anywhere, in the middle of a word too: edgeAgent joins them again.
/// Gives their length in characters where they need more pieces than the tools make.
fn split_create_options(settings: &mut Value) -> Option<usize> {
    let text = match settings.get("createOptions")? {
        Value::String(text) => text.clone(),
        options => python_json(options),
    };
    let characters: Vec<char> = text.chars().collect();
    for (index, piece) in characters.chunks(PIECE_LENGTH).enumerate() {
        settings[content::piece_name(index)] = Value::String(piece.iter().collect());
    }
    (characters.len() > PIECES_MADE * PIECE_LENGTH).then_some(characters.len())
}

/// JSON as Python's `json.dumps(separators=(",", ":"))` writes it: ASCII only. The pieces shall be the same as the tools'.
fn python_json(value: &Value) -> String {
    let mut ascii = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii() {
            ascii.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            ascii.push_str("\\u");
            ascii.extend(
                [12, 8, 4, 0].map(|bits| char::from_digit(u32::from(*unit >> bits & 0xf), 16).unwrap_or('0')),
            );
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn solution() -> anyhow::Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        let module = folder.path().join("modules/camera");
        fs::create_dir_all(&module)?;
        let platforms = json!({"amd64": "a", "amd64.debug": "b", "arm64v8": "c"});
        let json = json!({"image": {"repository": "$REGISTRY/Camera", "tag": {"version": "0.1.0", "platforms": platforms}}});
        fs::write(module.join("module.json"), json.to_string())?;
        Ok(folder)
    }

    fn options(variables: &[(&str, &str)]) -> Options {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Options { environment: Environment::new(variables), ..Options::default() }
    }

    fn template(image: &str, create_options: &Value) -> String {
        let camera = json!({"settings": {"image": image, "createOptions": create_options}});
        let agent = json!({"properties.desired": {"systemModules": {}, "modules": {"camera": camera}}});
        json!({"$schema-template": "4.0.0", "modulesContent": {"$edgeAgent": agent}}).to_string()
    }

    fn settings(expansion: &Expansion) -> Value {
        expansion
            .manifest
            .pointer("/modulesContent/$edgeAgent/properties.desired/modules/camera/settings")
            .cloned()
            .unwrap_or_default()
    }

    #[test]
    fn placeholders_become_the_images_of_module_json() -> anyhow::Result<()> {
        let folder = solution()?;
        for (image, variables, expected) in [
            ("${MODULES.camera}", vec![("REGISTRY", "Host:5000")], "host:5000/camera:0.1.0-amd64"),
            ("${MODULES.camera.debug}", vec![("REGISTRY", "h")], "h/camera:0.1.0-amd64.debug"),
            (
                "${MODULES.camera.arm64v8}",
                vec![("REGISTRY", "h"), ("CONTAINER_TAG", "t")],
                "h/camera:0.1.0-t-arm64v8",
            ),
            ("${MODULES.camera}", vec![], "$registry/camera:0.1.0-amd64"),
            ("${MODULES.other}", vec![], "${MODULES.other}"),
            ("${MODULEDIR<modules/camera>.debug}", vec![("REGISTRY", "h")], "h/camera:0.1.0-amd64.debug"),
            ("plain:1", vec![], "plain:1"),
        ] {
            let expansion = expand_text(&template(image, &json!({})), folder.path(), &options(&variables))?;
            assert_eq!(settings(&expansion)["image"], expected, "{image} {variables:?}");
        }
        Ok(())
    }

    #[test]
    fn create_options_are_cut_at_512_characters_and_join_again() -> anyhow::Result<()> {
        let folder = solution()?;
        let wanted = json!({"Env": ["é".repeat(60), "x".repeat(900)], "HostConfig": {"Binds": ["a:b"]}});
        let expansion = expand_text(&template("i:1", &wanted), folder.path(), &options(&[]))?;
        let settings = settings(&expansion);
        let lengths: Vec<usize> = (0..8)
            .map_while(|index| settings.get(content::piece_name(index))?.as_str().map(str::len))
            .collect();
        assert_eq!(lengths, [512, 512, 282]);
        assert_eq!(create_options(&settings)?, wanted);
        Ok(())
    }

    fn create_options(settings: &Value) -> anyhow::Result<Value> {
        Ok(content::create_options(settings).ok_or_else(|| anyhow::anyhow!("no createOptions"))??)
    }

    #[test]
    fn create_options_beyond_eight_pieces_are_refused() -> anyhow::Result<()> {
        let folder = solution()?;
        let long = json!({"Env": ["x".repeat(8 * 512)]});
        let error = expand_text(&template("i:1", &long), folder.path(), &options(&[])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "createOptions of camera have 4108 characters; allowed are 8 pieces of 512"
        );
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_named() -> anyhow::Result<()> {
        let folder = solution()?;
        let missing = folder.path().join("none.json");
        let error = expand(&missing, &options(&[])).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot read ") && error.to_string().ends_with("none.json"),
            "{error}"
        );
        let error = expand_text("{\"a\": $B}", folder.path(), &options(&[])).unwrap_err();
        assert_eq!(error.to_string(), "the manifest is no JSON");
        let error = expand_text("{}", folder.path(), &options(&[])).unwrap_err();
        assert!(error.to_string().contains("modulesContent"), "{error}");
        fs::write(folder.path().join("modules/camera/module.json"), "{\"image\": {}}")?;
        let error = expand_text(&template("i:1", &json!({})), folder.path(), &options(&[])).unwrap_err();
        assert!(error.to_string().ends_with("module.json has no image.repository"), "{error}");
        Ok(())
    }
}
