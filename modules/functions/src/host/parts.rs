//! How much a file becomes when it is compiled: a component that makes instances of another has all of its parts once
//! more for each, so that few bytes can become a compilation without end, which nothing can stop.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    Instance, Payload,
};

use super::{Refusal, account::shortened};

/// Modules and components in one another at most: the compiler may go down into them on its stack.
const DEEPEST: usize = 100;

/// Instances, functions between them and exports at most, each counted as often as it is made. A component of ten
/// others has some 5,000.
const MOST_PARTS: u64 = 100_000;

/// The largest function in bytes; the compiler takes some hundred times as much. The interpreter's loop of CPython has
/// 60 kB.
const LARGEST_FUNCTION: usize = 1 << 20;

/// Functions of all code sections at most: CPython has 12,000.
const MOST_FUNCTIONS: u64 = 100_000;

/// Counts the parts of a file while it is read from its begin to its end.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Functions of all code sections.
    pub(super) functions: u64,
    /// The modules and components that are begun, the outermost first.
    begun: Vec<Begun>,
}

/// A module or component that is being read.
#[derive(Debug, Default)]
struct Begun {
    component: bool,
    /// Its parts, with those of all that it makes.
    parts: u64,
    /// The parts of each component that it can name, by index.
    components: Vec<u64>,
}

// === impl Parts ===

impl Parts {
    /// Is what is read now a part of the outermost module or component itself?
    pub(super) fn at_the_outside(&self) -> bool {
        self.begun.len() == 1
    }

    /// Counts what comes next.
    pub(super) fn see(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::Version { encoding, .. } => {
                if self.begun.len() > DEEPEST {
                    return Err(Refusal::Invalid(format!(
                        "its parts lie in one another more than {DEEPEST} deep"
                    )));
                }
                let component = *encoding == wasmparser::Encoding::Component;
                self.begun.push(Begun { component, ..Begun::default() });
            }
            Payload::End(_) => {
                let ended = self.begun.pop().unwrap_or_default();
                if let Some(outer) = self.begun.last_mut()
                    && ended.component
                {
                    outer.components.push(ended.parts.saturating_add(1));
                }
            }
            Payload::CodeSectionStart { count, .. } => {
                self.functions = self.functions.saturating_add(u64::from(*count));
                if self.functions > MOST_FUNCTIONS {
                    return Err(too_large(format!("it has more than {MOST_FUNCTIONS} functions")));
                }
            }
            Payload::CodeSectionEntry(body) if body.range().len() > LARGEST_FUNCTION => {
                return Err(too_large(format!(
                    "one of its functions has more than {} KiB",
                    LARGEST_FUNCTION / 1024
                )));
            }
            Payload::InstanceSection(instances) => {
                for instance in instances.clone() {
                    let made = matches!(instance.map_err(invalid)?, Instance::Instantiate { .. });
                    self.count(u64::from(made))?;
                }
            }
            Payload::ComponentCanonicalSection(functions) => self.count(u64::from(functions.count()))?,
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances.clone() {
                    let parts = match instance.map_err(invalid)? {
                        ComponentInstance::Instantiate { component_index, .. } => {
                            self.parts(0, component_index)?
                        }
                        ComponentInstance::FromExports(exports) => exports.len() as u64,
                    };
                    self.count(parts)?;
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases.clone() {
                    self.alias(&alias.map_err(invalid)?)?;
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    if matches!(import.map_err(invalid)?.ty, ComponentTypeRef::Component(_)) {
                        return Err(handed_over());
                    }
                    self.count(1)?;
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports.clone() {
                    let export = export.map_err(invalid)?;
                    if export.kind == ComponentExternalKind::Component {
                        let parts = self.parts(0, export.index)?;
                        self.name(parts);
                    }
                    self.count(1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) -> Result<(), Refusal> {
        match alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                Err(handed_over())
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                let parts = self.parts(*count as usize, *index)?;
                self.name(parts);
                Ok(())
            }
            _ => self.count(1),
        }
    }

    /// The parts of a component that has this index in the one so many further out.
    fn parts(&self, further_out: usize, index: u32) -> Result<u64, Refusal> {
        let begun = self.begun.iter().rev().nth(further_out);
        let parts = begun.and_then(|begun| begun.components.get(index as usize).copied());
        parts.ok_or_else(|| Refusal::Invalid(format!("it names a component {index} that is not there")))
    }

    /// One more component that can be named from here.
    fn name(&mut self, parts: u64) {
        if let Some(begun) = self.begun.last_mut() {
            begun.components.push(parts);
        }
    }

    fn count(&mut self, parts: u64) -> Result<(), Refusal> {
        let Some(begun) = self.begun.last_mut() else { return Ok(()) };
        begun.parts = begun.parts.saturating_add(parts);
        if begun.parts > MOST_PARTS {
            return Err(too_large(format!(
                "its components make one another so often that it has more than {MOST_PARTS} instances, functions between them and exports"
            )));
        }
        Ok(())
    }
}

fn too_large(what: String) -> Refusal {
    Refusal::TooLarge(what)
}

fn handed_over() -> Refusal {
    Refusal::Invalid("its components hand components to one another, which is not taken".to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "the form of map_err")]
fn invalid(error: wasmparser::BinaryReaderError) -> Refusal {
    Refusal::Invalid(shortened(error.to_string()))
}
