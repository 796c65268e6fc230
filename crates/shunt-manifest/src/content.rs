//! The parts of a manifest by name, in a plain deployment and in a layered one.

use serde_json::{Map, Value};

/// How many pieces of createOptions edgeAgent reads: `createOptions`, `createOptions01`, ... `createOptions99`.
pub(crate) const PIECES_READ: usize = 100;
/// How many the template tools make.
pub(crate) const PIECES_MADE: usize = 8;
/// Characters in a piece.
pub(crate) const PIECE_LENGTH: usize = 512;

/// A place in a manifest: a JSON Pointer.
pub(crate) type Pointer = String;

/// A module's entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) path: Pointer,
    pub(crate) is_system: bool,
}

/// Where the `modulesContent` of a manifest stands: of a plain one, or of a layered one.
pub(crate) fn content_path(manifest: &Value) -> Option<&'static str> {
    ["/modulesContent", "/content/modulesContent"].into_iter().find(|path| manifest.pointer(path).is_some())
}

pub(crate) fn is_layered(manifest: &Value) -> bool {
    manifest.get("content").is_some()
}

/// A pointer one step further down.
pub(crate) fn below(path: &str, key: &str) -> Pointer {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

pub(crate) fn object<'a>(manifest: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    manifest.pointer(path)?.as_object()
}

/// All module entries, with both ways of writing them: nested below `properties.desired`, or by a path as a key
/// (`properties.desired.modules.camera`), as layered deployments do.
pub(crate) fn entries(manifest: &Value) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (part, is_system) in [("systemModules", true), ("modules", false)] {
        for (name, path) in members(manifest, "$edgeAgent", part) {
            entries.push(Entry { name, path, is_system });
        }
    }
    entries
}

/// All routes: name and place.
pub(crate) fn routes(manifest: &Value) -> Vec<(String, Pointer)> {
    members(manifest, "$edgeHub", "routes")
}

fn members(manifest: &Value, module: &str, part: &str) -> Vec<(String, Pointer)> {
    let Some(content) = content_path(manifest) else { return Vec::new() };
    let section = below(content, module);
    let all_of = |path: &str| -> Vec<(String, Pointer)> {
        let names = object(manifest, path).into_iter().flat_map(Map::keys);
        names.map(|name| (name.clone(), below(path, name))).collect()
    };
    let mut found = all_of(&below(&below(&section, "properties.desired"), part));
    for key in object(manifest, &section).into_iter().flat_map(Map::keys) {
        let Some(rest) = key.strip_prefix("properties.desired.").and_then(|rest| rest.strip_prefix(part))
        else {
            continue;
        };
        match rest.strip_prefix('.') {
            Some(name) if !name.is_empty() && !name.contains('.') => {
                found.push((name.to_owned(), below(&section, key)));
            }
            None if rest.is_empty() => found.extend(all_of(&below(&section, key))),
            _ => {}
        }
    }
    found
}

/// The name of a piece: `createOptions`, `createOptions01`, ...
pub(crate) fn piece_name(index: usize) -> String {
    if index == 0 { "createOptions".to_owned() } else { format!("createOptions{index:02}") }
}

/// The createOptions of a module's `settings`: their pieces joined and read, or the object that a template holds.
/// None where there are none.
pub fn create_options(settings: &Value) -> Option<Result<Value, serde_json::Error>> {
    match settings.get("createOptions")? {
        Value::String(first) => {
            let mut text = first.clone();
            for index in 1..PIECES_READ {
                match settings.get(piece_name(index)).and_then(Value::as_str) {
                    Some(piece) => text.push_str(piece),
                    None => break,
                }
            }
            if text.trim().is_empty() {
                return None;
            }
            Some(serde_json::from_str(&text))
        }
        options => Some(Ok(options.clone())),
    }
}
