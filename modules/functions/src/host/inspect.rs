//! What a file is, found by looking at it: quick, and before anything is compiled.

use std::collections::HashSet;

use wasmparser::{BinaryReaderError, Encoding, ExternalKind, Parser, Payload};

use super::{
    Kind, Refusal,
    account::{plain, shortened},
    parts::Parts,
};

/// Interfaces that a component may import, and the versions of them: a version that ends in `.` stands for all that
/// begin so.
const INTERFACES: &[(&str, &str)] = &[
    ("shunt:functions/events", "1."),
    ("shunt:functions/log", "1."),
    ("shunt:functions/state", "1."),
    ("shunt:functions/types", "1."),
    ("wasi:cli/environment", "0.2."),
    ("wasi:cli/exit", "0.2."),
    ("wasi:cli/stderr", "0.2."),
    ("wasi:cli/stdin", "0.2."),
    ("wasi:cli/stdout", "0.2."),
    ("wasi:cli/terminal-input", "0.2."),
    ("wasi:cli/terminal-output", "0.2."),
    ("wasi:cli/terminal-stderr", "0.2."),
    ("wasi:cli/terminal-stdin", "0.2."),
    ("wasi:cli/terminal-stdout", "0.2."),
    ("wasi:clocks/monotonic-clock", "0.2."),
    ("wasi:clocks/wall-clock", "0.2."),
    ("wasi:filesystem/preopens", "0.2."),
    ("wasi:filesystem/types", "0.2."),
    ("wasi:http/outgoing-handler", "0.2."),
    ("wasi:http/types", "0.2."),
    ("wasi:io/error", "0.2."),
    ("wasi:io/poll", "0.2."),
    ("wasi:io/streams", "0.2."),
    ("wasi:keyvalue/atomics", "0.2.0-draft"),
    ("wasi:keyvalue/atomics", "0.2.0-draft2"),
    ("wasi:keyvalue/batch", "0.2.0-draft"),
    ("wasi:keyvalue/batch", "0.2.0-draft2"),
    ("wasi:keyvalue/store", "0.2.0-draft"),
    ("wasi:keyvalue/store", "0.2.0-draft2"),
    ("wasi:nn/errors", "0.2.0-rc-2024-10-28"),
    ("wasi:nn/graph", "0.2.0-rc-2024-10-28"),
    ("wasi:nn/inference", "0.2.0-rc-2024-10-28"),
    ("wasi:nn/tensor", "0.2.0-rc-2024-10-28"),
    ("wasi:random/insecure", "0.2."),
    ("wasi:random/insecure-seed", "0.2."),
    ("wasi:random/random", "0.2."),
    ("wasi:sockets/instance-network", "0.2."),
    ("wasi:sockets/ip-name-lookup", "0.2."),
    ("wasi:sockets/network", "0.2."),
    ("wasi:sockets/tcp", "0.2."),
    ("wasi:sockets/tcp-create-socket", "0.2."),
    ("wasi:sockets/udp", "0.2."),
    ("wasi:sockets/udp-create-socket", "0.2."),
];

/// What can be called of a component, the first that is there.
const EXPORTS: &[(&str, &str, Kind)] = &[
    ("shunt:functions/handler", "1.", Kind::Function),
    ("wasi:http/incoming-handler", "0.2.", Kind::Http),
    ("wasi:cli/run", "0.2.", Kind::Command),
    ("wasi:keyvalue/store", "0.2.0-draft2", Kind::StateStore),
];

/// The most imports of a file: preview 1 has some 50, and a component one for each interface.
const MOST_IMPORTS: usize = 1000;

/// The most imports that a refusal names.
const NAMED: usize = 8;

/// What a WebAssembly file has at its outside, and how much there is in it.
#[derive(Debug, Default)]
pub(super) struct Outside {
    component: bool,
    imports: Vec<String>,
    exports: Vec<String>,
    /// Functions of all code sections.
    pub(super) functions: u64,
}

/// What the bytes are; `extension` tells the language of a text, and `preview1` what modules may import.
pub(super) fn kind(
    bytes: &[u8],
    extension: Option<&str>,
    preview1: &HashSet<String>,
) -> Result<Kind, Refusal> {
    if bytes.starts_with(b"\0asm") { Outside::of(bytes)?.kind(preview1) } else { text(bytes, extension) }
}

fn text(bytes: &[u8], extension: Option<&str>) -> Result<Kind, Refusal> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(Refusal::Unknown(
            "its first bytes are not WebAssembly's, and it is no text in UTF-8".to_owned(),
        ));
    };
    match extension {
        Some("py") => Ok(Kind::Python),
        Some("js" | "mjs") => Ok(Kind::JavaScript),
        Some("wasm") => Err(Refusal::Invalid("its first bytes are not WebAssembly's".to_owned())),
        _ if text
            .lines()
            .any(|line| line.starts_with("def handle") || line.starts_with("async def handle")) =>
        {
            Ok(Kind::Python)
        }
        _ if text.contains("handle") && (text.contains("function") || text.contains("=>")) => {
            Ok(Kind::JavaScript)
        }
        _ => Err(Refusal::Unknown(
            "its first bytes are not WebAssembly's, and the text has no handle".to_owned(),
        )),
    }
}

// === impl Outside ===

impl Outside {
    /// Looks at a WebAssembly file from its begin to its end.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut outside = Self::default();
        let mut parts = Parts::default();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| invalid(&error))?;
            parts.see(&payload)?;
            if parts.at_the_outside() {
                outside.see(payload).map_err(|error| invalid(&error))?;
            }
            if outside.imports.len() > MOST_IMPORTS {
                return Err(Refusal::TooLarge(format!("it has more than {MOST_IMPORTS} imports")));
            }
        }
        outside.functions = parts.functions;
        Ok(outside)
    }

    fn see(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { encoding, .. } => self.component = encoding == Encoding::Component,
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    self.imports.push(format!("{}/{}", import.module, import.name));
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if export.kind == ExternalKind::Func {
                        self.exports.push(export.name.to_owned());
                    }
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    self.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What it is, where it imports nothing that functions do not get.
    pub(super) fn kind(&self, preview1: &HashSet<String>) -> Result<Kind, Refusal> {
        let unknown: Vec<_> = self.imports.iter().filter(|import| !self.is_known(import, preview1)).collect();
        if !unknown.is_empty() {
            let mut named: Vec<_> = unknown.iter().take(NAMED).map(|name| plain(name)).collect();
            if unknown.len() > NAMED {
                named.push(format!("and {} more", unknown.len() - NAMED));
            }
            return Err(Refusal::Imports(named));
        }
        if !self.component {
            return if self.exports.iter().any(|name| name == "_start") {
                Ok(Kind::WasiP1)
            } else {
                Err(Refusal::Exports)
            };
        }
        let exported =
            |(name, version, _): &&(&str, &str, Kind)| self.exports.iter().any(|it| is(it, name, version));
        EXPORTS.iter().find(exported).map(|(_, _, kind)| *kind).ok_or(Refusal::Exports)
    }

    fn is_known(&self, import: &str, preview1: &HashSet<String>) -> bool {
        if self.component {
            INTERFACES.iter().any(|(name, version)| is(import, name, version))
        } else {
            preview1.contains(import)
        }
    }
}

/// Is it this interface in one of these versions?
fn is(exact: &str, name: &str, version: &str) -> bool {
    exact.strip_prefix(name).and_then(|rest| rest.strip_prefix('@')).is_some_and(|it| {
        it == version || (version.ends_with('.') && it.starts_with(version) && !it.contains("-rc"))
    })
}

fn invalid(error: &BinaryReaderError) -> Refusal {
    Refusal::Invalid(shortened(error.to_string()))
}
