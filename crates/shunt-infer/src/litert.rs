//! The back end `litert`: LiteRT, whose library is loaded when it is first wanted.
//!
//! Nothing of it is needed to build. `scripts/setup infer` and the images' builds put the library in place; where it
//! is not there, or is of another version, this back end says so and the others serve.
//!
//! An input is given as it is in the file, a quantised one as bytes. A quantised output comes as real numbers, so
//! that whoever reads it needs no scale.

mod library;

use parking_lot::Mutex;

use crate::{
    Backend, BackendError, Description, Element, Format, Loaded, Missing, Order, Port, Tensor, Values,
    convert, libraries, onnxruntime::resident,
};

use self::library::{Compiled, Library, Slot};

const NAME: &str = "litert";

const LIBRARY: libraries::Library =
    libraries::Library { file: "libLiteRt.so", variables: &["SHUNT_LITERT_LIBRARY"] };

/// The one of this process: the library is never unloaded.
static LOADED: Mutex<Option<LiteRt>> = Mutex::new(None);

/// Runs `TensorFlow` Lite models with LiteRT.
#[derive(Debug, Clone)]
pub struct LiteRt {
    library: &'static Library,
}

#[derive(Debug)]
struct LiteRtModel {
    /// A run writes into buffers of the model: runs of one model follow each other.
    compiled: Mutex<Compiled>,
    description: Description,
    memory: u64,
}

// === impl LiteRt ===

impl LiteRt {
    /// Loads the library, or takes that which this process has loaded already.
    ///
    /// # Errors
    ///
    /// It is nowhere, or is no LiteRT that serves: why, and what to do.
    pub fn find() -> Result<Self, Missing> {
        let mut loaded = LOADED.lock();
        if let Some(known) = &*loaded {
            return Ok(known.clone());
        }
        let missing = |why: String| Missing { name: NAME, why };
        let file = LIBRARY.find().map_err(|error| missing(error.to_string()))?;
        let library = Library::open(&file).map_err(|error| missing(error.to_string()))?;
        Ok(loaded.insert(Self { library }).clone())
    }
}

impl Backend for LiteRt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        "LiteRT 2.1".to_owned()
    }

    fn takes(&self, format: Format) -> bool {
        format == Format::Tflite
    }

    fn load(&self, order: &Order<'_>) -> Result<Box<dyn Loaded>, BackendError> {
        // LiteRT trusts much of what a file says. This keeps out files whose parts are not where they say; one whose
        // operators make no sense gets further.
        convert::check(order.file).map_err(BackendError::from_chain)?;
        let before = resident();
        let compiled = self.library.compile(order.file.to_vec(), order.options.threads)?;
        let description = Description {
            backend: NAME,
            device: "cpu",
            inputs: compiled.inputs().iter().map(|slot| port(slot, slot.element)).collect(),
            outputs: compiled.outputs().iter().map(|slot| port(slot, answered(slot))).collect(),
        };
        let memory = resident().saturating_sub(before).max(order.file.len() as u64);
        Ok(Box::new(LiteRtModel { compiled: Mutex::new(compiled), description, memory }))
    }
}

fn port(slot: &Slot, element: Element) -> Port {
    Port { name: slot.name.clone(), element, shape: slot.shape.iter().copied().map(Some).collect() }
}

/// The type in which an output is given.
fn answered(slot: &Slot) -> Element {
    if slot.scale.is_some() { Element::F32 } else { slot.element }
}

// === impl LiteRtModel ===

impl Loaded for LiteRtModel {
    fn describe(&self) -> &Description {
        &self.description
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, BackendError> {
        let mut compiled = self.compiled.lock();
        if inputs.len() != compiled.inputs().len() {
            return Err(BackendError(format!(
                "it takes {} inputs, not {}",
                compiled.inputs().len(),
                inputs.len()
            )));
        }
        for (index, tensor) in inputs.iter().enumerate() {
            let slot = compiled.inputs().get(index);
            if slot.is_none_or(|slot| slot.element != tensor.values.element() || slot.shape != tensor.shape) {
                let port = self.description.inputs.get(index).map(ToString::to_string);
                return Err(BackendError(format!(
                    "its input {index} is {}, not {} {:?}",
                    port.unwrap_or_default(),
                    tensor.values.element().datatype(),
                    tensor.shape
                )));
            }
            compiled.write(index, &bytes(&tensor.values))?;
        }
        compiled.run()?;
        (0..compiled.outputs().len()).map(|index| answer(&mut compiled, index)).collect()
    }

    fn memory(&self) -> Option<u64> {
        Some(self.memory)
    }
}

/// An output, as real numbers where it is quantised.
fn answer(compiled: &mut Compiled, index: usize) -> Result<Tensor, BackendError> {
    let bytes = compiled.read(index)?;
    let slot =
        compiled.outputs().get(index).ok_or_else(|| BackendError(format!("it has no output {index}")))?;
    let mut values = values(slot.element, &bytes);
    if let Some((scale, zero_point)) = slot.scale {
        let tensor = Tensor { shape: Vec::new(), values };
        let real = tensor.into_f32().into_iter().map(|value| (value - zero_point as f32) * scale);
        values = Values::F32(real.collect());
    }
    Ok(Tensor { shape: slot.shape.clone(), values })
}

/// The bytes of values, as the processor has them.
fn bytes(values: &Values) -> Vec<u8> {
    match values {
        Values::Bool(list) => list.iter().map(|value| u8::from(*value)).collect(),
        Values::U8(list) => list.clone(),
        Values::I8(list) => list.iter().map(|value| value.cast_unsigned()).collect(),
        Values::U16(list) | Values::F16(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Values::I16(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Values::U32(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Values::I32(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Values::F32(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Values::U64(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Values::I64(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Values::F64(list) => list.iter().flat_map(|value| value.to_ne_bytes()).collect(),
    }
}

/// Values out of their bytes.
fn values(element: Element, bytes: &[u8]) -> Values {
    fn list<const N: usize, T>(bytes: &[u8], value: fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
    }
    match element {
        Element::Bool => Values::Bool(bytes.iter().map(|byte| *byte != 0).collect()),
        Element::U8 => Values::U8(bytes.to_vec()),
        Element::I8 => Values::I8(bytes.iter().map(|byte| byte.cast_signed()).collect()),
        Element::U16 => Values::U16(list(bytes, u16::from_ne_bytes)),
        Element::F16 => Values::F16(list(bytes, u16::from_ne_bytes)),
        Element::I16 => Values::I16(list(bytes, i16::from_ne_bytes)),
        Element::U32 => Values::U32(list(bytes, u32::from_ne_bytes)),
        Element::I32 => Values::I32(list(bytes, i32::from_ne_bytes)),
        Element::F32 => Values::F32(list(bytes, f32::from_ne_bytes)),
        Element::U64 => Values::U64(list(bytes, u64::from_ne_bytes)),
        Element::I64 => Values::I64(list(bytes, i64::from_ne_bytes)),
        Element::F64 => Values::F64(list(bytes, f64::from_ne_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_after_a_way_through_bytes() {
        for element in Element::ALL {
            let zeros = Values::zeros(element, 3);
            assert_eq!(values(element, &bytes(&zeros)), zeros);
        }
        let some = Values::I16(vec![1, -2, 300]);
        assert_eq!(values(Element::I16, &bytes(&some)), some);
    }

    #[test]
    fn a_file_that_is_no_library_and_a_library_that_is_another_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libLiteRt.so");
        std::fs::write(&file, b"no library").unwrap();
        let error = Library::open(&file).unwrap_err().to_string();
        assert!(error.contains("is not LiteRT 2.1") && error.contains("`scripts/setup infer`"), "{error}");

        // Every Linux with glibc has this one.
        let error = Library::open("libm.so.6".as_ref()).unwrap_err().to_string();
        assert!(error.contains("it has no call LiteRt"), "{error}");
    }
}
